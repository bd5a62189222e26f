"""What heads and neurons cost in milliseconds here: a table measured in ONNX Runtime, and the check of a whole model.

    three layers of the model ─┬─ k heads in the first two    ─ export ─ (INT8) ─ measured call by call ─► ms by heads
                               ├─ k neurons in the first two                                               ms by neurons
                               └─ half in the last one: a [CLS] head needs one token of it                ms of the last

Call by call in one process, see `measure/alternate.py`. The table is additive: what is left is the overhead of
embeddings, head and session. INT8 graphs quantize their activations while running, which needs no calibration.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deploycomp.context import Progress, part_of
from deploycomp.errors import UsageError
from deploycomp.onnxmodel import save_graph
from deploycomp.recipe import Benchmark, Export, Factorize, Fixed, Int8, Prune, PruneFfn, PruneHeads, Recipe

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.compress.prune.costs import Costs
    from deploycomp.measure.rounds import Bench
    from deploycomp.models.model import TorchModel
    from deploycomp.models.plan import Cut

__all__ = [
    "Setting",
    "copied",
    "export_graph",
    "goal_met",
    "graph_ratios",
    "latency_table",
    "measure_ratios",
    "refuse_gpu",
    "shorten",
    "table_times",
]

GRAPH = "model.onnx"
NS_PER_MS = 1_000_000
LAYERS = 3
"""Two that are cut alike, whose difference is halved, and the last."""
WORDS = 1000
"""Rows of the word embedding in the measured graphs: looking them up costs the same."""
HEAD_SHARES = (0.0, 0.25, 0.5, 0.75)
NEURON_SHARES = (0.0, 0.125, 0.25, 0.5, 0.75)
"""Between these the table is a straight line."""
TABLE_PROCESSES, TABLE_SECONDS, TABLE_ROUNDS = 2, 4.0, 8
"""For each `GROUP` of a table's graphs."""
GROUP = 6
"""Graphs that are in memory together: the one that all are compared with, and others."""
RATIO_PROCESSES, RATIO_SECONDS, RATIO_ROUNDS = 4, 3.0, 4
"""Of large models so many calls in turns: neighbours come and go, so that one more process tells more."""
TURNS = 4
"""As many times the processes at most, where the interval of a ratio is wider than what a goal may be missed by."""
QUIET = 0.25
"""Share of calls that a busy machine leaves undisturbed; the very fastest are luck."""
TOLERANCE = 0.02
"""A measured speed-up this near to the goal has met it."""


@dataclass(frozen=True)
class Setting:
    """Where latency is counted.

    Args:
        batch_size, sequence_length: Of the row.
        threads: 0 means what this process may use.
        bits: Weight bits of INT8, or None for FP32.
        ops, opset: As the recipe exports.
    """

    batch_size: int = 1
    sequence_length: int = 128
    threads: int = 0
    bits: Literal[7, 8] | None = None
    ops: Literal["fused", "standard"] = "fused"
    opset: int = 24

    @staticmethod
    def of(config: Prune | PruneHeads | PruneFfn | Factorize, recipe: Recipe, target: str) -> Setting:
        """Where a step's speed counts: its shape and threads, at the precision that the recipe ends with."""
        from deploycomp.runtime.cpu import why_weight_bits

        int8 = any(isinstance(step, Int8) for step in recipe.steps)
        bits: Literal[7, 8] | None = (7 if why_weight_bits(target)[0] == 7 else 8) if int8 else None
        shape = config.batch_size, config.sequence_length, config.threads
        return Setting(*shape, bits, recipe.export.ops, recipe.opset)


