"""The gate on a real machine: false alarms, slowdowns that it finds, and how others decide the same.

    .venv/bin/python benchmarks/gate/run.py [--only aa-quiet,sleep-10] [--runs N] [--peers] [--table]

Every run is kept (`--work`), and a second call goes on where the first was stopped. A gate is the installed command
with its default settings (for slower candidates size and memory may grow, so that latency alone decides). With
`--peers`, pytest-benchmark's `--benchmark-compare-fail=mean:5%` and plain tests on the same two runs decide too.
Markdown goes to stdout. Exit code 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share
sys.path.append(str(Path(__file__).resolve().parents[1] / "peers"))  # for the venvs

from common import command, export_int8, machine, real_models, say
from slow import burnt, copied, sleepy
from venvs import Venv

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deploycomp-benchmarks" / "gate"
MODEL = "minilm-l6-sst2"
ALONE = ("--max-size-growth", "100%", "--max-memory-growth", "100%")
"""Latency alone decides."""
TOLERANCE = 0.05
BURN_CALLS = 5
"""Measurements at most that find how many products make 10 %."""
BURN_ERROR = 0.004
"""How near that must come: a candidate of 8.6 % is another scenario."""
PEER = Venv("pytest-benchmark", Path(__file__).with_name("requirements.txt"))
PEER_TEST = Path(__file__).with_name("peer_bench.py")

Result = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """Gates of one kind, and what must come out."""

    key: str
    title: str
    runs: int
    slower: float = 0.0
    how: str = "copied"
    busy: bool = False
    most_fails: int | None = None
    least_fails: int | None = None


SCENARIOS = (
    Scenario("aa-quiet", "unchanged, quiet machine", 20, most_fails=0),
    Scenario("aa-busy", "unchanged, a busy neighbour", 20, busy=True, most_fails=0),
    Scenario("sleep-10", "+10 %, each call waits", 20, 0.10, "sleepy", least_fails=19),
    Scenario("layers-10", "+10 %, more layers", 20, 0.10, "burnt", least_fails=19),
    Scenario("sleep-8", "+8 %, each call waits", 20, 0.08, "sleepy"),
    Scenario("sleep-3", "+3 %, each call waits", 10, 0.03, "sleepy", most_fails=0),
)


@dataclass(frozen=True)
class Bench:
    """The artifact, and where everything is kept."""

    work: Path

    @property
    def baseline(self) -> Path:
        """The artifact, exported once."""
        out = self.work / MODEL
        if not (out / "deploycomp.json").is_file():
            real = real_models([MODEL])[0]
            export_int8(real.path, out, "--no-benchmark", "--calibration", str(real.data.with_name("train.jsonl")))
        return out

    def candidate(self, scenario: Scenario) -> Path:
        """What is gated; a plain graph, except where it is the artifact itself."""
        if scenario.how == "copied":
            return self.baseline
        out = self.work / f"candidate-{scenario.key}"
        if not (out / "model.onnx").is_file():
            if scenario.how == "burnt":
                return burnt(self.baseline, out, self._products(scenario.slower))
            return copied(self.baseline, out)
        return out / "model.onnx"

    def environment(self, scenario: Scenario) -> dict[str, str]:
        """What makes its process late."""
        late = sleepy(self.candidate(scenario), 100 * scenario.slower) if scenario.how == "sleepy" else {}
        return {**os.environ, **late}

    def _products(self, share: float) -> int:
        """How many products make the graph slower by *share*, by the ratio that a first guess has."""
        products = 800
        for _ in range(BURN_CALLS):
            graph = burnt(self.baseline, self.work / "guess", products)
            found = self._ratio(graph) - 1
            say(f"{products} products more: {100 * found:+.1f} %")
            if abs(found - share) < BURN_ERROR:
                break
            products = max(1, round(products * share / max(found, 0.01)))
        return products

    def _ratio(self, graph: Path) -> float:
        line = [str(command()), "benchmark", str(graph), str(self.baseline), "--batch-size", "1"]
        line += ["--sequence-length", "128", "--blocks", "25", "--block-seconds", "0.3", "--threads", "1", "--json"]
        found = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
        cells = {cell["candidate"]: cell["block_p50_ms"] for cell in found["cells"]}
        (mine, theirs) = cells.values()
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


@contextmanager
def neighbour(*, busy: bool) -> Iterator[None]:
    """Another process that keeps the last processor busy."""
    if not busy:
        yield
        return
    core = max(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield
        finally:
            process.kill()


def gate(bench: Bench, scenario: Scenario, kept: Path) -> None:
    """One gate with the default settings; its result is kept, with the seconds that the command took."""
    part = kept.with_suffix(".part")
    line = [str(command()), "gate", str(bench.candidate(scenario)), "--baseline", str(bench.baseline)]
    line += ["-q", "--output", str(part), *(ALONE if scenario.slower else ())]
    began = time.monotonic()
    with neighbour(busy=scenario.busy):
        done = subprocess.run(line, env=bench.environment(scenario), capture_output=True, text=True)
    if done.returncode not in (0, 1, 6):
        sys.exit(f"{scenario.key}: exit code {done.returncode}\n{done.stderr}")
    found = json.loads(part.read_text(encoding="utf-8"))
    kept.write_text(json.dumps({**found, "wall_seconds": time.monotonic() - began}, indent=1) + "\n", encoding="utf-8")
    part.unlink()


def peer(bench: Bench, scenario: Scenario, kept: Path) -> None:
    """Two runs of pytest-benchmark, the second compared with the first: its own verdict, and all calls of both."""
    folder = kept.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = json.loads((bench.baseline / "deploycomp.json").read_text(encoding="utf-8"))
    candidate = bench.candidate(scenario)
    models = {
        "baseline": bench.baseline / manifest["model"],
        "candidate": candidate if candidate.suffix else candidate / manifest["model"],
    }
    options = {
        "baseline": ["--benchmark-save=base"],
        "candidate": ["--benchmark-compare", "--benchmark-compare-fail=mean:5%"],
    }
    calls, codes = {}, {}
    with neighbour(busy=scenario.busy):
        for side, model in models.items():
            line = [str(PEER.ensure()), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PEER_TEST)]
            line += [f"--benchmark-storage={folder}", f"--benchmark-json={folder / side}.json", *options[side]]
            environment = {**bench.environment(scenario), "BENCH_MODEL": str(model)}
            codes[side] = subprocess.run(line, env=environment, cwd=folder, capture_output=True).returncode
            data = json.loads((folder / f"{side}.json").read_text(encoding="utf-8"))
            calls[side] = data["benchmarks"][0]["stats"]["data"]
    kept.write_text(json.dumps({"codes": codes, "calls": calls}) + "\n", encoding="utf-8")


def _t_test(found: Result, *, tolerance: float) -> bool:
    """Welch's test over all calls of two runs, one-sided at 5 %: what many gates do."""
    from scipy import stats

    limit = [value * (1 + tolerance) for value in found["calls"]["baseline"]]
    return bool(
        stats.ttest_ind(found["calls"]["candidate"], limit, equal_var=False, alternative="greater").pvalue < 0.05
    )


