"""A cut model is saved as a folder that loads again: the same answers, the same bytes, and strict about both."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deploycomp.errors import InputRefused
from deploycomp.export import export
from deploycomp.graph import rewrite
from deploycomp.models import resolve
from deploycomp.models.anatomy import describe
from deploycomp.models.checkpoint import round_weights, save
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import SURGERY, Bias, Cut, Heads, Layers, Neurons, Vocabulary
from deploycomp.models.quiet import quiet
from deploycomp.models.surgery import apply
from deploycomp.onnxmodel import save_graph
from deploycomp.recipe import Export
from deploycomp.runtime.session import open_session
from tests import tiny
from tests.models.test_load import feeds_of

ARCHES = list(tiny.ARCHITECTURES)
TASKS = ("text-classification", "fill-mask")
ATTENTION_OPSET = 26
WEIGHTS = "model.safetensors"


def build(folder: Path, arch: str, task: str = "text-classification", **options: Any) -> TorchModel:
    return load(resolve(tiny.build(folder, arch, task, **options)))


def cut(model: TorchModel, *cuts: Cut) -> TorchModel:
    """The model, cut in place, with its plan."""
    plan, anatomy = model.plan, model.anatomy
    for each in cuts:
        plan = apply(model.module, anatomy, plan, each)
        anatomy = describe(model.module, model.config) if isinstance(each, Layers) else anatomy
    return replace(model, plan=plan, anatomy=anatomy)


def mixed(folder: Path, arch: str, task: str) -> TorchModel:
    """Three layers, cut in every way, and what is left changed as compensation changes it."""
    count = {"n_layers" if arch == "distilbert" else "num_hidden_layers": 3}
    model = build(folder, arch, task, **count)
    if model.anatomy.shared_layers:
        cuts: tuple[Cut, ...] = (Heads(0, (1, 3)), Neurons(0, (0, 9, 30)), Layers((0, 2)), Heads(0, (1,)))
    else:
        dropped = (Heads(0, (1, 2, 3)), Heads(2, ()), Neurons(2, (5, 6, 60)), Heads(0, (0, 2)), Layers((0, 2)))
        cuts = (*dropped, Neurons(0, ()), Neurons(1, (0, 2)), Bias(model.anatomy.layers[0].o))
    model = cut(model, *cuts)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for path in {path for layer in model.anatomy.layers for path in (layer.o, layer.ffn_out)}:
            for parameter in model.module.get_submodule(path).parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def saved(model: TorchModel, folder: Path) -> Path:
    folder.mkdir(parents=True)
    save(model, folder)
    return folder


def outputs(model: TorchModel) -> list[np.ndarray]:
    return model.run(feeds_of(model), model.outputs)


# ------------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize(("arch", "task"), [(arch, task) for arch in ARCHES for task in TASKS])
def test_a_cut_model_loads_as_it_was_saved(tmp_path, arch, task):
    model = mixed(tmp_path / "whole", arch, task)
    folder = saved(model, tmp_path / "cut")
    again = load(resolve(folder))
    assert again.task == task
    assert again.plan == model.plan
    assert again.anatomy == model.anatomy
    assert again.parameters == model.parameters
    for one, two in zip(outputs(model), outputs(again), strict=True):
        np.testing.assert_array_equal(one, two)
    twice = saved(again, tmp_path / "twice")
    for path in folder.iterdir():
        assert (twice / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in twice.iterdir()} == {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_keep_the_type_that_they_are_stored_in(tmp_path, dtype):
    model = build(tmp_path / "whole", "bert", dtype=dtype)
    model = cut(model, Heads(0, (1, 2, 3)), Neurons(1, (0, 2)))
    with torch.no_grad():
        for each in model.module.parameters():
            each += 1e-4
    round_weights(model)
    folder = saved(model, tmp_path / "cut")
    assert {each.dtype for each in load_file(folder / "model.safetensors").values()} == {getattr(torch, dtype)}
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    for one, two in zip(outputs(model), outputs(load(resolve(folder))), strict=True):
        np.testing.assert_array_equal(one, two)


def test_weights_that_would_overflow_are_stored_in_full(tmp_path):
    model = build(tmp_path / "whole", "bert", dtype="float16")
    with torch.no_grad():
        next(model.module.parameters())[0, 0] = 1e6
    round_weights(model)
    folder = saved(model, tmp_path / "cut")
    stored = load_file(folder / "model.safetensors")
    assert {each.dtype for each in stored.values()} == {torch.float32}
    assert max(float(each.max()) for each in stored.values()) == 1e6
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("task", ["token-classification", "question-answering", "feature-extraction"])
def test_other_tasks(tmp_path, task):
    model = mixed(tmp_path / "whole", "bert", task)
    again = load(resolve(saved(model, tmp_path / "cut")))
    assert again.task == task
    for one, two in zip(outputs(model), outputs(again), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_sentence_encoder_keeps_its_layout(tmp_path):
    model = cut(build(tmp_path / "whole", "mpnet", "sentence-similarity", pooling="cls"), Heads(1, (0, 2)))
    folder = saved(model, tmp_path / "cut")
    assert (folder / "modules.json").read_bytes() == (tmp_path / "whole" / "modules.json").read_bytes()
    assert (folder / "1_Pooling" / "config.json").exists()
    again = load(resolve(folder))
    assert (again.task, again.pooling) == ("sentence-similarity", model.pooling)
    for one, two in zip(outputs(model), outputs(again), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_model_cut_again_after_loading(tmp_path):
    first = load(resolve(saved(cut(build(tmp_path / "whole", "bert"), Heads(0, (1, 2, 3))), tmp_path / "first")))
    second = cut(first, Heads(0, (0, 2)), Layers((0,)))
    assert second.plan.cuts == (Heads(0, (1, 3)), Layers((0,)))
    again = load(resolve(saved(second, tmp_path / "second")))
    assert json.loads((tmp_path / "second" / "config.json").read_text())["num_hidden_layers"] == 1
    np.testing.assert_array_equal(outputs(second)[0], outputs(again)[0])


def test_a_model_without_cuts_is_an_ordinary_checkpoint(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = build(tmp_path / "whole", "bert")
    folder = saved(model, tmp_path / "same")
    assert not (folder / SURGERY).exists()
    with quiet():
        plain = AutoModelForSequenceClassification.from_pretrained(folder)
    whole, same = load_file(tmp_path / "whole" / WEIGHTS), load_file(folder / WEIGHTS)
    assert whole.keys() == same.keys() == plain.state_dict().keys()
    assert all(torch.equal(whole[name], same[name]) for name in whole)


def test_a_copy_that_was_cut_is_saved_as_it_is(tmp_path):
    """A step cuts a copy of the module, whose config is a copy too."""
    source = build(tmp_path / "whole", "bert")
    model = cut(replace(source, module=copy.deepcopy(source.module)), Layers((1,)))
    folder = saved(model, tmp_path / "cut")
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1
    np.testing.assert_array_equal(outputs(load(resolve(folder)))[0], outputs(model)[0])
    assert outputs(source)[0].shape == (3, 3)


# -------------------------------------------------------------------------------------------------- plain transformers


@pytest.mark.parametrize("task", ["text-classification", "fill-mask"])
def test_layers_and_vocabulary_load_in_plain_transformers(tmp_path, task):
    import transformers

    words = tiny.ARCHITECTURES["bert"].tokenizer()
    model = build(tmp_path / "whole", "bert", task, vocab_size=len(words) + 40)  # the tokenizer never needs the last 40
    model = cut(model, Layers((1,)), Vocabulary(tuple(range(len(words)))))
    folder = saved(model, tmp_path / "cut")
    kind = {"text-classification": "AutoModelForSequenceClassification", "fill-mask": "AutoModelForMaskedLM"}[task]
    with quiet():
        plain, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    feeds = feeds_of(model)
    with torch.inference_mode():
        expected = plain.eval()(**{name: torch.tensor(value) for name, value in feeds.items()}).logits.numpy()
    assert plain.config.vocab_size == len(words)
    np.testing.assert_allclose(outputs(model)[0], expected, atol=1e-6)
    np.testing.assert_array_equal(outputs(model)[0], outputs(load(resolve(folder)))[0])


@pytest.mark.parametrize("arch", ["bert", "albert", "modernbert", "mpnet", "deberta"])
def test_a_loaded_model_is_trained_and_saved_again(tmp_path, arch):
    model = load(resolve(saved(mixed(tmp_path / "whole", arch, "text-classification"), tmp_path / "cut")))
    before = outputs(model)[0]
    module: Any = model.module.requires_grad_(True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batch = {name: torch.tensor(value) for name, value in feeds_of(model).items()}
    loss = module(**batch, labels=torch.tensor([0, 1, 2])).loss
    loss.backward()
    projections = [module.get_submodule(layer.o) for layer in model.anatomy.layers]
    assert all(parameter.grad is not None for part in projections for parameter in part.parameters())
    optimizer.step()
    with torch.no_grad():
        assert module(**batch, labels=torch.tensor([0, 1, 2])).loss < loss
    again = load(resolve(saved(model, tmp_path / "trained")))
    np.testing.assert_array_equal(outputs(again)[0], outputs(model)[0])
    assert np.abs(outputs(again)[0] - before).max() > 1e-3
    assert again.plan == model.plan


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut BERT; never change it."""
    place = tmp_path_factory.mktemp("cut")
    return saved(mixed(place / "whole", "bert", "text-classification"), place / "cut")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def change_plan(folder: Path, edit: Any) -> None:
    value = json.loads((folder / SURGERY).read_text())
    edit(value)
    (folder / SURGERY).write_text(json.dumps(value))


