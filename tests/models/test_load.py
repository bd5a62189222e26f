"""Loading is strict: every architecture and task loads, and what does not fit is refused by name."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from deploycomp.errors import InputRefused
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.quiet import quiet
from tests import tiny

CELLS = [(arch, task) for arch in tiny.ARCHITECTURES for task in tiny.tasks_of(arch)]
WITH_TYPES = {"bert", "electra", "deberta-v2"}
"""ALBERT embeds types too, but its tokenizer in transformers 5 does not give them."""


def feeds_of(model: TorchModel, *, length: int = 9, seed: int = 0) -> dict[str, np.ndarray]:
    """Three rows: full, half padded, one token."""
    draw = np.random.default_rng(seed)
    lengths = np.array([length, max(1, length // 2), 1])
    mask = (np.arange(length)[None, :] < lengths[:, None]).astype(np.int64)
    ids = draw.integers(5, model.config.vocab_size, size=mask.shape)
    feeds = {"input_ids": np.where(mask, ids, model.tokenizer.pad_token_id), "attention_mask": mask}
    return feeds | ({"token_type_ids": np.zeros_like(mask)} if "token_type_ids" in model.inputs else {})


def change(folder: Path, edit) -> None:
    """Rewrite the weights with `edit(dict of tensors)`."""
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("arch", "task"), CELLS)
def test_every_architecture_loads_for_every_task(tmp_path, arch, task):
    model = load(resolve(tiny.build(tmp_path / "model", arch, task)))
    assert model.task == task
    assert model.max_length == tiny.MAX_LENGTH
    assert ("token_type_ids" in model.inputs) == (arch in WITH_TYPES)
    assert not model.module.training
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    feeds = feeds_of(model)
    outputs = model.run(feeds, model.outputs)
    for output in outputs:
        assert output.dtype == np.float32
        assert np.isfinite(output).all()
        assert output.shape[0] == 3
    assert not np.allclose(outputs[-1][0], outputs[-1][1], atol=1e-3)


@pytest.mark.parametrize(("arch", "task"), [cell for cell in CELLS if cell[1] in ("text-classification", "fill-mask")])
def test_the_longest_input_runs_and_one_more_is_too_long_for_absolute_positions(tmp_path, arch, task):
    model = load(resolve(tiny.build(tmp_path / "model", arch, task, max_length=20)))
    assert model.max_length == 20
    model.run(feeds_of(model, length=20), model.outputs)
    if "position" in model.anatomy.embeddings:
        with pytest.raises((IndexError, RuntimeError)):
            model.run(feeds_of(model, length=21), model.outputs)


def test_outputs_are_those_of_transformers(bert):
    from transformers import AutoModelForSequenceClassification

    model = load(resolve(bert))
    encoded = model.tokenizer(tiny.texts(4), padding=True, return_tensors="pt")
    with quiet(), torch.inference_mode():
        expected = AutoModelForSequenceClassification.from_pretrained(bert)(**encoded).logits.numpy()
    feeds = {name: tensor.numpy() for name, tensor in encoded.items()}
    np.testing.assert_allclose(model.run(feeds, ("logits",))[0], expected, atol=1e-6)


def test_outputs_come_in_the_order_asked(tmp_path):
    model = load(resolve(tiny.build(tmp_path / "model", "bert", "question-answering")))
    feeds = feeds_of(model)
    start, end = model.run(feeds, ("start_logits", "end_logits"))
    again, only = model.run(feeds, ("end_logits", "start_logits"))
    np.testing.assert_array_equal(start, only)
    np.testing.assert_array_equal(end, again)


def test_facts_of_a_classifier(bert):
    model = load(resolve(bert))
    assert model.labels == tiny.TEXT_LABELS
    assert model.problem_type == "single_label_classification"
    assert model.parameters == sum(tensor.numel() for tensor in load_file(bert / "model.safetensors").values())
    assert model.fp32_bytes == 4 * model.parameters
    assert model.pooling is None
    assert model.notes == ()
    assert model.runtime == {
        "max_length": 128,
        "pad_token_id": 0,
        "pad_token_type_id": 0,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": False,
        "labels": ["negative", "neutral", "positive"],
        "problem_type": "single_label_classification",
        "activation": "identity",
        "mask_token": "[MASK]",
        "unk_token_id": 1,
        "prompts": {},
        "default_prompt_name": None,
    }


def test_ten_and_more_labels_stay_in_order(tmp_path):
    labels = tuple(f"intent {number}" for number in range(12))
    assert load(resolve(tiny.build(tmp_path / "m", "bert", "text-classification", labels=labels))).labels == labels


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"labels": ("score",)}, "regression"),
        ({"problem_type": "regression"}, "regression"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"labels": ("no", "yes")}, "single_label_classification"),
    ],
)
def test_problem_types(tmp_path, options, expected):
    assert load(resolve(tiny.build(tmp_path / "m", "bert", "text-classification", **options))).problem_type == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_load_as_fp32(tmp_path, dtype):
    folder = tiny.build(tmp_path / "model", "bert", "text-classification", dtype=dtype)
    stored = {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}
    assert stored == {getattr(torch, dtype)}
    assert {parameter.dtype for parameter in load(resolve(folder)).module.parameters()} == {torch.float32}


def test_shards_load_like_one_file(bert, folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    placed = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / shard, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    one, two = load(resolve(bert)), load(resolve(folder))
    np.testing.assert_array_equal(one.run(feeds_of(one), ("logits",))[0], two.run(feeds_of(two), ("logits",))[0])
    assert len(two.source.files) == 6


def test_a_config_that_asks_for_attentions_changes_nothing(folder, edit):
    edit(folder / "config.json", output_attentions=True, output_hidden_states=True, return_dict=False)
    model = load(resolve(folder))
    assert model.config._attn_implementation == "sdpa"
    assert model.run(feeds_of(model), ("logits",))[0].shape == (3, 3)


def test_loading_is_quiet_and_offline(bert, events, capfd):
    source = resolve(bert)
    events.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(source)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not [event for event in events if event[0].startswith("socket")]


def test_quiet_puts_back_what_was_set():
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("torchao")
    before = (logger.level, transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    with quiet():
        assert logger.level == logging.ERROR
        assert not transformers_logging.is_progress_bar_enabled()
    after = (logger.level, transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    assert before == after


# --------------------------------------------------------------------------------------------------- strict refusals


def test_a_missing_tensor_is_named(folder):
    change(folder, lambda weights: weights.pop("bert.encoder.layer.1.output.dense.weight"))
    with pytest.raises(
        InputRefused, match=r"lacks weights .*: bert\.encoder\.layer\.1\.output\.dense\.weight\n"
    ) as caught:
        load(resolve(folder))
    assert "download it again" in str(caught.value.hint)


def test_many_missing_tensors_are_counted(folder):
    change(folder, lambda weights: [weights.pop(name) for name in list(weights) if "layer.1" in name])
    with pytest.raises(InputRefused, match="and more, 16 in all") as caught:
        load(resolve(folder))
    assert caught.value.what.count(",") == 5


def test_an_unknown_tensor_is_named(folder):
    change(folder, lambda weights: weights.update({"bert.encoder.layer.7.extra": torch.ones(2)}))
    with pytest.raises(InputRefused, match=r"no place for: bert\.encoder\.layer\.7\.extra"):
        load(resolve(folder))


def test_a_second_head_of_the_same_name_is_refused(folder):
    change(folder, lambda weights: weights.update({"classifier.dense.weight": torch.ones(2)}))
    with pytest.raises(InputRefused, match=r"no place for: classifier\.dense\.weight"):
        load(resolve(folder))


def test_shapes_against_the_config(folder, edit):
    edit(folder / "config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(InputRefused, match=r"classifier\.weight is \[3, 32\] in the file, \[2, 32\] by config\.json"):
        load(resolve(folder))


@pytest.mark.parametrize("change_to", [{"hidden_size": 4_000_000}, {"vocab_size": 10**12}, {"num_hidden_layers": 900}])
def test_a_config_of_another_size_is_refused_before_memory_is_taken(folder, edit, change_to):
    edit(folder / "config.json", **change_to)
    with pytest.raises(InputRefused, match=r"config.json describes [\d,]+ parameters, the weights hold 2\d,\d+"):
        load(resolve(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(folder, value):
    def poison(weights):
        weights["classifier.bias"][1] = value
        weights["bert.pooler.dense.weight"][0, :7] = value

    change(folder, poison)
    with pytest.raises(InputRefused, match="weights are not finite") as caught:
        load(resolve(folder))
    assert "bert.pooler.dense.weight (7 of 1024), classifier.bias (1 of 3)" in caught.value.what


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"hidden_size": "wide"}, "cannot read config.json"),
        ({"hidden_act": "no-such-function"}, "cannot build the model"),
        ({"num_attention_heads": 5}, "cannot build the model|cannot read config.json"),
        ({"model_type": "unheard-of"}, "cannot read config.json"),
    ],
)
def test_a_config_that_transformers_refuses(folder, edit, changes, what):
    edit(folder / "config.json", **changes)
    with pytest.raises(InputRefused, match=what) as caught:
        load(resolve(folder), "text-classification")
    assert caught.value.why
    assert caught.value.__cause__ is not None


def test_buffers_of_old_versions_are_welcome(folder):
    change(folder, lambda weights: weights.update({"bert.embeddings.position_ids": torch.arange(128)[None]}))
    assert load(resolve(folder)).notes == ()


# -------------------------------------------------------------------------------------------------- heads and tasks


def test_the_encoder_of_a_classifier_drops_the_head_and_says_so(bert):
    model = load(resolve(bert), "feature-extraction")
    assert model.outputs == ("last_hidden_state",)
    assert model.notes == (
        "dropped weights that feature-extraction does not use: bert.pooler.dense.bias, bert.pooler.dense.weight, "
        "classifier.bias, classifier.weight",
    )
    assert not [name for name, _ in model.module.named_parameters() if "pooler" in name]


@pytest.mark.parametrize("arch", list(tiny.ARCHITECTURES))
@pytest.mark.parametrize("task", ["text-classification", "question-answering", "fill-mask"])
def test_the_encoder_of_any_head_loads(tmp_path, arch, task):
    model = load(resolve(tiny.build(tmp_path / "model", arch, task)), "feature-extraction")
    assert model.run(feeds_of(model), model.outputs)[0].shape == (3, 9, 32)


@pytest.mark.parametrize("arch", list(tiny.ARCHITECTURES))
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering"])
def test_a_head_that_is_absent_is_refused(tmp_path, arch, task):
    folder = tiny.build(tmp_path / "model", arch, "feature-extraction")
    with pytest.raises(InputRefused, match=f"lacks weights that {task} needs: ") as caught:
        load(resolve(folder), task)
    assert "random values" in str(caught.value.why)
    assert "--task feature-extraction" in str(caught.value.hint)


# -------------------------------------------------------------------------------------------------------- tokenizers


def test_a_missing_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputRefused, match="has no tokenizer") as caught:
        load(resolve(folder))
    assert "AutoTokenizer.from_pretrained" in str(caught.value.hint)


def test_a_broken_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(InputRefused, match="the tokenizer cannot be read"):
        load(resolve(folder))


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[ONE]", "[TWO]"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputRefused, match="larger than the embedding: 210 tokens, 208 rows") as caught:
        load(resolve(folder))
    assert "'[ONE]', '[TWO]'" in str(caught.value.why)
    assert "resize_token_embeddings" in str(caught.value.hint)


def test_a_tokenizer_without_fast_backend_is_refused(bert, monkeypatch):
    import transformers

    class Slow:
        is_fast = False

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(InputRefused, match="no fast backend"):
        load(resolve(bert))


@pytest.mark.parametrize(("token", "task"), [("pad_token", "text-classification"), ("mask_token", "fill-mask")])
def test_tokens_that_a_task_needs(tmp_path, monkeypatch, token, task):
    from transformers import BertTokenizer

    folder = tiny.build(tmp_path / "model", "bert", task)
    monkeypatch.setattr(BertTokenizer, token, None, raising=False)
    with pytest.raises(InputRefused, match=f"the tokenizer has no {token}"):
        load(resolve(folder))


def test_left_padding_is_turned_and_noted(folder, edit):
    edit(folder / "tokenizer_config.json", padding_side="left")
    model = load(resolve(folder))
    assert model.tokenizer.padding_side == "right"
    assert "pads on the left" in model.notes[0]


@pytest.mark.parametrize(("limit", "expected"), [(50, 50), (1000, 128), (10**30, 128)])
def test_the_limit_is_the_smallest(folder, edit, limit, expected):
    edit(folder / "tokenizer_config.json", model_max_length=limit)
    assert load(resolve(folder)).max_length == expected


# ----------------------------------------------------------------------------------------------- unknown architecture


@pytest.mark.parametrize("model_type", ["ernie", "megatron-bert", "data2vec-text"])
def test_an_unknown_encoder_loads_and_says_what_cannot_be_done(tmp_path, monkeypatch, model_type):
    style = tiny.ARCHITECTURES["roberta" if model_type == "data2vec-text" else "bert"]
    unknown = tiny.Architecture(model_type, style.tokenizer, style.config, style.position_offset)
    monkeypatch.setitem(tiny.ARCHITECTURES, "unknown", unknown)
    model = load(resolve(tiny.build(tmp_path / "model", "unknown", "text-classification", max_length=20)))
    assert not model.anatomy.known
    assert model.anatomy.layers == ()
    assert "structured pruning and factorization cannot be done" in model.notes[-1]
    assert model.max_length == 20
    model.run(feeds_of(model, length=20), model.outputs)


# --------------------------------------------------------------------------------------------------------- properties


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_refused_or_loads(bert, tmp_path, data):
    """Byte flips in the header or the data, or a cut: an `InputRefused` with a reason, or a model. Nothing else."""
    folder = tmp_path / "model"
    if not folder.exists():
        shutil.copytree(bert, folder)
    content = bytearray((bert / "model.safetensors").read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    for place in data.draw(st.lists(st.one_of(st.integers(0, header), st.integers(0, len(content) - 1)), max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    (folder / "model.safetensors").write_bytes(content[: data.draw(st.sampled_from([None, len(content) - 1]))])
    with contextlib.suppress(InputRefused):
        assert load(resolve(folder)).task == "text-classification"


# -------------------------------------------------------------------------------------------------------- real models


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "task", "labels"),
    [
        ("minilm-l6-sst2", "text-classification", 2),
        ("minilm-l6-clinc150", "text-classification", 151),
        ("minilm-l6-wnut17", "token-classification", 13),
    ],
)
def test_the_real_models_load(shared_models, name, task, labels):
    model = load(resolve(shared_models / name))
    assert (model.task, len(model.labels or ()), model.max_length) == (task, labels, 512)
    assert 22_500_000 < model.parameters < 22_800_000
    encoded = model.tokenizer(["a gripping film", "dull"], padding=True, return_tensors="np")
    assert np.isfinite(model.run(dict(encoded), model.outputs)[0]).all()
    assert len(model.anatomy.layers) == 6
