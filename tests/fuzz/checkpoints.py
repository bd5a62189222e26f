"""Mutated checkpoints: refused, or exported to what answers as the original library does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from deploycomp.errors import DeploycompError
from tests.fuzz import reference, settings, trees
from tests.fuzz.bench import BYTES, CANARY_TEXT, CHECKPOINTS, COPIED, Bench, Told
from tests.fuzz.doors import CANARY, UNTRACED, Fault, Ran, deploycomp, digests
from tests.fuzz.mangle import mangle

__all__ = ["config", "json_file", "sentence", "tokenizer", "tokenizer_config", "weights"]


def _checkpoint(bench: Bench, draw: Random, change: Callable[[Path, Random], str], *, only: str | None = None) -> Told:
    """Mutate a checkpoint, export it, and hold what is accepted against the original library."""
    known = [key for key in CHECKPOINTS if only in (None, key[1])]
    folder = bench.copy(bench.checkpoints[draw.choice(known)], "model")
    done = " and ".join(change(folder, draw) for _ in range(draw.choice([1, 1, 1, 2])))
    before = digests(folder)
    out = bench.work / "out"
    ran = deploycomp("export", folder, "-o", out, "--no-benchmark", "--quiet")
    _check_traces(bench, before, folder, out, ran)
    if ran.code not in (0, UNTRACED):
        return f"refused {ran.code}", f"{done}: {ran.said}"
    return _as_the_original(folder, out if ran.code == 0 else None), done


def _check_traces(bench: Bench, before: dict[str, str], folder: Path, out: Path, ran: Ran) -> None:
    """All or nothing is written, the source is as it was, and nothing of another file comes through."""
    if digests(folder) != before:
        raise Fault("the source was changed")
    left = {path.name for path in bench.work.iterdir()} - {"model", CANARY, COPIED, "out" if ran.code == 0 else ""}
    if left:
        raise Fault(f"exit {ran.code} left {sorted(left)}")
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file()) if ran.code == 0 else b""
    if CANARY_TEXT.encode() in written or CANARY_TEXT in ran.out + ran.err:
        raise Fault("the content of a file outside of the model's folder was published")


def _as_the_original(folder: Path, out: Path | None) -> str:
    """Whether what was accepted answers as transformers does; without an artifact the loaded model answers."""
    from deploycomp.runtime import Predictor

    if out is not None:
        try:
            predictor = Predictor.load(out, verify=True)
        except DeploycompError as error:
            raise Fault(f"accepted, and then it cannot be opened: {error}") from None
    else:
        from deploycomp.assess import source_predictor
        from deploycomp.models import resolve
        from deploycomp.models.load import load

        predictor = source_predictor(load(resolve(folder)))
    try:
        want = reference.reference(folder, predictor.task)
    except Exception as error:  # what the library itself cannot load has no right answer
        return f"accepted, the library cannot load it: {type(error).__name__}"
    if not any(want):
        return "accepted, the library answers nothing"
    try:
        got = reference.answer(predictor)
    except DeploycompError as error:
        raise Fault(f"accepted, and then it cannot answer: {error.what}") from None
    except Exception as error:
        raise Fault(f"accepted, and then the predictor raises {type(error).__name__}: {error}") from None
    said = reference.difference(want, got, predictor.task)
    if said:
        raise Fault(f"{predictor.task} answers otherwise than the original: {said}")
    return "answers as the original" if out is not None else "accepted, judged before tracing"


def json_file(name: str, keys: dict[str, list[Any]], odd: tuple[Any, ...] = trees.ODD) -> Callable[..., str]:
    """A way to change a JSON file, mostly its content and sometimes its bytes."""

    def change(folder: Path, draw: Random) -> str:
        path = folder / name
        text = path.read_bytes() if path.exists() else b"{}"
        if draw.random() < BYTES:
            path.write_bytes(mangle(text, draw))
            return f"bytes of {name}"
        try:
            tree = trees.read(text)
        except (ValueError, RecursionError):
            return f"{name} once more"
        path.write_bytes(trees.write(trees.change(tree, draw, keys=keys, odd=odd)))
        return name

    return change


def config(bench: Bench, draw: Random) -> Told:
    return _checkpoint(bench, draw, json_file("config.json", settings.CONFIG))


def tokenizer(bench: Bench, draw: Random) -> Told:
    def change(folder: Path, draw: Random) -> str:
        if draw.random() < 0.35:
            return settings.hostile_node(folder / "tokenizer.json", draw)
        return json_file("tokenizer.json", settings.TOKENIZER)(folder, draw)

    return _checkpoint(bench, draw, change)


def tokenizer_config(bench: Bench, draw: Random) -> Told:
    name = draw.choices(["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"], weights=[8, 1, 1])[0]
    return _checkpoint(bench, draw, json_file(name, settings.TOKENIZER_CONFIG))


def sentence(bench: Bench, draw: Random) -> Told:
    name = draw.choice(list(settings.SENTENCE))
    return _checkpoint(bench, draw, json_file(name, settings.SENTENCE[name]), only="sentence-similarity")


def weights(bench: Bench, draw: Random) -> Told:
    return _checkpoint(bench, draw, settings.change_weights)
