"""Side by side with optimum's dynamic INT8 on the real models: latency in every cell, accuracy and size.

    .venv/bin/python benchmarks/against_optimum.py [minilm-l6-sst2 …] [--pytorch] [--json FILE]

    optimum      optimum-cli export onnx; optimum-cli onnxruntime quantize --avx512_vnni --per_channel
    per tensor   the same without --per_channel, which is what the command line does by default
    deploycomp   deploycomp export --int8 --target auto

Both graphs run in our ONNX Runtime with our session options, in fresh processes with interleaved blocks, and are judged
through our tokenization, batching and metrics: only the graph differs. Exit code 1 when a ratio is above 1 anywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import BATCH_SIZES, CELLS, LENGTHS, Real, export_int8, machine, real_models, say, write_json
from peer_venv import REQUIREMENTS, ensure, requirements_digest

from deploycomp.artifact import Artifact
from deploycomp.measure.benchmark import Candidate, benchmark, ratios
from deploycomp.recipe import Benchmark
from deploycomp.report import format as fmt

OURS, PYTORCH = "deploycomp", "PyTorch"
PEERS = {"optimum": ["--per_channel"], "optimum per tensor": []}
"""Candidate name → options of `optimum-cli onnxruntime quantize` beside --avx512_vnni.

Per channel is the default of `AutoQuantizationConfig.avx512_vnni`, per tensor that of the command line.
"""

QUIET_SHARE = 0.05
"""Above this share of CPU time taken by others, the run says that it was not quiet."""

Result = dict[str, Any]


def build_peers(python: Path, real: Real, work: Path) -> dict[str, Path]:
    """Return the peer's graphs of one model, made once for these weights and pins."""
    folder = work / "optimum" / real.name
    graphs = {name: folder / name.replace(" ", "-") / "model_quantized.onnx" for name in PEERS}
    key, stamp = _key(real.path), folder / "made-from.sha256"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key and all(map(Path.exists, graphs.values())):
        return graphs
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _optimum(python, "export", "onnx", "--model", str(real.path), "--task", real.task, str(folder / "fp32"))
    for name, options in PEERS.items():
        made_from = ["--onnx_model", str(folder / "fp32"), "-o", str(graphs[name].parent)]
        _optimum(python, "onnxruntime", "quantize", "--avx512_vnni", *options, *made_from)
    stamp.write_text(key, encoding="utf-8")
    return graphs