def change_weights(folder: Path, edit: Any) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def refused(folder: Path, message: str) -> InputRefused:
    with pytest.raises(InputRefused, match=message) as caught:
        load(resolve(folder))
    return caught.value


def test_config_and_plan_that_disagree(folder, edit):
    edit(folder / "config.json", num_hidden_layers=1)
    error = refused(folder, "config.json and surgery.json disagree: .*'num_hidden_layers': 1.*'num_hidden_layers': 2")
    assert "deploycomp compress" in str(error.hint)


def test_a_plan_without_its_layers_cut(folder):
    change_plan(folder, lambda plan: plan["cuts"].remove({"cut": "layers", "kept": [0, 2]}))
    refused(folder, "config.json and surgery.json disagree")


@pytest.mark.parametrize(
    ("cut", "why"),
    [
        ({"cut": "heads", "layer": 0, "kept": [9]}, "names head 9, of 2"),
        ({"cut": "heads", "layer": 9, "kept": [0]}, "names layer 9, of 2"),
        ({"cut": "vocabulary", "kept": [99999]}, "names piece 99999"),
        ({"cut": "bias", "module": "bert.nowhere"}, "nowhere"),
        ({"cut": "bias", "module": "bert.embeddings"}, "bias"),
    ],
)
def test_a_cut_that_cannot_be_made(folder, cut, why):
    change_plan(folder, lambda plan: plan["cuts"].append(cut))
    with pytest.raises(InputRefused) as caught:
        load(resolve(folder))
    assert why in f"{caught.value.what} {caught.value.why}"


