"""Sentence embeddings are those of sentence-transformers, and the graph that makes them can be exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deploycomp.models import forward_module, resolve
from deploycomp.models.load import load
from deploycomp.models.model import pool
from deploycomp.models.quiet import quiet
from deploycomp.models.sentence import SentencePooling
from tests import tiny

MODES = ("mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken")
TEXTS = [*tiny.texts(6, seed=3), "good", "The GREAT Film"]


def reference(folder: Path) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    with quiet():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return np.asarray(model.encode(TEXTS, show_progress_bar=False))


def ours(folder: Path) -> np.ndarray:
    model = load(resolve(folder))
    encoded = model.tokenizer(TEXTS, padding=True, truncation=True, max_length=model.max_length, return_tensors="np")
    tokens, vectors = model.run({name: encoded[name] for name in model.inputs}, model.outputs)
    assert tokens.shape == (*encoded["input_ids"].shape, tiny.HIDDEN)
    return vectors


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_every_pooling_is_that_of_sentence_transformers(tmp_path, mode, normalize):
    folder = tiny.build(tmp_path / "m", "bert", "sentence-similarity", pooling=mode, normalize=normalize)
    np.testing.assert_allclose(ours(folder), reference(folder), atol=2e-5)


@pytest.mark.parametrize("arch", ["roberta", "mpnet", "modernbert"])
def test_other_encoders(tmp_path, arch):
    folder = tiny.build(tmp_path / "model", arch, "sentence-similarity")
    np.testing.assert_allclose(ours(folder), reference(folder), atol=2e-5)


def test_several_modes_are_concatenated(tmp_path, edit):
    folder = tiny.build(tmp_path / "model", "bert", "sentence-similarity", pooling="mean", normalize=False)
    edit(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_max_tokens=True)
    assert load(resolve(folder)).pooling == SentencePooling(("cls", "max", "mean"), normalize=False)
    np.testing.assert_allclose(ours(folder), reference(folder), atol=2e-5)


def test_the_layout_that_sentence_transformers_6_writes(tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = tiny.build(tmp_path / "model", "bert", "sentence-similarity", pooling="max")
    with quiet():
        SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "saved"))
    pooling = json.loads((tmp_path / "saved" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "max"
    np.testing.assert_allclose(ours(tmp_path / "saved"), reference(folder), atol=2e-5)


def test_max_seq_length_and_lower_case(tmp_path, edit):
    folder = tiny.build(tmp_path / "model", "roberta", "sentence-similarity")
    edit(folder / "sentence_bert_config.json", max_seq_length=12, do_lower_case=True)
    model = load(resolve(folder))
    assert model.max_length == 12
    assert model.tokenizer("The GREAT Film")["input_ids"] == model.tokenizer("the great film")["input_ids"]
    np.testing.assert_allclose(ours(folder), reference(folder), atol=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_padding_changes_nothing(mode):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 6, 8, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    pooling = SentencePooling((mode,), normalize=True)
    for row, length in ((0, 4), (1, 1)):
        alone = pool(tokens[row : row + 1, :length], mask[row : row + 1, :length], pooling)
        torch.testing.assert_close(pool(tokens, mask, pooling)[row : row + 1], alone)
    assert torch.isfinite(pool(tokens, torch.zeros_like(mask), pooling)).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_forward_is_traceable_with_dynamic_shapes(tmp_path, mode):
    model = load(resolve(tiny.build(tmp_path / "model", "bert", "sentence-similarity", pooling=mode)))
    batch, sequence = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    sample = tuple(torch.ones(2, 9, dtype=torch.int64) for _ in model.inputs)
    shapes = tuple({0: batch, 1: sequence} for _ in model.inputs)
    with quiet():
        program = torch.export.export(forward_module(model), sample, dynamic_shapes=shapes, strict=False)
    feeds = model.tokenizer(TEXTS[:5], padding=True, return_tensors="pt")
    traced = program.module()(*(feeds[name] for name in model.inputs))
    direct = forward_module(model)(*(feeds[name] for name in model.inputs))
    for left, right in zip(traced, direct, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)
