"""`deploycomp compress`: a smaller and faster checkpoint, which trains further and exports as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploycomp.cli import options
from deploycomp.cli.options import (
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
    Split,
    Verbose,
)
from deploycomp.cli.output import SINK, Document, handled
from deploycomp.errors import UsageError

__all__ = ["compress"]


@handled
def compress(
    model: Annotated[str | None, typer.Argument(help="A folder or hub id of a fine-tuned model.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Run the torch steps of a recipe file, name or artifact.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write; default: MODEL-compressed.")
    ] = None,
    prune: Prune = None,
    recover: Recover = None,
    drop_layers: DropLayers = None,
    prune_vocabulary: PruneVocabulary = False,
    factorize: Factorize = None,
    factorize_method: FactorizeMethod = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="The speed that counts is INT8's: an export with --int8 will follow.")
    ] = False,
    target: Annotated[str | None, typer.Option(help="Where it will run, as for export; default: portable.")] = None,
    task: Annotated[str | None, typer.Option(help="Default: inferred from the model.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Learn from these rows; default: the train split beside the --eval data.")
    ] = None,
    calibration_rows: Annotated[int | None, typer.Option(help="How many of them; default: 1024.")] = None,
    eval_data: Annotated[str | None, typer.Option("--eval", help="Judge source and result on this data.")] = None,
    split: Split = None,
    column: Columns = None,
    limit: Limit = None,
    max_drop: MaxDrop = None,
    null_score_diff_threshold: NullThreshold = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what deploycomp wrote there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and stop.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Prune or factorize a model into a checkpoint that loads, trains further and exports as any other."""
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    from deploycomp.cli.recipes import build_recipe, compression_steps, default_checkpoint

    full = build_recipe(
        recipe,
        top={"model": model, "revision": revision, "task": task, "target": target},
        export={},
        int8=int8,
        compression=compression_steps(
            prune=prune,
            recover=recover,
            drop_layers=drop_layers,
            prune_vocabulary=prune_vocabulary,
            factorize=factorize,
            factorize_method=factorize_method,
        ),
        calibrate={"data": calibration, "rows": calibration_rows},
        evaluate={
            "data": eval_data,
            "split": split,
            "columns": options.columns(column) or None,
            "limit": limit,
            "max_drop": options.percent(max_drop, "--max-drop"),
            "null_score_diff_threshold": null_score_diff_threshold,
        },
    )
    if full.model is None:
        raise UsageError("no model was named", hint="deploycomp compress MODEL --prune 1.5x")
    if dry_run:
        SINK.result(full.model_dump(mode="json"), Document(full.to_yaml()))
        return
    from deploycomp.compression import compress_model
    from deploycomp.report import compression_lines

    with SINK.progress() as progress:
        made = compress_model(
            full, output or default_checkpoint(full), overwrite=overwrite, progress=progress, published=SINK.publish
        )
    SINK.result({"output": str(made.path), **made.report}, *compression_lines(made.report), f"written: {made.path}")
