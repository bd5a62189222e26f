"""The factorization step: rows to weigh directions by, a goal, and the form of the factors that is faster here.

size, ratio   numbers ─ ranks ─ factors ─ rebuilt when the session is created | multiplied one after the other
                                          (dense latency)                       (where that is measured faster)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploycomp.context import Context, part_of
from deploycomp.errors import GateFailed, InputRefused, VerificationFailed
from deploycomp.latency import Setting, goal_met, measure_ratios, refuse_gpu
from deploycomp.onnxmodel import Facts
from deploycomp.recipe import Factorize
from deploycomp.torchrows import find_rows

if TYPE_CHECKING:
    from deploycomp.compress.factorize.factorize import Factorizer
    from deploycomp.models.model import TorchModel
    from deploycomp.models.plan import Factored
    from deploycomp.ranktable import RankTable

__all__ = ["FactorizeStep"]

CORRECTIONS = 2
"""Rounds more, where the table was wrong."""
MOST_CORRECTED = 2.0
"""Factor of one correction: where next to nothing was saved, noise would ask for everything."""


class FactorizeStep:
    """torch → torch: matrices stored in factors."""

    def require(self, config: Factorize, context: Context) -> None:
        """A speed-up is measured on this CPU, for CPUs."""
        if config.speedup is not None:
            refuse_gpu(context.target, hint="--factorize size=50%")

    def apply(self, config: Factorize, model: TorchModel, context: Context) -> tuple[TorchModel, Facts]:
        """Factorize down to the goal, and take the form that is faster where both are possible."""
        from deploycomp.compress.factorize.factorize import Factorizer
        from deploycomp.compress.refit import refit

        _refuse_unknown(model, config)
        if config.speedup is not None:
            matrices = tuple(each for each in config.matrices if each != "embeddings")
            config = config.model_copy(update={"matrices": matrices})
        rows = find_rows(context.recipe, model, context.judged, config.step)
        measures = config.speedup is not None  # tables come between looking at rows and factorizing
        say = part_of(context.say, 0.0, 0.3 if measures else 0.8)
        factorizer = Factorizer(model, config, rows.batches, rows.held_out, say)
        form: Facts = {"forms": None, "table": None, "measured": []}
        if config.speedup is not None:
            student, more = _speed_up(factorizer, config, context)
        else:
            try:
                requests = factorizer.requests(_numbers(config, model, factorizer))
                student = factorizer.run(requests, form="faster" if config.form == "faster" else "smaller")
            except ValueError as error:
                hint = f"a smaller goal than {config.goal}"
                raise GateFailed("the goal cannot be reached by factorization", why=str(error), hint=hint) from None
            student, more = _choose_form(student, config, context)
        refits = refit(
            factorizer.answers, student.module, model.module, model.anatomy, rows.batches,
            lambda: factorizer.divergence(student),
        )  # fmt: skip
        facts: Facts = {
            "goal": config.goal,
            "method": config.method,
            "grouping": config.grouping,
            "calibration": rows.facts,
            "matrices": _matrices(factorizer, student),
            "parameters": {"before": model.parameters, "after": student.parameters},
            "divergence": factorizer.divergence(student),
            "refits": refits,
            **form,
            **more,
        }
        return replace(student, notes=model.notes), facts

    def ensure(self, config: Factorize, model: TorchModel, facts: Facts, context: Context) -> None:
        """Fewer numbers are stored, and answers are still numbers."""
        if facts["parameters"]["after"] >= facts["parameters"]["before"]:
            raise VerificationFailed("factorize saved nothing", why=f"the goal was {facts['goal']}")
        if not facts["divergence"] < float("inf"):
            raise VerificationFailed("factorize left a model that answers with NaN")


def _refuse_unknown(model: TorchModel, config: Factorize) -> None:
    from deploycomp.models.factors import factored

    if not model.anatomy.known:
        raise InputRefused(
            f"{model.anatomy.model_type} cannot be factorized",
            where=model.source.name,
            why="it is not in the table of anatomies",
            hint="leave the step away",
        )
    if factored(model.module):
        raise InputRefused("the model is stored in factors already", where=model.source.name, hint="take its source")


def _numbers(config: Factorize, model: TorchModel, factorizer: Factorizer) -> int:
    """What all factors together may store, so that the whole model keeps its share of parameters."""
    if config.size is None:
        return factorizer.whole
    return int(config.size * model.parameters) - (model.parameters - factorizer.whole)


def _matrices(factorizer: Factorizer, student: TorchModel) -> dict[str, Facts]:
    """Of each unit: what it is stored as, and how many numbers that takes."""
    from deploycomp.models.factors import factored, facts_of

    found = factored(student.module)
    facts: dict[str, Facts] = {}
    for unit in factorizer.units:
        rows, columns = factorizer.shapes[unit.name]
        if unit.paths[0] in found:
            facts[unit.name] = facts_of([found[path] for path in unit.paths])
        else:
            facts[unit.name] = {"rows": rows, "columns": columns, "of": rows * columns, "numbers": rows * columns}
    return facts


def _speed_up(factorizer: Factorizer, config: Factorize, context: Context) -> tuple[TorchModel, Facts]:
    """Choose ranks that save enough milliseconds at the least loss, correct by what is measured, then factorize once.

    How long factors take depends on their ranks alone, so that random ones are measured.
    """
    from deploycomp.compress.factorize.methods import Request
    from deploycomp.ranktable import WHOLE, as_two_products, rank_table

    assert config.speedup is not None
    setting, work = Setting.of(config, context.recipe, context.target), context.work / config.step
    source, units = factorizer.source, factorizer.units
    table = rank_table(source, setting, work, progress=part_of(context.say, 0.1, 0.5))
    wanted = goal = table.whole * (1 - 1 / config.speedup)
    measured: list[Facts] = []
    while True:
        number = len(measured)
        name = f"factorized-{number}"
        ranks = _ranks(factorizer, table, goal)
        trial = as_two_products(source, [(unit, ranks[unit.name]) for unit in units if unit.name in ranks])
        say = part_of(context.say, 0.5 + 0.1 * number, 0.6 + 0.1 * number)
        speedup, low, high = measure_ratios({WHOLE: source, name: trial}, setting, work, progress=say)[name]
        predicted = table.whole / (table.whole - goal)
        measured.append({"predicted": predicted, "speedup": speedup, "low": low, "high": high})
        if goal_met(config.speedup, speedup, low, high) or number == CORRECTIONS:
            break
        goal *= min(MOST_CORRECTED, wanted / max(table.whole * (1 - 1 / speedup), wanted / MOST_CORRECTED))
    if high <= 1:
        raise GateFailed("no rank makes the model faster here", why=f"measured {speedup:.2f} times as fast")
    factorizer.say = part_of(context.say, 0.75, 1.0)
    student = factorizer.run({each: Request(rank=rank) for each, rank in ranks.items()}, form="faster")
    milliseconds = {name: {str(rank): ms for rank, ms in kind.saved.items()} for name, kind in table.kinds.items()}
    return student, {"measured": measured, "table": {"whole_ms": table.whole, "saved_ms": milliseconds}}


def _ranks(factorizer: Factorizer, table: RankTable, goal: float) -> dict[str, int]:
    """Ranks that save *goal* milliseconds at the least predicted loss; units that stay whole are absent."""
    import numpy as np

    from deploycomp.compress.prune.knapsack import solve
    from deploycomp.ranktable import ranks_of

    last = max(unit.layer for unit in factorizer.units)
    options: dict[str, list[int | None]] = {}
    losses: list[np.ndarray] = []
    saved: list[np.ndarray] = []
    for unit in factorizer.units:
        shape, left = factorizer.shapes[unit.name], factorizer.losses[unit.name].flip(0).cumsum(0).flip(0)
        saves = {
            rank: table.saves(unit.kind, shape, rank, last=unit.layer == last)
            for rank in ranks_of(shape)
            if unit.kind in table.kinds
        }
        paying = [rank for rank, ms in saves.items() if ms > 0]
        options[unit.name] = [None, *paying]
        losses.append(np.array([0.0, *(float(left[rank]) if rank < len(left) else 0.0 for rank in paying)]))
        saved.append(np.array([0.0, *(saves[rank] for rank in paying)]))
    most = sum(float(each.max()) for each in saved)
    chosen = solve(losses, [each.max() - each for each in saved], most - goal) if goal <= most else None
    if chosen is None:
        best = table.whole / max(table.whole - most, 1e-9)
        raise GateFailed(
            "the goal cannot be reached by factorization",
            why=f"at the ranks that save most the table predicts {best:.2f} times",
            hint="--prune, or a smaller goal"
            if best > 1.01
            else "--factorize size=50% saves bytes; --prune saves time",
        )
    picked = ((name, ranks[place]) for (name, ranks), place in zip(options.items(), chosen, strict=True))
    return {name: rank for name, rank in picked if rank is not None}


def _choose_form(student: TorchModel, config: Factorize, context: Context) -> tuple[TorchModel, Facts]:
    """Measure the two forms side by side, and multiply by factors only where that is faster."""
    other = _multiplied(student) if config.form == "auto" and context.target != "cuda" else None
    if other is None:
        return student, {}
    setting = Setting.of(config, context.recipe, context.target)
    say = part_of(context.say, 0.8, 1.0)
    pair = {"smaller": student, "faster": other}
    ratio, low, high = measure_ratios(pair, setting, context.work / "forms", progress=say)["faster"]
    chosen = "faster" if low > 1 else "smaller"
    return pair[chosen], {"forms": {"chosen": chosen, "ratio": ratio, "low": low, "high": high}}


def _multiplied(student: TorchModel) -> TorchModel | None:
    """The student with every pair of factors that may be faster multiplied as such; None where there is none."""
    from deploycomp.models.plan import Factored

    other = student.fork()
    cuts: list[Any] = []
    for cut in other.plan.cuts:
        if isinstance(cut, Factored) and cut.form == "smaller" and _may_pay(cut, other):
            for path in cut.modules:
                made: Any = other.module.get_submodule(path)
                made.form = "faster"
            cut = replace(cut, form="faster")
        cuts.append(cut)
    plan = replace(other.plan, cuts=tuple(cuts))
    return None if plan == student.plan else replace(other, plan=plan)


def _may_pay(cut: Factored, model: TorchModel) -> bool:
    from deploycomp.models.factors import FactoredLinear
    from deploycomp.ranktable import MOST, break_even

    parts = [model.module.get_submodule(path) for path in cut.modules]
    if not cut.two_products or not all(isinstance(part, FactoredLinear) for part in parts):
        return False
    shape = sum(part.shape[0] for part in parts), parts[0].shape[1]  # type: ignore[index,misc,union-attr]
    return cut.sizes["rank"] <= MOST * break_even(shape)  # type: ignore[arg-type]
