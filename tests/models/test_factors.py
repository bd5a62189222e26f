"""What is stored in factors comes back: the same matrices, the same answers, once for all who share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import InputRefused
from deploycomp.models.checkpoint import round_weights, save
from deploycomp.models.factors import RULES, FactoredEmbedding, FactoredLinear, densify, factored, low_rank_of
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import SURGERY, Factored, Heads, Layers, Plan, Vocabulary
from deploycomp.models.reload import load as load_plain
from deploycomp.models.surgery import apply, replay
from tests.models.test_checkpoint import build, outputs, saved
from tests.models.test_load import feeds_of

SIZES: dict[str, dict[str, int]] = {
    "low_rank": {"rank": 5, "norms": 1, "shift": 1},
    "autoencoder": {"latent": 3, "inner": 4, "outer": 6},
    "kronecker": {"terms": 2, "rows": 4, "columns": 8},
    "tucker": {"rank1": 2, "rank2": 3, "rank3": 4, "rows": 8},
}


def tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def fill(model: TorchModel, seed: int = 0) -> None:
    """Give factors values; zeros would hide mistakes."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in factored(model.module).values():
            for value in (*each.own().values(), *each.decoder.tensors().values()):
                value.copy_(0.3 * torch.randn(value.shape, generator=draw))


def factorized(folder: Path, *cuts: Factored, arch: str = "bert", **options: Any) -> TorchModel:
    model = build(folder, arch, **options)
    plan = model.plan
    for cut in cuts:
        plan = apply(model.module, model.anatomy, plan, cut)
    model = replace(model, plan=plan)
    fill(model)
    return model


def keys_of(model: TorchModel) -> tuple[str, ...]:
    return tuple(str(layer.k) for layer in model.anatomy.layers)


def every_rule(folder: Path) -> TorchModel:
    model = build(folder, "bert")
    first, second = model.anatomy.layers[:2]
    cuts = [
        Factored((model.anatomy.embeddings["word"],), "autoencoder", "smaller", SIZES["autoencoder"]),
        Factored(keys_of(model), "low_rank", "smaller", SIZES["low_rank"]),
        Factored((str(first.q), str(first.v)), "low_rank", "faster", {"rank": 5, "norms": 0, "shift": 0}),
        Factored((first.ffn_in,), "kronecker", "smaller", SIZES["kronecker"]),
        Factored((first.ffn_out, second.ffn_out), "tucker", "smaller", SIZES["tucker"]),
    ]
    plan = model.plan
    for cut in cuts:
        plan = apply(model.module, model.anatomy, plan, cut)
    model = replace(model, plan=plan)
    fill(model)
    return model


@pytest.mark.parametrize("rule", RULES)
def test_rows_looked_up_are_rows_of_the_whole(rule: str):
    own_shapes, shared_shapes = RULES[rule].shapes(SIZES[rule], 16, 32)
    own, shared = tensors(own_shapes, 1), tensors(shared_shapes, 2)
    whole = RULES[rule].rows(own, shared, None)
    assert whole.shape == (16, 32)
    ids = torch.tensor([[3, 15, 0], [7, 7, 11]])
    torch.testing.assert_close(RULES[rule].rows(own, shared, ids), whole[ids])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_norms_and_shift_are_one_rank_more(rows: int, columns: int, rank: int, norms: bool, shift: bool):
    sizes = {"rank": rank, "norms": int(norms), "shift": int(shift)}
    own, shared = (tensors(each, 3) for each in RULES["low_rank"].shapes(sizes, rows, columns))
    plain_own, plain_shared = low_rank_of([own], shared)
    expected = RULES["low_rank"].rows(own, shared, None)
    torch.testing.assert_close(plain_own[0]["latents"] @ plain_shared["basis"], expected)


def test_a_rebuilt_matrix_computes_as_a_dense_one(tmp_path: Path):
    model = every_rule(tmp_path / "m")
    before = outputs(model)
    dense = model.fork()
    densify(dense.module)
    left = factored(dense.module)
    assert {type(each) for each in left.values()} == {FactoredEmbedding, FactoredLinear}
    assert all(each.form == "faster" for each in left.values() if isinstance(each, FactoredLinear))
    for expected, found in zip(before, outputs(dense), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)
    assert len(factored(model.module)) > len(left)  # the model itself stays as it is


def test_the_folder_loads_again_with_the_same_answers_and_the_same_bytes(tmp_path: Path):
    model = every_rule(tmp_path / "m")
    round_weights(model)
    folder = saved(model, tmp_path / "out")
    again = build_from(folder)
    assert again.plan == model.plan
    for expected, found in zip(outputs(model), outputs(again), strict=True):
        np.testing.assert_array_equal(found, expected)
    twice = saved(again, tmp_path / "twice")
    for name in (SURGERY, "model.safetensors", "config.json"):
        assert (twice / name).read_bytes() == (folder / name).read_bytes()


def build_from(folder: Path) -> TorchModel:
    from deploycomp.models import resolve
    from deploycomp.models.load import load

    return load(resolve(folder))


