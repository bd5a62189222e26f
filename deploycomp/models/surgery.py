"""Cut a model physically: fewer heads, neurons, layers or pieces, and every dimension smaller with them.

    Heads       rows of Q, K, V  ·  columns of O            Q [hidden, hidden] → [kept × head_dim, hidden]
    Neurons     rows of FFN in (gate and up)  ·  columns of FFN out
    Layers      entries of the list of layers
    Vocabulary  rows of the word embedding, and of an output layer that speaks the same words
    Factored    matrices, which give way to what they are rebuilt from (`factors.py`)

A sublayer of which nothing is left computes its bias alone, so that an exporter drops the rest as dead code. What stays
keeps its values: cutting equals setting the columns of O (or FFN out) to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from deploycomp.errors import InputRefused
from deploycomp.models.anatomy import Anatomy, LayerAnatomy, describe
from deploycomp.models.factors import RULES, Decoder, FactoredEmbedding, FactoredLinear, factored, numbers
from deploycomp.models.plan import Bias, Cut, Factored, Heads, Layers, Plan, Vocabulary

__all__ = [
    "apply",
    "head_count",
    "linear",
    "neuron_count",
    "replay",
    "uncuttable_heads",
    "unique_layers",
    "unit_columns",
]

MOST_NUMBERS = 4
"""Numbers that factors may hold, in squares of the matrix's longer side: two full factors hold two."""

_HEAD_COUNTS = ("num_attention_heads", "n_heads", "num_heads")
_LAYER_COUNTS = ("num_hidden_layers", "n_layers")
_INTERLEAVED = ("deberta",)
"""Fused projections whose rows are [head, (q, k, v), head_dim]; others hold [(q, k, v), head, head_dim]."""


class Constant(nn.Module):
    """What is left of an output projection without inputs: its bias, the same for every token."""

    def __init__(self, bias: Tensor):
        super().__init__()
        self.in_features, self.out_features = 0, bias.shape[0]
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, _: Tensor) -> Tensor:
        """Return the bias, [hidden]; the residual connection spreads it over the tokens."""
        return self.bias


class FirstColumns(nn.Module):
    """A projection nobody reads any more: it keeps the shapes of an attention that is dead code."""

    def __init__(self, columns: int):
        super().__init__()
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        """Return the first columns of *x*, a copy: DeBERTa scales its projections in place, and *x* may be a weight."""
        return x[..., : self.columns].clone()


class _PickHeads(nn.Module):
    """Hand a layer the position bias of its own heads, where one bias serves all layers (MPNet)."""

    def __init__(self, kept: Sequence[int]):
        super().__init__()
        self.kept = list(kept)

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook of the attention: its third argument is [batch, heads, tokens, tokens]."""
        return (*args[:2], args[2][:, self.kept], *args[3:])


def unique_layers(anatomy: Anatomy) -> list[LayerAnatomy]:
    """Layers with weights of their own, in order: ALBERT's shared ones once."""
    return list({layer.path: layer for layer in anatomy.layers}.values())


def linear(module: nn.Module, path: str) -> Any:
    """The submodule at a dotted path."""
    return module.get_submodule(path)


def head_count(module: nn.Module, layer: LayerAnatomy, anatomy: Anatomy) -> int:
    """Heads that a layer has now."""
    return int(linear(module, layer.o).in_features) // anatomy.head_dim


def neuron_count(module: nn.Module, layer: LayerAnatomy) -> int:
    """Feed-forward neurons that a layer has now."""
    return int(linear(module, layer.ffn_out).in_features)


def unit_columns(units: Sequence[int], size: int) -> Tensor:
    """Columns of a projection that belong to units, *size* to each."""
    chosen = torch.tensor(list(units), dtype=torch.long)
    return (chosen[:, None] * size + torch.arange(size)).flatten()