def latency_table(model: TorchModel, setting: Setting, work: Path, *, progress: Progress | None = None) -> Costs:
    """Measure what heads and neurons cost.

    Args:
        model: The model before any cut; it stays as it is.
        setting: Shape, threads and precision.
        work: An empty folder for the graphs.
        progress: Called with a message and the share that is done.

    Returns:
        Milliseconds by units left, for every sublayer.

    Raises:
        EnvironmentFailed: A measurement failed.
    """
    from deploycomp.compress.prune.costs import Costs
    from deploycomp.compress.prune.sublayers import sublayers

    say = progress or (lambda _message, _share: None)
    short = shorten(model)
    ends = sublayers(short.module, short.anatomy)
    counts = {part.kind: part.units for part in ends}
    graphs: dict[str, Path] = {}
    variants = _variants(short, counts)
    for number, (name, cuts) in enumerate(variants.items()):
        say(f"exporting {name}", 0.5 * number / len(variants))
        graphs[name] = export_graph(_cut(short, cuts), setting, work / name)
    times = table_times(graphs, setting, part_of(say, 0.5, 1.0))
    inner = {kind: _curve(times, kind, count, layers=_inner(short)) for kind, count in counts.items()}
    last = {kind: _last(times, kind, inner[kind]) for kind in counts}
    tables: dict[str, np.ndarray] = {}
    whole = sublayers(model.module, model.anatomy)
    number = max(part.layer for part in whole)
    uses = len(model.anatomy.layers) if model.anatomy.shared_layers else 1
    for part in whole:
        share = last[part.kind] if part.layer == number and not model.anatomy.shared_layers else 1.0
        tables[part.name] = inner[part.kind] * share * uses
    rest = times["whole"] - sum(float(inner[kind][-1]) * (_inner(short) + last[kind]) for kind in counts)
    return Costs("ms", max(0.0, rest), tables)


def measure_ratios(
    models: Mapping[str, TorchModel], setting: Setting, work: Path, *, progress: Progress | None = None
) -> dict[str, tuple[float, float, float]]:
    """Export models, and measure them as `graph_ratios` does.

    Args:
        models: Name → model; the first is what the others are compared with.
        setting: Shape, threads and precision.
        work: A folder for the graphs; those that are there are not exported again.
        progress: Called with a message and the share that is done.

    Returns:
        Name → how many times faster than the first it is, with the bounds of a 95 % interval over processes.
    """
    graphs: dict[str, Path] = {}
    for name, model in models.items():
        there = work / name / GRAPH
        graphs[name] = there if there.is_file() else export_graph(copied(model), setting, work / name)
    return graph_ratios(graphs, setting, progress=progress)


def graph_ratios(
    graphs: Mapping[str, Path], setting: Setting, *, progress: Progress | None = None
) -> dict[str, tuple[float, float, float]]:
    """Measure graphs call by call, in the more processes the noisier the machine is.

    Args:
        graphs: Name → graph or artifact; the first is what the others are compared with.
        setting: Shape and threads.
        progress: Called with a message and the share that is done.

    Returns:
        Name → how many times faster than the first it is, with the bounds of a 95 % interval over processes.
    """
    from deploycomp.measure.alternate import levels
    from deploycomp.measure.figures import paired

    say = progress or (lambda _message, _share: None)
    bench = _open(graphs, setting, RATIO_SECONDS * len(graphs) / 2)
    _, *others = graphs
    processes: list[np.ndarray] = []
    found: dict[str, tuple[float, float, float]] = {}
    most = TURNS * RATIO_PROCESSES
    for _ in range(TURNS):
        for number in range(len(processes), len(processes) + RATIO_PROCESSES):
            say(f"measuring {', '.join(graphs)}, process {number + 1} of at most {most}", number / most)
            processes.append(levels(_rounds(bench, list(graphs), number, RATIO_ROUNDS)))
        for place, name in enumerate(others, 1):
            entry = paired([1.0] * len(processes), [float(each[place]) for each in processes])
            found[name] = entry["ratio"], entry["low"], entry["high"]
        if all(high / low - 1 <= 2 * TOLERANCE for _, low, high in found.values()):
            break
    say("measured", 1.0)
    return found


def goal_met(goal: float, speedup: float, low: float, high: float) -> bool:
    """Whether a measured speed-up is as near to the goal as the clock can tell: what it cannot is not gone after."""
    return abs(goal / speedup - 1) <= TOLERANCE or low <= goal <= high


