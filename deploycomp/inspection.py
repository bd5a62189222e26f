"""What a model is made of: a checkpoint's parameters, FLOPs and anatomy, or a graph's operators and INT8 coverage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.artifact import MANIFEST, Artifact
from deploycomp.errors import InputRefused
from deploycomp.external import check_external_data

if TYPE_CHECKING:
    import onnx_ir as ir

    from deploycomp.models.model import TorchModel

__all__ = ["inspect_path"]

SEQUENCE = 128
"""FLOPs are counted for one row of this length."""

_INTEGER_PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger")
_FLOAT_PRODUCTS = ("MatMul", "Gemm")


def inspect_path(path: str) -> dict[str, Any]:
    """Look into a checkpoint, an artifact or an ONNX file.

    Args:
        path: A model folder, a hub id, an artifact folder, or an `.onnx` file.

    Returns:
        Plain values; `kind` is `model`, `artifact` or `onnx`.

    Raises:
        InputRefused: Nothing that can be read is there.
    """
    where = Path(path)
    if (where / MANIFEST).is_file():
        return _artifact(Artifact.open(where))
    if where.suffix == ".onnx":
        return {"kind": "onnx", "name": where.name, **_graph(where)}
    from deploycomp.models import resolve

    source = resolve(path)  # a misspelled path is refused before torch is imported
    from deploycomp.models.load import load

    return _model(load(source))


def _artifact(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    kept = ("task", "precision", "target", "signature", "source", "versions")
    missing = [key for key in kept if key not in manifest]
    if missing:
        raise InputRefused(f"the manifest lacks {', '.join(missing)}", where=str(artifact.path / MANIFEST))
    return {
        "kind": "artifact",
        "name": artifact.path.absolute().name,
        "digest": artifact.digest,
        **{key: manifest[key] for key in kept},
        **_graph(artifact.model),
    }


def _graph(path: Path) -> dict[str, Any]:
    """Operators, stored bytes by type, and how many products with weights are integer products."""
    import onnx_ir as ir

    if not path.is_file():
        raise InputRefused("there is no such file", where=str(path))
    beside = check_external_data(path)
    try:
        model = ir.load(path)
    except Exception as error:
        raise InputRefused("this is not an ONNX file", where=str(path), why=str(error).split("\n")[0]) from None
    stored: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            stored[value.const_value.dtype.name.lower()] += value.const_value.nbytes
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph)
    return {
        "bytes": sum(each.stat().st_size for each in (path, *(path.parent / name for name in beside))),
        "external_data": bool(beside),
        "opsets": {domain or "ai.onnx": number for domain, number in sorted(model.opset_imports.items())},
        "nodes": sum(operators.values()),
        "operators": dict(operators.most_common()),
        "weight_bytes": dict(stored.most_common()),
        "coverage": _coverage(model),
    }


def _coverage(model: ir.Model) -> dict[str, int]:
    products = [node for node in model.graph if node.op_type in _FLOAT_PRODUCTS and _has_weight(node)]
    return {
        "integer_products": sum(node.op_type in _INTEGER_PRODUCTS for node in model.graph),
        "float_products": len(products),
    }


def _has_weight(node: ir.Node) -> bool:
    return any(value is not None and value.is_initializer() for value in node.inputs[:2])


def _model(model: TorchModel) -> dict[str, Any]:
    anatomy = model.anatomy
    parts = _parts(model)
    return {
        "kind": "model",
        "name": model.source.name,
        "digest": model.source.digest,
        "task": model.task,
        "model_type": anatomy.model_type,
        "known": anatomy.known,
        "parameters": model.parameters,
        "fp32_bytes": model.fp32_bytes,
        "parts": parts,
        "flops": {"batch": 1, "sequence": SEQUENCE, "total": _flops(model)},
        "layers": len(anatomy.layers),
        "hidden_size": anatomy.hidden_size,
        "heads": anatomy.heads,
        "head_dim": anatomy.head_dim,
        "intermediate_size": anatomy.intermediate_size,
        "units": _units(model),
        "matrices": _matrices(model),
        "max_length": model.max_length,
        "labels": list(model.labels) if model.labels else None,
        "fused_attention": anatomy.fused_attention,
        "shared_layers": anatomy.shared_layers,
        "notes": list(model.notes),
    }


def _units(model: TorchModel) -> dict[str, dict[str, int]]:
    """Heads and neurons that each layer has, of those that its config states."""
    from deploycomp.models.surgery import head_count, neuron_count, unique_layers

    anatomy = model.anatomy
    found: dict[str, dict[str, int]] = {}
    for number, layer in enumerate(unique_layers(anatomy)):
        found[f"{number}.heads"] = {"kept": head_count(model.module, layer, anatomy), "of": anatomy.heads}
        found[f"{number}.neurons"] = {"kept": neuron_count(model.module, layer), "of": anatomy.intermediate_size}
    return found


def _matrices(model: TorchModel) -> dict[str, Any]:
    """What is stored in factors, those with one decoder together, as the facts of the step have it."""
    from deploycomp.models.factors import facts_of, groups_of

    return {" + ".join(group): facts_of(list(group.values())) for group in groups_of(model.module)}


def _parts(model: TorchModel) -> dict[str, int]:
    """Parameters by what they are for; every parameter is counted once."""
    roles = dict.fromkeys(model.anatomy.embeddings.values(), "embeddings")
    for layer in model.anatomy.layers:
        attention = (layer.q, layer.k, layer.v, layer.qkv, layer.o, *layer.relative)
        roles |= {path: "attention" for path in attention if path}
        roles |= dict.fromkeys((layer.ffn_in, layer.ffn_out), "ffn")
        roles |= dict.fromkeys(layer.norms, "norms")
    parts: Counter[str] = Counter()
    for name, parameter in model.module.named_parameters():
        owner = name.rpartition(".")[0].removesuffix(".decoder")
        parts[roles.get(owner, "head and other")] += parameter.numel()
    return dict(parts.most_common())


def _flops(model: TorchModel) -> int:
    """Two a multiply-add: every matrix for every token, and attention's two products in the square of the length.

    Heads above the encoder are left out: they run once a row, or are small.
    """
    from deploycomp.models.factors import multiplied
    from deploycomp.models.surgery import head_count

    weights = heads = 0
    modules = dict(model.module.named_modules())
    for layer in model.anatomy.layers:
        paths = (layer.q, layer.k, layer.v, layer.qkv, layer.o, layer.ffn_in, layer.ffn_out)
        # a sublayer of which nothing is left has no matrices
        weights += sum(multiplied(modules[path]) for path in paths if path in modules)
        heads += head_count(model.module, layer, model.anatomy)
    return 2 * SEQUENCE * weights + 4 * SEQUENCE**2 * heads * model.anatomy.head_dim
