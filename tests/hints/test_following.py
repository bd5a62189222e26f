"""A hint says what to type: it is typed here, and leads on.

Every hint that names a command, a flag, a package or a line of Python stands in `table.py`, followed or with a reason.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from deploycomp.cli.app import app
from deploycomp.errors import InputRefused
from deploycomp.runtime import Predictor
from tests.cli import made
from tests.cli.made import ROOT
from tests.hints.found import hints
from tests.hints.table import FOLLOWED, MOVING, MOVING_REASONS, NOT_FOLLOWED, Case

Run = Callable[..., Any]
World = dict[str, Path]

TO_TYPE = re.compile(
    r"--[a-z]|\bdeploycomp (?!that)[a-z-]|^\{\} (?!without)\S|pip install|python -c|"
    r"\b(transformers|tokenizer)\.(?!json)\S|\w\.\w+\("
)
"""What a hint that can be typed holds."""

KNOWN = {hint.text for hint in hints()}
CASES = (*FOLLOWED, *(case for case in MOVING if case.hint in KNOWN))
REASONS = {**NOT_FOLLOWED, **MOVING_REASONS}
TYPED = sorted({hint.text for hint in hints() if TO_TYPE.search(hint.text)})

_ALTERNATIVES = re.compile(r",? or (?=--|\w+:? )|; |, (?=--|\w+=\d)|: (?=--|deploycomp)| or (?=\w+=)")
_PROSE = ("with", "and", "exports", "for", "writes", "measures", "saves", "that", "beside", "away", "out,")
"""Words that end what is to be typed."""
_PLACEHOLDERS = ("MODEL", "DATA", "FILE", "FOLDER", "ARTIFACT", "BASELINE", "train.jsonl", "test.jsonl")


# ------------------------------------------------------------ all of them


def test_every_hint_that_can_be_typed_stands_in_the_table():
    places = {hint.text: hint.place for hint in hints()}
    known = {*(case.hint for case in CASES), *REASONS}
    missing = [f"{places[text]}: {text}" for text in TYPED if text not in known]
    assert not missing, "follow them in tests/hints/table.py:\n" + "\n".join(missing)


def test_the_table_names_no_hint_that_is_gone():
    assert sorted({*(case.hint for case in FOLLOWED), *NOT_FOLLOWED} - KNOWN) == []


def test_the_reader_finds_hints():
    assert len({hint.text for hint in hints()}) > 100
    assert len(TYPED) > 60


@pytest.mark.parametrize("text", TYPED)
def test_what_a_hint_names_exists(text: str):
    commands = _commands()
    named = REASONS[text].commands if text in REASONS else _asked_of(text)
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", _ours(text)):
        if text != "deploycomp --help":
            assert named, f"{text}: the table does not say which command {flag} is for"
            assert all(flag in commands[name] for name in named), f"no {flag} in {named}"
    for name in re.findall(r"\bdeploycomp (?!that)([a-z]+)", text):
        assert name in commands, f"there is no command {name}"
    for extra in re.findall(r"pip install 'deploycomp\[([\w-]+)\]'", text):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert extra in project["optional-dependencies"]
    _check_python(text)


def _ours(text: str) -> str:
    """A hint without the flags of other programs."""
    return re.sub(r"pip install --upgrade|docker run --\w+", "", text)


def _asked_of(text: str) -> tuple[str, ...]:
    return tuple({case.asked.split()[0] for case in CASES if case.hint == text})


def _commands() -> dict[str, set[str]]:
    """Every command with its flags, those of its subcommands too."""
    group: Any = get_command(app)
    found: dict[str, set[str]] = {}
    for name, command in group.commands.items():
        every = [command, *getattr(command, "commands", {}).values()]
        found[name] = {flag for each in every for option in each.params for flag in option.opts + option.secondary_opts}
        if name == "gate":
            from deploycomp.cli.gate import calibrate

            found[name] |= {flag for flag in ("--budget", "--output") if calibrate is not None}
    return found


def _check_python(text: str) -> None:
    """Names of transformers, torch and safetensors in a hint exist."""
    import safetensors.torch
    import transformers

    owners = {
        "model": transformers.PreTrainedModel,
        "tokenizer": transformers.PreTrainedTokenizerFast,
        "AutoTokenizer": transformers.AutoTokenizer,
        "transformers": transformers,
        "s": safetensors.torch,
        "Predictor": Predictor,
    }
    foreign = {"merge_and_unload"}  # of peft's model, which need not be installed
    for owner, name in re.findall(r"\b(model|tokenizer|AutoTokenizer|transformers|Predictor|s)\.([a-z_]{4,})", text):
        if name not in ("safetensors", "json", "model", *foreign):
            if owner == "transformers":
                __import__(f"transformers.{name}")
            else:
                assert hasattr(owners[owner], name), f"{owner} has no {name}"


# ------------------------------------------------------------ followed


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.hint[:50]} {case.which}".strip())
def test_a_hint_leads_on(case: Case, run: Run, world: World):
    world |= _made_up(world)
    asked = [word.format_map(world) for word in shlex.split(case.asked)]
    refused = run(*asked, "--json")
    assert refused.code in (2, 3, 4, 5), refused.out
    said = json.loads(refused.out)
    assert re.fullmatch(_pattern(case.hint), str(said["next"]), re.DOTALL), said
    command = _followed(case, asked, str(said["next"]), world)
    done = run(*command, *([] if command == ["recipes"] else ["--json"]))
    assert done.code == case.ends, f"{command}\n{done.out}{done.err}"
    if case.then:
        assert case.then in done.out.replace("\\n", "\n"), done.out
        assert json.loads(done.out).get("what") != said["what"]


def test_an_artifact_that_is_not_there_yet(run: Run, world: World):
    with pytest.raises(InputRefused) as caught:
        Predictor.load(world["OUT"])
    assert caught.value.hint == "deploycomp export MODEL -o FOLDER writes one"
    words = _typed(caught.value.hint)
    command = [{"MODEL": str(world["M"]), "FOLDER": str(world["OUT"])}.get(word, word) for word in words[1:]]
    assert run(*command, "--no-benchmark", "-q").code == 0
    assert Predictor.load(world["OUT"])("the good film").label


def _made_up(world: World) -> World:
    """Places that only some cases need."""
    place = world["OUT"].parent
    anonymous, strange = (Path(shutil.copytree(world["COPY"], place / name)) for name in ("anonymous", "strange"))
    for folder, names in ((anonymous, None), (strange, ["BertForNextSentencePrediction"])):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config.pop("architectures")
        config |= {"architectures": names} if names else {}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    copied = Path(shutil.copytree(made.fp32().path, place / "copied"))
    return {"ANONYMOUS": anonymous, "STRANGE": strange, "COPIED": copied, "LONG": place / ("x" * 300)}


def _pattern(template: str) -> str:
    return "(?:.*)".join(map(re.escape, template.split("{}")))


def _followed(case: Case, asked: list[str], said: str, world: World) -> list[str]:
    """The command as someone types it who reads the hint."""
    words = [] if case.without and "leave" in said else _typed(said, case.which)
    if case.given:
        words = _filled(words, case.given.format_map(world))
    words = [_first_choice(word) for word in words]
    more = [word.format_map(world) for word in shlex.split(case.more)]
    if words[:1] == ["deploycomp"]:
        return [*words[1:], *more]
    return _merged(_without(asked, case.without), words) + more


def _typed(said: str, which: str = "") -> list[str]:
    """The words of a hint that are to be typed: from the first flag or command to the first prose."""
    for piece in _ALTERNATIVES.split(said):
        begin = re.search(r"deploycomp [a-z]|--[a-z]", piece)
        if begin and piece[begin.start() :].startswith(which):
            words = shlex.split(piece[begin.start() :].replace("(", " ").replace(")", " ").replace("'", ""))
            prose = [index for index, word in enumerate(words) if word in (*_PROSE, "labels")]
            return [word.rstrip(",") for word in words[: prose[0] if prose else None]]
    raise AssertionError(f"there is nothing to type in {said!r}")


def _filled(words: list[str], value: str) -> list[str]:
    """Put *value* where the placeholder stands, or behind the flag that stands alone."""
    places = [index for index, word in enumerate(words) if word in _PLACEHOLDERS or word.endswith(("=FILE", "=…"))]
    if places:
        index = places[0]
        words[index] = words[index].replace("FILE", value) if words[index].endswith("=FILE") else value
        return words
    return [*words[:1], value]


def _first_choice(word: str) -> str:
    """`a|b|c` leaves the choice."""
    return word.split("|")[0]


def _merged(asked: list[str], words: list[str]) -> list[str]:
    """Lay what is typed over what was asked: a flag that was given before is given anew."""
    for flag in (word for word in words if word.startswith("--")):
        asked = _without(asked, flag)
        asked = _without(asked, "-o") if flag == "--output" else asked
    return [*asked, *words]


def _without(asked: list[str], flag: str) -> list[str]:
    if not flag or flag not in asked:
        return asked
    at = asked.index(flag)
    value = at + 1 < len(asked) and not asked[at + 1].startswith("-")
    return asked[:at] + asked[at + (2 if value else 1) :]
