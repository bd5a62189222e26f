"""What is stored instead of a matrix, and the rules that rebuild it.

    low_rank      s ⊙ (Z D + d)                        Z [rows, r]                  ·  D [r, columns], d [columns]
    autoencoder   s ⊙ unit(tanh(f(f(Z W₁+b₁)W₂+b₂)W₃+b₃))   Z [rows, latent]        ·  W₁ W₂ W₃, b₁ b₂ b₃
    kronecker     Σₖ Aₖ ⊗ Bₖ                           A [k, rows/p, columns/q]     ·  B [k, p, q]
    tucker        core ×₁ U ×₂ V ×₃ C                  U [rows/p, R₁]               ·  core [R₁, R₂, R₃], V, C

Matrices of a group are stacked along their rows: left of the dot stands what each has of its own, right of it what is
stored once for all (the decoder). s is the norm of each row, unit(·) scales rows to norm 1, f is a leaky ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "RULES",
    "SLOPE",
    "Decoder",
    "FactoredEmbedding",
    "FactoredLinear",
    "Form",
    "Rule",
    "densify",
    "factored",
    "facts_of",
    "groups_of",
    "low_rank_of",
    "multiplied",
    "numbers",
]

SLOPE = 0.01
"""Of the leaky ReLU (papers.md 1.3)."""

_SMALLEST = 1e-12
"""A decoded row of norm 0 stays 0."""

Form = Literal["smaller", "faster"]
"""`smaller` rebuilds the matrix, `faster` multiplies by its two factors one after the other."""

Tensors = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rule:
    """How a matrix is rebuilt.

    Args:
        sizes: Names of the integers that fix every shape.
        shapes: Sizes, rows and columns of a member → shapes of its own tensors, and of the shared ones.
        rows: Own tensors, shared tensors, numbers of rows or None for all → those rows, [..., columns].
    """

    sizes: tuple[str, ...]
    shapes: Callable[[Mapping[str, int], int, int], tuple[Shapes, Shapes]]
    rows: Callable[[Tensors, Tensors, Tensor | None], Tensor]


def _low_rank_shapes(sizes: Mapping[str, int], rows: int, columns: int) -> tuple[Shapes, Shapes]:
    rank = sizes["rank"]
    own: Shapes = {"latents": (rows, rank)} | ({"norms": (rows,)} if sizes["norms"] else {})
    return own, {"basis": (rank, columns)} | ({"shift": (columns,)} if sizes["shift"] else {})


def _low_rank(own: Tensors, shared: Tensors, ids: Tensor | None) -> Tensor:
    found = _pick(own["latents"], ids) @ shared["basis"]
    if "shift" in shared:
        found = found + shared["shift"]
    return found * _pick(own["norms"], ids) if "norms" in own else found


def _autoencoder_shapes(sizes: Mapping[str, int], rows: int, columns: int) -> tuple[Shapes, Shapes]:
    widths = (sizes["latent"], sizes["inner"], sizes["outer"], columns)
    shared: Shapes = {}
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        shared |= {f"weight{number}": (before, after), f"bias{number}": (after,)}
    return {"latents": (rows, sizes["latent"]), "norms": (rows,)}, shared


def _autoencoder(own: Tensors, shared: Tensors, ids: Tensor | None) -> Tensor:
    found = _pick(own["latents"], ids)
    for number in (1, 2):
        found = nn.functional.leaky_relu(found @ shared[f"weight{number}"] + shared[f"bias{number}"], SLOPE)
    found = torch.tanh(found @ shared["weight3"] + shared["bias3"])
    length = found.square().sum(-1, keepdim=True).sqrt().clamp(min=_SMALLEST)
    return found / length * _pick(own["norms"], ids)


def _kronecker_shapes(sizes: Mapping[str, int], rows: int, columns: int) -> tuple[Shapes, Shapes]:
    terms, p, q = sizes["terms"], sizes["rows"], sizes["columns"]
    return {"left": (terms, -(-rows // p), -(-columns // q))}, {"right": (terms, p, q)}


def _kronecker(own: Tensors, shared: Tensors, ids: Tensor | None) -> Tensor:
    left, right = own["left"], shared["right"]
    (_, a, b), (_, p, q) = left.shape, right.shape
    if ids is None:
        return torch.einsum("kab,kpq->apbq", left, right).reshape(a * p, b * q)
    found = torch.einsum("k...b,k...q->...bq", left[:, ids // p], right[:, ids % p])
    return found.reshape(*ids.shape, b * q)


def _tucker_shapes(sizes: Mapping[str, int], rows: int, columns: int) -> tuple[Shapes, Shapes]:
    r1, r2, r3, p = sizes["rank1"], sizes["rank2"], sizes["rank3"], sizes["rows"]
    return {"outer": (-(-rows // p), r1)}, {"core": (r1, r2, r3), "inner": (p, r2), "columns": (columns, r3)}


def _tucker(own: Tensors, shared: Tensors, ids: Tensor | None) -> Tensor:
    p = shared["inner"].shape[0]
    basis = torch.einsum("uvs,ms->uvm", shared["core"], shared["columns"])
    if ids is None:
        found = torch.einsum("au,pv,uvm->apm", own["outer"], shared["inner"], basis)
        return found.reshape(-1, found.shape[-1])
    return torch.einsum("...u,...v,uvm->...m", own["outer"][ids // p], shared["inner"][ids % p], basis)


def _pick(values: Tensor, ids: Tensor | None) -> Tensor:
    """Rows of [rows, …] by their numbers, a vector as a column, in the form that is exported as a lookup."""
    table = values[:, None] if values.dim() == 1 else values
    return table if ids is None else nn.functional.embedding(ids, table)


RULES: dict[str, Rule] = {
    "low_rank": Rule(("rank", "norms", "shift"), _low_rank_shapes, _low_rank),
    "autoencoder": Rule(("latent", "inner", "outer"), _autoencoder_shapes, _autoencoder),
    "kronecker": Rule(("terms", "rows", "columns"), _kronecker_shapes, _kronecker),
    "tucker": Rule(("rank1", "rank2", "rank3", "rows"), _tucker_shapes, _tucker),
}
"""A matrix that blocks do not fill is padded at its end, and what is rebuilt there is cut off."""


class Decoder(nn.Module):
    """What members of a group store once."""

    def __init__(self, shapes: Shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return dict(self.named_parameters(recurse=False))

    def change(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change what is stored, in place."""
        _change(self.tensors(), function)


