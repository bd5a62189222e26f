"""What the steps of one run share: where they are, what for, and what the answers must be."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.artifact import translate_os_error
from deploycomp.graph.attention import FORMS, Form, write_attention
from deploycomp.layout import model_names
from deploycomp.onnxmodel import DATA_SUFFIX, Facts, OnnxModel, save_graph
from deploycomp.recipe import Recipe

if TYPE_CHECKING:
    from deploycomp.calibration import Calibration
    from deploycomp.data import Rows
    from deploycomp.evaluate.parity import Reference
    from deploycomp.evaluate.text import TextReference
    from deploycomp.graph.store import StoredGroup
    from deploycomp.runtime import Predictor

__all__ = ["Context", "Progress", "part_of", "save_and_check"]

Progress = Callable[[str, float], None]

TOKENS_OPSET = 24
"""The first whose attention is told how many tokens are real (`export.emit`)."""


@dataclass
class Context:
    """One run, seen from a step."""

    recipe: Recipe
    target: str
    work: Path
    """A scratch folder on the output's filesystem."""
    reference: Reference | None = None
    """Recorded from the torch model just before it becomes a graph."""
    texts: TextReference | None = None
    """What the source answers to texts in its own library; recorded with the reference."""
    parity: list[Facts] = field(default_factory=list[Facts])
    judged: Rows | None = None
    """Rows that the result is judged on, so that nobody learns from them."""
    calibration: Calibration | None = None
    """Rows to calibrate and to choose on."""
    uncalibrated: str = "no calibration data was given"
    """Why there are none."""
    tuning: bool = False
    """Whether variants are measured here."""
    session: dict[str, str] = field(default_factory=dict[str, str])
    """ONNX Runtime session entries that tuning chose; they travel in the manifest."""
    source: Predictor | None = None
    """The source model's pre- and post-processing."""
    side: Path | None = None
    """The folder that holds config.json and the tokenizer's files."""
    stored: Sequence[StoredGroup] = ()
    """Matrices that were traced as such, and are to be stored as what they are rebuilt from."""
    say: Progress = lambda _message, _share: None
    form: Form = "tokens"
    """How attention is delivered; every step works on it as it was traced."""
    needs: Facts = field(default_factory=dict[str, Any])
    """What the delivered graph asks of ONNX Runtime, see `runtime.versions`."""
    warnings: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.form = first_form(self.recipe, self.target)

    def path(self, step: str) -> Path:
        """Where *step*'s graph lies if it will be delivered: under its final name, which external data refers to."""
        return self.work / step / Path(model_names(self.recipe, self.target)[step]).name

    def graph(self, step: str) -> Path:
        """*step*'s graph on disk, delivered or not."""
        return self.path(step) if self.path(step).exists() else self.work / step / "graph.onnx"

    @property
    def traced(self) -> Path:
        """The FP32 graph with every matrix as such: what quantization works on."""
        return self.work / "export" / "graph.onnx"

    def predictor(self, graph: Path) -> Predictor:
        """A graph of this run behind the source model's pre- and post-processing."""
        from deploycomp.runtime import Predictor
        from deploycomp.runtime.session import open_session, runner

        assert self.source is not None
        run = runner(open_session(graph, spinning=False), model=graph)
        return Predictor(self.source.tokenizer, self.source.manifest, run)

    def check(self, graph: Path, precision: str, *, stage: str, kernels: Counter[str] | None = None) -> Facts:
        """Open a graph as the target would and hold its answers against the source model's.

        Args:
            graph: The file.
            precision: What its answers may cost.
            stage: What to call it.
            kernels: Filled with the kernels that the session runs.

        Raises:
            VerificationFailed: They differ by more than the precision may cost.
        """
        from deploycomp.evaluate.parity import check
        from deploycomp.runtime.kernels import kernels_run
        from deploycomp.runtime.session import open_session, runner

        assert self.reference is not None
        session = open_session(graph, profile=None if kernels is None else self.work)
        if kernels is not None:
            kernels.update(kernels_run(session, self.reference.probes[0].feeds))
        return check(runner(session, model=graph), self.reference, precision, stage=stage)

    def turn(self, slow: Mapping[str, int]) -> bool:
        """Take another form of attention where this ONNX Runtime expands this one; say what cannot be helped.

        Args:
            slow: Operators that it runs as many small ones, see `runtime.kernels`.

        Returns:
            Whether there is another form to try.
        """
        import onnxruntime

        if self.target == "cuda":
            return False  # this session ran on the CPU, which such a graph is not for
        here = f"onnxruntime {onnxruntime.__version__}"
        after = FORMS[FORMS.index(self.form) + 1 :]
        turned = bool(after) and any(op.endswith("Attention") for op in slow)
        for op, number in slow.items():
            done = f"attention was written as '{after[0]}' instead" if turned else "it will be slow there"
            warning = f"{here} has no kernel for {number} nodes {op} and runs many small ones in their place: {done}."
            if warning not in self.warnings:
                self.warnings.append(warning)
        if turned:
            self.form = after[0]
        return turned

    def describe(self, graph: Path) -> None:
        """Put beside a graph in scratch what tells its vocabulary and longest row: all candidates get the same rows."""
        if self.side is None or not graph.is_relative_to(self.work):
            return
        with translate_os_error(self.work):
            for name in ("config.json", "tokenizer_config.json"):
                if (self.side / name).exists():
                    shutil.copyfile(self.side / name, graph.parent / name)

    def delivers(self, step: str) -> bool:
        """Whether *step*'s graph becomes part of the artifact."""
        return step == self.recipe.steps[-1].step or (step == "export" and self.recipe.keep_fp32)


