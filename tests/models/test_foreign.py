"""Folders that are no checkpoint say what they are, and what the message tells to type leads on."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deploycomp.errors import InputRefused
from deploycomp.models import resolve
from deploycomp.models.foreign import WRAPPERS, python, wrapped
from deploycomp.models.load import load
from tests import tiny
from tests.models.canary import Canary, evil_pickle
from tests.models.test_load import feeds_of

ADAPTER = {"base_model_name_or_path": "bert-base-uncased", "peft_type": "LORA", "r": 4, "task_type": "SEQ_CLS"}


def follow(hint: str | None) -> None:
    """Run the Python command of a hint, in this process: a shell would take seconds to import torch."""
    command = shlex.split(str(hint)[str(hint).index("python -c ") :])
    assert command[:2] == ["python", "-c"]
    assert len(command) == 3
    exec(compile(command[2], "hint", "exec"), {})


def refused(folder: Path, message: str, task: str = "auto") -> InputRefused:
    with pytest.raises(InputRefused, match=message) as caught:
        load(resolve(folder), task)
    return caught.value


@pytest.mark.parametrize("code", ["print('a b')", 'print("it\'s $HOME")', "print('`x`')", "print('\\\\')"])
def test_a_command_survives_the_shell(code):
    assert shlex.split(python(code)) == ["python", "-c", code]


# ----------------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("layout", ["alone", "beside a config", "in a sentence-transformers folder"])
@pytest.mark.parametrize(
    ("task", "kind"),
    [("SEQ_CLS", "AutoPeftModelForSequenceClassification"), ("FEATURE_EXTRACTION", "AutoPeftModelForFeatureExtraction"),
     ("TOKEN_CLS", "AutoPeftModelForTokenClassification"), (None, "AutoPeftModel ")],
)  # fmt: skip
def test_an_adapter_is_named(folder, sentence, tmp_path, layout, task, kind):
    place = folder
    if layout == "in a sentence-transformers folder":
        place = Path(shutil.copytree(sentence, tmp_path / "sentences"))
    if layout != "beside a config":
        (place / "config.json").unlink()
        (place / "model.safetensors").unlink()
    (place / "adapter_config.json").write_text(json.dumps({**ADAPTER, "task_type": task}))
    error = refused(place, "the folder holds an adapter")
    assert f"from peft import {kind}" in str(error.hint)
    assert str(place) in str(error.hint)


@pytest.mark.parametrize("text", ["[]", "{", '{"task_type": ["SEQ_CLS"]}'])
def test_an_adapter_config_of_any_content_is_refused(folder, text):
    (folder / "adapter_config.json").write_text(text)
    refused(folder, "adapter|not valid JSON")


@pytest.mark.filterwarnings("ignore")  # PEFT calls what transformers deprecates
@pytest.mark.parametrize("task", ["text-classification", "sentence-similarity"])
def test_the_hint_for_an_adapter_merges_it(tmp_path, task):
    peft: Any = pytest.importorskip("peft")
    from transformers import AutoModel, AutoModelForSequenceClassification

    base = tiny.build(tmp_path / "base", "bert", task, **({"labels": ("a", "b")} if task[0] == "t" else {}))
    auto, kind = {
        "text-classification": (AutoModelForSequenceClassification, "SEQ_CLS"),
        "sentence-similarity": (AutoModel, "FEATURE_EXTRACTION"),
    }[task]
    settings = peft.LoraConfig(task_type=kind, r=4, target_modules=["query"], init_lora_weights=False)
    adapted = peft.get_peft_model(auto.from_pretrained(base), settings).eval()
    folder = Path(shutil.copytree(base, tmp_path / "adapter"))
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    adapted.save_pretrained(folder)
    follow(refused(folder, "the folder holds an adapter").hint)
    model = load(resolve(folder))
    assert model.task == task
    feeds = feeds_of(model)
    with torch.inference_mode():
        wanted = adapted(**{name: torch.tensor(value) for name, value in feeds.items()})[0].numpy()
    np.testing.assert_allclose(model.run(feeds, model.outputs)[0], wanted, atol=1e-5)


def test_a_gliner_folder_is_named(tmp_path):
    (tmp_path / "gliner_config.json").write_text("{}")
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert "no architecture of transformers" in str(refused(tmp_path, "the folder holds a GLiNER model").why)


# ------------------------------------------------------------------------------------------------------------- SetFit


@pytest.fixture(params=[("model_head.pkl",), ("config_setfit.json",), ("config_setfit.json", "model_head.pkl")])
def setfit(request, sentence, tmp_path) -> Path:
    folder = Path(shutil.copytree(sentence, tmp_path / "setfit"))
    for name in request.param:
        (folder / name).write_bytes(evil_pickle(tmp_path / "trace") if name.endswith("pkl") else b"{}")
    return folder


@pytest.mark.parametrize("task", ["auto", "text-classification"])
def test_a_setfit_folder_is_refused_where_its_head_would_be_lost(setfit, tmp_path, task):
    error = refused(setfit, "the folder holds a SetFit model", task)
    assert "--task sentence-similarity" in str(error.hint)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("task", ["sentence-similarity", "feature-extraction"])
def test_its_encoder_alone_is_exported_where_that_is_asked_for(setfit, tmp_path, task):
    canary = Canary(setfit / "model_head.joblib", b"x")
    model = load(resolve(setfit), task)
    assert model.task == task
    assert any("model_head.joblib ignored: the encoder alone" in note for note in model.notes)
    assert not canary.sang
    assert not (tmp_path / "trace").exists()


# ----------------------------------------------------------------------------------------------------------- prefixes


def rename(folder: Path, prefix: str, *, shards: int = 1) -> None:
    weights = {prefix + name: value for name, value in load_file(folder / "model.safetensors").items()}
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    (folder / "model.safetensors").unlink()
    placed = {}
    for number in range(shards):
        shard = f"model-{number}.safetensors"
        part = dict(list(weights.items())[number::shards])
        save_file(part, folder / shard, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


PREFIXES = (*WRAPPERS, "module._orig_mod.", "model.module.")


@pytest.mark.parametrize(
    ("arch", "task"),
    [
        ("bert", "text-classification"),
        ("modernbert", "text-classification"),
        ("roberta", "feature-extraction"),
        ("distilbert", "fill-mask"),
    ],
)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_wrappers_prefix_is_named_and_the_hint_takes_it_away(tmp_path, arch, task, prefix):
    folder = tiny.build(tmp_path / "model", arch, task)
    before = load(resolve(folder))
    rename(folder, prefix)
    error = refused(folder, f"the names of the weights carry a wrapper's prefix: {prefix}")
    assert prefix in str(error.why)
    follow(error.hint)
    again = load(resolve(folder))
    feeds = feeds_of(before)
    np.testing.assert_array_equal(again.run(feeds, again.outputs)[-1], before.run(feeds, before.outputs)[-1])


def test_the_prefix_of_shards(folder):
    rename(folder, "module.", shards=2)
    follow(refused(folder, "wrapper's prefix: module").hint)
    assert load(resolve(folder)).task == "text-classification"


def test_a_folder_whose_name_is_hard_to_quote(bert, tmp_path):
    folder = Path(shutil.copytree(bert, tmp_path / 'it\'s $a "model"'))
    rename(folder, "module.")
    follow(refused(folder, "wrapper's prefix: module").hint)
    assert load(resolve(folder)).task == "text-classification"


@pytest.mark.parametrize(
    ("stored", "own", "base", "prefix"),
    [
        (["bert.a", "bert.b"], ["bert.a", "bert.b"], "bert", None),
        (["bert.a", "bert.b"], ["a", "b"], "bert", None),
        (["a", "b"], ["bert.a", "bert.b"], "bert", None),
        (["module.bert.a", "module.bert.b"], ["a", "b"], "bert", "module."),
        (["module.a", "module.b"], ["bert.a", "bert.b"], "bert", "module."),
        (["model.a", "model.b"], ["model.a", "model.b"], "model", None),
        (["model.model.a", "model.model.b"], ["model.a", "model.b"], "model", "model."),
        (["other.a", "other.b"], ["a", "b"], "bert", None),
        (["module.x", "module.y"], ["a", "b"], "bert", None),
        ([], ["a"], "bert", None),
    ],
)
def test_what_a_prefix_is(stored, own, base, prefix):
    assert wrapped(stored, own, base) == prefix
