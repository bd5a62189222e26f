"""Every command that the documentation shows exists and parses, and every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from deploycomp.cli.app import app
from deploycomp.recipe import find_recipes
from tests.cli.made import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("recipes/*.md")]
)
OTHER_LANGUAGES = ("python", "py", "json", "yaml", "html", "toml", "mermaid", "diff", "text", "text-output")
"""Fenced blocks that hold no commands; blocks without a language are read."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[\w+-]*).*?\n(?P<body>.*?)^ *(?P=ticks)`*\s*$", re.M | re.S
)
_LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(\s*<?(?P<target>[^)\s>]+)>?[^)]*\)")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *#*$", re.M)
_SEPARATORS = {"&&", "||", "|", ";", "&", "(", ")"}


def blocks(text: str) -> Iterator[str]:
    for match in _FENCE.finditer(text):
        if match["language"].lower() not in OTHER_LANGUAGES:
            yield match["body"].replace("\\\n", " ")


def commands(text: str) -> Iterator[list[str]]:
    """Every `deploycomp …` and `make …` in fenced blocks, without prompts, comments, pipes and redirections."""
    for block in blocks(text):
        for line in block.splitlines():
            line = re.sub(r"^\s*[$>] ", "", line).strip()
            if not re.match(r"([\w./-]*/)?(deploycomp|make)\b|\w+=\S+ |time |cd |pip |python", line):
                continue
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split, words.commenters = True, "#"
            yield from _split(list(words))


def _split(words: list[str]) -> Iterator[list[str]]:
    current: list[str] = []
    for word in [*words, ";"]:
        if word in _SEPARATORS or word.startswith((">", "<")):
            while current and (re.fullmatch(r"\w+=.*", current[0]) or current[0] == "time"):
                current = current[1:]  # OMP_NUM_THREADS=1 deploycomp …
            if current and Path(current[0]).name in ("deploycomp", "make"):
                yield [Path(current[0]).name, *current[1:]]
            current = ["redirected"] if word.startswith((">", "<")) else []
        else:
            current.append(word)


def parse(words: list[str]) -> None:
    """Parse a `deploycomp` command line without running it.

    Raises:
        Exception: typer's, when a command, an option or an argument is wrong.
    """
    group: Any = get_command(app)
    if not words or words in (["--help"], ["-h"], ["--version"]):
        return
    name, *rest = words
    command = group.commands.get(name)
    assert command is not None, f"there is no command {name!r}"
    rest = [word for word in rest if word not in ("--help", "-h")] if {"--help", "-h"} & set(rest) else rest
    if len(rest) == len(words) - 1:
        command.make_context(name, list(rest))
    if name == "export" and "--help" not in words and _knows_its_recipe(rest):
        done = CliRunner().invoke(app, [*words, "--dry-run"])
        assert done.exit_code == 0, done.output


def _knows_its_recipe(words: list[str]) -> bool:
    if "--recipe" not in words:
        return True
    return words[words.index("--recipe") + 1] in find_recipes()


SHOWN = [(page, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]
RECIPES = [
    (path, shlex.split(line.lstrip("# ")))
    for path in find_recipes().values()
    for line in path.read_text(encoding="utf-8").splitlines()
    if line.lstrip("# ").startswith("deploycomp ")
]


def _name(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else value.name if isinstance(value, Path) else str(value)


@pytest.mark.parametrize(
    ("page", "words"), [each for each in [*SHOWN, *RECIPES] if each[1][0] == "deploycomp"], ids=_name
)
def test_commands_parse(page: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    parse(words[1:])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("page", "words"), [each for each in SHOWN if each[1][0] == "make"], ids=_name)
def test_make_targets_exist(page: Path, words: list[str]):
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _slug(heading: str) -> str:
    """GitHub's: lower case, letters, digits, hyphens; spaces become hyphens."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


LINKS = [
    (page, match["target"])
    for page in PAGES
    for match in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8")))
    if not re.match(r"[a-z]+:", match["target"])
]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=_name)
def test_links_lead_to_files_and_headings(page: Path, target: str):
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.exists(), f"{page.name} links to {target}"
    assert there.is_relative_to(ROOT)
    if anchor and there.suffix == ".md":
        headings = {_slug(match["text"]) for match in _HEADING.finditer(there.read_text(encoding="utf-8"))}
        assert anchor in headings, f"{page.name} links to {target}, which has {sorted(headings)}"


def test_pages_were_found():
    assert ROOT / "README.md" in PAGES


# ------------------------------------------------------------ the reader itself

EXAMPLE = r"""
```sh
$ deploycomp export ./m --int8 \
    --target auto   # a comment
OMP_NUM_THREADS=1 deploycomp doctor --json | jq .cpu > deploycomp.txt
make demo && .venv/bin/deploycomp recipes
prints: deploycomp something
```
```python
deploycomp.nothing()
```
  ```
  deploycomp --version
  ```
"""


def test_the_reader_of_pages_finds_commands():
    assert list(commands(EXAMPLE)) == [
        ["deploycomp", "export", "./m", "--int8", "--target", "auto"],
        ["deploycomp", "doctor", "--json"],
        ["make", "demo"],
        ["deploycomp", "recipes"],
        ["deploycomp", "--version"],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "deploycomp exprot m",
        "deploycomp export m --int9",
        "deploycomp export m --max-drop 0.5",
        "deploycomp export m --recipe int8 --target toaster",
        "deploycomp evaluate m",
        "deploycomp benchmark m --blocks one",
    ],
)
def test_the_reader_of_pages_notices(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=r"."):
        parse(line.split()[1:])