def refuse_gpu(target: str, *, hint: str) -> None:
    """Refuse a speed-up as the goal where the target is no CPU.

    Raises:
        UsageError: It is a GPU.
    """
    if target == "cuda":
        raise UsageError("a speed-up on a GPU cannot be measured here", why="the target is cuda", hint=hint)


def copied(model: TorchModel) -> TorchModel:
    """A copy whose weights are its own: an export lets go of them."""
    return replace(model, module=copy.deepcopy(model.module))


def _cut(model: TorchModel, cuts: list[Cut]) -> TorchModel:
    from deploycomp.models.anatomy import describe
    from deploycomp.models.surgery import apply

    made = copied(model)
    for cut in cuts:
        plan = apply(made.module, made.anatomy, made.plan, cut)
        anatomy = describe(made.module, made.module.config)  # type: ignore[arg-type]
        made = replace(made, plan=plan, anatomy=anatomy)
    return made


def shorten(model: TorchModel) -> TorchModel:
    """Three layers and few words: the same sublayers, exported in a second."""
    from deploycomp.models.plan import Layers, Vocabulary

    count = len(model.anatomy.layers)
    cuts: list[Cut] = []
    if count > LAYERS:
        cuts.append(Layers((0, 1, count - 1)))
    words = int(model.module.get_input_embeddings().weight.shape[0])  # type: ignore[operator,union-attr]
    if words > WORDS:
        cuts.append(Vocabulary(tuple(range(WORDS))))
    return _cut(model, cuts)


def _inner(model: TorchModel) -> int:
    """Layers of the short model that are cut alike: uses of the shared one, or all but the last."""
    count = len(model.anatomy.layers)
    return count if model.anatomy.shared_layers else max(1, count - 1)


