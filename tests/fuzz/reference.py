"""What the original library answers to probe texts, and whether an artifact answers the same.

The checkpoint goes through transformers' own tokenizer, model and pipeline (sentence-transformers' own class where a
folder is one of its own); the artifact goes through `Predictor`, as its user would open it. They share no code of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deploycomp.runtime import Predictor
from tests import tiny

__all__ = ["PROBES", "Answers", "answer", "difference", "reference"]

TOLERANCE = 2e-3
"""Relative to the largest number of an answer: two kernels differ by 1e-5, another token by 1e-2 and more."""

_LONG = tiny.texts(1, seed=3, low=90, high=90)[0]
TEXTS: tuple[Any, ...] = (
    "the good film was not bad",
    "THE GOOD Film Was NOT Bad",
    "café naïve, Ünïcode's best",
    "我住在北京。 the film (very good)!",
    "good 😀 film\u200b of\u00a0london שלום",
    " the  good\tfilm ",
    _LONG,
    "",
)
PAIRS: tuple[Any, ...] = (
    ("the good film", "what a bad story"),
    (_LONG, "the good film"),
)
QUESTIONS: tuple[Any, ...] = (
    ("who was good", "anna was good in london, and Peter was not bad in Paris"),
    ("WHERE was the film", "the film was in berlin and the music was café"),
)
"""Upper case, accents, other scripts, emoji, what has no width, spaces, too long, nothing."""

Answers = list[dict[str, Any] | None]
"""For each probe names with numbers; None where there is no answer."""


def PROBES(task: str) -> tuple[Any, ...]:
    """The probes of a task."""
    if task == "question-answering":
        return QUESTIONS
    if task == "fill-mask":
        return tuple(f"{text[:60]} [MASK]" for text in TEXTS)
    return (*TEXTS, *PAIRS) if task == "text-classification" else TEXTS


def reference(folder: Path, task: str) -> Answers:
    """Answer every probe as the original library does.

    Args:
        folder: A checkpoint that was accepted.
        task: What it is for.

    Raises:
        Exception: The library cannot load it.
    """
    ask = _REFERENCES.get(task, _tokens)(folder, task)
    return [_tried(ask, probe) for probe in PROBES(task)]


def answer(predictor: Predictor) -> Answers:
    """Answer every probe with an artifact."""
    return [_ours(predictor, probe) for probe in PROBES(predictor.task)]


def difference(want: Answers, got: Answers, task: str) -> str | None:
    """Say where two lists of answers differ, if they do."""
    for probe, expected, found in zip(PROBES(task), want, got, strict=True):
        if expected is None:
            continue
        text = repr(probe)[:60]
        if found is None or expected.keys() != found.keys():
            return f"{text}: {sorted(expected)} are answered, found {sorted(found or ())}"
        for name, numbers in expected.items():
            said = _unlike(np.asarray(numbers, dtype=np.float64), np.asarray(found[name], dtype=np.float64))
            if said:
                return f"{text}: {name}: {said}"
    return None


def _unlike(want: np.ndarray, got: np.ndarray) -> str | None:
    if want.shape != got.shape:
        return f"shape {list(want.shape)} is right, found {list(got.shape)}"
    if not want.size or not np.isfinite(want).all():
        return None
    scale = max(float(np.abs(want).max()), 1e-3)
    worst = int(np.abs(want - got).argmax())
    apart = float(np.abs(want - got).max()) / scale
    if np.isfinite(got).all() and apart <= TOLERANCE:
        return None
    return f"{want.flat[worst]:.5g} is right, found {got.flat[worst]:.5g}"


def _tried(ask: Callable[[Any], dict[str, Any]], probe: Any) -> dict[str, Any] | None:
    try:
        return ask(probe)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a text that the library itself cannot answer has no right answer; it even panics
        return None


# ------------------------------------------------------------ the original


def _classify(folder: Path, _: str) -> Callable[[Any], dict[str, Any]]:
    import torch
    from transformers import pipeline

    asked = {"model": str(folder), "dtype": torch.float32, "device": "cpu", "local_files_only": True}
    pipe = pipeline("text-classification", **asked)

    def ask(probe: Any) -> dict[str, Any]:
        text = {"text": probe[0], "text_pair": probe[1]} if isinstance(probe, tuple) else probe
        found = pipe(text, top_k=None, truncation=True)
        return {str(each["label"]): each["score"] for each in found}

    return ask


def _sentences(folder: Path, _: str) -> Callable[[Any], dict[str, Any]]:
    import torch
    from sentence_transformers import SentenceTransformer

    asked = {"device": "cpu", "local_files_only": True, "model_kwargs": {"dtype": torch.float32}}
    model = SentenceTransformer(str(folder), **asked)
    return lambda probe: {"": model.encode([probe], show_progress_bar=False)[0]}


def _tokens(folder: Path, task: str) -> Callable[[Any], dict[str, Any]]:
    """Raw outputs, one row for each token."""
    import torch
    import transformers

    kind = getattr(transformers, tiny.AUTO_CLASSES[task])
    model = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def ask(probe: Any) -> dict[str, Any]:
        parts = probe if isinstance(probe, tuple) else (_masked(probe, tokenizer.mask_token),)
        encoded = tokenizer(*parts, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            result = model(**encoded)
        names = {"feature-extraction": ("last_hidden_state",), "question-answering": ("start_logits", "end_logits")}
        found = {name: result[name][0].numpy() for name in names.get(task, ("logits",))}
        if task == "fill-mask":
            here = (encoded["input_ids"][0] == tokenizer.mask_token_id).numpy()
            found = {name: values[here] for name, values in found.items()}
        return found

    return ask


_REFERENCES = {"text-classification": _classify, "sentence-similarity": _sentences}


def _masked(probe: str, mask: str | None) -> str:
    return probe.replace("[MASK]", mask) if mask else probe


# ------------------------------------------------------------ the artifact


def _ours(predictor: Predictor, probe: Any) -> dict[str, Any] | None:
    if predictor.task == "text-classification":
        found = predictor(probe)
        if hasattr(found, "scores"):
            return dict(found.scores)
        numbers = found if isinstance(found, tuple) else (found,)
        return dict(zip(predictor.labels(len(numbers)), numbers, strict=True))
    if predictor.task == "sentence-similarity":
        return {"": predictor([probe])[0]}
    if predictor.task == "fill-mask":
        probe = _masked(probe, predictor.runtime.get("mask_token"))
    rows = predictor.raw([probe]).rows[0]
    return dict(rows[0].outputs)
