"""The pruning steps: rows to score on, costs to meet the goal by, and a goal that is met as measured.

    rows ─ costs (a latency table, or counted) ─ rounds ─ measured against the source ─ corrected ─ recovered

A speed-up is what ONNX Runtime shows at the recipe's precision, shape and threads, not what was predicted.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.context import Context, Progress, part_of
from deploycomp.errors import GateFailed, InputRefused, UsageError, VerificationFailed
from deploycomp.latency import Setting, export_graph, goal_met, latency_table, measure_ratios, refuse_gpu
from deploycomp.onnxmodel import Facts
from deploycomp.recipe import DropLayers, Prune, PruneFfn, PruneHeads, PruneVocabulary
from deploycomp.torchrows import ROWS, TorchRows, find_rows

if TYPE_CHECKING:
    from deploycomp.compress.prune.costs import Costs
    from deploycomp.compress.prune.prune import Pruner
    from deploycomp.models.model import TorchModel

__all__ = ["DropLayersStep", "PruneStep", "PruneVocabularyStep"]

Pruning = Prune | PruneHeads | PruneFfn

RECOVERY_ROWS = 8_192
"""Rows that gradients learn from, those above among them: minutes would see a thousand rows too often."""

CORRECTIONS = 3
"""Rounds more, where the table was wrong."""
MEASURED = "measured"
"""Folder of the whole graphs, by name."""

KINDS = {"prune": ("heads", "neurons"), "prune_heads": ("heads",), "prune_ffn": ("neurons",)}


class PruneStep:
    """torch → torch: heads, neurons or both, down to a goal."""

    def require(self, config: Pruning, context: Context) -> None:
        """A speed-up is measured on this CPU, for CPUs."""
        if config.speedup is not None:
            refuse_gpu(context.target, hint="--prune flops=0.6")

    def apply(self, config: Pruning, model: TorchModel, context: Context) -> tuple[TorchModel, Facts]:
        """Prune in rounds, meet the goal as measured, and recover where that was asked for."""
        from deploycomp.compress.prune.prune import Method, Pruner

        _refuse_unknown(model, config)
        if config.labels and model.task != "text-classification":
            why = f"the task is {model.task}"
            raise UsageError("labels score text classification only", why=why, hint=f"{config.step} without labels")
        count = RECOVERY_ROWS if config.recover else ROWS
        rows = find_rows(context.recipe, model, context.judged, config.step, rows=count, labels=config.labels)
        work = context.work / config.step
        work.mkdir()
        costs, budget, table = self._costs(config, model, context, work)
        pruner = Pruner(model, rows.batches, rows.held_out, costs, Method(kinds=KINDS[config.step]), work)
        say = part_of(context.say, 0.3, 0.8)
        with _reachable(config):
            trail = [{"round": 0, "cost": costs.whole}, *pruner.descend(budget, config.rounds, say)]
        measured: list[Facts] = []
        if config.speedup is not None:
            trail, measured = _meet(pruner, model, config, context, work, trail)
        finished = _finish(pruner, model, rows, config, trail[-1]["divergence"], part_of(context.say, 0.9, 1.0))
        facts: Facts = {
            "goal": config.goal,
            "calibration": rows.facts,
            "units": {
                part.name: {"kept": pruner.levels()[part.name], "of": part.units, "size": part.size}
                for part in pruner.whole
            },
            "parameters": {"before": model.parameters, "after": pruner.model.parameters},
            "trail": trail,
            "measured": measured,
            "table": table,
            **finished,
        }
        return replace(pruner.model, notes=model.notes), facts

    def ensure(self, config: Pruning, model: TorchModel, facts: Facts, context: Context) -> None:
        """Something went, and answers are still numbers."""
        if facts["parameters"]["after"] >= facts["parameters"]["before"]:
            raise VerificationFailed(f"{config.step} removed nothing", why=f"the goal was {facts['goal']}")
        if not facts["divergence"] < float("inf"):
            raise VerificationFailed(f"{config.step} left a model that answers with NaN")

    def _costs(
        self, config: Pruning, model: TorchModel, context: Context, work: Path
    ) -> tuple[Costs, float, Facts | None]:
        from deploycomp.compress.prune.costs import flops, parameters
        from deploycomp.compress.prune.sublayers import sublayers

        parts = sublayers(model.module, model.anatomy)
        hidden = model.anatomy.hidden_size
        if config.speedup is not None:
            setting = Setting.of(config, context.recipe, context.target)
            costs = latency_table(model, setting, work / "table", progress=part_of(context.say, 0, 0.3))
            export_graph(model.fork(), setting, work / MEASURED / "source", release=False)  # while there is room for it
            table = {name: [round(float(each), 4) for each in values] for name, values in costs.tables.items()}
            return costs, costs.whole / config.speedup, {"rest_ms": costs.rest, "ms": table}
        if config.flops is not None:
            uses = len(model.anatomy.layers) if model.anatomy.shared_layers else 1
            costs = flops(parts, hidden=hidden, uses=uses)
            return costs, costs.whole * config.flops, None
        (unit, share) = next(iter(config.goal.items()))
        costs = parameters(parts, hidden=hidden, total=model.parameters, unit=unit)
        return costs, costs.whole * share, None


def _refuse_unknown(model: TorchModel, config: Pruning) -> None:
    from deploycomp.models.surgery import uncuttable_heads

    why = uncuttable_heads(model.module, model.anatomy)
    if not model.anatomy.known or (why is not None and config.step != "prune_ffn"):
        raise InputRefused(
            f"{model.anatomy.model_type} cannot be pruned by {config.step}",
            where=model.source.name,
            why=why or "it is not in the table of anatomies",
            hint="prune_ffn leaves heads alone" if model.anatomy.known else "leave the step away",
        )


@contextlib.contextmanager
def _reachable(config: Pruning) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise GateFailed(
            "the goal cannot be reached by pruning",
            why=f"{error}: embeddings, head and overhead cost more",
            hint=f"a smaller goal than {config.goal}",
        ) from None


def _meet(
    pruner: Pruner, model: TorchModel, config: Pruning, context: Context, work: Path, trail: list[Facts]
) -> tuple[list[Facts], list[Facts]]:
    """Measure the winner against the model it was, and do the last round again until the goal is met."""
    assert config.speedup is not None
    setting = Setting.of(config, context.recipe, context.target)
    measured: list[Facts] = []
    for number in range(CORRECTIONS + 1):
        name = f"pruned-{number}"
        say = part_of(context.say, 0.8 + 0.1 * number / (CORRECTIONS + 1), 0.9)
        pair = {"source": model, name: pruner.model}
        pruner.rest()
        speedup, low, high = measure_ratios(pair, setting, work / MEASURED, progress=say)[name]
        cost = trail[-1]["cost"]
        predicted = pruner.costs.whole / cost
        measured.append({"predicted": predicted, "speedup": speedup, "low": low, "high": high, "cost": cost})
        if goal_met(config.speedup, speedup, low, high) or number == CORRECTIONS:
            break
        with _reachable(config):
            trail = [*trail, {"round": len(trail), **pruner.redo(cost * speedup / config.speedup)}]
    return trail, measured


def _finish(
    pruner: Pruner, model: TorchModel, rows: TorchRows, config: Pruning, divergence: float, say: Progress
) -> Facts:
    """Refit norms and head where that helps on held-out rows, and distil where minutes were given."""
    from deploycomp.compress.recover import recover
    from deploycomp.compress.refit import refit

    student, answers, anatomy = pruner.finish().module, pruner.answers, model.anatomy
    refits = refit(
        answers, student, model.module, anatomy, pruner.batches, pruner.divergence,
        before=divergence, sums=pruner.targets, outputs=pruner.outputs,
    )  # fmt: skip
    recovery: Facts | None = None
    if config.recover:
        recovery = recover(
            answers, student, model.module, anatomy, rows.every, rows.held_out, minutes=config.recover, progress=say
        )
    for each in (*refits, *([recovery] if recovery else [])):
        divergence = each["after"] if each["kept"] else divergence
    return {"divergence": divergence, "refits": refits, "recovery": recovery}


class DropLayersStep:
    """torch → torch: whole layers."""

    def require(self, config: DropLayers, context: Context) -> None:
        """Nothing can be known before the model is."""

    def apply(self, config: DropLayers, model: TorchModel, context: Context) -> tuple[TorchModel, Facts]:
        """Drop, one at a time, the layer whose absence changes held-out answers least."""
        from deploycomp.compress.answers import Answers
        from deploycomp.compress.prune.layers import drop_layers

        if not model.anatomy.known:
            raise InputRefused(f"layers of {model.anatomy.model_type} are not known", where=model.source.name)
        rows = find_rows(context.recipe, model, context.judged, config.step)
        made, trail = drop_layers(
            Answers(model), model, rows.batches, rows.held_out, config.count, progress=context.say
        )
        sizes = {"before": model.parameters, "after": made.parameters}
        return made, {"calibration": rows.facts, "trail": trail, "parameters": sizes}

    def ensure(self, config: DropLayers, model: TorchModel, facts: Facts, context: Context) -> None:
        """Fewer parameters, where layers have their own."""
        if facts["parameters"]["after"] >= facts["parameters"]["before"] and not model.anatomy.shared_layers:
            raise VerificationFailed("drop_layers removed nothing")


class PruneVocabularyStep:
    """torch → torch: pieces of the vocabulary, in embedding and tokenizer."""

    def require(self, config: PruneVocabulary, context: Context) -> None:
        """A corpus is named, or calibration data is."""

    def apply(self, config: PruneVocabulary, model: TorchModel, context: Context) -> tuple[TorchModel, Facts]:
        """Keep what the corpus needs, write the new tokenizer, and load the result as any checkpoint."""
        from deploycomp.compress.prune.vocabulary import compare, prune_vocabulary, rewrite_files
        from deploycomp.models import checkpoint, resolve
        from deploycomp.models.load import load
        from deploycomp.models.plan import Vocabulary
        from deploycomp.models.surgery import apply

        corpus, held_out, name, left_out = _corpus(model, config, context)
        before = model.tokenizer.backend_tokenizer.to_str()
        found = prune_vocabulary(before, corpus, pad_token_id=model.tokenizer.pad_token_id, progress=context.say)
        change = compare(before, found, held_out)
        module: Any = copy.deepcopy(model.module)
        plan = apply(module, model.anatomy, model.plan, Vocabulary(found.kept))
        cut = replace(model, module=module, plan=plan, config=module.config)
        folder = context.work / "prune_vocabulary"
        folder.mkdir()
        checkpoint.save(cut, folder)
        rewrite_files(folder / model.source.encoder.relative_to(model.source.path), found)
        made = load(resolve(folder), model.task)
        facts: Facts = {
            "corpus": name,
            "left_out": left_out,
            "pieces": {"before": found.pieces, "after": len(found.kept)},
            "parameters": {"before": model.parameters, "after": made.parameters},
            "held_out": {"rows": change.rows, "changed": change.changed, "examples": list(change.examples)},
        }
        return made, facts

    def ensure(self, config: PruneVocabulary, model: TorchModel, facts: Facts, context: Context) -> None:
        """Pieces went."""
        if facts["pieces"]["after"] >= facts["pieces"]["before"]:
            raise VerificationFailed("prune_vocabulary removed nothing", why=f"{facts['corpus']} needs every piece")


def _corpus(model: TorchModel, config: PruneVocabulary, context: Context) -> tuple[list[Any], list[Any], str, int]:
    """Texts that the vocabulary must serve, those that are judged on, the corpus's name, and how many both had.

    Raises:
        UsageError: There is no corpus, or too much of it is judged on.
    """
    from deploycomp.assess import read_rows, source_predictor
    from deploycomp.calibration import training_place
    from deploycomp.data import without_judged
    from deploycomp.evaluate import inputs_of

    place = (config.corpus, None) if config.corpus is not None else training_place(context.recipe, context.judged)
    if place is None:
        raise UsageError("prune_vocabulary needs a corpus", hint="--calibration train.jsonl, or corpus: in the recipe")
    data, split = place
    found = read_rows(model, data, split=split, labeled=False)
    rows = without_judged(found, context.judged)
    predictor = source_predictor(model)
    texts = _flat(inputs_of(rows, predictor))
    unseen = _flat(inputs_of(context.judged, predictor)) if context.judged is not None else []
    return texts, unseen, rows.name, len(found) - len(rows)


def _flat(inputs: list[Any]) -> list[Any]:
    """Texts and pairs as they are; the words of token classification one by one, as they stand in a sentence."""
    flat: list[Any] = []
    for each in inputs:
        flat += [f" {word}" for word in each] + list(each) if isinstance(each, list) else [each]
    return flat
