"""Where heads, feed-forward matrices, norms and embeddings are, for each architecture: one table of templates.

    bert      …encoder.layer.3.attention.self.query    q        …intermediate.dense   ffn_in
    modernbert …layers.3.attn.Wqkv                     qkv      …mlp.Wi               ffn_in, holding gate and up

An architecture that is not in the table loads and exports; what needs the table says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KNOWN", "Anatomy", "LayerAnatomy", "describe"]


@dataclass(frozen=True)
class LayerAnatomy:
    """Dotted paths of one transformer layer's modules; a part that the architecture lacks is `None`.

    Args:
        path: The layer.
        q, k, v: Projections to heads, [hidden, hidden].
        qkv: One projection instead of the three, [3 × hidden, hidden].
        o: The projection back, [hidden, hidden].
        ffn_in: [intermediate, hidden]; [2 × intermediate, hidden] where `ffn_glu`.
        ffn_glu: Whether *ffn_in* holds input and gate, one above the other (ModernBERT: input first, then gate).
        ffn_out: [hidden, intermediate].
        norms: Normalisations of the layer, in the order they run.
        relative: More head-shaped projections, for relative positions (DeBERTa).
    """

    path: str
    q: str | None
    k: str | None
    v: str | None
    qkv: str | None
    o: str
    ffn_in: str
    ffn_glu: bool
    ffn_out: str
    norms: tuple[str, ...]
    relative: tuple[str, ...] = ()


@dataclass(frozen=True)
class Anatomy:
    """The parts of an encoder.

    Args:
        model_type: As transformers names it.
        hidden_size, heads, head_dim, intermediate_size: Sizes; 0 where unknown.
        layers: In the order they run; with `shared_layers` several entries name the same modules.
        embeddings: word, position, token_type, relative → dotted path, those that exist.
        fused_attention: Whether attention goes through transformers' AttentionInterface and can be exported fused.
        shared_layers: Whether layers share their weights (ALBERT).
        known: Whether the architecture is in the table.
        notes: What cannot be done, and why.
        pre_norm: Whether a sublayer's input is normalised and not its output (ModernBERT).
    """

    model_type: str
    hidden_size: int
    heads: int
    head_dim: int
    intermediate_size: int
    layers: tuple[LayerAnatomy, ...]
    embeddings: dict[str, str]
    fused_attention: bool
    shared_layers: bool
    known: bool
    notes: tuple[str, ...]
    pre_norm: bool = False


@dataclass(frozen=True)
class _Template:
    """One architecture: paths below the encoder, and below a layer (`{layer}` is its number)."""

    layer: str
    o: str
    ffn_in: str
    ffn_out: str
    norms: tuple[str, ...]
    q: str | None = None
    k: str | None = None
    v: str | None = None
    qkv: str | None = None
    relative: tuple[str, ...] = ()
    glu: bool = False
    shared: bool = False
    pre_norm: bool = False
    fused_attention: bool = True
    embeddings: dict[str, str] = field(
        default_factory=lambda: {
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "token_type": "embeddings.token_type_embeddings",
        }
    )


_BERT = _Template(
    layer="encoder.layer.{layer}",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    o="attention.output.dense",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
)

_DEBERTA_EMBEDDINGS = {**_BERT.embeddings, "relative": "encoder.rel_embeddings"}

_TEMPLATES: dict[str, _Template] = {
    "bert": _BERT,
    "distilbert": _Template(
        layer="transformer.layer.{layer}",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        o="attention.out_lin",
        ffn_in="ffn.lin1",
        ffn_out="ffn.lin2",
        norms=("sa_layer_norm", "output_layer_norm"),
    ),
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "albert": _Template(
        layer="encoder.albert_layer_groups.{group}.albert_layers.{inner}",
        q="attention.query",
        k="attention.key",
        v="attention.value",
        o="attention.dense",
        ffn_in="ffn",
        ffn_out="ffn_output",
        norms=("attention.LayerNorm", "full_layer_layer_norm"),
        shared=True,
    ),
    "mpnet": _Template(
        layer="encoder.layer.{layer}",
        q="attention.attn.q",
        k="attention.attn.k",
        v="attention.attn.v",
        o="attention.attn.o",
        ffn_in="intermediate.dense",
        ffn_out="output.dense",
        norms=("attention.LayerNorm", "output.LayerNorm"),
        fused_attention=False,
        embeddings={**_BERT.embeddings, "relative": "encoder.relative_attention_bias"},
    ),
    "deberta": _Template(
        layer="encoder.layer.{layer}",
        qkv="attention.self.in_proj",
        o="attention.output.dense",
        ffn_in="intermediate.dense",
        ffn_out="output.dense",
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        relative=("attention.self.pos_proj", "attention.self.pos_q_proj"),
        fused_attention=False,
        embeddings=_DEBERTA_EMBEDDINGS,
    ),
    "deberta-v2": _Template(
        layer="encoder.layer.{layer}",
        q="attention.self.query_proj",
        k="attention.self.key_proj",
        v="attention.self.value_proj",
        o="attention.output.dense",
        ffn_in="intermediate.dense",
        ffn_out="output.dense",
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        relative=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
        fused_attention=False,
        embeddings=_DEBERTA_EMBEDDINGS,
    ),
    "modernbert": _Template(
        layer="layers.{layer}",
        qkv="attn.Wqkv",
        o="attn.Wo",
        ffn_in="mlp.Wi",
        ffn_out="mlp.Wo",
        norms=("attn_norm", "mlp_norm"),
        glu=True,
        pre_norm=True,
        embeddings={"word": "embeddings.tok_embeddings"},
    ),
}

KNOWN: tuple[str, ...] = tuple(_TEMPLATES)
"""Model types whose anatomy is known."""

_HEAD_INTERLEAVED = "q, k and v of a head lie together in the fused projection: [head, (q, k, v), head_dim]"


def describe(module: nn.Module, config: Any) -> Anatomy:
    """Describe a loaded model.

    Args:
        module: A transformers model, with or without a head.
        config: Its transformers config.

    Returns:
        Paths that exist in *module*; no layers where the architecture is unknown.
    """
    model_type = str(config.model_type)
    hidden, heads, count, intermediate = _sizes(config)
    head_dim = getattr(config, "attention_head_size", None) or (hidden // heads if heads else 0)
    parts = dict(module.named_modules())
    prefix = _prefix(module)
    template = _TEMPLATES.get(model_type)
    if template is None:
        note = (
            f"{model_type} is not in the table of anatomies ({', '.join(KNOWN)}): "
            "it is exported with the attention that transformers traces; "
            "structured pruning and factorization cannot be done on it"
        )
        usual = {name: prefix + path for name, path in _BERT.embeddings.items() if _has_weight(parts, prefix + path)}
        embeddings = usual | _word_embedding(module)
        return Anatomy(model_type, hidden, heads, head_dim, intermediate, (), embeddings, False, False, False, (note,))
    return Anatomy(
        model_type=model_type,
        hidden_size=hidden,
        heads=heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        layers=tuple(_layer(template, prefix + path, parts) for path in _layer_paths(template, config, count)),
        embeddings={
            name: prefix + path for name, path in template.embeddings.items() if _has_weight(parts, prefix + path)
        },
        fused_attention=template.fused_attention,
        shared_layers=template.shared,
        known=True,
        notes=(_HEAD_INTERLEAVED,) if model_type == "deberta" else (),
        pre_norm=template.pre_norm,
    )


def _sizes(config: Any) -> tuple[int, int, int, int]:
    """Hidden size, heads, layers and intermediate size, spelled one way by optimum where it knows the architecture."""
    from optimum.utils import NormalizedConfigManager

    try:
        known: Any = NormalizedConfigManager.get_normalized_config_class(str(config.model_type))(config)
    except KeyError:
        known = config

    def size(*names: str) -> int:
        found = (getattr(holder, name, None) for holder in (known, config) for name in names)
        return next((value for value in found if isinstance(value, int)), 0)

    return (
        size("hidden_size", "dim", "d_model"),
        size("num_attention_heads", "n_heads"),
        size("num_layers", "num_hidden_layers", "n_layers"),
        size("intermediate_size", "hidden_dim", "ffn_dim"),
    )


def _prefix(module: Any) -> str:
    """What stands before the encoder's paths: its name where the model has a head, nothing where it is the encoder."""
    name = str(getattr(module, "base_model_prefix", ""))
    return f"{name}." if name and hasattr(module, name) else ""


