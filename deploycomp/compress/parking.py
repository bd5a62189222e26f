"""Tensors that wait in a file: what a long step needs only later takes no memory meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

__all__ = ["Parked", "park"]


class Parked(Mapping[str, list[Tensor]]):
    """Lists of tensors that are read when they are asked for.

    Args:
        tensors: Name → tensors; they may be let go of afterwards.
        file: Where they wait, a safetensors file.
    """

    def __init__(self, tensors: Mapping[str, Sequence[Tensor]], file: Path):
        from safetensors.torch import save_file

        self._file, self._counts = file, {name: len(each) for name, each in tensors.items()}
        every = {_key(name, place): one for name, each in tensors.items() for place, one in enumerate(each)}
        save_file({key: one.contiguous() for key, one in every.items()}, file)

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


def park(module: nn.Module, file: Path) -> None:
    """Let a module's parameters lie in a file that is mapped: what nobody looks at takes no memory.

    They stay what they are to everyone, values that change are private, and the file may be deleted at once. Nothing is
    parked on Windows, which deletes no file that is mapped.

    Args:
        module: Whose parameters.
        file: A safetensors file to write.
    """
    from safetensors.torch import load_file, save_file

    if os.name == "nt":
        return
    own = dict(module.named_parameters())
    save_file({name: parameter.detach().contiguous() for name, parameter in own.items()}, file)
    for name, mapped in load_file(file).items():
        own[name].data = mapped
