"""Whatever text comes in, it is one printable line, no command of a CI system, and JSON that reads back equal."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.errors import InputRefused
from deploycomp.escape import document, json_text, one_line

PIECES = [
    "::",
    "##[",
    "##vso[",
    "##teamcity[",
    "\n",
    "\r",
    "\x1b[2J",
    "\u202e",
    "\u200b",
    "\u2028",
    "\u2029",
    "\x85",
    " ",
    "x",
]
TEXT = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
ANY = st.characters() | st.characters(categories=["Cs"])
"""Every character, lone surrogates too."""

COMMAND = re.compile(r"^\s*::|##\w*\[")
UNSEEN = "\u034f\u115f\u1160\u3164\uffa0\u2800\u061c\u180e"


@given(TEXT | st.text(ANY, max_size=30))
def test_one_line_is_one_printable_line_and_no_command(text: str):
    shown = one_line(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert not COMMAND.search(shown)
    assert one_line(shown) == shown


@given(TEXT | st.text(ANY, max_size=30))
def test_a_document_keeps_its_line_feeds_and_nothing_else(text: str):
    shown = document(text)
    assert shown.count("\n") == text.count("\n")
    assert all(each.isprintable() or each in "\n\t" for each in shown)
    assert not any(COMMAND.search(line) for line in shown.splitlines())
    assert document(shown) == shown


@given(st.recursive(TEXT | st.text(ANY, max_size=30), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_json_reads_back_equal_and_steers_nothing(value: object):
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert json.loads(text) == value
        assert all(each.isprintable() or each == "\n" for each in text)
        assert not any(COMMAND.search(line) for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ümläut, 中文, عربى, 🎉", "plain text, ümläut, 中文, عربى, 🎉"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[31m\x9b\x7f", "\\x1b[31m\\x9b\\x7f"),
        ("\u202e\u2066\u200b\ufeff\u2028\u2029\x85", "\\u202e\\u2066\\u200b\\ufeff\\u2028\\u2029\\x85"),
        ("\U000e0001", "\\U000e0001"),
        ("\udce9", "\\udce9"),
        ("::error::x", "\\x3a:error::x"),
        ("  ::add-mask::x", "  \\x3a:add-mask::x"),
        ("a ::error::x", "a ::error::x"),
        ("a ##[error]x", "a #\\x23[error]x"),
        ("##vso[task.setvariable]x ##teamcity[x]", "#\\x23vso[task.setvariable]x #\\x23teamcity[x]"),
        ("###[error]", "##\\x23[error]"),
        ("# title ## [x]", "# title ## [x]"),
    ],
)
def test_what_is_shown(text: str, shown: str):
    assert one_line(text) == shown


@pytest.mark.parametrize("char", UNSEEN)
def test_what_is_drawn_as_nothing_is_shown(char: str):
    assert one_line(f"a{char}b") == f"a\\u{ord(char):04x}b"
    assert json.loads(json_text(char)) == char
    assert char not in json_text(char)


@given(TEXT, TEXT, TEXT, TEXT)
def test_no_part_of_an_error_begins_a_line(what: str, where: str, why: str, hint: str):
    error = InputRefused(what, where=where, why=why, hint=hint)
    heads = [("", what), ("  where: ", where), ("  why:   ", why), ("  next:  ", hint)]
    wanted = [head + one_line(text) for head, text in heads if text or not head]
    assert str(error).split("\n") == wanted
    assert error.as_dict()["next"] == hint  # raw: for programs
