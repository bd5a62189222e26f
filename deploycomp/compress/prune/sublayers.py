"""The sublayers of an encoder, and hooks on what flows through them.

    x ─┬─ … ─ units h ─ projection W ─ y ─┬─ sum ─ norm …        post-norm (BERT): the sum is the norm's input
       └──────────────────────────────────┘                      pre-norm (ModernBERT): the sum flows on

A unit is a head (its columns of the output projection) or a neuron (one column).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from deploycomp.models.anatomy import Anatomy, LayerAnatomy
from deploycomp.models.plan import Cut, Heads, Neurons
from deploycomp.models.surgery import head_count, neuron_count, unique_layers

__all__ = ["Sublayer", "sublayers", "watch", "watch_sum"]

Kind = Literal["heads", "neurons"]
Watcher = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Sublayer:
    """An attention or a feed-forward part.

    Args:
        kind: What its units are.
        layer: Number of the layer among those with weights of their own.
        parts: Its layer's paths.
        projection: Path of W.
        size: Columns of W that belong to a unit.
        units: How many there are now.
        pre_norm: Where the sum is.
    """

    kind: Kind
    layer: int
    parts: LayerAnatomy
    projection: str
    size: int
    units: int
    pre_norm: bool

    @property
    def name(self) -> str:
        """As it stands in reports: `3.heads`."""
        return f"{self.layer}.{self.kind}"

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths of the projections that its units are computed by."""
        if self.kind == "neurons":
            return (self.parts.ffn_in,)
        attention = (self.parts.q, self.parts.k, self.parts.v, self.parts.qkv, *self.parts.relative)
        return tuple(path for path in attention if path is not None)

    def cut(self, kept: Sequence[int]) -> Cut:
        """The surgery that keeps these units."""
        ordered = tuple(sorted(kept))
        return Heads(self.layer, ordered) if self.kind == "heads" else Neurons(self.layer, ordered)


def sublayers(module: nn.Module, anatomy: Anatomy) -> list[Sublayer]:
    """List attention and feed-forward parts in the order they run, those that have units left."""
    found: list[Sublayer] = []
    for number, parts in enumerate(unique_layers(anatomy)):
        heads, neurons = head_count(module, parts, anatomy), neuron_count(module, parts)
        pre = anatomy.pre_norm
        found.append(Sublayer("heads", number, parts, parts.o, anatomy.head_dim, heads, pre))
        found.append(Sublayer("neurons", number, parts, parts.ffn_out, 1, neurons, pre))
    return [each for each in found if each.units]


@contextlib.contextmanager
def watch(
    module: nn.Module, path: str, *, inputs: Watcher | None = None, outputs: Watcher | None = None
) -> Iterator[None]:
    """Call watchers with what goes into and comes out of a submodule."""

    def hook(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if inputs is not None:
            inputs(args[0])
        if outputs is not None:
            outputs(out[0] if isinstance(out, tuple) else out)

    handle = module.get_submodule(path).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def watch_sum(module: nn.Module, sublayer: Sublayer, watcher: Watcher) -> contextlib.AbstractContextManager[None]:
    """Call *watcher* with the sum of residual and output, [rows, tokens, hidden]."""
    norms = sublayer.parts.norms
    if not sublayer.pre_norm:
        return watch(module, norms[0 if sublayer.kind == "heads" else -1], inputs=watcher)
    if sublayer.kind == "heads":
        return watch(module, norms[-1], inputs=watcher)
    return watch(module, sublayer.parts.path, outputs=watcher)