def uncuttable_heads(module: nn.Module, anatomy: Anatomy) -> str | None:
    """Why heads of this model cannot be cut, or None."""
    layers = unique_layers(anatomy)
    if not layers:
        return f"{anatomy.model_type} is not in the table of anatomies"
    owner = _owner(module, layers[0])
    return "its heads are mixed with one another (talking heads)" if getattr(owner, "talking_head", False) else None


def apply(module: Any, anatomy: Anatomy, plan: Plan, cut: Cut) -> Plan:
    """Make one cut in place.

    Args:
        module: A transformers model; its config is changed where a config can tell.
        anatomy: Of the model as it is before the cut.
        plan: What was cut before.
        cut: What to cut now.

    Returns:
        The plan with the cut.

    Raises:
        InputRefused: The cut names what the model does not have.
    """
    with torch.no_grad():
        if isinstance(cut, Factored):
            _factor(module, cut)
            return plan.then(cut)
        _refuse_factored(module, cut)
        if isinstance(cut, Layers):
            plan = plan.based_on(_cut_layers(module, anatomy, cut.kept))
        elif isinstance(cut, Vocabulary):
            plan = plan.based_on(_cut_vocabulary(module, cut.kept))
        elif isinstance(cut, Bias):
            _add_bias(linear(module, cut.module))
        else:
            layers = unique_layers(anatomy)
            if cut.layer >= len(layers):
                raise _outside(f"layer {cut.layer}", len(layers))
            if isinstance(cut, Heads):
                _cut_heads(module, anatomy, layers[cut.layer], cut.kept)
            else:
                _cut_neurons(module, layers[cut.layer], cut.kept)
    return plan.then(cut)


def replay(module: Any, plan: Plan) -> None:
    """Repeat every cut of a plan on a model that was built from config and base.

    Args:
        module: The model as it was before the first cut.
        plan: The cuts.
    """
    anatomy = describe(module, module.config)
    for cut in plan.cuts:
        apply(module, anatomy, Plan(), cut)
        if isinstance(cut, Layers):
            anatomy = describe(module, module.config)


def _outside(what: str, count: int) -> InputRefused:
    return InputRefused(
        f"the surgery plan names {what}, of {count}", hint="config.json and surgery.json belong together"
    )


def _check(kept: Sequence[int], count: int, what: str) -> None:
    if kept and kept[-1] >= count:
        raise _outside(f"{what} {kept[-1]}", count)


def _owner(module: nn.Module, layer: LayerAnatomy) -> Any:
    """The attention module that splits projections into heads."""
    path = layer.q or layer.qkv
    assert path is not None
    return module.get_submodule(path.rpartition(".")[0])


def _cut_heads(module: nn.Module, anatomy: Anatomy, layer: LayerAnatomy, kept: tuple[int, ...]) -> None:
    size, count = anatomy.head_dim, head_count(module, layer, anatomy)
    _check(kept, count, "head")
    why = uncuttable_heads(module, anatomy)
    if why is not None:
        raise InputRefused(f"heads of {anatomy.model_type} cannot be cut", why=why)
    if len(kept) == count:
        return
    rows = unit_columns(kept, size)
    owner = _owner(module, layer)
    for path in (layer.q, layer.k, layer.v, *layer.relative):
        if path is not None:
            _keep_rows(module, path, rows, nothing=FirstColumns(size))
    if layer.qkv is not None:
        blocks = _fused_rows(kept, count, size, interleaved=anatomy.model_type in _INTERLEAVED)
        _keep_rows(module, layer.qkv, blocks, nothing=FirstColumns(3 * size))
    alive = kept or (0,)  # an attention that is dead code computes one head
    for name in ("q_bias", "v_bias"):
        if isinstance(getattr(owner, name, None), nn.Parameter):
            setattr(owner, name, _parameter(getattr(owner, name)[unit_columns(alive, size)]))
    _keep_columns(module, layer.o, rows)
    for name in _HEAD_COUNTS:
        if hasattr(owner, name):
            setattr(owner, name, len(alive))
    if hasattr(owner, "all_head_size"):
        owner.all_head_size = len(alive) * size
    if anatomy.model_type == "mpnet":
        owner.register_forward_pre_hook(_PickHeads(alive))


