"""One half of a second moment is computed, and it is the whole."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.grams import AT_ONCE, LEAST, Gram


@settings(deadline=None, max_examples=30)
@given(columns=st.sampled_from([0, 1, 5, LEAST - 1, LEAST, LEAST + 1, 2 * LEAST, 1000]), seed=st.integers(0, 100))
def test_half_of_it_is_enough(columns, seed):
    draw = torch.Generator().manual_seed(seed)
    gram, expected = Gram(columns), torch.zeros(columns, columns, dtype=torch.float64)
    for tokens in (3, 0, 17, AT_ONCE, 5):
        x = torch.randn(tokens, columns, generator=draw)
        weights = torch.rand(tokens, 1, generator=draw)
        gram.add(x * weights.sqrt())
        expected += (x * weights).double().T @ x.double()
    torch.testing.assert_close(gram.full().double(), expected, rtol=1e-4, atol=1e-4)


def test_half_of_it_is_kept():
    assert sum(block.numel() for block in Gram(4 * LEAST).blocks) == 10 / 16 * (4 * LEAST) ** 2
