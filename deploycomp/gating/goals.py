"""What is asked of a candidate, and where it is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from deploycomp.errors import UsageError
from deploycomp.gate.rounds import Quantity

__all__ = ["DEFAULT_MAX_DROP", "Data", "Goals", "Setting"]

DEFAULT_MAX_DROP = 0.005


@dataclass(frozen=True)
class Goals:
    """What a candidate may cost against its baseline, as fractions: 0.05 allows 5 % more.

    Args:
        max_slowdown: Of the median latency, in every shape and thread count.
        max_memory_growth: Of the peak resident memory of a process.
        max_size_growth: Of the bytes on disk.
        max_drop: Of the main metric on evaluation data; None takes half a point where there are such data.
    """

    max_slowdown: float = 0.05
    max_memory_growth: float = 0.05
    max_size_growth: float = 0.01
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"the goal {name} is a fraction from 0 on, not {value}", hint="0.05 is 5 %")

    def limit(self, quantity: Quantity) -> float:
        """Return the tolerance of a measured number."""
        return self.max_memory_growth if quantity.kind == "memory" else self.max_slowdown


@dataclass(frozen=True)
class Data:
    """Rows that both are judged on; split, columns and limit as for `deploycomp evaluate`."""

    path: str
    split: str | None = None
    columns: dict[str, str] = field(default_factory=dict[str, str])
    limit: int | None = None


@dataclass(frozen=True)
class Setting:
    """Where and how long each process measures.

    Args:
        batch_size: Rows of a call.
        sequence_length: Tokens of a row.
        threads: Thread counts; empty means what this process may use. On a shared machine several threads also measure
            its neighbours: rounds of two threads differed by 7 % where those of one differed by 1.3 %.
        block_seconds: For each shape in each process, in which both take turns. The spread of a round falls with its
            root (MiniLM-L6, 0.6 s: 2.9 %, 1.2 s: 2.0 %, 2.4 s: 1.6 %), and starting a process takes as long as 1.2 s.
        seed: Of the coins that order the rounds; None draws one, and the result keeps it.
    """

    batch_size: tuple[int, ...] = (1,)
    sequence_length: tuple[int, ...] = (128,)
    threads: tuple[int, ...] = (1,)
    block_seconds: float = 1.2
    seed: int | None = None

    def quantities(self, threads: Sequence[int]) -> Iterator[Quantity]:
        """Yield every number that a gate with these *threads* measures."""
        for count in threads:
            for batch in dict.fromkeys(self.batch_size):
                for length in dict.fromkeys(self.sequence_length):
                    yield Quantity("latency", count, batch, length)
            yield Quantity("memory", count)
