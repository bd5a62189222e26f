"""Side by side with every INT8 and FP32 way that a user of the same checkpoint has, on the same CPU.

    .venv/bin/python benchmarks/peers/run.py [--models …] [--peers …] [--threads 1,2] [--json FILE]

Each peer runs in its own venv with pinned versions (made here, several GB, once), at its documented best, on the same
weights, rows and threads. Blocks are interleaved, each is a fresh process, one session lives at a time. Markdown goes
to stdout, progress to stderr. A peer that cannot be built or run is listed with its error.

Exit code 1 when `deploycomp` is slower than the fastest INT8 peer in any cell.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from candidates import OURS, PEERS, Candidate, Peer, make_all, ours, own_artifact
from common import machine, say, write_json
from judging import judge
from models import DEFAULT_MODELS, RANDOM_BASE, Model, PeerFailed, find_models
from table import compared, losses, table
from timing import Plan, Progress, measure
from venvs import OPENVINO, OPTIMUM, TORCH

from deploycomp.report import format as fmt

QUIET_SHARE = 0.05
"""Above this share of CPU time taken by others, the run says that it was not quiet."""
BASE_STREAM_ROWS = 64
"""BERT-base takes ten times as long a row."""

Result = dict[str, Any]


def field(model: Model, peers: list[Peer], asked: argparse.Namespace, failed: dict[str, str]) -> list[Candidate]:
    """Make ours and every peer's of one model."""
    own: list[Candidate] = []
    if not asked.no_export:
        own.append(ours(OURS, own_artifact(model, keep=asked.keep)))
    for text in asked.ours:
        path, _, name = text.replace("{model}", model.name).rpartition(":")
        try:
            own.append(ours(name, Path(path)))
        except PeerFailed as error:
            failed[name] = str(error)
    return [*own, *make_all(model, peers, failed)]


def conditions(result: Result, plan: Plan) -> str:
    """Say on what and how quietly it was measured."""
    here = result["context"]
    foreign, steal = here.get("foreign_share"), here.get("steal_share")
    quiet = "" if foreign is None or foreign <= QUIET_SHARE else " **The machine was not quiet.**"
    blocks = f"{fmt.plural(plan.blocks, 'block')} of {plan.seconds:g} s, interleaved, fresh processes"
    return f"{machine(here)}; {blocks}; others took {foreign} of its CPU time, the hypervisor {steal}.{quiet}"


def page(model: str, result: Result, plan: Plan) -> str:
    """One model as Markdown."""
    failed = "".join(f"\n- {name} fails: `{why}`" for name, why in result["failed"].items())
    return f"### {model}\n\n{conditions(result, plan)}\n\n{table(result)}\n{failed}\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keys = ",".join(peer.key for peer in PEERS)
    parser.add_argument("--models", default=",".join(DEFAULT_MODELS), help="as NAME,NAME; default: %(default)s")
    parser.add_argument("--peers", default=keys, help="as KEY,KEY; default: %(default)s")
    parser.add_argument("--threads", default="1,2", help="thread counts; default: %(default)s")
    parser.add_argument("--blocks", type=int, default=5, help="fresh processes for each candidate and thread count")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each shape in a block")
    parser.add_argument("--no-accuracy", action="store_true", help="do not judge")
    parser.add_argument("--limit", type=int, metavar="ROWS", help="judge on this many rows; default: all")
    parser.add_argument("--no-stream", action="store_true", help="no stream of real rows")
    parser.add_argument(
        "--stream-rows", type=int, default=512, help=f"in the stream; {BASE_STREAM_ROWS} for {RANDOM_BASE}"
    )
    parser.add_argument(
        "--ours",
        action="append",
        default=[],
        metavar="PATH:NAME",
        help="one more candidate of ours, an artifact or an .onnx file; {model} in PATH is the model's name",
    )
    parser.add_argument("--no-export", action="store_true", help="only the candidates of --ours")
    parser.add_argument("--keep", action="store_true", help="take our last export instead of a new one")
    parser.add_argument("--build", action="store_true", help="only make venvs and graphs")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deploycomp-benchmarks"
    parser.add_argument("--work", type=Path, default=cache, help="where everything made is kept; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result with all samples here")
    asked = parser.parse_args()
    if unknown := set(asked.peers.split(",")) - {peer.key for peer in PEERS} - {""}:
        parser.error(f"unknown peers {', '.join(sorted(unknown))}; known: {keys}")
    return asked


def main() -> None:
    """Make everything, time everything, judge, print; PyTorch enters this process only after the last timing."""
    asked = _arguments()
    peers = [peer for peer in PEERS if peer.key in asked.peers.split(",")]
    models = find_models(asked.models.split(","), asked.work.absolute())
    failed: dict[str, dict[str, str]] = {model.name: {} for model in models}
    made = {model.name: field(model, peers, asked, failed[model.name]) for model in models}
    if asked.build:
        sys.exit(any(failed.values()))
    plans = {model.name: _plan(model, asked) for model in models}
    progress = Progress(sum(plans[name].steps(len(each)) for name, each in made.items()))
    results: dict[str, Result] = {}
    for model in models:
        measured = measure(model, made[model.name], plans[model.name], failed[model.name], progress)
        results[model.name] = {
            **measured,
            "ratios": compared(measured),
            "evaluation": None,
            "failed": failed[model.name],
        }
    for model in models:
        if model.judged and not asked.no_accuracy:
            left = [each for each in made[model.name] if each.name in results[model.name]["candidates"]]
            threads = max(plans[model.name].threads)
            judged = judge(model, left, threads=threads, limit=asked.limit, failed=failed[model.name])
            results[model.name]["evaluation"] = judged
    for name, result in results.items():
        print(page(name, result, plans[name]))
    lost = [each for name, result in results.items() for each in losses(name, OURS, result["ratios"])]
    print("\n".join(f"slower: {each}" for each in lost) or "no INT8 peer is faster in any cell")
    pins = {venv.name: venv.pins() for venv in (TORCH, OPENVINO, OPTIMUM)}
    write_json(asked.json, {"pins": pins, "models": results, "slower": lost})
    sys.exit(bool(lost))


def _plan(model: Model, asked: argparse.Namespace) -> Plan:
    rows = 0 if asked.no_stream else asked.stream_rows
    return Plan(
        threads=[int(each) for each in asked.threads.split(",")],
        blocks=asked.blocks,
        seconds=asked.seconds,
        stream_rows=min(rows, BASE_STREAM_ROWS) if model.name == RANDOM_BASE else rows,
    )


if __name__ == "__main__":
    say("PyTorch, OpenVINO and others are big: the first run makes their venvs")
    main()
