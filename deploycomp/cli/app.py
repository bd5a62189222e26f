"""The commands: each parses, calls one library function, and hands the result to the sink."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from deploycomp.cli import options
from deploycomp.cli.benchmark import benchmark
from deploycomp.cli.compress import compress
from deploycomp.cli.gate import Gate, gate
from deploycomp.cli.options import (
    BatchSize,
    Columns,
    DropLayers,
    Factorize,
    FactorizeMethod,
    Json,
    Limit,
    MaxDrop,
    NullThreshold,
    Prune,
    PruneVocabulary,
    Quiet,
    Recover,
    SequenceLength,
    Split,
    Threads,
    Verbose,
)
from deploycomp.cli.output import SINK, Document, finish, handled
from deploycomp.errors import UsageError

__all__ = ["app", "main", "run"]

SUMMARY = "Make a fine-tuned transformer smaller and faster, export it to ONNX, and prove what that cost."

app = typer.Typer(
    name="deploycomp",
    help=SUMMARY,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Argument(help="A folder with a fine-tuned model, or a hub id.")]
Data = Annotated[str, typer.Argument(help="JSONL, CSV or Parquet file, a folder of splits, or a hub data set.")]


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("deploycomp"))
        raise typer.Exit


@app.callback(help=SUMMARY)
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Make a fine-tuned transformer smaller and faster, export it to ONNX, and prove what that cost."""


