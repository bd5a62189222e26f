"""Cutting equals setting columns of the output projection to zero, and every dimension is smaller afterwards."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deploycomp.errors import InputRefused
from deploycomp.models import resolve
from deploycomp.models.anatomy import describe
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import Bias, Cut, Heads, Layers, Neurons, Plan, Vocabulary
from deploycomp.models.surgery import (
    apply,
    head_count,
    neuron_count,
    replay,
    uncuttable_heads,
    unique_layers,
    unit_columns,
)
from tests import tiny
from tests.models.test_load import feeds_of

ARCHES = list(tiny.ARCHITECTURES)
SIZE = tiny.HIDDEN // tiny.HEADS
TOLERANCE = 1e-5
SOME_HEADS: list[tuple[int, ...]] = [(0, 2), (3,), (1, 2, 3), ()]
SOME_NEURONS: list[tuple[int, ...]] = [tuple(range(0, 64, 3)), (63,), ()]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """`models(arch, task, **options)`: a loaded model of its own; the files are read once."""
    found: dict[Any, TorchModel] = {}

    def get(arch: str, task: str = "text-classification", **options: Any) -> TorchModel:
        key = (arch, task, *options.items())
        if key not in found:
            found[key] = load(resolve(tiny.build(tmp_path_factory.mktemp("model") / "m", arch, task, **options)))
        module: Any = copy.deepcopy(found[key].module)
        return replace(found[key], module=module, config=module.config)

    return get


def three_layers(arch: str) -> dict[str, int]:
    return {"n_layers" if arch == "distilbert" else "num_hidden_layers": 3}


def logits(model: TorchModel, feeds: dict[str, np.ndarray] | None = None) -> np.ndarray:
    return model.run(feeds or feeds_of(model), model.outputs)[0]


def cut(model: TorchModel, *cuts: Cut) -> Plan:
    plan, anatomy = model.plan, model.anatomy
    for each in cuts:
        plan = apply(model.module, anatomy, plan, each)
        anatomy = describe(model.module, model.config) if isinstance(each, Layers) else anatomy
    return plan


def count(model: TorchModel) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())


def state(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def zero(model: TorchModel, path: str, columns: Any) -> None:
    with torch.no_grad():
        model.module.get_submodule(path).weight[:, columns] = 0  # type: ignore[index,operator]


# -------------------------------------------------------------------------------------------------- heads and neurons


@pytest.mark.parametrize("arch", ARCHES)
def test_cutting_heads_is_zeroing_columns(models, arch):
    for number, layer in enumerate(unique_layers(models(arch).anatomy)):
        for kept in SOME_HEADS:
            cutted, zeroed = models(arch), models(arch)
            before = logits(zeroed)
            plan = cut(cutted, Heads(number, kept))
            zero(zeroed, layer.o, unit_columns(sorted({0, 1, 2, 3} - set(kept)), SIZE))
            expected = logits(zeroed)
            np.testing.assert_allclose(logits(cutted), expected, atol=TOLERANCE, rtol=0)
            assert np.abs(expected - before).max() > 100 * TOLERANCE  # else the test could not fail
            assert head_count(cutted.module, layer, cutted.anatomy) == len(kept)
            assert plan.cuts == (Heads(number, kept),)


@pytest.mark.parametrize("arch", ARCHES)
def test_cutting_neurons_is_zeroing_columns(models, arch):
    for number, layer in enumerate(unique_layers(models(arch).anatomy)):
        for kept in SOME_NEURONS:
            cutted, zeroed = models(arch), models(arch)
            before = logits(zeroed)
            cut(cutted, Neurons(number, kept))
            zero(zeroed, layer.ffn_out, sorted(set(range(64)) - set(kept)))
            expected = logits(zeroed)
            np.testing.assert_allclose(logits(cutted), expected, atol=TOLERANCE, rtol=0)
            assert np.abs(expected - before).max() > 100 * TOLERANCE
            assert neuron_count(cutted.module, layer) == len(kept)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_model_of_which_no_sublayer_is_left_runs(models, arch):
    cutted, zeroed = models(arch), models(arch)
    for number, layer in enumerate(unique_layers(cutted.anatomy)):
        cut(cutted, Heads(number, ()), Neurons(number, ()))
        zero(zeroed, layer.o, slice(None))
        zero(zeroed, layer.ffn_out, slice(None))
    np.testing.assert_allclose(logits(cutted), logits(zeroed), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("arch", ARCHES)
def test_keeping_every_unit_changes_nothing(models, arch):
    model = models(arch)
    before, places = state(model.module), [id(each) for each in model.module.parameters()]
    plan = cut(model, Heads(0, (0, 1, 2, 3)), Neurons(0, tuple(range(64))))
    assert state(model.module) == before
    assert [id(each) for each in model.module.parameters()] == places
    assert len(plan.cuts) == 2


def _elements(model: TorchModel, *paths: str | None) -> int:
    """Elements of these submodules."""
    found = (model.module.get_submodule(path) for path in paths if path is not None)
    return sum(parameter.numel() for part in found for parameter in part.parameters())


@pytest.mark.parametrize("arch", ARCHES)
def test_parameters_fall_by_what_heads_weigh(models, arch):
    whole = models(arch)
    layer = unique_layers(whole.anatomy)[0]
    rows = _elements(whole, layer.q, layer.k, layer.v, layer.qkv, *layer.relative)
    rows += 2 * tiny.HIDDEN if arch == "deberta" else 0  # q_bias and v_bias lie beside its fused projection
    columns = tiny.HIDDEN * tiny.HIDDEN
    for kept in ((0, 2), (3,), (0, 1, 3)):
        model = models(arch)
        cut(model, Heads(0, kept))
        assert count(whole) - count(model) == (rows + columns) * (4 - len(kept)) // 4
    model = models(arch)
    cut(model, Heads(0, ()))
    left = 2 * SIZE if arch == "deberta" else 0  # dead code of one head keeps the two biases
    added = tiny.HIDDEN if arch == "modernbert" else 0  # its projection had no bias; what is left is a bias
    assert count(whole) - count(model) == rows + columns - left - added


@pytest.mark.parametrize("arch", ARCHES)
def test_parameters_fall_by_what_neurons_weigh(models, arch):
    whole = models(arch)
    layer = unique_layers(whole.anatomy)[0]
    weights = _elements(whole, layer.ffn_in) + tiny.HIDDEN * tiny.INTERMEDIATE
    for left in (48, 1):
        model = models(arch)
        cut(model, Neurons(0, tuple(range(left))))
        assert count(whole) - count(model) == weights * (64 - left) // 64
    model = models(arch)
    cut(model, Neurons(0, ()))
    assert count(whole) - count(model) == weights - (tiny.HIDDEN if arch == "modernbert" else 0)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_replayed_plan_makes_the_same_model(models, arch):
    """Twice at one place, on both sides of a cut of layers."""
    one, two = models(arch, **three_layers(arch)), models(arch, **three_layers(arch))
    last = 0 if one.anatomy.shared_layers else 2
    cuts = [Heads(last, (0, 2, 3)), Neurons(last, tuple(range(10, 40))), Heads(last, (1, 2)), Neurons(last, (0, 5, 29))]
    after = [Layers((0, 2)), Heads(0 if last == 0 else 1, (1,)), Neurons(0, (0, 1))]
    plan = cut(one, *cuts, *after)
    assert len(plan.cuts) == len(cuts) + len(after) - 2
    for name, value in plan.base.items():
        assert getattr(two.config, name) == value
    replay(two.module, plan)
    assert state(one.module) == state(two.module)
    np.testing.assert_array_equal(logits(one), logits(two))
    assert {name: getattr(one.config, name) for name in plan.base} == {
        name: getattr(two.config, name) for name in plan.base
    }


# ------------------------------------------------------------------------------------------------------------- layers


def _bypass(model: TorchModel, path: str) -> None:
    """Let one layer hand on what it gets."""
    layer: Any = model.module.get_submodule(path)
    real = layer.forward

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        out = real(hidden, *args, **kwargs)
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    layer.forward = forward


@pytest.mark.parametrize("arch", ARCHES)
def test_dropping_a_layer_is_passing_it_by(models, arch):
    model, expected = models(arch, **three_layers(arch)), models(arch, **three_layers(arch))
    before, parameters = logits(model), count(model)
    plan = cut(model, Layers((0, 2)))
    if model.anatomy.shared_layers:
        expected.config.num_hidden_layers = 2
        assert count(model) == parameters
    else:
        gone = model.anatomy.layers[1].path
        _bypass(expected, gone)
        assert parameters - count(model) == _elements(expected, gone)
    np.testing.assert_allclose(logits(model), logits(expected), atol=TOLERANCE, rtol=0)
    assert np.abs(logits(model) - before).max() > 100 * TOLERANCE
    assert len(describe(model.module, model.config).layers) == 2
    assert plan.base.get("num_hidden_layers", plan.base.get("n_layers")) == 3
    assert model.config.num_hidden_layers == 2


def test_kinds_of_attention_go_with_their_layers(models):
    model = models("modernbert", **three_layers("modernbert"))
    types = list(model.config.layer_types)
    assert len(set(types)) == 2
    plan = cut(model, Layers((1, 2)))
    assert plan.base["layer_types"] == types
    assert model.config.layer_types == types[1:]


def test_layers_that_share_weights_in_groups_stay(models):
    model = models("albert", num_hidden_groups=2)
    with pytest.raises(InputRefused, match="share weights in groups cannot be dropped"):
        cut(model, Layers((0,)))


# --------------------------------------------------------------------------------------------------------- vocabulary


def _kept_words(model: TorchModel) -> tuple[int, ...]:
    return (*range(8), *range(9, model.config.vocab_size, 3))


def _renumbered(model: TorchModel, kept: tuple[int, ...]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same rows of kept words, by their old and by their new numbers."""
    feeds = feeds_of(model)
    ids = feeds["input_ids"]
    old = feeds | {"input_ids": np.where(feeds["attention_mask"] == 1, np.array(kept)[ids % len(kept)], ids)}
    new = old | {"input_ids": np.searchsorted(np.array(kept), old["input_ids"])}
    return old, new


