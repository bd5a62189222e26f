"""`deploycomp benchmark`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploycomp.cli import options
from deploycomp.cli.options import BatchSize, Json, Quiet, SequenceLength, Threads, Verbose
from deploycomp.cli.output import SINK, Document, handled, save_text
from deploycomp.errors import UsageError
from deploycomp.escape import json_text

if TYPE_CHECKING:
    from deploycomp.measure.candidate import Candidate

__all__ = ["benchmark"]

COMPILE = "@compile"
"""Behind a model folder: measure it through torch.compile."""

Pairs = Annotated[list[str] | None, typer.Option("--column", help="With --rows, where a column is: text=sentence.")]


@handled
def benchmark(
    candidates: Annotated[
        list[str], typer.Argument(help="Artifacts, .onnx files, or model folders; MODEL@compile for torch.compile.")
    ],
    batch_size: BatchSize = None,
    sequence_length: SequenceLength = None,
    threads: Threads = None,
    provider: Annotated[
        str, typer.Option(help="Where to run, as cpu,cuda; a fall back to the CPU is an error.")
    ] = "cpu",
    dtype: Annotated[str, typer.Option(help="Types of PyTorch candidates, as fp32,bf16.")] = "fp32",
    rows: Annotated[
        str | None, typer.Option(help="Measure real rows with their lengths: a file, a folder or a hub data set.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="With --rows, the split; default: validation, then test.")] = None,
    column: Pairs = None,
    limit: Annotated[int, typer.Option(min=1, help="With --rows, a seeded random subset of this many.")] = 256,
    blocks: Annotated[int, typer.Option(min=2, help="Fresh processes for each candidate and thread count.")] = 3,
    block_seconds: Annotated[float, typer.Option(min=0.01, help="Seconds measured for each shape in a process.")] = 0.5,
    profile: Annotated[bool, typer.Option("--profile", help="Also tell which operators the time goes to.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result with raw samples to this JSON file.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="pytest-benchmark, github-action-benchmark, bencher or markdown, to stdout or as NAME=FILE. Repeatable.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one self-contained page with tables and pictures to this file.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure latency, throughput, memory, load time and size side by side."""
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    targets = _targets(formats or [])
    if rows is not None and sequence_length is not None:
        raise UsageError("--rows and --sequence-length contradict each other", why="real rows have their own lengths")
    given = {
        "batch_size": options.integers(batch_size, "--batch-size"),
        "sequence_length": options.integers(sequence_length, "--sequence-length"),
        "threads": options.integers(threads, "--threads"),
        "blocks": blocks,
        "block_seconds": block_seconds,
    }
    result = _run(
        _candidates(candidates, provider=provider, dtype=dtype),
        {name: value for name, value in given.items() if value is not None},
        rows=rows and {"data": rows, "split": split, "columns": options.columns(column), "limit": limit},
        samples=bool(output or html or targets),
        profile=profile,
    )
    _write(result, output=output, html=html, targets=targets)


def _candidates(texts: list[str], *, provider: str, dtype: str) -> list[Candidate]:
    """Read `MODEL` and `MODEL@compile`, on each provider and in each type; what has one name is numbered."""
    from deploycomp.assess import candidates_from
    from deploycomp.measure.candidate import variants

    plain: list[Candidate] = []
    for text in texts:
        compiled = text.endswith(COMPILE) and not Path(text).exists()
        (one,) = candidates_from([text.removesuffix(COMPILE) if compiled else text])
        one = replace(one, name=one.name + COMPILE, compiled=True) if compiled else one
        taken = sum(each.name.split("#")[0] == one.name for each in plain)
        plain.append(replace(one, name=f"{one.name}#{taken + 1}") if taken else one)
    return variants(plain, providers=provider.split(","), dtypes=dtype.split(","))


def _run(candidates: list[Candidate], given: dict[str, Any], **asked: Any) -> dict[str, Any]:
    from deploycomp.measure.benchmark import benchmark as run
    from deploycomp.measure.benchmark import ratios
    from deploycomp.recipe import Recipe

    settings = Recipe.check({"benchmark": given}, where="command line").benchmark
    assert settings is not None
    with SINK.progress() as progress:
        result = run(candidates, settings, progress=progress, **asked)
    first, *others = result["candidates"]
    return {**result, "ratios": {name: ratios(result, first, name) for name in others}}


def _targets(texts: list[str]) -> dict[str, Path | None]:
    """Read `NAME` and `NAME=FILE`; at most one goes to stdout."""
    from deploycomp.report.benchmark_formats import FORMATS

    found: dict[str, Path | None] = {}
    for text in texts:
        name, sign, file = text.partition("=")
        if name not in FORMATS or (sign and not file):
            raise UsageError(
                f"--format takes {', '.join(FORMATS)}", where=f"--format {text}", hint="--format bencher=FILE"
            )
        found[name] = Path(file) if file else None
    if list(found.values()).count(None) + SINK.json > 1:
        raise UsageError(
            "stdout takes one format", where="--format", hint="write the others to files: --format bencher=FILE"
        )
    return found


def _write(result: dict[str, Any], *, output: Path | None, html: Path | None, targets: dict[str, Path | None]) -> None:
    """Write the files, then stdout: the one format that has no file, or the tables."""
    from datetime import UTC, datetime
    from importlib.metadata import version

    from deploycomp.report import benchmark_formats as made
    from deploycomp.report import benchmark_words as words

    created = datetime.now(UTC).isoformat(timespec="seconds")
    whole = made.document(result, version=version("deploycomp"), created=created)
    texts = {name: _text(made.FORMATS[name](whole)) for name in targets}
    if output is not None:
        save_text(output, _text(whole))
    if html is not None:
        from deploycomp.report.benchmark_page import to_benchmark_html

        save_text(html, to_benchmark_html(whole))
    for name, file in targets.items():
        if file is not None:
            save_text(file, texts[name])
    here = next((texts[name] for name, file in targets.items() if file is None), None)
    if here is not None:
        SINK.result(result, Document(here.rstrip("\n")))
        return
    said = (words.comparison_lines, words.device_lines, words.profile_lines, words.warning_lines)
    SINK.result(result, *words.tables(result), *(line for lines in said for line in lines(result)))


def _text(made: Any) -> str:
    return made if isinstance(made, str) else json_text(made, indent=2) + "\n"
