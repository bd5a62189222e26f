"""What the steps of one run share: where they are, what for, and what the answers must be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deploycomp.artifact import translate_os_error
from deploycomp.layout import model_names
from deploycomp.onnxmodel import Facts, OnnxModel, save_graph
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

    def check(self, graph: Path, precision: str, *, stage: str) -> Facts:
        """Open a graph as the target would and hold its answers against the source model's.

        Raises:
            VerificationFailed: They differ by more than the precision may cost.
        """
        from deploycomp.evaluate.parity import check
        from deploycomp.runtime.session import open_session, runner

        assert self.reference is not None
        return check(runner(open_session(graph), model=graph), self.reference, precision, stage=stage)

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


def save_and_check(step: str, precision: str, model: OnnxModel, context: Context) -> Facts:
    """Write the graph as it will be delivered, open it as the target would, and compare its answers.

    Returns:
        The facts: what is stored as factors, where anything is.

    Raises:
        VerificationFailed: They differ from the source model's by more than the precision may cost.
    """
    facts: Facts = {}
    if context.delivers(step):
        if context.stored:
            from deploycomp.graph.store import store

            facts = {"stored": store(model, context.stored)}
        path, limit = context.path(step), context.recipe.export.external_data_bytes
        path.parent.mkdir(exist_ok=True)
        save_graph(model.model, path, external_data_bytes=limit, size=model.nbytes)
    context.parity.append(context.check(context.graph(step), precision, stage=step))
    return facts