def _min_fails(found: Result) -> bool:
    return min(found["calls"]["candidate"]) > (1 + TOLERANCE) * min(found["calls"]["baseline"])


OTHERS: dict[str, Callable[[Result], bool]] = {
    "pytest-benchmark mean:5%": lambda found: found["codes"]["candidate"] != 0,
    "pytest-benchmark min:5%": _min_fails,
    "t-test, slower": lambda found: _t_test(found, tolerance=0.0),
    "t-test, slower by 5 %": lambda found: _t_test(found, tolerance=TOLERANCE),
}
"""Who else decides on two runs, and whether that is FAIL."""


def read(folder: Path) -> list[Result]:
    """Every run that is kept."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def shown(hits: int, runs: int) -> str:
    """A count with its Clopper-Pearson interval."""
    from scipy import stats

    low = stats.beta.ppf(0.025, hits, runs - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, runs - hits) if hits < runs else 1.0
    return f"{hits} of {runs} ({100 * low:.0f}…{100 * high:.0f} %)"


def rows(work: Path) -> Iterator[tuple[list[str], str | None]]:
    """A row of the table for each scenario with runs, and the claim that it breaks."""
    for scenario in SCENARIOS:
        found = read(work / "runs" / scenario.key)
        if not found:
            continue
        verdicts = [each["verdict"] for each in found]
        latency = [check for each in found for check in each["checks"] if check["kind"] == "latency"]
        seconds = statistics.median(each["wall_seconds"] for each in found)
        ratios = [check["ratio"] for check in latency if check["ratio"]]
        fields = [
            scenario.title,
            f"{statistics.median(ratios):.3f}",
            *(shown(verdicts.count(each), len(found)) for each in ("fail", "inconclusive")),
            f"{statistics.median(each['rounds'] for each in found):.0f}",
            f"{seconds:.0f} s",
            f"{100 * statistics.median(map(_spread, found)):.1f} %",
        ]
        theirs = read(work / "peers" / scenario.key)
        fields += [shown(sum(map(fails, theirs)), len(theirs)) if theirs else "–" for fails in OTHERS.values()]
        yield fields, _broken(scenario, verdicts, seconds)


def _spread(found: Result) -> float:
    """Robust standard deviation of log(candidate / baseline) over rounds."""
    from scipy import stats

    times = found["samples"]["numbers"][0]
    logs = [math.log(above / below) for above, below in zip(times["candidate"], times["baseline"], strict=True)]
    return float(stats.median_abs_deviation(logs, scale="normal"))


def _broken(scenario: Scenario, verdicts: list[str], seconds: float) -> str | None:
    fails = verdicts.count("fail")
    if scenario.most_fails is not None and fails > scenario.most_fails:
        return f"{scenario.title}: {fails} false FAIL"
    if scenario.least_fails is not None and len(verdicts) >= scenario.runs and fails < scenario.least_fails:
        return f"{scenario.title}: only {fails} of {len(verdicts)} FAIL"
    if scenario.key == "aa-quiet" and seconds > 60:
        return f"{scenario.title}: {seconds:.0f} s a gate"
    return None


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keys = ",".join(each.key for each in SCENARIOS)
    parser.add_argument("--only", default=keys, help="as KEY,KEY; default: %(default)s")
    parser.add_argument("--runs", type=int, help="of each scenario; default: 20, for +3 %% 10")
    parser.add_argument("--peers", action="store_true", help="also let pytest-benchmark and plain t-tests decide")
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    parser.add_argument("--work", type=Path, default=CACHE, help="where every run is kept; default: %(default)s")
    asked = parser.parse_args()
    bench = Bench(asked.work)
    for scenario in SCENARIOS:
        if asked.table or scenario.key not in asked.only.split(","):
            continue
        for kind, run in (("runs", gate), *([("peers", peer)] if asked.peers else [])):
            for number in range(asked.runs or scenario.runs):
                kept = asked.work / kind / scenario.key / f"{number:03}.json"
                kept.parent.mkdir(parents=True, exist_ok=True)
                if not kept.is_file():
                    say(f"{kind}: {scenario.title}, {number + 1} of {asked.runs or scenario.runs}")
                    run(bench, scenario, kept)
    found = list(rows(asked.work))
    heads = [
        "candidate",
        "ratio",
        "FAIL",
        "inconclusive",
        "rounds",
        "time of a gate",
        "spread of a round",
        *(f"FAIL by {name}" for name in OTHERS),
    ]
    print(" | ".join(["", *heads, ""]).strip())
    print("|" + "---|" * len(heads))
    for fields, _ in found:
        print(f"| {' | '.join(fields)} |")
    from deploycomp.measure.context import context

    print(f"\n{machine(context())}; one row of 128 tokens; medians over gates, counts with 95 % intervals.")
    broken = [why for _, why in found if why]
    for why in broken:
        say(why)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