def _variants(model: TorchModel, counts: Mapping[str, int]) -> dict[str, list[Cut]]:
    from deploycomp.models.plan import Heads, Neurons

    shared = model.anatomy.shared_layers
    inner = 1 if shared else max(1, len(model.anatomy.layers) - 1)
    made: dict[str, list[Cut]] = {"whole": []}
    for kind, shares, cut in (("heads", HEAD_SHARES, Heads), ("neurons", NEURON_SHARES, Neurons)):
        for level in _levels(counts[kind], shares):
            made[f"{kind}-{level}"] = [cut(layer, tuple(range(level))) for layer in range(inner)]
        if not shared and len(model.anatomy.layers) > 1:
            half = tuple(range(counts[kind] // 2))  # with nothing left there, the layer below would be cut short too
            made[f"{kind}-last"] = [cut(len(model.anatomy.layers) - 1, half)]
    return made


def _levels(count: int, shares: tuple[float, ...]) -> list[int]:
    return sorted({math.floor(share * count) for share in shares} - {count})


def export_graph(model: TorchModel, setting: Setting, folder: Path, *, release: bool = True) -> Path:
    """Export a model as the recipe would, but for dimensions: fixed, it takes half the time.

    Args:
        model: Its modules are changed.
        setting: Precision, operators and shape.
        folder: To make, for the graph.
        release: Whether nobody else needs its weights.

    Returns:
        The graph.
    """
    from deploycomp.context import TOKENS_OPSET
    from deploycomp.export import export
    from deploycomp.graph import rewrite
    from deploycomp.graph.attention import write_attention
    from deploycomp.models.factors import densify
    from deploycomp.quantize import quantize
    from deploycomp.runtime.session import trim_memory

    densify(model.module)  # what is rebuilt is rebuilt once, before the first answer
    folder.mkdir(parents=True)
    shape = Fixed(batch=setting.batch_size, sequence=setting.sequence_length)
    onnx, _ = export(model, Export(ops=setting.ops, fixed=shape), opset=setting.opset)
    rewrite(onnx)
    if setting.bits is not None:
        onnx, _ = quantize(onnx, Int8(), bits=setting.bits, ops=setting.ops, statistics=None, activations="dynamic")
    write_attention(onnx, "tokens" if setting.opset >= TOKENS_OPSET else "plain")
    path = folder / GRAPH
    words = int(model.module.get_input_embeddings().num_embeddings)  # type: ignore[operator,union-attr]
    (folder / "config.json").write_text(json.dumps({"vocab_size": words}), encoding="utf-8")  # what rows may hold
    save_graph(onnx.model, path, external_data_bytes=Export().external_data_bytes, size=onnx.nbytes)
    for value in onnx.model.graph.initializers.values():
        value.const_value = None  # the tracer keeps the graph alive; it need not keep the weights too
    if release:
        model.release()
    trim_memory()
    return path


def table_times(graphs: Mapping[str, Path], setting: Setting, progress: Progress) -> dict[str, float]:
    """Time of each graph when nobody else runs, with one thread: two wait for one another as it happens.

    Args:
        graphs: Name → file; the first is in every process, and the others are timed call by call beside it.
        setting: Shape.
        progress: Called with a message and the share that is done.

    Returns:
        Milliseconds: of the first graph what its fastest `QUIET` of calls take at most, of the others in proportion.
    """
    import numpy as np

    from deploycomp.measure.alternate import levels

    bench = _open(graphs, replace(setting, threads=1), TABLE_SECONDS)
    first, *others = graphs
    groups = [others[place : place + GROUP - 1] for place in range(0, len(others), GROUP - 1)]
    times: dict[str, float] = {first: 1.0}
    calls: list[np.ndarray] = []
    for number, group in enumerate(groups):
        progress(f"measuring {', '.join(group)}", number / len(groups))
        rounds = np.concatenate(
            [_rounds(bench, [first, *group], block, TABLE_ROUNDS) for block in range(TABLE_PROCESSES)]
        )
        times |= dict(zip(group, levels(rounds)[1:].tolist(), strict=True))
        calls.append(rounds[:, 0])
    progress("measured", 1.0)
    unit = float(np.quantile(np.concatenate(calls), QUIET)) / NS_PER_MS
    return {name: unit * times[name] for name in graphs}


def _open(graphs: Mapping[str, Path], setting: Setting, seconds: float) -> Bench:
    from deploycomp.measure.candidate import Candidate
    from deploycomp.measure.rounds import open_bench

    settings = Benchmark(
        batch_size=(setting.batch_size,),
        sequence_length=(setting.sequence_length,),
        threads=(setting.threads,) if setting.threads else (),
        block_seconds=seconds,
    )
    return open_bench([Candidate(name, "onnx", path) for name, path in graphs.items()], settings)


def _rounds(bench: Bench, names: Sequence[str], block: int, least: int) -> np.ndarray:
    """Nanoseconds by round and graph."""
    from deploycomp.measure.alternate import rounds_of

    answers = bench.alternate(names, threads=bench.plan.threads[0], block=block, least_rounds=least)
    return rounds_of(list(answers.values()))


def _curve(times: Mapping[str, float], kind: str, count: int, *, layers: int) -> np.ndarray:
    """Milliseconds of one sublayer with 0, 1, … units: a line through the measured points that never falls."""
    import numpy as np

    points = {0: times[f"{kind}-0"], count: times["whole"]}
    for name, value in times.items():
        if name.startswith(f"{kind}-") and not name.endswith("last"):
            points[int(name.rpartition("-")[2])] = value
    places = sorted(points)
    values = np.maximum.accumulate([(points[place] - points[0]) / layers for place in places])
    return np.interp(np.arange(count + 1), places, values)


def _last(times: Mapping[str, float], kind: str, inner: np.ndarray) -> float:
    """What the last layer's sublayer costs, as a share of another layer's."""
    import numpy as np

    count = len(inner) - 1
    half = float(inner[count] - inner[count // 2])
    if f"{kind}-last" not in times or half <= 0:
        return 1.0
    return float(np.clip((times["whole"] - times[f"{kind}-last"]) / half, 0.0, 1.0))
