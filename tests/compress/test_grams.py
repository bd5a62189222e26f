"""One half of a second moment is computed, and it is the whole."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.grams import LEAST, add_gram, fill_gram


@settings(deadline=None, max_examples=30)
@given(columns=st.sampled_from([0, 1, 5, LEAST - 1, LEAST, LEAST + 1, 2 * LEAST, 1000]), seed=st.integers(0, 100))
def test_half_of_it_is_enough(columns, seed):
    draw = torch.Generator().manual_seed(seed)
    total, expected = torch.zeros(columns, columns), torch.zeros(columns, columns, dtype=torch.float64)
    for tokens in (3, 0, 17):
        x = torch.randn(tokens, columns, generator=draw)
        weights = torch.rand(tokens, 1, generator=draw)
        add_gram(total, x * weights, x)
        expected += ((x * weights).T @ x).double()
    found = fill_gram(total)
    assert found is total
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
