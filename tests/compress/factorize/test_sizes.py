"""No method stores more than its budget, and none could be larger; the paper's own sizes come out."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploycomp.compress.factorize.sizes import (
    INNER,
    OUTER,
    autoencoder_latent,
    budget,
    kronecker_sizes,
    linear_latent,
    numbers,
    svd_rank,
    tucker_sizes,
)

SIDES = st.integers(1, 40_000)
RATIOS = st.floats(1, 100)
MEMBERS = st.lists(st.integers(1, 3000), min_size=1, max_size=6)

PAPER = {  # papers.md 1.4: rank / linear latent / latent at a compression ratio of 3, 10, 25
    "attention, separated": (768, 768, "128/127/45 38/37/14 15/14/5"),
    "attention, concatenated": (9216, 768, "236/235/168 70/69/54 28/27/21"),
    "embeddings": (30522, 768, "249/248/217 74/73/67 29/28/26"),
    "FFN-in, separated": (3072, 768, "204/203/108 61/60/35 24/23/14"),
    "FFN-in, concatenated": (36864, 768, "250/249/222 75/74/68 30/29/27"),
    "FFN-out, separated": (768, 3072, "204/203/57 61/60/17 24/23/6"),
    "FFN-out, concatenated": (9216, 3072, "768/767/373 230/229/123 92/91/50"),
}


@pytest.mark.parametrize(("rows", "columns", "expected"), PAPER.values(), ids=PAPER)
def test_sizes_of_bert_base_are_the_papers(rows, columns, expected):
    methods = (svd_rank, linear_latent, autoencoder_latent)
    found = ["/".join(str(method(rows, columns, ratio)) for method in methods) for ratio in (3, 10, 25)]
    assert " ".join(found) == expected


def low_rank(rank: int, extra: int) -> dict[str, int]:
    return {"rank": rank, "norms": extra, "shift": extra}


@given(SIDES, SIDES, RATIOS)
@settings(deadline=None)
def test_low_ranks_fill_the_budget(rows, columns, ratio):
    limit = budget(rows, columns, ratio)
    rank, latent = svd_rank(rows, columns, ratio), linear_latent(rows, columns, ratio)
    assert numbers("low_rank", low_rank(rank, 0), [rows], columns) <= limit
    assert numbers("low_rank", low_rank(rank + 1, 0), [rows], columns) > limit
    assert latent == 0 or numbers("low_rank", low_rank(latent, 1), [rows], columns) <= limit
    assert numbers("low_rank", low_rank(latent + 1, 1), [rows], columns) > limit


def autoencoder(x: int) -> dict[str, int]:
    return {"latent": x, "inner": INNER * x, "outer": OUTER * x}


@given(SIDES, SIDES, RATIOS)
@settings(deadline=None)
def test_autoencoders_fill_the_budget(rows, columns, ratio):
    limit = budget(rows, columns, ratio)
    x = autoencoder_latent(rows, columns, ratio)
    assert x == 0 or numbers("autoencoder", autoencoder(x), [rows], columns) + x <= limit  # the paper counts x more
    assert numbers("autoencoder", autoencoder(x + 1), [rows], columns) + x + 1 > limit


@given(MEMBERS, st.integers(1, 3000), RATIOS)
@example([30522], 384, 10)
@settings(deadline=None)
def test_sums_of_kronecker_products_fill_the_budget(members, columns, ratio):
    limit = budget(sum(members), columns, ratio)
    sizes = kronecker_sizes(members, columns, ratio)
    p, q = sizes["rows"], sizes["columns"]
    blocks = sum(-(-rows // p) for rows in members) * -(-columns // q)
    assert numbers("kronecker", sizes, members, columns) <= limit
    more = sizes | {"terms": sizes["terms"] + 1}
    assert sizes["terms"] == min(blocks, p * q) or numbers("kronecker", more, members, columns) > limit


@given(MEMBERS, st.integers(1, 3000), RATIOS)
@example([30522], 384, 10)
@example([1], 1, 1)
@settings(deadline=None)
def test_tucker_fits_the_budget(members, columns, ratio):
    sizes = tucker_sizes(members, columns, ratio)
    assert numbers("tucker", sizes, members, columns) <= budget(sum(members), columns, ratio)


def test_tucker_ranks_are_one_share_of_the_sides_and_nearly_fill_the_budget():
    members, columns = [384] * 6, 384
    sizes = tucker_sizes(members, columns, 10, head=32)
    ranks = [sizes["rank1"], sizes["rank2"], sizes["rank3"]]
    assert sizes["rows"] == 32
    assert all(
        abs(rank / side - ranks[2] / columns) < 1 / side for rank, side in zip(ranks, (72, 32, 384), strict=True)
    )
    assert 0.95 < numbers("tucker", sizes, members, columns) / budget(2304, 384, 10) <= 1


@pytest.mark.parametrize(
    ("members", "columns", "block"),
    [
        ([2304], 384, (48, 16)),  # the roots are 48 and 19.6: 16 is as near as 24
        ([384] * 6, 384, (48, 16)),
        ([768] * 12, 768, (96, 24)),
        ([30522], 768, (175, 24)),  # 2 · 3 · 5087: no divisor near the root, padded
        ([6, 9], 8, (3, 4)),
    ],
)
def test_blocks_divide_every_member_where_they_can(members, columns, block):
    sizes = kronecker_sizes(members, columns, 10)
    assert (sizes["rows"], sizes["columns"]) == block


@pytest.mark.parametrize("method", [svd_rank, linear_latent, autoencoder_latent])
def test_nothing_fits_where_the_budget_is_too_small(method):
    assert method(4, 4, 16) == 0
    assert method(400, 400, 10) > 0


def test_nothing_of_blocks_fits_where_the_budget_is_too_small():
    assert kronecker_sizes([4], 4, 16)["terms"] == 0
    tucker = tucker_sizes([4], 4, 16)
    assert [tucker[f"rank{side}"] for side in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize("ratio", [0, -1, float("nan")])
def test_a_ratio_is_above_0(ratio):
    with pytest.raises(ValueError, match="not above 0"):
        budget(4, 4, ratio)