def test_a_base_of_another_size_is_refused_before_memory_is_taken(folder):
    change_plan(folder, lambda plan: plan["base"].update(vocab_size=10**12))
    refused(folder, r"config.json describes [\d,]+ parameters, the weights hold")


def test_other_cuts_than_the_weights_have(folder):
    change_plan(folder, lambda plan: plan["cuts"].append({"cut": "neurons", "layer": 1, "kept": [0]}))
    refused(
        folder, r"shapes differ: bert.encoder.layer.1.intermediate.dense.bias is \[2\] in the file, \[1\] by the surg"
    )


def test_missing_weights(folder):
    change_weights(folder, lambda weights: weights.pop("classifier.bias"))
    refused(folder, "do not belong together: the file lacks classifier.bias\n")


def test_foreign_weights(folder):
    name = "bert.encoder.layer.0.attention.self.query.more"
    change_weights(folder, lambda weights: weights.update({name: torch.ones(2)}))
    refused(folder, "do not belong together: the model lacks bert.encoder.layer.0.attention.self.query.more\n")


def test_misshapen_weights(folder):
    change_weights(folder, lambda weights: weights.update({"classifier.bias": torch.ones(4)}))
    refused(folder, r"shapes differ: classifier.bias is \[4\] in the file, \[3\] by the surgery plan\n")


