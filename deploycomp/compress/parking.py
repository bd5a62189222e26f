"""Tensors that wait in a file: what a long step needs only later takes no memory meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from deploycomp.models.checkpoint import save_tensors

__all__ = ["Parked", "Parking"]


class Parked(Mapping[str, list[Tensor]]):
    """Lists of tensors that are read when they are asked for.

    Args:
        tensors: Name → tensors; they may be let go of afterwards.
        file: Where they wait, a safetensors file.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, tensors: Mapping[str, Sequence[Tensor]], file: Path):
        self._file, self._counts = file, {name: len(each) for name, each in tensors.items()}
        every = {_key(name, place): one for name, each in tensors.items() for place, one in enumerate(each)}
        save_tensors(every, file)

    def __getitem__(self, name: str) -> list[Tensor]:
        from safetensors import safe_open

        with safe_open(self._file, "pt") as opened:
            return [opened.get_tensor(_key(name, place)) for place in range(self._counts[name])]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)


def _key(name: str, place: int) -> str:
    return f"{name}/{place}"


class Parking:
    """A module's parameters in a file that is mapped: what nobody has looked at since `rest` takes no memory.

    They stay the same parameters to everyone who has them. Nobody may change their values before the last `rest`; their
    changes would be private and lost. Nothing is parked on Windows, which deletes no file that is mapped.

    Args:
        module: Whose parameters.
        file: A safetensors file to write; it may be deleted after the last `rest`.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, module: nn.Module, file: Path):
        self._own = {} if os.name == "nt" else dict(module.named_parameters())
        self._file = file
        if self._own:
            file.unlink(missing_ok=True)  # who has mapped what was there keeps it
            save_tensors(self._own, file)
        self.rest()

    def rest(self) -> None:
        """Let go of what was looked at: map the file anew."""
        from safetensors.torch import load_file

        for name, mapped in (load_file(self._file) if self._own else {}).items():
            self._own[name].data = mapped
