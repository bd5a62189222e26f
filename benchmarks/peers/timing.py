"""What is timed of one model: memory of serving, the cells, the stream. One child lives at a time.

probe     every candidate once; who cannot run leaves here    ─► peak memory
cells     blocks × (candidate × threads), order drawn anew    ─► milliseconds of each call
choose    each policy of each candidate once                  ─► its best policy for the stream
stream    as the cells, with that policy                      ─► rows per second
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from candidates import Candidate
from common import CELLS, say
from live import ask
from models import Model, PeerFailed

from deploycomp.measure.benchmark import interleave
from deploycomp.measure.context import Watch, context
from deploycomp.measure.figures import summary

__all__ = ["Plan", "Progress", "measure"]

SEED = 0
Result = dict[str, Any]
Blocks = dict[tuple[str, int], list[Result]]
"""(candidate, threads) → one answer for each block."""


@dataclass(frozen=True)
class Plan:
    """What every model is measured by."""

    threads: list[int]
    blocks: int
    seconds: float
    stream_rows: int
    """0: no stream."""

    def steps(self, candidates: int) -> int:
        """Children that one model takes."""
        return candidates * (1 + len(self.threads) * (self.blocks + (self.blocks + 1 if self.stream_rows else 0)))


@dataclass
class Progress:
    """Tells on stderr what runs, and how long the rest may take if it goes on like this."""

    steps: int
    done: int = 0
    start: float = field(default_factory=time.monotonic)

    def tell(self, message: str) -> None:
        """One more child starts."""
        spent, left = time.monotonic() - self.start, max(0, self.steps - self.done)
        rest = f"about {spent / self.done * left / 60:.0f} min left" if self.done else "?"
        self.done += 1
        say(f"[{self.done}/{self.steps}, {rest}] {message}")


@dataclass
class _Field:
    """The candidates of one model that are still running."""

    model: Model
    plan: Plan
    candidates: dict[str, Candidate]
    failed: dict[str, str]
    progress: Progress

    def ask(self, name: str, threads: int, **request: Any) -> Result | None:
        """Ask one child; a candidate that fails leaves the field."""
        if name not in self.candidates:
            self.progress.steps -= 1
            return None
        self.progress.tell(f"{self.model.name}: {name}, {request['do']}, threads {threads}")
        try:
            return ask(self.candidates[name], self.model, threads=threads, seconds=self.plan.seconds, **request)
        except PeerFailed as error:
            say(f"{self.model.name}: {name} fails: {error}")
            self.failed[name] = str(error)
            del self.candidates[name]
            return None

    def blocks(self, request: Callable[[str, int], Result]) -> Blocks:
        """Ask all in interleaved blocks."""
        found: Blocks = {}
        order = interleave(list(self.candidates), self.plan.threads, blocks=self.plan.blocks, seed=SEED)
        for block, name, threads in order:
            asked = request(name, threads) if name in self.candidates else {}
            answer = self.ask(name, threads, seed=f"{SEED}/{block}/{name}/{threads}", **asked)
            if answer is not None:
                found.setdefault((name, threads), []).append(answer)
        return {key: answers for key, answers in found.items() if key[0] in self.candidates}


def measure(
    model: Model, candidates: list[Candidate], plan: Plan, failed: dict[str, str], progress: Progress
) -> Result:
    """Time all candidates of one model; who fails goes into *failed* with the reason.

    Returns:
        context, candidates, memory, cells and stream, with the raw samples.
    """
    every = _Field(model, plan, {each.name: each for each in candidates}, failed, progress)
    about, watch = context(), Watch.start()
    probes = {each.name: every.ask(each.name, plan.threads[0], do="memory") for each in candidates}
    cells = every.blocks(lambda name, threads: {"do": "cells", "cells": CELLS})
    stream = _stream(every) if plan.stream_rows else {"rows": 0, "policies": {}, "cells": []}
    during = watch.stop() if watch else {}
    left = list(every.candidates)
    return {
        "context": {**about, **during},
        "candidates": {
            each.name: {"bytes": each.bytes, "int8": each.int8, "ours": each.ours, **_probed(probes[each.name])}
            for each in candidates
            if each.name in left
        },
        "cells": _cells({key: answers for key, answers in cells.items() if key[0] in left}),
        "stream": {**stream, "cells": [cell for cell in stream["cells"] if cell["candidate"] in left]},
    }


def _probed(answer: Result | None) -> Result:
    return {name: (answer or {}).get(name) for name in ("peak_rss_bytes", "open_ms", "facts")}


def _cells(blocks: Blocks) -> list[Result]:
    """One entry for each candidate, threads and shape, pooled over blocks."""
    found: list[Result] = []
    for (name, threads), answers in blocks.items():
        for batch, length in CELLS:
            shape = {"batch_size": batch, "sequence_length": length}
            samples = [
                cell["samples_ns"] for answer in answers for cell in answer["cells"] if cell.items() >= shape.items()
            ]
            cell = {"candidate": name, "threads": threads, **shape}
            found.append({**cell, **summary(samples, batch_size=batch), "samples_ns": samples})
    return found


def _stream(every: _Field) -> Result:
    """Choose for each candidate its best policy, then time those: one call is one pass over all rows."""
    rows = every.model.stream(every.plan.stream_rows)
    file = every.model.work / "peers" / f"{every.model.name}-stream.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows), encoding="utf-8")
    policies, chosen = _choose(every, file)

    def request(name: str, threads: int) -> Result:
        return {"do": "stream", "rows": str(file), "policies": [chosen[name, threads]], "compare": False}

    found: list[Result] = []
    for (name, threads), answers in every.blocks(request).items():
        policy = chosen[name, threads]
        samples = [answer["policies"][policy]["samples_ns"] for answer in answers]
        cell = {"candidate": name, "threads": threads, "batch_size": len(rows), "sequence_length": None}
        found.append({**cell, "policy": policy, **summary(samples, batch_size=len(rows)), "samples_ns": samples})
    return {"rows": len(rows), "tokens": sum(map(len, rows)), "policies": policies, "cells": found}


def _choose(every: _Field, rows: Path) -> tuple[dict[str, Result], dict[tuple[str, int], str]]:
    tried: dict[str, Result] = {}
    chosen: dict[tuple[str, int], str] = {}
    for name in list(every.candidates):
        for threads in every.plan.threads:
            answer = every.ask(name, threads, do="stream", rows=str(rows), policies=[], compare=True)
            if answer is None:
                continue
            medians = {policy: statistics.median(each["samples_ns"]) for policy, each in answer["policies"].items()}
            chosen[name, threads] = min(medians, key=lambda policy: medians[policy])
            tried.setdefault(name, {})[str(threads)] = answer["policies"]
    return tried, chosen