def test_without_its_plan_a_cut_model_is_refused(folder):
    (folder / SURGERY).unlink()
    refused(folder, "the weights|the checkpoint")


def test_a_broken_plan_is_refused(folder):
    (folder / SURGERY).write_text("{}")
    refused(folder, "surgery.json has format None")


def test_code_and_pickles_are_not_copied(tmp_path):
    whole = tiny.build(tmp_path / "whole", "bert", "text-classification")
    for name in (
        "modeling_mine.py",
        "pytorch_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "model.onnx",
        "note.txt",
    ):
        (whole / name).write_bytes(b"no")
    model = cut(load(resolve(whole)), Heads(0, (1,)))
    assert any("modeling_mine.py" in note for note in model.notes)
    folder = saved(model, tmp_path / "cut")
    names = {"config.json", SURGERY, WEIGHTS, "tokenizer.json", "tokenizer_config.json"}
    assert set(os.listdir(folder)) == names


def test_shards_of_the_source_are_not_copied(tmp_path):
    whole = tiny.build(tmp_path / "whole", "bert", "text-classification")
    weights = load_file(whole / WEIGHTS)
    (whole / WEIGHTS).unlink()
    shard = "model-00001-of-00001.safetensors"
    save_file(weights, whole / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}
    (whole / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    folder = saved(cut(load(resolve(whole)), Heads(0, (1,))), tmp_path / "cut")
    assert {name for name in os.listdir(folder) if name.startswith("model")} == {WEIGHTS}


def test_the_config_names_the_class_of_the_weights_and_no_folder(tmp_path):
    model = load(resolve(tiny.build(tmp_path / "whole", "bert", "fill-mask")), "feature-extraction")
    model = replace(model, source=replace(model.source, config={**model.source.config, "_name_or_path": "/home/me"}))
    config = json.loads((saved(cut(model, Heads(0, (1,))), tmp_path / "cut") / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    assert "_name_or_path" not in config


# ------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("arch", ["bert", "distilbert", "modernbert", "albert"])
def test_a_cut_model_exports_with_its_smaller_attention(tmp_path, arch):
    model = build(tmp_path / "whole", arch)
    model = cut(model, Heads(0, (1, 3)), Neurons(0, tuple(range(0, 64, 2))))
    if not model.anatomy.shared_layers:
        model = cut(model, Heads(1, ()), Neurons(1, (3,)))
    attentions = _same_answers(model, tmp_path / "model.onnx")
    assert [node.attributes["q_num_heads"].value for node in attentions] == [2] * (2 if arch == "albert" else 1)


@pytest.mark.parametrize("arch", ["bert", "albert", "modernbert"])
def test_nothing_is_left_of_what_was_cut_whole(tmp_path, arch):
    model = build(tmp_path / "whole", arch)
    for layer in range(1 if model.anatomy.shared_layers else 2):
        model = cut(model, Heads(layer, ()), Neurons(layer, ()))
    assert _same_answers(model, tmp_path / "model.onnx") == []


def _same_answers(model: TorchModel, path: Path) -> list[Any]:
    """Export, run, compare, and return the attention nodes; what was cut whole may leave no node."""
    onnx, _ = export(model, Export(), opset=ATTENTION_OPSET)
    rewrite(onnx)
    save_graph(onnx.model, path, external_data_bytes=2**31, size=onnx.nbytes)
    nodes = list(onnx.model.graph)
    operators = Counter(node.op_type for node in nodes)
    assert operators["Softmax"] == 0
    products = [str(node.name) for node in nodes if node.op_type in ("MatMul", "Gemm")]
    for layer in model.anatomy.layers:
        for inside, end in ((layer.q or layer.qkv or "", layer.o), (layer.ffn_in, layer.ffn_out)):
            left = model.module.get_submodule(end).in_features
            assert any(name.startswith(f"{inside}/") for name in products) == bool(left), inside
    session = open_session(path, threads=1)
    for length in (9, 30):
        feeds = feeds_of(model, length=length)
        got = session.run(list(model.outputs), {each.name: feeds[each.name] for each in session.get_inputs()})
        np.testing.assert_allclose(got[0], model.run(feeds, model.outputs)[0], atol=2e-5, rtol=1e-4)
    return [node for node in nodes if node.op_type == "Attention"]