@pytest.mark.parametrize("arch", ARCHES)
def test_a_smaller_vocabulary_speaks_the_same_words(models, arch):
    for task in ("fill-mask", "text-classification"):
        model = models(arch, task)
        vocabulary, parameters = model.config.vocab_size, count(model)
        kept = _kept_words(model)
        old, new = _renumbered(model, kept)
        before = logits(model, old)
        output = model.module.get_output_embeddings()  # type: ignore[operator]
        tied = output is not None and output.weight is model.module.get_input_embeddings().weight  # type: ignore[operator]
        assert tied == (task == "fill-mask")
        plan = cut(model, Vocabulary(kept))
        embedding: Any = model.module.get_input_embeddings()  # type: ignore[operator]
        expected = before[..., list(kept)] if task == "fill-mask" else before
        np.testing.assert_allclose(logits(model, new), expected, atol=TOLERANCE, rtol=0)
        assert tuple(embedding.weight.shape) == (len(kept), embedding.embedding_dim)
        assert (embedding.num_embeddings, model.config.vocab_size) == (len(kept), len(kept))
        assert plan.base == {"vocab_size": vocabulary}
        gone = vocabulary - len(kept)
        assert parameters - count(model) == gone * (embedding.embedding_dim + (task == "fill-mask"))
        if task == "fill-mask":
            decoder: Any = model.module.get_output_embeddings()  # type: ignore[operator]
            assert decoder.weight is embedding.weight
            assert (decoder.out_features, decoder.bias.shape[0]) == (len(kept), len(kept))


