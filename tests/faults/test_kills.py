"""Killed at any moment: the old output or the new one, never half of one; the next run finds nothing in its way.

pytest tests/faults/test_kills.py --kills 200 --seed 7 --outcomes FILE
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from deploycomp.artifact import Artifact
from tests.cli import made

CODES = {signal.SIGKILL: (-9,), signal.SIGINT: (130,), signal.SIGTERM: (143,)}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
"""Half of them are what no program can answer."""
SHARE_OF_QUICK_END = 1.02
"""Moments reach a little beyond the end, so that the last system calls are met too."""
START_SECONDS = 300.0


@dataclass
class Zygote:
    """The process that forks."""

    child: subprocess.Popen[str]
    lines: queue.Queue[str]

    def run(self, *arguments: object, after: float | None = None, number: int = 0) -> dict[str, Any]:
        """Run a command, with a signal after so many seconds."""
        assert self.child.stdin is not None
        asked = {"arguments": list(map(str, arguments)), "after": after, "number": number}
        self.child.stdin.write(json.dumps(asked) + "\n")
        self.child.stdin.flush()
        return json.loads(self.lines.get(timeout=START_SECONDS))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    environment = {**os.environ, **made.ONE_THREAD, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.zygote", str(made.model())],
        cwd=made.ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        lines: queue.Queue[str] = queue.Queue()
        assert child.stdout is not None
        threading.Thread(target=lambda: [lines.put(line) for line in child.stdout or ()], daemon=True).start()
        assert json.loads(lines.get(timeout=START_SECONDS)) == {"ready": True}
        yield Zygote(child, lines)
        assert child.stdin is not None
        child.stdin.close()
        child.wait(timeout=60)


def arguments(out: Path) -> tuple[object, ...]:
    return ("export", made.model(), "-o", out, "--no-benchmark", "--overwrite", "--quiet")


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An export that nobody disturbs, and how long it takes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    first, second = (zygote.run(*arguments(out)) for _ in range(2))
    assert (first["ended"], second["ended"]) == (0, 0), second["err"]
    return out, second["seconds"]


@pytest.fixture(scope="module")
def other(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another artifact, which stands where the new one will."""
    out = tmp_path_factory.mktemp("other") / "out"
    assert zygote.run(*arguments(out), "--int8")["ended"] == 0
    return out


def test_killed_at_any_moment(
    zygote: Zygote, whole: tuple[Path, float], other: Path, tmp_path: Path, pytestconfig: pytest.Config
):
    (new, seconds), source = whole, made.files(made.model())
    seed, only = pytestconfig.getoption("seed"), pytestconfig.getoption("only")
    old = made.files(other)
    ends: Counter[str] = Counter()
    for number in range(pytestconfig.getoption("kills")) if only is None else [only]:
        draw = Random(f"{seed} kill {number}")
        place = tmp_path / str(number)
        place.mkdir()
        existed = draw.random() < 0.5
        if existed:
            shutil.copytree(other, place / "out")
        sent = draw.choice(SIGNALS)
        done = zygote.run(*arguments(place / "out"), after=draw.uniform(0, SHARE_OF_QUICK_END * seconds), number=sent)
        try:
            ends[check(place, done, sent, new=new, old=old if existed else None)] += 1
            check_next(zygote, place, new)
            assert made.files(made.model()) == source
        except AssertionError as error:
            alone = f"pytest tests/faults/test_kills.py --seed {seed} --only {number}"
            raise AssertionError(f"{sent.name}, {done}:\n{error}\n$ {alone}") from error
        shutil.rmtree(place)
    told(pytestconfig.getoption("outcomes"), seed, ends)
    assert sum(ends.values()) > 0


def check(place: Path, done: dict[str, Any], sent: signal.Signals, *, new: Path, old: dict[str, str] | None) -> str:
    """Whole or absent, said as it is, and nobody left."""
    out = place / "out"
    assert done["ended"] is not None, "it hangs"
    assert done["left"] == [], "processes are left"
    assert "Traceback" not in done["err"]
    found = made.files(out) if out.exists() else None
    if found != old:
        assert found is not None, "the old output is gone"
        artifact = Artifact.open(out)
        artifact.verify()
        assert artifact.digest == Artifact.open(new).digest
        assert "nothing was written" not in done["err"]
    if sent != signal.SIGKILL:
        assert [name for name in made.entries(place) if name != "out"] == []
    assert done["ended"] in (0, *CODES[sent], -sent)
    if done["ended"] == 0:
        assert found not in (None, old)
    return f"{sent.name}, {'the new output' if found != old else 'the old output' if old else 'nothing'}"


def check_next(zygote: Zygote, place: Path, new: Path) -> None:
    """The next run is as if there had been none before it."""
    again = zygote.run(*arguments(place / "out"))
    assert again["ended"] == 0, again["err"]
    assert made.entries(place) == ["out"]
    artifact = Artifact.open(place / "out")
    artifact.verify()
    assert artifact.digest == Artifact.open(new).digest


def told(place: str | None, seed: int, ends: Counter[str]) -> None:
    """Write what became of them."""
    if place is None:
        return
    path = Path(place)
    every = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    every["kills"] = {"seed": seed, "moments": sum(ends.values()), "found": dict(sorted(ends.items()))}
    path.write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")
