"""Attention written in another form answers the same, takes any padding, and is read by what asked for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploycomp.export import export
from deploycomp.graph import rewrite
from deploycomp.graph.attention import Form, form_of, write_attention
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.onnxmodel import OnnxModel, save_graph
from deploycomp.recipe import Export
from deploycomp.runtime.session import open_session, runner
from tests import tiny

MASKS = {
    "right": [[1] * 12, [1] * 5 + [0] * 7],
    "left": [[1] * 12, [0] * 7 + [1] * 5],
    "a hole": [[1] * 12, [1] * 4 + [0] + [1] * 7],
}
FORMS: list[Form] = ["mask", "plain"]


def traced(folder: Path, arch: str, *, opset: int = 24, dtype: str = "fp32") -> tuple[Any, OnnxModel]:
    source = load(resolve(str(tiny.build(folder / "model", arch, "token-classification"))), "token-classification")
    model, _ = export(source, Export.model_validate({"dtype": dtype}), opset=opset)
    rewrite(model)
    return source, model


def answers(model: OnnxModel, folder: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    path = folder / "graph.onnx"
    path.unlink(missing_ok=True)
    save_graph(model.model, path, external_data_bytes=1 << 40, size=model.nbytes)
    return runner(open_session(path, threads=1), model=path)({name: feeds[name] for name in model.inputs}, ("logits",))[
        0
    ]


def feeds_of(mask: list[list[int]]) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 100, (2, 12))
    return {"input_ids": ids, "attention_mask": np.array(mask), "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arch", ["bert", "modernbert"])
def test_answers_stay_for_any_padding(arch: str, form: Form, tmp_path: Path):
    """ModernBERT has a bias too: its windows."""
    source, model = traced(tmp_path, arch)
    attentions = model.operators["Attention"]
    assert write_attention(model, form) == attentions > 0
    assert form_of(model) == ("mask" if form == "mask" else None)
    assert not {"Attention", "TensorScatter", "ArgMax"} & set(model.operators)
    for mask in MASKS.values():
        feeds, real = feeds_of(mask), np.array(mask, bool)
        want = source.run({name: feeds[name] for name in source.inputs}, ("logits",))[0]
        np.testing.assert_allclose(answers(model, tmp_path, feeds)[real], want[real], rtol=1e-3, atol=1e-4)


def test_what_an_older_opset_traced_becomes_plain(tmp_path: Path):
    _, model = traced(tmp_path, "bert", opset=18)
    assert form_of(model) == "mask"
    assert write_attention(model, "mask") == 0
    assert write_attention(model, "plain") == tiny.LAYERS
    assert model.operators["Softmax"] == tiny.LAYERS
    assert model.model.opset_imports[""] == 18


def test_half_precision_stays_half_and_finite(tmp_path: Path):
    source, model = traced(tmp_path, "bert", opset=18, dtype="fp16")
    feeds = feeds_of(MASKS["left"])
    real = feeds["attention_mask"].astype(bool)
    want = source.run(feeds, ("logits",))[0]
    write_attention(model, "plain")
    np.testing.assert_allclose(answers(model, tmp_path, feeds)[real], want[real], atol=0.05)


def test_the_traced_form_cannot_be_got_back(tmp_path: Path):
    _, model = traced(tmp_path, "bert")
    before = Counter(model.operators)
    assert write_attention(model, "tokens") == 0
    assert model.operators == before


def test_names_stay_unique(tmp_path: Path):
    _, model = traced(tmp_path, "bert")
    write_attention(model, "plain")
    names = [node.name for node in model.model.graph]
    assert len(set(names)) == len(names)