def test_an_output_layer_of_its_own_is_cut_too(models):
    model = models("bert", "fill-mask", tie_word_embeddings=False)
    kept = _kept_words(model)
    old, new = _renumbered(model, kept)
    before = logits(model, old)
    cut(model, Vocabulary(kept))
    np.testing.assert_allclose(logits(model, new), before[..., list(kept)], atol=TOLERANCE, rtol=0)
    assert model.module.get_output_embeddings().weight is not model.module.get_input_embeddings().weight  # type: ignore[operator]


def test_layers_as_wide_as_the_vocabulary_are_no_words(models):
    words = models("bert").config.vocab_size
    model = models("bert", intermediate_size=words)
    kept = _kept_words(model)
    old, new = _renumbered(model, kept)
    before = logits(model, old)
    cut(model, Vocabulary(kept))
    np.testing.assert_allclose(logits(model, new), before, atol=TOLERANCE, rtol=0)


# --------------------------------------------------------------------------------------------------------------- bias


def test_a_bias_where_there_was_none(models):
    model = models("modernbert")
    path, before = model.anatomy.layers[0].o, logits(model)
    plan = cut(model, Bias(path))
    layer: Any = model.module.get_submodule(path)
    assert layer.bias.shape == (tiny.HIDDEN,)
    assert not layer.bias.any()
    np.testing.assert_array_equal(logits(model), before)
    with torch.no_grad():
        layer.bias += torch.arange(tiny.HIDDEN)  # a shift of every direction alike would be normalised away
    cut(model, Bias(path))
    assert layer.bias[-1] == tiny.HIDDEN - 1
    assert np.abs(logits(model) - before).max() > 1e-3
    assert plan.cuts == (Bias(path),)


