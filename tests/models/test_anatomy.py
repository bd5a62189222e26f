"""Every path of an anatomy exists in the module, and has the shape that its name promises."""

from __future__ import annotations

import pytest

from deploycomp.models import resolve
from deploycomp.models.anatomy import KNOWN
from deploycomp.models.load import load
from tests import tiny

FUSED = {"bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "modernbert"}


def test_every_architecture_of_the_table_has_a_tiny_model():
    assert {style.model_type for style in tiny.ARCHITECTURES.values()} == set(KNOWN)


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
@pytest.mark.parametrize("arch", list(tiny.ARCHITECTURES))
def test_paths_and_shapes(tmp_path, arch, task):
    model = load(resolve(tiny.build(tmp_path / "model", arch, task)))
    anatomy, module = model.anatomy, model.module

    def shape(path: str) -> tuple[int, ...]:
        return tuple(module.get_submodule(path).weight.shape)  # type: ignore[union-attr]

    hidden, width = tiny.HIDDEN, tiny.INTERMEDIATE
    assert anatomy.known
    assert (anatomy.hidden_size, anatomy.heads, anatomy.head_dim, anatomy.intermediate_size) == (32, 4, 8, 64)
    assert anatomy.fused_attention == (model.config.model_type in FUSED)
    assert anatomy.shared_layers == (arch == "albert")
    assert len(anatomy.layers) == tiny.LAYERS
    for layer in anatomy.layers:
        module.get_submodule(layer.path)
        separate = (layer.q, layer.k, layer.v)
        if layer.qkv is None:
            assert [shape(path) for path in separate if path] == [(hidden, hidden)] * 3
        else:
            assert separate == (None, None, None)
            assert shape(layer.qkv) == (3 * hidden, hidden)
        assert shape(layer.o) == (hidden, hidden)
        assert shape(layer.ffn_in) == ((2 if layer.ffn_glu else 1) * width, hidden)
        assert shape(layer.ffn_out) == (hidden, width)
        assert all(shape(path) == (hidden,) for path in layer.norms)
        assert all(shape(path) == (hidden, hidden) for path in layer.relative)
    for name, path in anatomy.embeddings.items():
        rows = {"word": model.config.vocab_size, "token_type": getattr(model.config, "type_vocab_size", None)}
        assert shape(path)[0] == rows.get(name, shape(path)[0])


@pytest.mark.parametrize("arch", list(tiny.ARCHITECTURES))
def test_no_matrix_of_a_layer_is_forgotten(tmp_path, arch):
    """Every weight inside a layer belongs to a path of the anatomy."""
    model = load(resolve(tiny.build(tmp_path / "model", arch, "feature-extraction")))
    for layer in model.anatomy.layers:
        named = {layer.q, layer.k, layer.v, layer.qkv, layer.o, layer.ffn_in, layer.ffn_out, *layer.norms}
        named |= set(layer.relative)
        weights = {
            f"{layer.path}.{name.removesuffix('.weight')}"
            for name, _ in model.module.get_submodule(layer.path).named_parameters()
            if name.endswith(".weight")
        }
        assert weights == named - {None}


def test_relative_positions_and_embeddings(tmp_path):
    anatomies = {
        arch: load(resolve(tiny.build(tmp_path / arch, arch, "feature-extraction"))).anatomy
        for arch in ("deberta", "deberta-v2", "deberta-v3", "mpnet", "modernbert", "distilbert")
    }
    assert [len(anatomy.layers[0].relative) for anatomy in anatomies.values()] == [2, 2, 0, 0, 0, 0]
    assert anatomies["mpnet"].embeddings["relative"] == "encoder.relative_attention_bias"
    assert anatomies["deberta-v3"].embeddings.keys() == {"word", "relative"}
    assert anatomies["modernbert"].embeddings.keys() == {"word"}
    assert anatomies["distilbert"].embeddings.keys() == {"word", "position"}
    assert [len(layer.norms) for layer in anatomies["modernbert"].layers] == [1, 2]


def test_albert_repeats_its_groups(tmp_path):
    folder = tiny.build(tmp_path / "m", "albert", "feature-extraction", num_hidden_layers=4, num_hidden_groups=2)
    paths = [layer.path for layer in load(resolve(folder)).anatomy.layers]
    groups = [path.split(".")[2] for path in paths]
    assert groups == ["0", "0", "1", "1"]
