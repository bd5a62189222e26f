"""The table of faults is whole, its tests exist, and the page is what is printed from it."""

from __future__ import annotations

import ast
import re
from functools import cache

from benchmarks.reliability import PAGE, static_part
from tests.cli.made import ROOT
from tests.faults.table import ROWS, shown_by

FAULTS = 54


def test_every_fault_has_tests_or_a_reason():
    assert [row.number for row in ROWS] == list(range(1, FAULTS + 1))
    assert [row.number for row in ROWS if not shown_by(row) and not row.why] == []


def test_every_test_of_the_table_exists():
    named = [test for row in ROWS for test in shown_by(row)]
    assert [test for test in named if test.partition("::")[2] not in _tests(test.partition("::")[0])] == []


@cache
def _tests(file: str) -> set[str]:
    """The names of the tests in a file, by reading it: collecting them all would import every library."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_the_page_is_what_is_printed():
    """But for the last run, whose numbers `make reliability` writes."""
    page = PAGE.read_text(encoding="utf-8")
    assert static_part() in page, "print it again: make reliability"


def test_the_page_tells_of_the_last_run():
    page = PAGE.read_text(encoding="utf-8")
    assert re.search(r"\*\*[\d,]+\*\* mutated inputs", page)
    assert re.search(r"\*\*[\d,]+\*\* moments", page)
