"""Factorize a model down to a number of stored numbers, and make up for it from the bottom to the top.

    moments ─ components of every matrix ─ one list of ranks ─┬─ embeddings: rows by frequency, columns by curvature
                                                              └─ layers, bottom-up: reduced-rank regression on what
                                                                 really reaches them            reduced_rank.py

Ranks come before values: what a component is worth is predicted on the model as it is, in one unit for all matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from deploycomp.compress.answers import Answers, mean_divergence
from deploycomp.compress.batches import Batch
from deploycomp.compress.factorize.group import Stored
from deploycomp.compress.factorize.kfac import curvatures
from deploycomp.compress.factorize.matrices import Unit, install, units_of
from deploycomp.compress.factorize.methods import METHODS, Job, Request
from deploycomp.compress.factorize.moments import Moments, measure_moments
from deploycomp.compress.factorize.ranks import allocate
from deploycomp.compress.factorize.reduced_rank import Drift, reduced_rank
from deploycomp.compress.factorize.training import STEPS
from deploycomp.compress.prune.rebuild import Walk
from deploycomp.compress.refit import keep_if_better
from deploycomp.models.factors import Form
from deploycomp.models.model import TorchModel
from deploycomp.recipe import Factorize

__all__ = ["Factorizer"]

TEMPERATURE = 2.0
"""Of the probe, as in pruning: a teacher that is sure of every row would else say nothing."""
SEED = 0
ALL_STEPS = 150_000
"""Of training, of all units together: three minutes."""
SCORED = 1
"""Batches of held-out rows that choose an epoch: of middling length, and seen some dozens of times."""
MOMENTS, FIT = 0.3, 0.65
"""Shares of the bar."""
UNFITTED = 0.1
"""Of the second, where all is first made without fitting: it takes a tenth of the time."""


class Factorizer:
    """A model on its way into factors.

    Args:
        model: What is factorized; it stays as it is.
        config: Method, grouping and matrices.
        batches: Calibration rows.
        held_out: Rows that judge choices.
        progress: Called with a message and the share that is done.
    """

    def __init__(
        self,
        model: TorchModel,
        config: Factorize,
        batches: Sequence[Batch],
        held_out: Sequence[Batch],
        progress: Callable[[str, float], None],
    ):
        self.source, self.config, self.batches, self.held_out, self.say = model, config, batches, held_out, progress
        self.method = METHODS[config.method]
        self.answers = Answers(model)
        self.teacher = self.answers.record(model.module, held_out)
        self.units = units_of(model.module, model.anatomy, config.kinds, config.grouping)
        self.groups = {unit.name: unit.group(model.module) for unit in self.units}
        paths = [path for unit in self.units if not unit.embedding for path in unit.paths]
        self.moments = measure_moments(
            Answers(model, temperature=TEMPERATURE), model.module, model.anatomy.embeddings["word"], paths, batches,
            seed=SEED, progress=lambda share: progress("looking at the calibration rows", MOMENTS * share),
        )  # fmt: skip

    def requests(self, numbers: int) -> dict[str, Request]:
        """Spend a number of stored numbers on all units.

        Args:
            numbers: What all units together may store; a ratio is that of each instead.

        Returns:
            Unit's name → what it gets; units that stay dense are absent.

        Raises:
            ValueError: Not even one component of each fits.
        """
        if self.config.ratio is not None:
            return {unit.name: Request(ratio=self.config.ratio_of(unit.kind)) for unit in self.units}
        if self.method.components is None:
            if numbers < 1:
                raise ValueError("nothing is left to store")
            return {unit.name: Request(ratio=self.whole / numbers) for unit in self.units}
        ranks = allocate(self.losses, self.shapes, numbers)
        return {name: Request(rank=rank) for name, rank in ranks.items() if rank is not None}

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Unit's name → rows and columns of its stack."""
        return {name: group.shape for name, group in self.groups.items()}

    @property
    def whole(self) -> int:
        """Numbers of all units as matrices."""
        return sum(rows * columns for rows, columns in self.shapes.values())

    @cached_property
    def losses(self) -> dict[str, Tensor]:
        """Unit's name → the predicted loss of dropping each of its components, descending."""
        components = self.method.components
        assert components is not None
        return {unit.name: components(self.groups[unit.name], self._moments(unit)) for unit in self.units}

    def run(self, requests: Mapping[str, Request], *, form: Form = "smaller") -> TorchModel:
        """Put factors in the place of matrices, from the bottom to the top.

        Args:
            requests: Unit's name → rank or ratio.
            form: How the factors are used.

        Returns:
            The student, a copy; of `auto`, the one that was fitted to what drifted or the one that was not, whichever
            loses less on held-out rows.
        """
        if self.config.method != "auto" or self.source.anatomy.shared_layers:
            return self._pass(requests, form, fitted=False)
        plain = self._pass(requests, form, fitted=False, width=UNFITTED * FIT)
        fitted = self._pass(requests, form, fitted=True, start=MOMENTS + UNFITTED * FIT, width=(1 - UNFITTED) * FIT)
        return min(plain, fitted, key=self.divergence)

    def _pass(
        self,
        requests: Mapping[str, Request],
        form: Form,
        *,
        fitted: bool,
        start: float = MOMENTS,
        width: float = FIT,
    ) -> TorchModel:
        student = self.source.fork()
        both = (self.source.module, student.module) if fitted else ()
        walks = [Walk(self.answers, each, student.anatomy, self.batches) for each in both]
        wanted = [unit for unit in self.units if unit.name in requests]
        for number, unit in enumerate(wanted):
            along = partial(self._along, unit.name, start + width * number / len(wanted), width / len(wanted))
            along(0.0)
            request = requests[unit.name]
            if fitted and not unit.embedding:
                stored = self._fit(unit, request, walks)
            else:
                group, moments, biases = self.groups[unit.name], self._moments(unit), self._biases(unit)
                select = partial(self._score, student, unit)
                fisher = self.config.row_weights == "fisher"
                stored = self.method.make(Job(group, moments, biases, request, along, select, self._steps(), fisher))
            student = install(student, unit, stored, form)
        if not self.method.biased:
            self._correct(student, wanted)
        return student

    def _steps(self) -> int:
        """Steps that each of the units is trained for, so that all of them take minutes."""
        return min(STEPS, ALL_STEPS // len(self.units))

    def _score(self, student: TorchModel, unit: Unit, stored: Stored) -> float:
        """Loss of the student with a unit in factors, on a few held-out rows."""
        trial = install(student.fork(), unit, stored, "smaller")
        few = slice(len(self.held_out) // 2, len(self.held_out) // 2 + SCORED)
        return mean_divergence(self.answers, trial.module, self.held_out[few], self.teacher[few])

    def divergence(self, student: TorchModel) -> float:
        """Loss of a student on held-out rows."""
        return mean_divergence(self.answers, student.module, self.held_out, self.teacher)

    def _along(self, name: str, start: float, width: float, share: float) -> None:
        self.say(f"factorizing {name}", start + width * share)

    def _moments(self, unit: Unit) -> list[Moments]:
        return [self.moments[path] for path in unit.paths]

    def _biases(self, unit: Unit) -> list[Tensor | None]:
        return [getattr(self.source.module.get_submodule(path), "bias", None) for path in unit.paths]

    def _fit(self, unit: Unit, request: Request, walks: Sequence[Walk]) -> Stored:
        """Reduced-rank regression from what reaches the student's layer to what the teacher's computes."""
        group = self.groups[unit.name]
        weights = curvatures(self._moments(unit))
        return reduced_rank(group, _drift(unit, walks), self._biases(unit), request.rank_of(group), gradients=weights)

    def _correct(self, student: TorchModel, units: Sequence[Unit]) -> None:
        """Put what outputs lose on average into the biases, in place, if held-out rows gain: b + (W - M) μ."""

        def change() -> None:
            for unit in units:
                for path, old in zip(unit.paths, self.groups[unit.name].matrices, strict=True):
                    made: Any = student.module.get_submodule(path)
                    if not unit.embedding and made.bias is not None:
                        lost = (old - made.weight).double() @ self.moments[path].mean
                        made.bias.data += lost.float()

        keep_if_better(student.module, change, lambda: self.divergence(student))


def _drift(unit: Unit, walks: Sequence[Walk]) -> Drift:
    """Moments of what the teacher's and the student's layer read, walking through both side by side."""
    path, layer = unit.paths[0], unit.members[0].layer
    sums: list[Tensor] = []
    tokens = 0
    pairs = zip(walks[0].inputs(layer, path), walks[1].inputs(layer, path), walks[0].batches, strict=True)
    for x, drifted, batch in pairs:
        real = batch.mask
        before, after = x[real].double(), drifted[real].double()
        found = [before.T @ after, after.T @ after, before.sum(0), after.sum(0)]
        sums = [old + new for old, new in zip(sums, found, strict=True)] if sums else found
        tokens += len(before)
    return Drift(*(each / tokens for each in sums))
