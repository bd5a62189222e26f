"""The layer that is missed least goes first, by measurement."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from deploycomp.compress.answers import mean_divergence
from deploycomp.compress.prune.layers import drop_layers
from deploycomp.errors import InputRefused
from deploycomp.models import checkpoint, resolve
from deploycomp.models.anatomy import describe
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import Layers, Plan
from deploycomp.models.surgery import apply
from tests.compress.test_refit import Case, make

LAYERS = 4
COUNTS = {"distilbert": "n_layers"}


def four_layers(folder: Path, arch: str) -> Case:
    return make(folder, arch, "text-classification", rows=10, **{COUNTS.get(arch, "num_hidden_layers"): LAYERS})


def drop(case: Case, count: int, **options: Any) -> tuple[TorchModel, list[dict[str, Any]]]:
    return drop_layers(case.answers, case.model, case.batches, case.held_out, count, **options)


def without(case: Case, kept: tuple[int, ...]) -> float:
    """Divergence of an independent copy that was cut for good."""
    module: Any = copy.deepcopy(case.model.module)
    apply(module, describe(module, module.config), Plan(), Layers(kept))
    return mean_divergence(case.answers, module, case.held_out, case.outputs(case.held_out))


@pytest.mark.parametrize("arch", ["bert", "modernbert", "distilbert"])
def test_greedy_is_brute_force_round_by_round(tmp_path: Path, arch: str):
    case = four_layers(tmp_path, arch)
    before = {name: value.clone() for name, value in case.model.module.state_dict().items()}
    shares: list[float] = []
    made, trail = drop(case, 2, progress=lambda _, share: shares.append(share))
    left = list(range(LAYERS))
    for each in trail:
        losses = {layer: without(case, tuple(x for x in left if x != layer)) for layer in left}
        left.remove(each["dropped"])
        assert each["dropped"] == min(losses, key=lambda layer: losses[layer])
        assert each["divergence"] == pytest.approx(losses.pop(each["dropped"]), abs=1e-6)
        assert each["others"] == pytest.approx({str(layer): loss for layer, loss in losses.items()}, abs=1e-6)
    assert made.plan.cuts == (Layers(tuple(left)),)
    assert len(made.anatomy.layers) == 2
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(case.model.anatomy.layers) == LAYERS == len(describe(case.model.module, case.model.config).layers)
    assert all(torch.equal(value, before[name]) for name, value in case.model.module.state_dict().items())


def test_a_layer_that_does_nothing_goes_first(tmp_path: Path):
    case = four_layers(tmp_path, "modernbert")
    idle = case.model.anatomy.layers[2]
    for path in (idle.o, idle.ffn_out):
        case.model.module.get_parameter(f"{path}.weight").data.zero_()
    _, trail = drop(case, 1)
    assert trail[0]["dropped"] == 2
    assert trail[0]["divergence"] == pytest.approx(0, abs=1e-6)
    assert min(trail[0]["others"].values()) > 1e-4


def test_the_result_is_saved_and_loaded(tmp_path: Path):
    case = four_layers(tmp_path, "bert")
    made, trail = drop(case, 2)
    (tmp_path / "saved").mkdir()
    checkpoint.save(made, tmp_path / "saved")
    loaded = load(resolve(str(tmp_path / "saved")), "text-classification")
    found = mean_divergence(case.answers, loaded.module, case.held_out, case.outputs(case.held_out))
    assert found == pytest.approx(trail[-1]["divergence"], abs=1e-6)


def test_shared_layers_are_tried_once_a_round(tmp_path: Path):
    case = four_layers(tmp_path, "albert")
    made, trail = drop(case, 2)
    assert [each["dropped"] for each in trail] == [3, 2]
    assert all(each["others"] == {} for each in trail)
    assert made.config.num_hidden_layers == 2
    assert case.model.config.num_hidden_layers == LAYERS


@pytest.mark.parametrize("count", [0, LAYERS, LAYERS + 1])
def test_a_count_that_leaves_none_or_takes_none_is_refused(tmp_path: Path, count: int):
    case = four_layers(tmp_path, "distilbert")
    with pytest.raises(InputRefused, match=f"{count} of 4 layers cannot be dropped") as refused:
        drop(case, count)
    assert refused.value.why == "one at least goes and one at least stays"