def test_a_bias_that_is_there_stays(models):
    model = models("bert")
    before = state(model.module)
    cut(model, Bias(model.anatomy.layers[0].o))
    assert state(model.module) == before


def test_what_is_left_of_a_projection_is_its_bias(models):
    model = models("bert")
    layer = model.anatomy.layers[1]
    bias = model.module.get_submodule(layer.o).bias.clone()  # type: ignore[operator,union-attr]
    cut(model, Heads(1, ()))
    assert torch.equal(model.module.get_submodule(layer.o)(torch.randn(2, 5, 8)), bias)
    cut(model, Heads(1, ()))  # cutting nothing of nothing is fine
    assert torch.equal(model.module.get_submodule(layer.o).bias, bias)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("arch", ["bert", "albert", "modernbert", "deberta"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Heads(0, (1, 4)), "names head 4, of 4"),
        (Neurons(0, (64,)), "names neuron 64, of 64"),
        (Heads(9, (0,)), r"names layer 9, of [12]"),
        (Neurons(2, (0,)), r"names layer 2, of [12]"),
        (Layers((0, 2)), "names layer 2, of 2"),
        (Layers(()), "no layer would be left"),
        (Vocabulary((0, 10**6)), "names piece 1000000, of"),
        (Vocabulary(()), "no piece would be left"),
    ],
)
def test_what_is_not_there_cannot_be_kept(models, arch, wrong, message):
    model = models(arch)
    before = state(model.module)
    with pytest.raises(InputRefused, match=message):
        cut(model, wrong)
    assert state(model.module) == before


def test_a_second_cut_counts_what_the_first_left(models):
    model = models("bert")
    plan = cut(model, Heads(0, (1, 3)))
    with pytest.raises(InputRefused, match="names head 2, of 2"):
        apply(model.module, model.anatomy, plan, Heads(0, (2,)))


def test_talking_heads_stay(models):
    model = models("deberta", talking_head=True)
    assert "talking heads" in str(uncuttable_heads(model.module, model.anatomy))
    with pytest.raises(InputRefused, match="heads of deberta cannot be cut"):
        cut(model, Heads(0, (0,)))


def test_an_unknown_architecture_has_no_layers_to_cut(models, monkeypatch):
    style = tiny.ARCHITECTURES["bert"]
    monkeypatch.setitem(tiny.ARCHITECTURES, "ernie", tiny.Architecture("ernie", style.tokenizer, style.config))
    model = models("ernie")
    assert "not in the table of anatomies" in str(uncuttable_heads(model.module, model.anatomy))
    with pytest.raises(InputRefused, match="names layer 0, of 0"):
        cut(model, Heads(0, (0,)))
