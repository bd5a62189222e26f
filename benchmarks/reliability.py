"""docs/reliability.md: what was broken on purpose, what happened then, and the numbers of the last run.

    .venv/bin/python benchmarks/reliability.py                       # prints the page again from the last run
    .venv/bin/python benchmarks/reliability.py --run                 # runs everything first; about two hours
    .venv/bin/python benchmarks/reliability.py --run --mutations 1000 --kills 10 --seed 1

The table is tests/faults/table.py; the last run is benchmarks/reliability.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.faults.table import ROWS, Row, shown_by  # noqa: E402  the root is not installed

PAGE = ROOT / "docs" / "reliability.md"
LAST = ROOT / "benchmarks" / "reliability.json"

HEAD = """# Reliability

What can be wrong with an input or a machine, what deploycomp does then, and the tests that show it. This page is
printed by `make reliability` from `tests/faults/table.py` and from its last run; a test holds it against the table.

The numbers in brackets are exit codes: see [errors](errors.md).
"""

TABLE = """## Every fault that was thought of

| # | fault | what happens | shown by |
|---|---|---|---|
"""

HOW = """## How to run it again

```bash
make reliability                                          # all of it, and this page anew
pytest tests/fuzz --mutations 20000 --seed 7              # more mutations, of another seed
pytest tests/faults/test_kills.py --kills 200 --seed 7    # more moments
```

A mutation that fails prints the command that repeats it alone. Mutated are `config.json`, `tokenizer.json`,
`tokenizer_config.json`, weights, the files of sentence-transformers, recipes, rows, manifests and graphs. None may end
in a crash, a traceback, a hang of more than 10 s or a gigabyte of memory. What is accepted must answer probe texts
(upper case, accents, Chinese, emoji, long, empty, pairs) as the original does in transformers or sentence-transformers,
and a changed artifact as its honest copy does.
"""


def main() -> None:
    """Print the page, after running what it tells of where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the tests of the table, the fuzz and the kills first")
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    if asked.run:
        LAST.write_text(json.dumps(run(asked), indent=2) + "\n", encoding="utf-8")
    text = page(json.loads(LAST.read_text(encoding="utf-8")))
    if asked.run:
        PAGE.write_text(text, encoding="utf-8")
    print(text, end="")


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Run everything and return what became of it."""
    with tempfile.TemporaryDirectory() as place:
        outcomes, results = Path(place, "outcomes.json"), Path(place, "junit.xml")
        more = (f"--mutations={asked.mutations}", f"--kills={asked.kills}", f"--seed={asked.seed}")
        _pytest("tests/fuzz", "tests/faults/test_kills.py", f"--outcomes={outcomes}", *more)
        named = sorted({f"tests/{test}" for row in ROWS for test in shown_by(row) if "fuzz/" not in test})
        _pytest(*named, f"--junit-xml={results}")
        found = json.loads(outcomes.read_text(encoding="utf-8"))
        passed, failed = _results(results)
    found["rows"] = {row.number: _state(row, passed, failed) for row in ROWS}
    return found


def _pytest(*arguments: str) -> None:
    """Run tests; what fails is counted, and stops nothing."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], cwd=ROOT, env=environment, check=False)


def _results(path: Path) -> tuple[set[str], set[str]]:
    """Names of the tests that ran, and of those of which one failed."""
    ran: set[str] = set()
    failed: set[str] = set()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        file = case.attrib["classname"].removeprefix("tests.").replace(".", "/")
        name = f"{file}.py::{case.attrib['name'].partition('[')[0]}"
        skipped = case.find("skipped") is not None
        ran |= set() if skipped else {name}
        failed |= {name} if case.find("failure") is not None or case.find("error") is not None else set()
    return ran, failed


def _state(row: Row, ran: set[str], failed: set[str]) -> str:
    tests = {test for test in shown_by(row) if "fuzz/" not in test}
    if not tests:
        return "not tested"
    return "failed" if tests & failed else "passed" if tests <= ran else "not run"


def static_part() -> str:
    """The page without the numbers of the last run."""
    return TABLE + "".join(f"{_line(row)}\n" for row in ROWS) + "\n" + HOW


def _line(row: Row) -> str:
    tests = [f"`{test.rpartition('::')[2]}` in `{test.partition('::')[0]}`" for test in shown_by(row)]
    return (
        f"| {row.number} | {row.fault} | {row.behaviour} | {'<br>'.join([*tests, *([row.why] if row.why else [])])} |"
    )


def page(last: dict[str, Any]) -> str:
    """The whole page."""
    return f"{HEAD}\n{_last(last)}\n{static_part()}"


def _last(last: dict[str, Any]) -> str:
    subjects, kills = last.get("subjects", {}), last.get("kills", {})
    ends: Counter[str] = Counter()
    for each in subjects.values():
        ends.update(each["outcomes"])
    count = sum(each["mutations"] for each in subjects.values())
    states = Counter(last.get("rows", {}).values())
    refused = sum(number for name, number in ends.items() if name.startswith("refused"))
    lines = [
        "## The last run",
        "",
        f"**{count:,}** mutated inputs (seed {last.get('seed')}): {refused:,} refused with one clear error, "
        f"{count - refused - ends['fault']:,} accepted and found right, or without a right answer; "
        f"**{ends['fault']:,}** faults.",
        f"**{kills.get('moments', 0):,}** moments at which an export was killed, interrupted or ended (seed "
        f"{kills.get('seed')}): all left the old output, the new one, or nothing, and the next run succeeded:",
        f"{_told(kills.get('found', {}))}.",
        *([_rows(states)] if states else []),
        "",
        "| mutated | inputs | what became of them |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {each['mutations']:,} | {_told(each['outcomes'])} |" for name, each in subjects.items()]
    return "\n".join(lines) + "\n"


def _rows(states: Counter[str]) -> str:
    others = ", ".join(f"{states[name]} {name}" for name in ("failed", "not run", "not tested"))
    return f"**{states['passed']}** of {len(ROWS)} faults: every test of them passed; {others}, with the reason below."


def _told(outcomes: dict[str, int]) -> str:
    return "; ".join(f"{number:,} {name}" for name, number in sorted(outcomes.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()
