"""Options that several commands share, and the short spellings that people type."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from deploycomp.cli.output import SINK
from deploycomp.errors import UsageError

__all__ = [
    "BatchSize",
    "Columns",
    "DropLayers",
    "Factorize",
    "FactorizeMethod",
    "Json",
    "Limit",
    "MaxDrop",
    "NullThreshold",
    "Prune",
    "PruneVocabulary",
    "Quiet",
    "Recover",
    "SequenceLength",
    "Split",
    "Threads",
    "Verbose",
    "columns",
    "fixed",
    "integers",
    "output_mode",
    "percent",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and the libraries' own messages.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="Where a column is: text=sentence. Repeatable.")]
Split = Annotated[str | None, typer.Option(help="Split of the data; default: validation, then test.")]
Limit = Annotated[int | None, typer.Option(min=1, help="A seeded random subset of this many rows.")]
MaxDrop = Annotated[
    str | None, typer.Option(help="Fail when the main metric falls by more than this on these rows: 0.5%.")
]
NullThreshold = Annotated[
    float | None,
    typer.Option(
        "--null-score-diff-threshold",
        help="Question answering: no answer is given where its score exceeds the best span's by more than this; "
        "default: 0 where the data has unanswerable rows.",
        metavar="SCORE",
    ),
]
Prune = Annotated[
    str | None,
    typer.Option(
        help="Prune heads and neurons to a goal: 1.5x (measured here), flops=0.6, parameters=70% or bytes=70%.",
        metavar="GOAL",
    ),
]
Recover = Annotated[
    float | None, typer.Option(help="Minutes of distillation after pruning, on unlabelled rows.", metavar="MINUTES")
]
Factorize = Annotated[
    str | None,
    typer.Option(
        help="Store matrices in factors, down to a goal: size=50%, ratio=3 for each matrix, or 1.1x (measured here).",
        metavar="GOAL",
    ),
]
FactorizeMethod = Annotated[
    str | None,
    typer.Option(
        help="auto, svd, fisher_svd, pca, whitened, kfac, linear_autoencoder, autoencoder, kronecker, tucker."
    ),
]
DropLayers = Annotated[int | None, typer.Option(help="Drop this many layers, the least missed first.", min=1)]
PruneVocabulary = Annotated[
    bool, typer.Option("--prune-vocabulary", help="Drop pieces of the vocabulary that the calibration data never uses.")
]
BatchSize = Annotated[str | None, typer.Option(help="Batch sizes to measure, as 1,8.")]
SequenceLength = Annotated[str | None, typer.Option(help="Lengths in tokens to measure, as 16,128.")]
Threads = Annotated[
    str | None, typer.Option(help="Thread counts to measure, as 1,2; default: what this process may use.")
]


def output_mode(*, json: bool, quiet: bool, verbose: bool) -> None:
    """Set how this process talks."""
    SINK.json, SINK.quiet, SINK.verbose = json, quiet, verbose
    SINK.expect_reader()


def integers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Read `1,8` as (1, 8)."""
    if text is None:
        return None
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise UsageError(f"{option} takes whole numbers from 1", where=f"{option} {text}", hint=f"{option} 1,8")
    return values


def percent(text: str | None, option: str) -> float | None:
    """Read `0.5%` as 0.005; a number without its sign is refused, because both readings are common."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*%", text.strip())
    if not match or float(match[1]) > 100:
        raise UsageError(f"{option} takes a percentage", where=f"{option} {text}", hint=f"{option} 0.5%")
    return float(match[1]) / 100


def fixed(text: str | None) -> dict[str, int]:
    """Read `batch=1,sequence=128`."""
    values: dict[str, int] = {}
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"(batch|sequence)=([1-9]\d*)", part.strip())
        if not match or match[1] in values:
            raise UsageError(
                "--fixed takes batch=N, sequence=N or both",
                where=f"--fixed {text}",
                hint="--fixed batch=1,sequence=128",
            )
        values[match[1]] = int(match[2])
    return values


def columns(pairs: list[str] | None) -> dict[str, str]:
    """Read `text=sentence` pairs."""
    values: dict[str, str] = {}
    for pair in pairs or []:
        ours, sign, theirs = pair.partition("=")
        if not sign or not ours or not theirs:
            raise UsageError("--column takes OURS=THEIRS", where=f"--column {pair}", hint="--column text=sentence")
        values[ours] = theirs
    return values