class _Factored(nn.Module):
    """A matrix [rows, columns] that is rebuilt from what is stored of it."""

    def __init__(self, rule: str, sizes: Mapping[str, int], rows: int, columns: int, decoder: Decoder):
        super().__init__()
        self.rule, self.sizes, self.shape = rule, dict(sizes), (rows, columns)
        own, _ = RULES[rule].shapes(sizes, rows, columns)
        for name, shape in own.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
        self.own_names = tuple(own)
        self.decoder = decoder

    def own(self) -> dict[str, Tensor]:
        """What this matrix stores for itself."""
        return {name: getattr(self, name) for name in self.own_names}

    def change(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change what this matrix stores for itself, in place."""
        _change(self.own(), function)

    @property
    def weight(self) -> Tensor:
        """The matrix, [rows, columns], rebuilt."""
        rows, columns = self.shape
        return RULES[self.rule].rows(self.own(), self.decoder.tensors(), None)[:rows, :columns]


def _change(tensors: Tensors, function: Callable[[np.ndarray], np.ndarray]) -> None:
    with torch.no_grad():
        for value in tensors.values():
            value.copy_(torch.from_numpy(function(value.detach().numpy())))


class FactoredLinear(_Factored):
    """A linear layer whose matrix is stored in factors."""

    def __init__(self, rule: str, sizes: Mapping[str, int], linear: Any, decoder: Decoder, *, form: Form, bias: bool):
        super().__init__(rule, sizes, linear.out_features, linear.in_features, decoder)
        self.in_features, self.out_features, self.form = linear.in_features, linear.out_features, form
        self.bias = nn.Parameter(torch.zeros(linear.out_features), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.form == "faster":
            inner = nn.functional.linear(x, self.decoder.tensors()["basis"])
            return nn.functional.linear(inner, self.own()["latents"], self.bias)
        return nn.functional.linear(x, self.weight, self.bias)


class FactoredEmbedding(_Factored):
    """An embedding stored in factors; only rows that are looked up are rebuilt."""

    def __init__(self, rule: str, sizes: Mapping[str, int], embedding: Any, decoder: Decoder):
        super().__init__(rule, sizes, embedding.num_embeddings, embedding.embedding_dim, decoder)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx = embedding.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] → [..., embedding_dim]."""
        found = RULES[self.rule].rows(self.own(), self.decoder.tensors(), ids)
        return found[..., : self.embedding_dim]


def factored(module: nn.Module) -> dict[str, FactoredLinear | FactoredEmbedding]:
    """Path → module, of all that is stored in factors."""
    found = module.named_modules()
    return {path: each for path, each in found if isinstance(each, (FactoredLinear, FactoredEmbedding))}


def groups_of(module: nn.Module) -> list[dict[str, FactoredLinear | FactoredEmbedding]]:
    """Path → module, of all that is stored in factors, those with one decoder together."""
    groups: dict[int, dict[str, FactoredLinear | FactoredEmbedding]] = {}
    for path, each in factored(module).items():
        groups.setdefault(id(each.decoder), {})[path] = each
    return list(groups.values())


def numbers(rule: str, sizes: Mapping[str, int], members: Sequence[int], columns: int) -> int:
    """Count what is stored of a stack before it is made.

    Args:
        rule: Name of the rule.
        sizes: Its sizes.
        members: Rows of each matrix of the stack.
        columns: Of the stack.

    Returns:
        Numbers of all members and of what they share.
    """
    shapes = [RULES[rule].shapes(sizes, rows, columns) for rows in members]
    own = sum(math.prod(shape) for each, _ in shapes for shape in each.values())
    return own + sum(math.prod(shape) for shape in shapes[0][1].values())


def facts_of(group: Sequence[FactoredLinear | FactoredEmbedding]) -> dict[str, Any]:
    """Say of matrices with one decoder how they are stored, how many numbers that takes, and of how many.

    Args:
        group: All that have the decoder, in order.
    """
    first = group[0]
    own = sum(value.numel() for each in group for value in each.own().values())
    rows, columns = sum(each.shape[0] for each in group), first.shape[1]
    return {
        "rows": rows,
        "columns": columns,
        "of": rows * columns,
        "numbers": own + sum(value.numel() for value in first.decoder.tensors().values()),
        "rule": first.rule,
        "sizes": dict(first.sizes),
        "form": getattr(first, "form", "smaller"),
    }


def multiplied(module: nn.Module) -> int:
    """How many numbers a token is multiplied by in a linear layer; 0 where there is no matrix."""
    if isinstance(module, FactoredLinear) and module.form == "faster":
        own, shared = module.own()["latents"], module.decoder.tensors()["basis"]
        return own.numel() + shared.numel()
    weight: Any = getattr(module, "weight", None)
    return int(weight.numel()) if weight is not None else 0


def densify(module: nn.Module) -> None:
    """Put ordinary linear layers where matrices would be rebuilt, in place; what is multiplied in factors stays."""
    for path, each in factored(module).items():
        if isinstance(each, FactoredLinear) and each.form == "smaller":
            layer: Any = nn.Linear(each.in_features, each.out_features, bias=False, device="meta")
            layer.weight = nn.Parameter(each.weight.detach().contiguous(), requires_grad=False)
            layer.bias = each.bias
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, layer)


def low_rank_of(own: Sequence[Tensors], shared: Tensors) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Write norms and shift of a low rank as one rank more: s ⊙ (Z D + d) = [s ⊙ Z, s] [D; d].

    Args:
        own: Of each member: latents [rows, r], norms [rows] or none.
        shared: basis [r, columns], shift [columns] or none.

    Returns:
        The same matrices with latents and basis only.
    """
    latents = [each["latents"] * each["norms"][:, None] if "norms" in each else each["latents"] for each in own]
    basis = shared["basis"]
    if "shift" in shared:
        ones = [each["norms"] if "norms" in each else torch.ones(len(each["latents"])) for each in own]
        latents = [torch.cat([z, one[:, None]], 1) for z, one in zip(latents, ones, strict=True)]
        basis = torch.cat([basis, shared["shift"][None]])
    return [{"latents": each} for each in latents], {"basis": basis}
