"""Every error says what, where, why and what next, and has its own exit code."""

from __future__ import annotations

import pytest

from deploycomp import errors
from deploycomp.errors import DeploycompError, Interrupted

CODES = {
    "GateFailed": 1,
    "UsageError": 2,
    "InputRefused": 3,
    "VerificationFailed": 4,
    "EnvironmentFailed": 5,
    "Inconclusive": 6,
}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_exit_codes_are_those_of_the_table_in_the_docstring(name: str, code: int):
    kind = getattr(errors, name)
    assert issubclass(kind, DeploycompError)
    assert kind("x").exit_code == code
    drawn = next(line for line in (errors.__doc__ or "").splitlines() if f" {name} " in line)
    assert drawn.split()[2] == str(code)


def test_the_tree_is_complete():
    assert {kind.__name__ for kind in DeploycompError.__subclasses__()} == set(CODES)
    assert set(errors.__all__) == {*CODES, "DeploycompError", "Interrupted", "panicked"}


def test_message_has_what_where_why_and_next():
    error = errors.InputRefused("it is broken", where="a/file", why="one byte is missing", hint="copy it again")
    assert str(error) == ("it is broken\n  where: a/file\n  why:   one byte is missing\n  next:  copy it again")
    assert error.as_dict() == {
        "error": "InputRefused",
        "exit_code": 3,
        "what": "it is broken",
        "where": "a/file",
        "why": "one byte is missing",
        "next": "copy it again",
    }


def test_what_is_not_known_is_left_out():
    assert str(errors.GateFailed("too slow", hint="prune less")) == "too slow\n  next:  prune less"
    assert errors.GateFailed("too slow").as_dict()["where"] is None


def test_an_interruption_is_no_exception_that_a_library_swallows():
    assert not issubclass(Interrupted, Exception)
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert Interrupted().exit_code == 130
    assert Interrupted(143).exit_code == 143
