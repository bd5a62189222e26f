"""`deploycomp gate` and `deploycomp gate calibrate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from deploycomp.artifact import translate_os_error
from deploycomp.cli import options
from deploycomp.cli.options import Json, Quiet, Verbose
from deploycomp.cli.output import SINK, handled, save_text
from deploycomp.errors import GateFailed, Inconclusive, UsageError
from deploycomp.escape import json_text

if TYPE_CHECKING:
    from deploycomp.gate.rounds import Rules
    from deploycomp.gating import Goals, Setting
    from deploycomp.recipe import Gate as GateConfig

__all__ = ["Gate", "gate"]

MAX_FALSE_ALARM = 0.001
"""Above, the flag that says so is needed: a gate that cries wolf is switched off."""
EXIT = {"pass": 0, "fail": GateFailed.exit_code, "inconclusive": Inconclusive.exit_code}

RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Take goals and shapes from the `gate` of a recipe file or an artifact.")
]
BatchSize = Annotated[str | None, typer.Option(help="Batch sizes to gate, as 1,8; default: 1.")]
SequenceLength = Annotated[str | None, typer.Option(help="Lengths in tokens to gate, as 16,128; default: 128.")]
Threads = Annotated[str | None, typer.Option(help="Thread counts, as 1,2; default: 1, the steadiest.")]
Budget = Annotated[float | None, typer.Option(help="Seconds for measuring; it ends earlier where it can; default: 60.")]
FalseAlarm = Annotated[
    str | None,
    typer.Option(help="Probability of FAIL without a broken goal, over all that is measured; default: 0.1%."),
]
Accept = Annotated[bool, typer.Option("--accept-false-alarms", help="Allow a --false-alarm above 0.1%.")]
MaxSlowdown = Annotated[str | None, typer.Option(help="Largest growth of the median latency; default: 5%.")]
MaxMemory = Annotated[str | None, typer.Option(help="Largest growth of the peak memory; default: 5%.")]

calibration = typer.Typer(add_completion=False, rich_markup_mode=None)


class Gate(TyperCommand):
    """A command whose first word may be `calibrate`, which is a command of its own."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Hand over where that is the first word; an artifact of that name is `./calibrate`."""
        if args[:1] == ["calibrate"]:
            return get_command(calibration).make_context(f"{info_name} calibrate", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@handled
def gate(
    candidate: Annotated[Path, typer.Argument(help="The artifact or .onnx file to judge.")],
    baseline: Annotated[
        Path, typer.Option(help="The artifact or .onnx file to compare with, or a stored result (.json).")
    ],
    recipe: RecipeOption = None,
    max_slowdown: MaxSlowdown = None,
    max_memory_growth: MaxMemory = None,
    max_size_growth: Annotated[str | None, typer.Option(help="Largest growth on disk; default: 1%.")] = None,
    max_drop: Annotated[
        str | None, typer.Option(help="Largest fall of the main metric; needs --eval; default there: 0.5%.")
    ] = None,
    eval_data: Annotated[str | None, typer.Option("--eval", help="Judge both on this data.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="Where a column is: text=sentence. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A seeded random subset of this many rows.")] = None,
    retrained: Annotated[
        bool, typer.Option("--retrained", help="Other answers are meant: accuracy alone judges them; needs --eval.")
    ] = False,
    batch_size: BatchSize = None,
    sequence_length: SequenceLength = None,
    threads: Threads = None,
    budget: Budget = None,
    false_alarm: FalseAlarm = None,
    accept_false_alarms: Accept = False,
    noise: Annotated[
        Path | None, typer.Option(help="What `gate calibrate` wrote here: refuse tolerances below the noise.")
    ] = None,
    allow_advisory: Annotated[
        bool, typer.Option("--allow-advisory", help="Measure against a stored baseline that is not quite comparable.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the result as JUnit XML.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fail when a model got slower, bigger or worse than a baseline, and not when the runner is noisy.

    `deploycomp gate calibrate ARTIFACT` tells what this machine can decide.
    """
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    asked = _asked(
        recipe, max_slowdown, max_memory_growth, batch_size, sequence_length, threads, budget, false_alarm,
        accepted=accept_false_alarms,
        max_size_growth=options.percent(max_size_growth, "--max-size-growth"),
        max_drop=options.percent(max_drop, "--max-drop"),
    )  # fmt: skip
    columns = options.columns(column)
    if eval_data is None and (split or columns or limit):
        raise UsageError("--split, --column and --limit belong to data", hint="--eval DATA")
    from deploycomp.gating import Data, run_gate

    goals, rules, setting = _parts(asked)
    with SINK.progress() as progress:
        result = run_gate(
            candidate, baseline, goals, rules=rules, setting=setting,
            data=None if eval_data is None else Data(eval_data, split, columns, limit),
            noise=noise, retrained=retrained, allow_advisory=allow_advisory, progress=progress,
        )  # fmt: skip
    _tell(result, output=output, junit=junit)


@calibration.command()
@handled
def calibrate(
    artifact: Annotated[Path, typer.Argument(help="The artifact or .onnx file to measure against itself.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it; default: .deploycomp/gate-noise.json.")
    ] = None,
    recipe: RecipeOption = None,
    max_slowdown: MaxSlowdown = None,
    max_memory_growth: MaxMemory = None,
    batch_size: BatchSize = None,
    sequence_length: SequenceLength = None,
    threads: Threads = None,
    budget: Budget = None,
    false_alarm: FalseAlarm = None,
    accept_false_alarms: Accept = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model against itself: the noise floor of this machine, and the smallest slowdown that a gate finds.

    The file is for `gate --noise FILE`, and serves as a stored baseline: `gate CANDIDATE --baseline FILE`.
    """
    options.output_mode(json=json, quiet=quiet, verbose=verbose)
    from deploycomp.gating import NOISE_FILE
    from deploycomp.gating import calibrate as run

    asked = _asked(
        recipe, max_slowdown, max_memory_growth, batch_size, sequence_length, threads, budget, false_alarm,
        accepted=accept_false_alarms,
    )  # fmt: skip
    goals, rules, setting = _parts(asked)
    with SINK.progress() as progress:
        result = run(artifact, goals, rules=rules, setting=setting, progress=progress)
    path = output or NOISE_FILE
    save_text(path, _json(result), parents=True)
    SINK.result(result, *_noise_lines(result), f"written: {path}")


def _tell(result: dict[str, Any], *, output: Path | None, junit: Path | None) -> None:
    """Say the result everywhere it is wanted, then end with its exit code."""
    from deploycomp.gating import raise_verdict
    from deploycomp.report import gate as report

    if output is not None:
        save_text(output, _json(result), parents=True)
    if junit is not None:
        save_text(junit, report.junit(result), parents=True)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with translate_os_error(Path(summary)), Path(summary).open("a", encoding="utf-8") as file:
            file.write(report.step_summary(result))
    SINK.result(result, *report.gate_lines(result))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in report.annotations(result):  # the runner reads them from either stream
            SINK.command(line)
    if SINK.json:
        raise typer.Exit(EXIT[result["verdict"]])  # the result is the one document, and says what an error would
    raise_verdict(result)


def _json(result: dict[str, Any]) -> str:
    return json_text(result, indent=1) + "\n"


def _noise_lines(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['rounds']} rounds of a model against itself, in {result['seconds']:.0f} s"]
    for each in result["numbers"]:
        floor = "none: too noisy" if each["floor"] is None else f"{100 * each['floor']:.2g} %"
        found = "none" if each["detectable"] is None else f"{100 * each['detectable']:.2g} %"
        lines += [
            f"{each['name']}",
            f"  spread of a round          {100 * each['spread']:.2g} %",
            f"  noise floor                {floor}   (smallest tolerance that an unchanged model passes)",
            f"  smallest detectable growth {found}   (at a tolerance of {100 * each['tolerance']:g} %)",
            f"  false alarms               {each['false_alarms']} of {each['gates']} simulated gates",
        ]
    return lines + ([f"note: {result['disturbance']}"] if result["disturbance"] else [])


def _asked(
    recipe: str | None,
    max_slowdown: str | None,
    max_memory_growth: str | None,
    batch_size: str | None,
    sequence_length: str | None,
    threads: str | None,
    budget: float | None,
    false_alarm: str | None,
    *,
    accepted: bool,
    **more: float | None,
) -> GateConfig:
    """Read the flags that both commands share, lay them and *more* over the recipe, and hold the rate to its bound.

    The false-alarm rate is tightened freely, and loosened only by saying so.
    """
    from deploycomp.cli.recipes import build_gate

    given = {
        "max_slowdown": options.percent(max_slowdown, "--max-slowdown"),
        "max_memory_growth": options.percent(max_memory_growth, "--max-memory-growth"),
        "batch_size": options.integers(batch_size, "--batch-size"),
        "sequence_length": options.integers(sequence_length, "--sequence-length"),
        "threads": options.integers(threads, "--threads"),
        "budget": budget,
        "false_alarm": options.percent(false_alarm, "--false-alarm"),
    }
    asked = build_gate(recipe, {**given, **more})
    if asked.false_alarm > MAX_FALSE_ALARM and not accepted:
        raise UsageError(
            f"{100 * asked.false_alarm:g}% false alarms are more than 0.1%",
            where="--false-alarm",
            why="a gate that fails without a reason is switched off; more rounds decide as well",
            hint="a larger --budget, or --accept-false-alarms",
        )
    return asked


def _parts(asked: GateConfig) -> tuple[Goals, Rules, Setting]:
    from deploycomp.gate.rounds import Rules
    from deploycomp.gating import Goals, Setting

    goals = Goals(asked.max_slowdown, asked.max_memory_growth, asked.max_size_growth, asked.max_drop)
    setting = Setting(asked.batch_size, asked.sequence_length, asked.threads)
    return goals, Rules(asked.false_alarm, budget=asked.budget), setting