def test_a_decoder_is_stored_once(tmp_path: Path):
    from safetensors.torch import load_file

    model = build(tmp_path / "m", "bert")
    paths = keys_of(model)
    assert len(paths) > 1
    made = factorized(tmp_path / "n", Factored(paths, "low_rank", "smaller", SIZES["low_rank"]))
    stored = load_file(saved(made, tmp_path / "out") / "model.safetensors")
    assert sum(name.endswith("decoder.basis") for name in stored) == 1
    rows, columns = model.module.get_submodule(paths[0]).weight.shape  # type: ignore[union-attr]
    saves = len(paths) * (rows * columns - rows * 5 - rows) - 5 * columns - columns
    assert model.parameters - made.parameters == saves


def test_it_trains_further_and_the_shared_decoder_learns_from_all(tmp_path: Path):
    model = factorized(
        tmp_path / "m", Factored(keys_of(build(tmp_path / "k", "bert")), "low_rank", "smaller", SIZES["low_rank"])
    )
    module: Any = load_plain(saved(model, tmp_path / "out"))
    feeds = {name: torch.tensor(value) for name, value in feeds_of(model).items()}
    before = module(**feeds, labels=torch.zeros(len(feeds["input_ids"]), dtype=torch.long)).loss.item()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(3):
        loss = module(**feeds, labels=torch.zeros(len(feeds["input_ids"]), dtype=torch.long)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < before  # type: ignore[possibly-undefined]
    basis = factored(module)[keys_of(model)[0]].decoder.tensors()["basis"]
    assert basis.grad is not None
    assert bool(basis.grad.abs().sum() > 0)


def test_two_factors_are_multiplied_one_after_the_other(tmp_path: Path):
    model = build(tmp_path / "m", "bert")
    path = model.anatomy.layers[0].ffn_in
    sizes = {"rank": 7, "norms": 0, "shift": 0}
    slow = factorized(tmp_path / "s", Factored((path,), "low_rank", "smaller", sizes))
    fast = factorized(tmp_path / "f", Factored((path,), "low_rank", "faster", sizes))
    for expected, found in zip(outputs(slow), outputs(fast), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


REFUSED = {
    "an unknown rule": (("bert.pooler.dense",), "magic", "smaller", {}),
    "no matrix": (("bert.encoder",), "low_rank", "smaller", SIZES["low_rank"]),
    "is no matrix": (("bert.nowhere",), "low_rank", "smaller", SIZES["low_rank"]),
    "unknown rule low_rank": (("bert.pooler.dense",), "low_rank", "smaller", {"rank": 5}),
    "only two factors": (("bert.pooler.dense",), "low_rank", "faster", SIZES["low_rank"]),
    "other columns": (
        ("bert.pooler.dense", "bert.encoder.layer.0.output.dense"), "low_rank", "smaller", SIZES["low_rank"],
    ),
    "a size of 0": (("bert.pooler.dense",), "low_rank", "smaller", {"rank": 0, "norms": 0, "shift": 0}),
    "numbers for": (("bert.pooler.dense",), "low_rank", "smaller", {"rank": 10**9, "norms": 0, "shift": 0}),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_a_plan_that_cannot_be_is_refused(tmp_path: Path, why: str):
    model = build(tmp_path / "m", "bert")
    with pytest.raises(InputRefused) as caught:
        apply(model.module, model.anatomy, Plan(), Factored(*REFUSED[why]))
    assert why.removeprefix("an ") in str(caught.value)


@pytest.mark.parametrize("cut", [Heads(0, (0,)), Vocabulary((0, 1, 2))])
def test_what_is_stored_in_factors_is_not_cut(tmp_path: Path, cut: Any):
    model = factorized(tmp_path / "m", Factored(("bert.pooler.dense",), "low_rank", "smaller", SIZES["low_rank"]))
    with pytest.raises(InputRefused) as caught:
        apply(model.module, model.anatomy, model.plan, cut)
    assert "prune first" in str(caught.value)


def test_layers_go_with_what_they_hold(tmp_path: Path):
    model = build(tmp_path / "m", "bert")
    plan = model.plan
    for cut in (Factored(keys_of(model), "low_rank", "smaller", SIZES["low_rank"]), Layers((1,))):
        plan = apply(model.module, model.anatomy, plan, cut)
    again = build(tmp_path / "n", "bert")
    replay(again.module, plan)
    names = [(name, value.shape) for name, value in again.module.state_dict().items()]
    assert names == [(name, value.shape) for name, value in model.module.state_dict().items()]
    assert len(factored(again.module)) == 1


def test_a_saved_folder_says_how_it_is_stored(tmp_path: Path):
    model = factorized(tmp_path / "m", Factored(("bert.pooler.dense",), "low_rank", "smaller", SIZES["low_rank"]))
    (tmp_path / "out").mkdir()
    save(model, tmp_path / "out")
    text = (tmp_path / "out" / SURGERY).read_text(encoding="utf-8")
    assert '"cut": "factored", "modules": ["bert.pooler.dense"], "rule": "low_rank", "form": "smaller"' in text
