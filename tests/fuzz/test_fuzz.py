"""Mutated inputs are refused with one clear error, or answered as an honest copy: never a crash, hang or guess.

    pytest tests/fuzz --mutations 20000 --seed 7        a long run
    pytest tests/fuzz -k "fuzz and config" --seed 7 --only 123    one mutation of it, alone
    pytest tests/fuzz --outcomes FILE                   also write what became of all, as JSON

A mutation follows from the seed, its subject and its number alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.session import Session
from tests.fuzz.subjects import SUBJECTS

SHOWN = 40
"""So many faults are printed in full."""


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    made = Session(tmp_path_factory.mktemp("fuzz"), request.config.getoption("mutations"))
    yield made
    made.stop()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_fuzz(subject: str, session: Session, pytestconfig: pytest.Config):
    seed, only = pytestconfig.getoption("seed"), pytestconfig.getoption("only")
    share = SUBJECTS[subject][0]
    numbers = [only] if only is not None else range(round(pytestconfig.getoption("mutations") * share))
    found = [session.ask(subject, seed, number) for number in numbers]
    _write(pytestconfig.getoption("outcomes"), subject, seed, found)
    faults = [each for each in found if "fault" in each]
    if only is not None:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    assert not faults, "\n\n".join([f"{len(faults)} of {len(found)} mutations", *map(_told, faults[:SHOWN])])


def test_the_same_seed_gives_the_same_mutations(session: Session):
    first, again = (session.ask("config", 3, 5) for _ in range(2))
    assert first == again


def test_the_oracle_sees_another_answer(session: Session):
    """A fuzz that cannot fail proves nothing: another label, another weight and another limit are told apart."""
    found = session.ask("self-check", 0, 0)
    assert found.get("ended") == "three differences were seen", found


def _told(fault: dict[str, Any]) -> str:
    alone = f"pytest tests/fuzz -k 'fuzz and {fault['subject']}' --seed {fault['seed']} --only {fault['index']}"
    return f"{fault['fault']}\n{fault['done']}\n$ {alone}"


def _write(place: str | None, subject: str, seed: int, found: list[dict[str, Any]]) -> None:
    if place is None:
        return
    path = Path(place)
    every = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"seed": seed, "subjects": {}}
    ends = Counter("fault" if "fault" in each else each["ended"].split(" (")[0].split(": ")[0] for each in found)
    every["subjects"][subject] = {"mutations": len(found), "outcomes": dict(sorted(ends.items()))}
    path.write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")