def _layer_paths(template: _Template, config: Any, count: int) -> list[str]:
    """Every layer in the order it runs; ALBERT repeats its groups, and a group may hold several inner layers."""
    if not template.shared:
        return [template.layer.format(layer=number) for number in range(count)]
    per_group = count / config.num_hidden_groups
    return [
        template.layer.format(group=int(number / per_group), inner=inner)
        for number in range(count)
        for inner in range(config.inner_group_num)
    ]


def _layer(template: _Template, path: str, parts: dict[str, nn.Module]) -> LayerAnatomy:
    def at(part: str | None) -> str | None:
        return None if part is None else f"{path}.{part}"

    def existing(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{path}.{name}" for name in names if _has_weight(parts, f"{path}.{name}"))

    return LayerAnatomy(
        path=path,
        q=at(template.q),
        k=at(template.k),
        v=at(template.v),
        qkv=at(template.qkv),
        o=f"{path}.{template.o}",
        ffn_in=f"{path}.{template.ffn_in}",
        ffn_glu=template.glu,
        ffn_out=f"{path}.{template.ffn_out}",
        norms=existing(template.norms),
        relative=existing(template.relative),
    )


def _has_weight(parts: dict[str, nn.Module], path: str) -> bool:
    """Whether the module is there and holds parameters (ModernBERT's first attn_norm is an Identity)."""
    return path in parts and next(parts[path].parameters(), None) is not None


def _word_embedding(module: Any) -> dict[str, str]:
    """The word embedding of an unknown architecture, which every transformers model can name."""
    try:
        embedding = module.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return {}
    return {"word": next(name for name, part in module.named_modules() if part is embedding)}