@app.command()
@handled
def export(
    model: Annotated[str | None, typer.Argument(help="A folder with a fine-tuned model, or a hub id.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write; default: MODEL-PRECISION.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe file, a name from `deploycomp recipes`, or an artifact, whose recipe is run again."
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="INT8: U8 activations, S8 weights per channel.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision, for GPUs.")] = False,
    target: Annotated[
        str | None,
        typer.Option(
            help="auto (this machine), portable (default), x86-avx2, x86-avx512, x86-vnni, arm64, arm64-dotprod, cuda."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Default: inferred from the model.")] = None,
    ops: Annotated[
        str | None,
        typer.Option(
            help="fused (ONNX Runtime's operators) or standard (ai.onnx only, for TensorRT, OpenVINO, browsers)."
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX opset, 18 to 26; 18 for onnxruntime before 1.25, and slower.")
    ] = None,
    fixed: Annotated[str | None, typer.Option(help="Fix dimensions: batch=1,sequence=128.")] = None,
    external_data_bytes: Annotated[
        int | None, typer.Option(help="Weights larger than this go to model.onnx.data; default: 1.5 GB.")
    ] = None,
    eval_data: Annotated[str | None, typer.Option("--eval", help="Judge source and artifact on this data.")] = None,
    split: Split = None,
    column: Columns = None,
    limit: Limit = None,
    max_drop: MaxDrop = None,
    null_score_diff_threshold: NullThreshold = None,
    batch_size: BatchSize = None,
    sequence_length: SequenceLength = None,
    threads: Threads = None,
    prune: Prune = None,
    recover: Recover = None,
    drop_layers: DropLayers = None,
    prune_vocabulary: PruneVocabulary = False,
    factorize: Factorize = None,
    factorize_method: FactorizeMethod = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Learn ranges and cuts from these rows; default: the train split beside the --eval data."),
    ] = None,
    calibration_rows: Annotated[
        int | None, typer.Option(help="How many of them; default: 256 for INT8, 1024 for pruning.")
    ] = None,
    calibration_method: Annotated[
        str | None, typer.Option(help="Ranges by minmax (default), mse, percentile or entropy.")
    ] = None,
    allow_random_calibration: Annotated[
        bool, typer.Option("--allow-random-calibration", help="Calibrate on random tokens where there is no data.")
    ] = False,
    activations: Annotated[
        str | None, typer.Option(help="auto (default), static (ranges from calibration) or dynamic.")
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(help="Products of attention: auto (default: INT8 where tuning finds it faster), int8 or float."),
    ] = None,
    keep_float: Annotated[
        list[str] | None, typer.Option(help="Leave layers in float: '*.output.dense'. Repeatable.", metavar="PATTERN")
    ] = None,
    tune: Annotated[
        bool | None,
        typer.Option(
            "--tune/--no-tune", help="Measure variants here and keep the fastest; default: with --target auto."
        ),
    ] = None,
    no_benchmark: Annotated[bool, typer.Option("--no-benchmark", help="Measure no latency and memory.")] = False,
    keep_fp32: Annotated[bool, typer.Option("--keep-fp32", help="Also write the FP32 graph.")] = False,
    layout: Annotated[
        str | None, typer.Option(help="default, transformers.js or sentence-transformers file names.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and stop.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Export to ONNX, quantize, verify, measure, report."""
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    from deploycomp.cli.recipes import build_recipe, compression_steps, default_output

    full = build_recipe(
        recipe,
        top={
            "model": model,
            "revision": revision,
            "task": task,
            "target": target,
            "layout": layout,
            "keep_fp32": keep_fp32 or None,
            "tune": tune,
        },
        export={
            "ops": ops,
            "opset": opset,
            "dtype": "fp16" if fp16 else None,
            "fixed": options.fixed(fixed) or None,
            "external_data_bytes": external_data_bytes,
        },
        int8=int8,
        compression=compression_steps(
            prune=prune,
            recover=recover,
            drop_layers=drop_layers,
            prune_vocabulary=prune_vocabulary,
            factorize=factorize,
            factorize_method=factorize_method,
        ),
        quantization={
            "activations": activations,
            "attention": attention,
            "ranges": calibration_method,
            "keep_float": tuple(keep_float) if keep_float else None,
        },
        calibrate={
            "data": calibration,
            "rows": calibration_rows,
            "allow_random": allow_random_calibration or None,
        },
        evaluate={
            "data": eval_data,
            "split": split,
            "columns": options.columns(column) or None,
            "limit": limit,
            "max_drop": options.percent(max_drop, "--max-drop"),
            "null_score_diff_threshold": null_score_diff_threshold,
        },
        benchmark={
            "batch_size": options.integers(batch_size, "--batch-size"),
            "sequence_length": options.integers(sequence_length, "--sequence-length"),
            "threads": options.integers(threads, "--threads"),
        },
        measure=not no_benchmark,
    )
    if full.model is None:
        raise UsageError("no model was named", hint="deploycomp export MODEL --int8")
    if dry_run:
        SINK.result(full.model_dump(mode="json"), Document(full.to_yaml()))
        return
    from deploycomp.pipeline import export_model

    with SINK.progress() as progress:
        result = export_model(
            full, output or default_output(full), overwrite=overwrite, progress=progress, published=SINK.publish
        )
    from deploycomp.report.table import plain_lines, summary_table

    report, folder = result.report, _short(result.artifact.path)
    warnings = [f"warning: {each}" for each in report["verdict"]["warnings"]]
    table = [report["verdict"]["headline"], summary_table(report), *warnings]
    SINK.result(
        {"output": str(result.artifact.path), **report},
        *(table if sys.stdout.isatty() else plain_lines(report)),
        f"{folder / report['artifact']['model']}  in {report['seconds']:.0f} s",
        f"report: {folder / 'report.html'}",
    )


@app.command()
@handled
def evaluate(
    model: Annotated[str, typer.Argument(help="An artifact, or a folder with a fine-tuned model.")],
    data: Data,
    against: Annotated[
        str | None, typer.Option(help="The source model to compare with: agreement and paired drop.")
    ] = None,
    split: Split = None,
    column: Columns = None,
    limit: Limit = None,
    max_drop: MaxDrop = None,
    null_score_diff_threshold: NullThreshold = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a batch.")] = 16,
    task: Annotated[str | None, typer.Option(help="Task of a model folder; default: inferred.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Judge an artifact on data, with confidence intervals; with --against, also what compression cost."""
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    from deploycomp.assess import judge

    drop = options.percent(max_drop, "--max-drop")
    if drop is not None and against is None:
        raise UsageError("--max-drop compares with a source", hint="--against MODEL")
    with SINK.progress() as progress:
        result = judge(
            model, data, against=against, split=split, columns=options.columns(column), limit=limit,
            max_drop=drop, batch_size=batch_size, null_score_diff_threshold=null_score_diff_threshold,
            task=task or "auto", progress=progress,
        )  # fmt: skip
    from deploycomp.report import evaluation_lines

    SINK.result(result, *evaluation_lines(result))


app.command()(compress)
app.command()(benchmark)
app.command("gate", cls=Gate)(gate)


@app.command()
@handled
def inspect(
    path: Annotated[str, typer.Argument(help="A model folder, a hub id, an artifact, or an .onnx file.")],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a model is made of: parameters, bytes, FLOPs and anatomy, or operators and INT8 coverage."""
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    from deploycomp.inspection import inspect_path
    from deploycomp.report import inspection_lines

    result = inspect_path(path)
    SINK.result(result, *inspection_lines(result))


@app.command()
@handled
def doctor(json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Tell what this machine can do, what will be fast here, and what not."""
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    from deploycomp.report import doctor_lines
    from deploycomp.runtime.doctor import doctor as examine

    result = examine()
    SINK.result(result, *doctor_lines(result))


@app.command()
@handled
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the recipes that come with deploycomp, or print one."""
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    from deploycomp.cli.recipes import list_recipes, recipe_text

    if name is not None:
        text = recipe_text(name)
        SINK.result({"name": name, "recipe": text}, Document(text))
        return
    found = list_recipes()
    width = max((len(each) for each in found), default=0)
    SINK.result(found, *(f"{each:<{width}}  {summary}" for each, summary in found.items()))


@app.command()
@handled
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("demo-output"),
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a real embedded model on device commands, then export it: the main job from nothing."""
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    from deploycomp.demo.train import prepare

    SINK.written = output
    with SINK.progress() as progress:
        ready = prepare(output, progress=progress)
    SINK.note(
        f"$ deploycomp export {_short(ready.model)} --int8 --target auto --eval {_short(ready.test)} -o {_short(ready.artifact)}"
    )
    export(
        model=str(ready.model), output=ready.artifact, int8=True, target="auto", eval_data=str(ready.test),
        overwrite=True, json=json, quiet=quiet, verbose=verbose,
    )  # fmt: skip


def _short(path: Path) -> Path:
    """A path as it is typed here."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: What stands behind `deploycomp`.

    Returns:
        The exit code; everything has been said, and nothing is raised.
    """
    for stream in (sys.stdout, sys.stderr):  # a file name may hold bytes, and a report letters, that they cannot take
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    SINK.json = "--json" in arguments  # until the command has read its options
    return finish(lambda: _invoke(arguments))


def _invoke(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; what Typer refuses is said by the sink."""
    try:
        return app(list(arguments), standalone_mode=False, prog_name="deploycomp") or 0
    except typer.TyperException as error:  # a wrong option, before any command could run
        if not arguments:
            SINK.say(error.format_message())  # the help
            return error.exit_code
        if not SINK.json and (context := getattr(error, "ctx", None)):
            SINK.say(context.get_usage())
        SINK.error(UsageError(error.format_message(), hint="deploycomp --help"))
        return error.exit_code


def main() -> None:
    """Run the command line and end the process."""
    from deploycomp.__main__ import main as door

    door()