def _optimum(python: Path, *arguments: str) -> None:
    say(f"optimum-cli {' '.join(arguments)}")
    line = [str(python.with_name("optimum-cli")), *arguments]
    done = subprocess.run(line, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\noptimum-cli ended with exit code {done.returncode}")


def _key(folder: Path) -> str:
    digest = hashlib.sha256(requirements_digest().encode())
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def measure(real: Real, graphs: dict[str, Path], settings: Benchmark, *, pytorch: bool) -> Result:
    """Time all graphs of one model in one interleaved run."""
    candidates = [Candidate(name, "onnx", path) for name, path in graphs.items()]
    if pytorch:
        candidates.append(Candidate(PYTORCH, "torch", real.path, real.task))
    return benchmark(candidates, settings, progress=lambda message, done: say(f"{real.name} {done:4.0%} {message}"))


def judge(real: Real, graphs: dict[str, Path], artifact: Path, limit: int | None) -> Result:
    """Score all graphs and the PyTorch source on the model's data, through one tokenizer, batching and metric."""
    from deploycomp.assess import source_predictor
    from deploycomp.data import load_rows
    from deploycomp.evaluate import evaluate_candidates
    from deploycomp.models import resolve
    from deploycomp.models.load import load
    from deploycomp.runtime import Predictor
    from deploycomp.runtime.session import open_session, runner

    manifest = Artifact.open(artifact).manifest
    source = source_predictor(load(resolve(str(real.path)), real.task))
    predictors = {"source": source}
    for name, path in graphs.items():
        session = open_session(path, spinning=False)
        predictors[name] = Predictor(source.tokenizer, manifest, runner(session, model=path))
    runtime = manifest["runtime"]
    rows = load_rows(
        str(real.data),
        task=real.task,
        labels=runtime["labels"],
        problem_type=runtime["problem_type"],
        limit=limit,
    )
    say(f"{real.name} judging {', '.join(predictors)} on {len(rows)} rows")
    return evaluate_candidates(predictors, rows)


def compared(measured: Result) -> dict[str, list[Result]]:
    """Our latency over each peer's, in the cells that are reported."""
    found = {name: ratios(measured, OURS, name) for name in PEERS}
    return {name: [entry for entry in entries if _shape(entry["cell"]) in CELLS] for name, entries in found.items()}


def _shape(cell: Result) -> tuple[int, int]:
    return cell["batch_size"], cell["sequence_length"]


def losses(name: str, ratio: dict[str, list[Result]]) -> list[str]:
    """Cells where we are slower than a peer."""
    return [
        f"{name}, {_cell(entry['cell'])}: {entry['ratio']:.3f} of {peer} ({entry['verdict']})"
        for peer, entries in ratio.items()
        for entry in entries
        if entry["ratio"] > 1
    ]


def _cell(cell: Result) -> str:
    return f"{fmt.plural(cell['threads'], 'thread')}, {cell['batch_size']}×{cell['sequence_length']}"


def table(result: Result) -> str:
    """Draw one model: a row for each cell, then size, metric and agreement."""
    latency = {(c["candidate"], c["threads"], *_shape(c)): c["p50_ms"] for c in result["benchmark"]["cells"]}
    names = list(result["benchmark"]["candidates"])
    heads = ["", *names, *(f"{OURS} / {peer}" for peer in PEERS)]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for index, entry in enumerate(result["ratios"]["optimum"]):
        cell = entry["cell"]
        times = [fmt.milliseconds(latency[name, cell["threads"], *_shape(cell)]) for name in names]
        parts = [_ratio(result["ratios"][peer][index]) for peer in PEERS]
        lines.append(" | ".join([_cell(cell), *times, *parts]))
    lines.append(" | ".join(["size on disk", *_sizes(result, names)]))
    if result["evaluation"]:
        lines += _accuracy(result["evaluation"], names)
    return "\n".join(f"| {line} |" for line in lines)


def _ratio(entry: Result) -> str:
    low, high = entry["low"], entry["high"]
    return f"**{entry['ratio']:.2f}**" + (f" ({low:.2f}…{high:.2f})" if low is not None else "")


def _sizes(result: Result, names: list[str]) -> list[str]:
    sizes = {name: result["benchmark"]["candidates"][name]["bytes"] for name in names}
    return [*(fmt.megabytes(sizes[name]) for name in names), *(f"{sizes[OURS] / sizes[peer]:.2f}" for peer in PEERS)]


def _accuracy(evaluation: Result, names: list[str]) -> list[str]:
    """The task's metric with its interval, and the agreement with PyTorch."""
    metric, empty = evaluation["metric"], [""] * len(PEERS)
    keys = [("source" if name == PYTORCH else name) for name in names]
    values = [evaluation["scores"][key][metric] for key in keys]
    agreements = [evaluation["agreement"].get(key) for key in keys]
    source = evaluation["scores"]["source"][metric]["value"]
    head = f"{fmt.metric_name(metric)} (PyTorch {fmt.metric_value(metric, source)})"
    return [
        " | ".join([head, *(_interval(metric, value) for value in values), *empty]),
        " | ".join(["agreement", *(_interval(metric, each) if each else fmt.DASH for each in agreements), *empty]),
    ]


def _interval(metric: str, value: Result) -> str:
    return f"{fmt.metric_value(metric, value['value'])} ({fmt.metric_range(metric, value['low'], value['high'])})"


def conditions(measured: Result, settings: Benchmark) -> str:
    """Say on what, with what and how quietly it was measured."""
    here = measured["context"]
    foreign, steal = here.get("foreign_share"), here.get("steal_share")
    quiet = "" if foreign is None or foreign <= QUIET_SHARE else " **The machine was not quiet.**"
    blocks = f"{settings.blocks} blocks of {settings.block_seconds:g} s, interleaved, fresh processes"
    return f"{machine(here)}; {blocks}; others took {foreign} of its CPU time, the hypervisor {steal}.{quiet}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="real models by name; default: all three")
    parser.add_argument("--blocks", type=int, default=5, help="fresh processes for each candidate and thread count")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each shape in a block")
    parser.add_argument("--threads", default="1,2", help="thread counts, as 1,2")
    parser.add_argument("--pytorch", action="store_true", help="also time PyTorch FP32")
    parser.add_argument("--limit", type=int, help="judge on this many rows (0: do not judge)")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deploycomp-benchmarks"
    parser.add_argument("--work", type=Path, default=cache, help=f"where graphs are kept; default: {cache}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    return parser.parse_args()


def main() -> None:
    """Build, measure, judge, print; first all latencies, because sessions and PyTorch in this process disturb."""
    asked = _arguments()
    models, work = real_models(asked.models), asked.work.absolute()
    threads = tuple(int(each) for each in asked.threads.split(","))
    settings = Benchmark(
        batch_size=BATCH_SIZES,
        sequence_length=LENGTHS,
        threads=threads,
        blocks=asked.blocks,
        block_seconds=asked.seconds,
    )
    python, results = ensure(), dict[str, Result]()
    built = {real.name: build_peers(python, real, work) for real in models}
    for real in models:
        artifact = work / OURS / real.name
        report = export_int8(real.path, artifact, "--no-benchmark")
        built[real.name] = {**built[real.name], OURS: artifact / report["artifact"]["model"]}
    for real in models:
        measured = measure(real, built[real.name], settings, pytorch=asked.pytorch)
        results[real.name] = {"benchmark": measured, "ratios": compared(measured), "evaluation": None}
    for real in models if asked.limit != 0 else []:
        results[real.name]["evaluation"] = judge(real, built[real.name], work / OURS / real.name, asked.limit)
    for name, result in results.items():
        print(f"### {name}\n\n{conditions(result['benchmark'], settings)}\n\n{table(result)}\n")
    lost = [each for name, result in results.items() for each in losses(name, result["ratios"])]
    print("\n".join(f"slower: {each}" for each in lost) or "faster than optimum in every cell")
    pins = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in pins if "==" in line)
    write_json(asked.json, {"peer": pinned, "models": results, "slower": lost})
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