def part_of(say: Progress, start: float, end: float) -> Progress:
    """Progress of a part that takes the bar from *start* to *end*."""
    return lambda message, share: say(message, start + (end - start) * min(share, 1.0))


def first_form(recipe: Recipe, target: str) -> Form:
    """Return the form of attention to deliver where nothing is measured: the fastest that is right.

    Below opset 24 onnxruntime's own operator would be wrong for padding before 1.21, and those readers are what such an
    opset is for; on a GPU it is what is fast.
    """
    if recipe.opset >= TOKENS_OPSET:
        return "tokens"
    return "mask" if target == "cuda" and recipe.layout != "transformers.js" else "plain"


def save_and_check(step: str, precision: str, model: OnnxModel, context: Context) -> Facts:
    """Write the graph as it will be delivered, open it as the target would, and compare its answers.

    Returns:
        The facts: what is stored as factors, where anything is, and the form of attention.

    Raises:
        VerificationFailed: They differ from the source model's by more than the precision may cost.
    """
    from deploycomp.runtime.kernels import expanded

    facts: Facts = {}
    delivers = context.delivers(step)
    if delivers and context.stored:
        from deploycomp.graph.store import store

        facts = {"stored": store(model, context.stored)}
    while True:
        if delivers:
            facts.update(_write(step, model, context))
        kernels: Counter[str] = Counter()
        parity = context.check(context.graph(step), precision, stage=step, kernels=kernels)
        if not context.turn(expanded(model.operators, kernels)) or not delivers:
            break
    context.parity.append(parity)
    return facts


def _write(step: str, model: OnnxModel, context: Context) -> Facts:
    from deploycomp.runtime.versions import requirements

    facts: Facts = {}
    if written := write_attention(model, context.form):
        facts["attention"] = {"form": context.form, "nodes": written}
    path, limit = context.path(step), context.recipe.export.external_data_bytes
    path.parent.mkdir(exist_ok=True)
    for each in (path, path.with_name(path.name + DATA_SUFFIX)):
        each.unlink(missing_ok=True)
    save_graph(model.model, path, external_data_bytes=limit, size=model.nbytes)
    context.needs = requirements(model.model.opset_imports[""], model.operators)
    return facts
