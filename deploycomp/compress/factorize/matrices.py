"""Which matrices of a model can be factorized, in which groups, and how a group gives way to its factors.

embeddings   word embedding                          one row a token
query key value output ffn_in ffn_out                of each layer, [outputs, inputs]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.errors import InputRefused
from deploycomp.models.anatomy import Anatomy, LayerAnatomy
from deploycomp.models.factors import Form, low_rank_of
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import Bias, Factored
from deploycomp.models.surgery import apply, unique_layers

__all__ = ["Member", "Unit", "install", "units_of"]

ATTENTION = ("query", "key", "value")
EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class Member:
    """One matrix.

    Args:
        path: Of its module.
        kind: What it is; a fused projection is `query+key+value`.
        layer: Number among the layers with weights of their own; −1 for the embedding.
    """

    path: str
    kind: str
    layer: int


@dataclass(frozen=True)
class Unit:
    """Matrices that are factorized together.

    Args:
        name: As it stands in reports: `3.ffn_in`, `3.query+key+value`, `key`.
        members: In the order that they are stacked in.
    """

    name: str
    members: tuple[Member, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the members' modules."""
        return tuple(each.path for each in self.members)

    @property
    def kind(self) -> str:
        """Of what its members are, `query+key+value`."""
        return "+".join(dict.fromkeys(each.kind for each in self.members))

    @property
    def layer(self) -> int:
        """Of its first member."""
        return self.members[0].layer

    @property
    def embedding(self) -> bool:
        """Whether it is the word embedding."""
        return self.members[0].kind == EMBEDDINGS

    def group(self, module: nn.Module) -> Group:
        """The matrices as they are in *module*."""
        matrices: list[Any] = [module.get_submodule(path).weight for path in self.paths]
        return Group(self.paths, tuple(each.detach() for each in matrices))


def units_of(module: nn.Module, anatomy: Anatomy, matrices: Sequence[str], grouping: str) -> list[Unit]:
    """List what is factorized together, in the order that it runs.

    Args:
        module: The model; what pruning left nothing of is no matrix any more.
        anatomy: Of the model.
        matrices: Kinds of matrices.
        grouping: `separated`, `joint` (Q, K and V of a layer) or `concatenated` (a kind over all layers; only matrices
            with as many columns can be stacked).

    Raises:
        InputRefused: The model keeps Q, K and V in one matrix and not all of them are asked for, or nothing is left.
    """
    found = [each for each in _members(anatomy, matrices) if _is_matrix(module, each)]
    if not found:
        raise InputRefused("the model has no such matrix", why=f"asked for: {', '.join(matrices)}")
    keys: dict[tuple[Any, ...], list[Member]] = {}
    for each in found:
        keys.setdefault(_key(module, each, grouping), []).append(each)
    return [Unit(_name(members, grouping), tuple(members)) for members in keys.values()]


def _members(anatomy: Anatomy, matrices: Sequence[str]) -> Iterator[Member]:
    if EMBEDDINGS in matrices and "word" in anatomy.embeddings:
        yield Member(anatomy.embeddings["word"], EMBEDDINGS, -1)
    for number, layer in enumerate(unique_layers(anatomy)):
        yield from _attention(layer, number, matrices, anatomy)
        for kind, path in (("output", layer.o), ("ffn_in", layer.ffn_in), ("ffn_out", layer.ffn_out)):
            if kind in matrices:
                yield Member(path, kind, number)


def _attention(layer: LayerAnatomy, number: int, matrices: Sequence[str], anatomy: Anatomy) -> Iterator[Member]:
    wanted = [kind for kind in ATTENTION if kind in matrices]
    if layer.qkv is None:
        for kind, path in zip(ATTENTION, (layer.q, layer.k, layer.v), strict=True):
            # DeBERTa-v3 projects its positions by these two, too, and no row says what they must be there.
            shared = anatomy.model_type == "deberta-v2" and not layer.relative and kind != "value"
            if kind in wanted and path is not None and not shared:
                yield Member(path, kind, number)
    elif len(wanted) == len(ATTENTION):
        yield Member(layer.qkv, "+".join(ATTENTION), number)
    elif wanted:
        raise InputRefused(
            f"{anatomy.model_type} keeps query, key and value in one matrix", hint="matrices: all three or none"
        )


def _is_matrix(module: Any, member: Member) -> bool:
    """Whether there is a matrix of its own; a word embedding that is the output layer too is needed whole."""
    part = module.get_submodule(member.path)
    output = module.get_output_embeddings() if member.kind == EMBEDDINGS else None
    return type(part) in (nn.Linear, nn.Embedding) and getattr(output, "weight", None) is not part.weight


def _key(module: nn.Module, member: Member, grouping: str) -> tuple[Any, ...]:
    """Members with an equal key are one unit."""
    if grouping == "concatenated":
        weight: Any = module.get_submodule(member.path).weight
        return member.kind, int(weight.shape[1])
    if grouping == "joint" and member.kind in ATTENTION:
        return member.layer, "attention"
    return member.layer, member.kind


def _name(members: Sequence[Member], grouping: str) -> str:
    first = members[0]
    if grouping == "concatenated" or first.layer < 0:
        return first.kind
    return f"{first.layer}.{'+'.join(each.kind for each in members)}"


def install(model: TorchModel, unit: Unit, stored: Stored, form: Form) -> TorchModel:
    """Put what is stored in the place of a unit's matrices, in place, and return the model with its plan.

    Args:
        model: The student.
        unit: What gives way.
        stored: Of its matrices.
        form: How the factors are used; an embedding is looked up in either.
    """
    if form == "faster" and not unit.embedding and stored.rule == "low_rank":
        own, shared = low_rank_of(stored.own, stored.shared)
        stored = replace(
            stored, own=tuple(own), shared=shared, sizes={"rank": len(shared["basis"]), "norms": 0, "shift": 0}
        )
    plan = model.plan
    for path, bias in zip(unit.paths, stored.biases, strict=False):
        if bias is not None and getattr(model.module.get_submodule(path), "bias", None) is None:
            plan = apply(model.module, model.anatomy, plan, Bias(path))
    cut = Factored(unit.paths, stored.rule, "smaller" if unit.embedding else form, stored.sizes)
    plan = apply(model.module, model.anatomy, plan, cut)
    with torch.no_grad():
        for number, path in enumerate(unit.paths):
            made: Any = model.module.get_submodule(path)
            for name, value in stored.own[number].items():
                made.own()[name].copy_(value)
            if stored.biases and stored.biases[number] is not None:
                made.bias.copy_(stored.biases[number])
        for name, value in stored.shared.items():
            made.decoder.tensors()[name].copy_(value)  # type: ignore[possibly-undefined]
    return replace(model, plan=plan)
