"""Every kind of graph on every version: right, or refused by name. Prints its table into docs/versions.md.

python run.py                # the whole matrix, about half an hour; exit 1 where a pair is wrong
python run.py --newest       # what CI runs, about two minutes: the newest versions, answers only
python run.py --made FOLDER  # with graphs that `make.py` wrote before
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from common import ROOT, say
from matrix import FOLDER, Venv, newest_stack, runtimes, transformers

HERE = Path(__file__).resolve().parent
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- begin: make test-versions -->", "<!-- end: make test-versions -->"
TESTS = ("tests/models", "tests/export")
"""What a transformers must pass: loading and exporting every architecture and task."""
SLOWEST = 1.05
"""The default graph may take so much of the time of the best form on the newest ONNX Runtime."""

Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--newest", action="store_true")
    parser.add_argument("--made", type=Path)
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests under other transformers")
    parser.add_argument("--quick", action="store_true", help="take times on the newest ONNX Runtime only")
    asked = parser.parse_args()
    work = FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    wrong = _newest(work) if asked.newest else _all(work, asked)
    for each in wrong:
        print(f"WRONG: {each}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def _newest(work: Path) -> list[str]:
    """Load and export with the newest versions, then answer with the newest ONNX Runtime alone."""
    made = work / "newest"
    _make(newest_stack().ensure(), made, small=True)
    (venv,) = runtimes(newest_only=True)
    found = _answer(venv, made, times=False)
    kinds = _kinds(made)
    print(f"ONNX Runtime {found['onnxruntime']}, Python {found['python']}, made with the newest versions")
    for kind in kinds:
        print(f"  {kind['name']}: {_words(found, kind)}")
    return [*failures(found, kinds), *unfused(found, kinds)]


def _all(work: Path, asked: argparse.Namespace) -> list[str]:
    made: Path = asked.made or work / "locked"
    if asked.made is None:
        _make(Path(sys.executable), made, small=False)
    kinds = _kinds(made)
    venvs = runtimes()
    newest = runtimes(newest_only=True)
    results = [
        _answer(venv, made, times=venv in newest or (not asked.quick and "-py" not in venv.name)) for venv in venvs
    ]
    wrong = [each for found in results for each in failures(found, kinds)]
    wrong += slower_than_best(results, kinds)
    rows, more = _transformers(work, tests=not asked.no_tests)
    _print_page(results, kinds, rows)
    return [*wrong, *more]


def _transformers(work: Path, *, tests: bool) -> tuple[list[tuple[str, ...]], list[str]]:
    """Each transformers: does it write the bytes that the locked one writes, and does it pass the tests."""
    _make(Path(sys.executable), work / "small", small=True)
    locked = {kind["name"]: kind["sha256"] for kind in _kinds(work / "small")}
    rows: list[tuple[str, ...]] = []
    wrong: list[str] = []
    for venv in transformers():
        made = work / venv.name
        _make(venv.ensure(), made, small=True)
        other = [kind for kind in _kinds(made) if kind["sha256"] != locked[kind["name"]]]
        if other:  # other bytes may be right too: the newest ONNX Runtime tells
            found = _answer(runtimes(newest_only=True)[0], made, times=False)
            wrong += [f"{venv.name}: {each}" for each in failures(found, _kinds(made))]
        passed = "not run"
        if tests:
            passed = _pytest(venv)
            wrong += [f"{venv.name}: {passed}"] if "passed" not in passed or "failed" in passed else []
        same = "the same bytes" if not other else f"{len(other)} of {len(locked)} differ, answers compared"
        rows.append((venv.name.removeprefix("transformers-"), same, passed))
    return rows, wrong


def failures(found: Found, kinds: list[Found]) -> list[str]:
    """Pairs that are neither right nor refused, and manifests that promise another thing."""
    wrong: list[str] = []
    version = found["onnxruntime"]
    for kind in kinds:
        seen, who = found["kinds"][kind["name"]], f"ONNX Runtime {version}: {kind['name']}"
        words = {mask: each["word"] for mask, each in seen["answers"].items()}
        old = numbers(version) < numbers(kind["needs"]["lowest"])
        if old and seen["ours"] == "answers":
            wrong.append(f"{who}: our runtime opens it, and the manifest asks for {kind['needs']['lowest']}")
        if old:
            continue
        if seen["opened"] or seen["ours"] != "answers":
            wrong.append(f"{who}: refused ({seen['opened'] or seen['ours']}), and the manifest promises it")
        takes = ("no padding", "right") if kind["needs"]["padding"] == "right" else tuple(words)
        for mask, word in words.items():
            if word != ("right" if mask in takes else "refused"):
                wrong.append(f"{who}: padding {mask}: {word} {seen['answers'][mask]}")
    return wrong


def unfused(found: Found, kinds: list[Found]) -> list[str]:
    """Kinds for CPUs that run operators as many small ones on the runtime that they were made on."""
    return [
        f"{kind['name']}: {found['kinds'][kind['name']]['expanded']} run as many small operators"
        for kind in kinds
        if kind["precision"] != "fp16" and found["kinds"][kind["name"]].get("expanded")
    ]


def slower_than_best(results: list[Found], kinds: list[Found]) -> list[str]:
    """The default FP32 graph beside the best form of the same model, on the newest ONNX Runtime."""
    newest = max((each for each in results if _timed(each)), key=lambda each: numbers(each["onnxruntime"]))
    ratios = {
        kind["name"]: _mean(newest["kinds"][kind["name"]])
        for kind in kinds
        if kind["precision"] == "fp32" and kind["task"] == "text-classification"
    }
    best = min(ratios, key=lambda name: ratios[name])
    share = ratios["FP32"] / ratios[best]
    print(f"ONNX Runtime {newest['onnxruntime']}: the default takes {share:.2f} of the time of the best, '{best}'")
    return [f"the default FP32 graph takes {share:.2f} of the time of '{best}'"] if share > SLOWEST else []


def numbers(version: str) -> tuple[int, ...]:
    """1.25.1 → (1, 25, 1)."""
    return tuple(int(each) for each in version.split(".")[:3] if each.isdigit())


def _make(python: Path, folder: Path, *, small: bool) -> None:
    say(f"making graphs in {folder.name} with {python}")
    shutil.rmtree(folder, ignore_errors=True)
    _run([str(python), str(HERE / "make.py"), str(folder), *(["--small"] if small else [])])


def _answer(venv: Venv, made: Path, *, times: bool) -> Found:
    say(f"opening them with {venv.name}")
    target = made / f"{venv.name}.json"
    _run([str(venv.ensure()), str(HERE / "answer.py"), str(made), str(target), *(["--times"] if times else [])])
    return json.loads(target.read_text(encoding="utf-8"))


def _pytest(venv: Venv) -> str:
    say(f"tests with {venv.name}")
    command = [str(venv.ensure()), "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[-1].strip("= ").split(" in ")[0] if done.stdout.strip() else "no output"


def _run(command: list[str]) -> None:
    """Run to the end; what it says is shown where it fails."""
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _kinds(folder: Path) -> list[Found]:
    return json.loads((folder / "kinds.json").read_text(encoding="utf-8"))


def _timed(found: Found) -> bool:
    return any("ratio" in each for each in found["kinds"].values())


def _mean(seen: Found) -> float:
    """Geometric mean over the shapes."""
    values = list(seen["ratio"].values())
    return math.exp(sum(map(math.log, values)) / len(values))


def _words(found: Found, kind: Found) -> str:
    """`right, 0.93` or what refuses it."""
    seen = found["kinds"][kind["name"]]
    if seen["opened"]:
        return "refused"
    if seen["ours"] != "answers":
        return "refused by ours" if any(each["word"] == "wrong" for each in seen["answers"].values()) else "refused"
    word = "wrong" if any(each["word"] == "wrong" for each in seen["answers"].values()) else "right"
    if seen.get("expanded") and kind["precision"] != "fp16":
        word += ", expanded"
    return f"{word}, {_mean(seen):.2f}" if "ratio" in seen else word


def _print_page(results: list[Found], kinds: list[Found], rows: list[tuple[str, ...]]) -> None:
    here = ".".join(map(str, sys.version_info[:2]))
    main = [each for each in results if each["python"].startswith(f"{here}.")]
    others = [each for each in results if each not in main]
    lines = ["| graph | needs | padding | " + " | ".join(each["onnxruntime"] for each in main) + " |"]
    lines.append("|---" * (3 + len(main)) + "|")
    for kind in kinds:
        cells = [_words(each, kind) for each in main]
        needs = kind["needs"]
        lines.append(f"| {kind['name']} | {needs['lowest']} | {needs['padding']} | " + " | ".join(cells) + " |")
    lines += ["", "| Python | ONNX Runtime | kinds right | refused |", "|---|---|---|---|"]
    for each in others:
        words = [_words(each, kind) for kind in kinds]
        right = sum(word == "right" or word.startswith("right,") for word in words)
        lines.append(f"| {each['python']} | {each['onnxruntime']} | {right} | {len(words) - right} |")
    lines += ["", f"| transformers | graphs beside those of the lock | {', '.join(TESTS)} |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}", encoding="utf-8")
    say(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