def _fused_rows(kept: Sequence[int], count: int, size: int, *, interleaved: bool) -> Tensor:
    if interleaved:
        return unit_columns(kept, 3 * size)
    return torch.cat([part * count * size + unit_columns(kept, size) for part in range(3)])


def _cut_neurons(module: nn.Module, layer: LayerAnatomy, kept: tuple[int, ...]) -> None:
    count = neuron_count(module, layer)
    _check(kept, count, "neuron")
    if len(kept) == count:
        return
    rows = torch.tensor(list(kept), dtype=torch.long)
    both = torch.cat([rows, rows + count]) if layer.ffn_glu else rows
    _keep_rows(module, layer.ffn_in, both, nothing=nn.Identity())
    _keep_columns(module, layer.ffn_out, rows)


def _cut_layers(module: Any, anatomy: Anatomy, kept: tuple[int, ...]) -> dict[str, Any]:
    config = module.config
    _check(kept, len(anatomy.layers), "layer")
    if not kept:
        raise InputRefused("no layer would be left", hint="keep one at least")
    if anatomy.shared_layers:
        if getattr(config, "num_hidden_groups", 1) > 1 or getattr(config, "inner_group_num", 1) > 1:
            raise InputRefused("layers that share weights in groups cannot be dropped", where=anatomy.model_type)
    else:
        path = anatomy.layers[0].path.rpartition(".")[0]
        parent, _, name = path.rpartition(".")
        layers = cast("nn.ModuleList", module.get_submodule(path))
        setattr(module.get_submodule(parent), name, nn.ModuleList(layers[index] for index in kept))
    before: dict[str, Any] = {}
    for name in _LAYER_COUNTS:
        if isinstance(getattr(config, name, None), int) and name not in getattr(config, "attribute_map", {}):
            before[name] = getattr(config, name)
            setattr(config, name, len(kept))
    types = getattr(config, "layer_types", None)
    if types is not None:
        before["layer_types"] = list(types)
        config.layer_types = [types[index] for index in kept]
    return before


def _cut_vocabulary(module: Any, kept: tuple[int, ...]) -> dict[str, Any]:
    embedding = module.get_input_embeddings()
    count = int(embedding.weight.shape[0])
    _check(kept, count, "piece")
    if not kept:
        raise InputRefused("no piece would be left", hint="keep one at least")
    rows = torch.tensor(list(kept), dtype=torch.long)
    output = module.get_output_embeddings()
    cut = {id(embedding.weight), *(id(each) for each in (output.parameters() if output is not None else ()))}
    made: dict[int, nn.Parameter] = {}
    for owner in list(module.modules()):
        for name, parameter in list(owner.named_parameters(recurse=False)):
            # An output layer may hold its bias apart from its weight; elsewhere a bias so long is a coincidence.
            apart = name == "bias" and parameter.shape == (count,) and not hasattr(owner, "weight")
            words = id(parameter) in cut or apart
            if words and parameter.shape[0] == count:
                made.setdefault(id(parameter), _parameter(parameter[rows]))
                setattr(owner, name, made[id(parameter)])  # tied parameters stay tied
    for owner in (embedding, output):
        for name in ("num_embeddings", "out_features"):
            if getattr(owner, name, None) == count:
                setattr(owner, name, len(kept))
    module.config.vocab_size = len(kept)
    place = {old: new for new, old in enumerate(kept)}
    for name in [name for name in vars(module.config) if name.endswith("_token_id")]:
        value = getattr(module.config, name)
        if isinstance(value, int) and value in place:
            setattr(module.config, name, place[value])
    return {"vocab_size": count}


