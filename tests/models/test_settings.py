"""The closed lists: every setting is honoured, refused or dropped by name, and none reaches a loader as a path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploycomp.errors import InputRefused
from deploycomp.models import resolve, settings
from deploycomp.models.audit import audit
from deploycomp.models.known import filter_config
from deploycomp.models.load import load
from deploycomp.models.quiet import quiet
from deploycomp.models.settings import TABLES, Table, close
from tests import tiny
from tests.models.canary import Canary
from tests.models.test_load import feeds_of

VALUES: tuple[Any, ...] = (
    True, False, 7, "left", "cosine", "float32", "regression", "tokenizers", "token_embeddings", "sentence_embedding",
    "SentenceTransformer", "BertTokenizer", "word", ["word"], {"0": "word"}, {"name": "word"}, {},
    {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    object(),
)  # fmt: skip
"""For every kind of value one that is of it, and at the end one that is of none."""

HONOURED = [(file, name) for file, table in TABLES.items() for name in table.honoured]
REFUSED = [(file, name) for file, table in TABLES.items() for name in table.refused]
IDLE = [(file, name) for file, table in TABLES.items() for name in table.idle]
CLOSED = [file for file, table in TABLES.items() if not table.open]


def closed(file: str, **values: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    return close(TABLES[file], values, where=Path(file))


# ------------------------------------------------------------------------------------------------------- every setting


@pytest.mark.parametrize(("file", "name"), HONOURED)
def test_what_is_honoured_is_kept(file, name):
    check = TABLES[file].honoured[name]
    good = [value for value in VALUES if check(value)]
    assert good
    for value in good:
        assert closed(file, **{name: value}) == ({name: value}, ())
    assert closed(file, **{name: None}) == ({name: None}, ())


@pytest.mark.parametrize(("file", "name"), [each for each in HONOURED if each[1] != "sliding_window"])
def test_a_value_of_another_kind_is_refused(file, name):
    check = TABLES[file].honoured[name]
    bad = [value for value in VALUES if not check(value)]
    assert bad or name in ("rope_scaling", "rope_parameters")
    for value in bad:
        with pytest.raises(InputRefused, match=f"gives '{name}' a value that it cannot have"):
            closed(file, **{name: value})


@pytest.mark.parametrize(("file", "name"), REFUSED)
def test_what_is_refused_is_named_with_its_reason(file, name):
    with pytest.raises(InputRefused, match=f"holds the setting '{name}', which is refused") as caught:
        closed(file, **{name: {"some": "value"}})
    assert caught.value.why == TABLES[file].refused[name]
    assert name in str(caught.value.hint)
    assert closed(file, **{name: None}) == ({}, ())


@pytest.mark.parametrize(("file", "name"), IDLE)
def test_what_has_no_effect_is_dropped_and_told_where_it_is_not_the_usual(file, name):
    usual = TABLES[file].idle[name]
    for value in (*VALUES, None):
        kept, notes = closed(file, **{name: value})
        assert kept == {}
        assert bool(notes) == (value is not None and not usual(value))
        assert all(name in note for note in notes)


@pytest.mark.parametrize("file", CLOSED)
def test_what_is_unknown_is_dropped_by_name(file):
    name = Path(file).name
    assert closed(file, surprise=1) == ({}, (f"{name}: without effect and dropped: surprise",))
    assert closed(file, surprise=None) == ({}, ())
    many = {f"surprise{number}": 1 for number in range(9)}
    assert closed(file, **many)[1][0].endswith("surprise4 and more, 9 in all")


def test_lists_do_not_overlap():
    for table in TABLES.values():
        lists = [set(table.honoured), set(table.refused), set(table.idle)]
        assert len(set.union(*lists)) == sum(len(each) for each in lists)


@pytest.mark.parametrize("token", ["[X]", {"content": "[X]", "lstrip": True}, {"__type": "Token", "content": "x"}])
def test_tokens_by_any_name(token):
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        assert closed(file, entity_token=token) == ({"entity_token": token}, ())


@pytest.mark.parametrize("token", [1, {"content": 1}, {"text": "x"}, {"content": "x", "path": "x"}, [["x"]]])
def test_what_is_no_token(token):
    with pytest.raises(InputRefused, match="a value that it cannot have"):
        closed("special_tokens_map.json", mask_token=token)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a\\b", "~", "~me", "..", "weights.bin", "x.safetensors"])
def test_paths(path):
    assert settings.is_path(path)


@pytest.mark.parametrize("value", ["gelu_new", "c2p|p2c", "en_XX", "torch.nn.Sigmoid", ".", "", 3, None])
def test_what_is_no_path(value):
    assert not settings.is_path(value)


def test_a_table_may_not_be_changed_into_an_open_one_by_a_name():
    assert [file for file, table in TABLES.items() if table.open] == ["config.json"]
    assert close(Table(honoured={}), {"a": 1}, where=Path("x"))[0] == {}


# ------------------------------------------------------------------------------------ config.json, by the architecture


def known(model_type: str, **values: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    return filter_config({"model_type": model_type, **values}, where=Path("config.json"))


@pytest.mark.parametrize(
    ("model_type", "name", "value"),
    [
        ("bert", "layer_norm_eps", 1e-6),
        ("bert", "hidden_act", "relu"),
        ("deberta-v2", "norm_rel_ebd", "layer_norm"),
        ("deberta-v2", "share_att_key", True),
        ("deberta-v2", "position_buckets", 16),
        ("deberta-v2", "conv_kernel_size", 3),
        ("deberta-v2", "conv_act", "gelu"),
        ("modernbert", "local_attention", 16),
        ("modernbert", "global_attn_every_n_layers", 1),
        ("modernbert", "local_rope_theta", 10.0),
        ("esm", "position_embedding_type", "rotary"),
        ("distilbert", "sinusoidal_pos_embds", True),
    ],
)
def test_what_the_code_of_an_architecture_asks_for_is_kept(model_type, name, value):
    assert known(model_type, **{name: value}) == ({"model_type": model_type, name: value}, ())


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "modernbert", "distilbert", "mpnet"])
def test_what_it_never_mentions_is_dropped_by_name(model_type):
    kept, notes = known(model_type, surprise=1, other_setting="x", nothing=None)
    assert kept == {"model_type": model_type}
    assert notes == ("config.json: without effect and dropped: other_setting, surprise",)


def test_an_architecture_that_transformers_does_not_have_keeps_all_for_its_error():
    assert known("unheard-of", surprise=1)[0] == {"model_type": "unheard-of", "surprise": 1}


@pytest.mark.parametrize("value", ["relative_key", "relative_key_query", "rotary"])
def test_positions_that_transformers_no_longer_knows_are_refused(folder, edit, value):
    edit(folder / "config.json", position_embedding_type=value)
    with pytest.raises(InputRefused, match=f"no longer knows position_embedding_type '{value}' for bert"):
        load(resolve(folder))


def test_positions_of_the_usual_kind_are_no_setting(folder, edit):
    edit(folder / "config.json", position_embedding_type="absolute")
    assert "position_embedding_type" in load(resolve(folder)).notes[0]


def test_a_value_that_is_a_path_is_refused(folder, edit):
    edit(folder / "config.json", hidden_act="../gelu")
    with pytest.raises(InputRefused, match="gives 'hidden_act' a value that names a file") as caught:
        load(resolve(folder))
    assert caught.value.why == "'../gelu'"


def test_ordinary_leftovers_are_no_news(folder, edit):
    edit(
        folder / "config.json",
        _name_or_path="/home/me/bert", torch_dtype="float32", use_cache=True, gradient_checkpointing=False,
        output_past=None, num_beams=1, finetuning_task="sst2", transformers_version="4.30.0", surprise=None,
    )  # fmt: skip
    model = load(resolve(folder))
    assert model.notes == ()
    assert not {"_name_or_path", "num_beams", "surprise"} & model.source.config.keys()
    assert model.source.config["torch_dtype"] == "float32"


FLIPS = {
    "bert": {"hidden_act": "relu", "layer_norm_eps": 0.5, "type_vocab_size": 2, "chunk_size_feed_forward": 3,
             "hidden_dropout_prob": 0.5, "pad_token_id": 0, "classifier_dropout": 0.9},
    "roberta": {"hidden_act": "gelu_new", "layer_norm_eps": 0.5, "pad_token_id": 1},
    "distilbert": {"activation": "relu", "seq_classif_dropout": 0.9},
    "electra": {"hidden_act": "relu", "summary_activation": "tanh"},
    "albert": {"hidden_act": "relu", "layer_norm_eps": 0.5},
    "mpnet": {"hidden_act": "relu", "relative_attention_num_buckets": 32},
    "deberta": {"pos_att_type": ["c2p", "p2c"], "layer_norm_eps": 0.5},
    "deberta-v3": {"hidden_act": "relu", "layer_norm_eps": 0.5},
    "modernbert": {"local_attention": 4, "norm_eps": 0.5, "hidden_activation": "relu", "classifier_pooling": "mean",
                   "global_attn_every_n_layers": 1, "local_rope_theta": 10.0, "classifier_activation": "relu"},
}  # fmt: skip
"""Architecture → settings and another value than its own, with which the weights still fit."""


@pytest.mark.parametrize(("arch", "name"), [(arch, name) for arch, flips in FLIPS.items() for name in flips])
def test_a_setting_that_is_flipped_is_honoured_as_transformers_does(tmp_path, edit, arch, name):
    from transformers import AutoModelForSequenceClassification

    folder = tiny.build(tmp_path / "model", arch, "text-classification")
    edit(folder / "config.json", **{name: FLIPS[arch][name]})
    if name == "local_rope_theta":  # in the file as transformers 4 wrote it
        edit(folder / "config.json", rope_parameters=None, global_rope_theta=160000.0)
    if name == "global_attn_every_n_layers":
        edit(folder / "config.json", layer_types=None)
    with quiet():
        plain: Any = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    model = load(resolve(folder))
    feeds = feeds_of(model, length=30)
    with torch.inference_mode():
        expected = plain(**{key: torch.tensor(value) for key, value in feeds.items()}).logits.numpy()
    np.testing.assert_allclose(model.run(feeds, ("logits",))[0], expected, atol=2e-5)


# --------------------------------------------------------------------------------------------------- what is no encoder


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"pruned_heads": {"0": [1]}}, "'pruned_heads', which is refused"),
        ({"add_cross_attention": True}, "'add_cross_attention', which is refused"),
        ({"transformers_weights": "other.safetensors"}, "'transformers_weights', which is refused"),
        ({"problem_type": "ranking"}, "gives 'problem_type' a value that it cannot have"),
        ({"torch_dtype": "int4"}, "gives 'torch_dtype' a value"),
        ({"tokenizer_class": "os.system"}, "gives 'tokenizer_class' a value"),
        ({"model_type": "mra"}, "the attention of mra cannot be exported"),
        ({"model_type": "yoso", "use_expectation": False}, "the attention of yoso cannot be exported"),
        ({"model_type": "reformer"}, "the attention of reformer cannot be exported"),
        ({"model_type": "big_bird", "max_position_embeddings": 4096}, "block-sparse attention cannot be exported"),
        (
            {"model_type": "big_bird", "attention_type": "block_sparse", "block_size": 2},
            "block-sparse attention cannot",
        ),
    ],
)
def test_configs_that_are_refused(folder, edit, change, what):
    edit(folder / "config.json", **change)
    with pytest.raises(InputRefused, match=what):
        audit(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_type": "original_full", "max_position_embeddings": 4096},
        {"attention_type": "block_sparse", "block_size": 64, "num_random_blocks": 3, "max_position_embeddings": 704},
    ],
)
def test_bigbird_with_full_attention_at_every_length(folder, edit, change):
    edit(folder / "config.json", model_type="big_bird", **change)
    audit(folder)


def test_the_hint_for_bigbird_leads_on(tmp_path, monkeypatch, edit):
    style = tiny.Architecture("big_bird", tiny.ARCHITECTURES["bert"].tokenizer, {**tiny.ARCHITECTURES["bert"].config})
    monkeypatch.setitem(tiny.ARCHITECTURES, "big_bird", style)
    options: dict[str, Any] = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
    folder = tiny.build(tmp_path / "model", "big_bird", "text-classification", **options)
    with pytest.raises(InputRefused) as caught:
        resolve(folder)
    assert '"attention_type": "original_full"' in str(caught.value.hint)
    edit(folder / "config.json", attention_type="original_full")
    model = load(resolve(folder))
    assert np.isfinite(model.run(feeds_of(model, length=100), ("logits",))[0]).all()


@pytest.mark.parametrize("name", ["bbox", "pixel_values", "xpath_tags_seq", "entity_ids"])
def test_an_input_that_no_text_holds(bert, monkeypatch, name):
    from transformers import BertForSequenceClassification

    forward = BertForSequenceClassification.forward

    def other(self, input_ids=None, attention_mask=None, token_type_ids=None, **kwargs):
        return forward(self, input_ids, attention_mask, token_type_ids)

    import inspect

    given = inspect.signature(other)
    extra = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*list(given.parameters.values())[:-1], extra]
    other.__signature__ = given.replace(parameters=parameters)  # type: ignore[attr-defined]
    monkeypatch.setattr(BertForSequenceClassification, "forward", other)
    if name == "entity_ids":
        assert load(resolve(bert)).notes == ("the graph has no input entity_ids; the model answers as without",)
        return
    with pytest.raises(InputRefused, match=f"the model reads more than text: {name}") as caught:
        load(resolve(bert))
    assert "was trained with" in str(caught.value.why)


def test_layoutlm_is_refused_for_its_boxes(tmp_path, monkeypatch):
    style = tiny.Architecture("layoutlm", tiny.ARCHITECTURES["bert"].tokenizer, tiny.ARCHITECTURES["bert"].config)
    monkeypatch.setitem(tiny.ARCHITECTURES, "layoutlm", style)
    with pytest.raises(InputRefused, match="the model reads more than text: bbox"):
        load(resolve(tiny.build(tmp_path / "model", "layoutlm", "token-classification")))


# ------------------------------------------------------------------------------------------------------ tokenizer files

TOKENIZER_FLIPS = {
    "bert": {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False, "model_max_length": 20,
             "unk_token": "[MASK]", "split_special_tokens": True, "truncation_side": "left"},
    "roberta": {"add_prefix_space": True, "trim_offsets": False, "truncation_side": "left"},
    "xlm-roberta": {"add_prefix_space": False, "model_max_length": 20},
    "albert": {"do_lower_case": False, "keep_accents": True, "add_prefix_space": False},
    "deberta-v3": {"do_lower_case": True, "split_by_punct": True, "add_prefix_space": False},
    "mpnet": {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False},
    "modernbert": {"truncation_side": "left", "model_max_length": 20, "extra_special_tokens": ["g"]},
}  # fmt: skip
TEXTS = ["The GREAT Film", " café,naïve  日本語!", "[MASK] and </s> good", "a " * 40]


@pytest.mark.parametrize(("arch", "name"), [(arch, name) for arch, flips in TOKENIZER_FLIPS.items() for name in flips])
def test_a_tokenizer_setting_that_is_flipped_is_honoured_as_transformers_does(tmp_path, edit, arch, name):
    from transformers import AutoTokenizer

    folder = tiny.build(tmp_path / "model", arch, "text-classification")
    edit(folder / "tokenizer_config.json", **{name: TOKENIZER_FLIPS[arch][name]})
    with quiet():
        plain = AutoTokenizer.from_pretrained(folder)
    ours = load(resolve(folder)).tokenizer
    for text in TEXTS:
        assert ours(text, truncation=True)["input_ids"] == plain(text, truncation=True)["input_ids"]
    assert ours.model_input_names == plain.model_input_names
    assert type(ours) is type(plain)


PLACES = ("vocab", "vocab_file", "merges", "merges_file", "tokenizer_file", "spm_file", "tokenizer_object",
          "special_tokens_map_file", "added_tokens_file", "full_tokenizer_file", "gguf_file", "subfolder", "cache_dir",
          "name_or_path", "init_inputs", "chat_template_file", "_spm_precompiled_charsmap")  # fmt: skip


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.txt"])
def test_no_setting_of_a_tokenizer_is_followed(folder, tmp_path, edit, file, name, files):
    """Whether the tokenizer is built from tokenizer.json or from vocab.txt: refused, or dropped by name and unread."""
    from transformers import BertTokenizer

    canary = Canary(tmp_path / "private.txt")
    if files == "vocab.txt":
        words = sorted((vocab := BertTokenizer.from_pretrained(folder).get_vocab()), key=vocab.__getitem__)
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        (folder / "tokenizer.json").unlink()
        edit(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edit(folder / file, **{name: [str(canary.path)] if name == "init_inputs" else str(canary.path)})
    if name in TABLES[file].refused:
        with pytest.raises(InputRefused, match=f"{file} holds the setting '{name}', which is refused"):
            resolve(folder)
    else:
        model = load(resolve(folder))
        assert "canary" not in model.tokenizer.get_vocab()
        quietly = name in ("name_or_path", "special_tokens_map_file") and file == "tokenizer_config.json"
        assert quietly or any(name in note and file in note for note in model.notes)
    assert not canary.sang


def test_an_odd_class_is_refused(folder, edit):
    for name in ("AutoModel", "os.system", "pipeline", "../Tokenizer", 7):
        edit(folder / "tokenizer_config.json", tokenizer_class=name)
        with pytest.raises(InputRefused, match="gives 'tokenizer_class' a value that it cannot have"):
            audit(folder)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("name", ["ShinyTokenizer", "AutoTokenizer"])
def test_a_class_that_transformers_does_not_have_is_refused_and_the_hint_leads_on(folder, edit, file, name):
    before = load(resolve(folder)).tokenizer("the great film")["input_ids"]
    edit(folder / file, tokenizer_class=name)
    with pytest.raises(InputRefused, match=f"transformers has no tokenizer class '{name}'") as caught:
        load(resolve(folder))
    said = json.loads("{" + str(caught.value.hint).split("set ")[1].split(" in ")[0] + "}")
    edit(folder / file, **said)
    assert load(resolve(folder)).tokenizer("the great film")["input_ids"] == before


def test_the_artifact_of_a_cut_model_holds_no_dropped_setting(folder, edit, tmp_path):
    from deploycomp.models.checkpoint import save

    edit(folder / "tokenizer_config.json", surprise=1, vocab_file="/home/me/vocab.txt")
    edit(folder / "config.json", surprise=1)
    (tmp_path / "saved").mkdir()
    save(load(resolve(folder)), tmp_path / "saved")
    for name in ("config.json", "tokenizer_config.json"):
        assert not {"surprise", "vocab_file"} & json.loads((tmp_path / "saved" / name).read_text()).keys()


# ----------------------------------------------------------------------------------------- sentence-transformers files


@pytest.fixture
def sentences(sentence, tmp_path) -> Path:
    return Path(shutil.copytree(sentence, tmp_path / "sentences"))


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("sentence_bert_config.json", {"model_args": {"torch_dtype": "float16"}}, "'model_args', which is refused"),
        ("sentence_bert_config.json", {"tokenizer_args": {"vocab_file": "/x"}}, "'tokenizer_args', which is refused"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 3}}}, "'processing_kwargs', which"),
        ("sentence_bert_config.json", {"tokenizer_name_or_path": "/etc"}, "'tokenizer_name_or_path', which"),
        ("sentence_bert_config.json", {"module_output_name": "x"}, "gives 'module_output_name' a value"),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "gives 'modality_config' a value"),
        ("sentence_bert_config.json", {"do_lower_case": "yes"}, "gives 'do_lower_case' a value"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "x"}, "gives 'similarity_fn_name' a value"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "gives 'pooling_mode' a value"),
    ],
)
def test_sentence_settings_that_are_refused(sentences, edit, file, change, what):
    edit(sentences / file, **change)
    with pytest.raises(InputRefused, match=what):
        audit(sentences)


@pytest.mark.parametrize(
    "file", ["sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"]
)
def test_sentence_settings_that_are_unknown_are_told(sentences, edit, file):
    edit(sentences / file, surprise=1)
    assert audit(sentences).notes == (f"{Path(file).name}: without effect and dropped: surprise",)


def test_the_settings_under_an_older_name_are_read(sentences):
    (sentences / "sentence_bert_config.json").rename(sentences / "sentence_roberta_config.json")
    (sentences / "sentence_roberta_config.json").write_text('{"max_seq_length": 7, "do_lower_case": true}')
    found = audit(sentences)
    assert found.sentence is not None
    assert (found.sentence.max_length, found.sentence.lower_case) == (7, True)
    assert "sentence_roberta_config.json" in found.files