def _refuse_factored(module: nn.Module, cut: Cut) -> None:
    """What is stored in factors has no rows of its own to take away; layers go, and biases come, whatever it is."""
    if isinstance(cut, (Layers, Bias)) or not factored(module):
        return
    raise InputRefused(
        f"a factorized model is not cut further: {type(cut).__name__.lower()}",
        why=f"{next(iter(factored(module)))} is stored in factors",
        hint="prune first, then factorize",
    )


def _factor(module: Any, cut: Factored) -> None:
    """Put modules without values in the place of these, all with one decoder; a bias keeps its values."""
    rule = RULES.get(cut.rule)
    if rule is None or set(cut.sizes) != set(rule.sizes):
        raise InputRefused(f"the surgery plan names the unknown rule {cut.rule} with {sorted(cut.sizes)}")
    if cut.form == "faster" and not cut.two_products:
        raise InputRefused("only two factors and nothing else can be multiplied one after the other", where=cut.rule)
    known = dict(module.named_modules())
    decoder: Decoder | None = None
    for path in cut.modules:
        old = known.get(path)
        if type(old) not in (nn.Linear, nn.Embedding):
            raise InputRefused(f"the surgery plan factorizes {path}, which is no matrix of this model")
        rows, columns = old.weight.shape  # type: ignore[union-attr]
        if columns != linear(module, cut.modules[0]).weight.shape[1]:
            raise InputRefused(f"{path} has other columns than {cut.modules[0]}, with which it shares a decoder")
        _check_sizes(cut, rows, columns)
        decoder = decoder or Decoder(rule.shapes(cut.sizes, rows, columns)[1])
        if isinstance(old, nn.Embedding):
            made: nn.Module = FactoredEmbedding(cut.rule, cut.sizes, old, decoder)
        else:
            made = FactoredLinear(cut.rule, cut.sizes, old, decoder, form=cut.form, bias=old.bias is not None)  # type: ignore[arg-type,union-attr]
            if made.bias is not None:
                made.bias.copy_(old.bias)  # type: ignore[union-attr]
        _replace(module, path, made)


def _check_sizes(cut: Factored, rows: int, columns: int) -> None:
    """A plan may not ask for more memory than factors of full rank take."""
    if not all(cut.sizes[name] for name in cut.sizes if name not in ("norms", "shift")):
        raise InputRefused("the surgery plan names a size of 0", where=cut.modules[0])
    stored = numbers(cut.rule, cut.sizes, [rows], columns)
    if stored > MOST_NUMBERS * max(rows, columns) ** 2:
        raise InputRefused(f"the surgery plan stores {stored:,} numbers for {rows} x {columns}", where=cut.modules[0])


def _add_bias(layer: Any) -> None:
    if layer.bias is None:
        layer.bias = _parameter(torch.zeros(layer.out_features, device=layer.weight.device))


def _keep_rows(module: nn.Module, path: str, rows: Tensor, *, nothing: nn.Module) -> None:
    """Keep outputs of a linear layer."""
    layer = linear(module, path)
    if len(rows) == 0:
        _replace(module, path, nothing)
        return
    layer.weight = _parameter(layer.weight[rows])
    if layer.bias is not None:
        layer.bias = _parameter(layer.bias[rows])
    layer.out_features = len(rows)


def _keep_columns(module: nn.Module, path: str, columns: Tensor) -> None:
    """Keep inputs of a linear layer."""
    layer = linear(module, path)
    if len(columns) == 0:
        bias = torch.zeros(layer.out_features, device=layer.weight.device) if layer.bias is None else layer.bias
        _replace(module, path, Constant(bias.detach().clone()))
        return
    layer.weight = _parameter(layer.weight[:, columns])
    layer.in_features = len(columns)


def _replace(module: nn.Module, path: str, by: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, by)


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone().contiguous(), requires_grad=False)
