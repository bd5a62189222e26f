"""The audit refuses, by reason, before anything of a checkpoint is executed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from deploycomp.errors import InputRefused
from deploycomp.models import rules, strictjson
from deploycomp.models.audit import audit


def test_a_good_folder_passes(bert):
    found = audit(bert)
    assert found.files == ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert found.config["model_type"] == "bert"
    assert found.notes == ()
    assert found.sentence is None


# ------------------------------------------------------------------------------------------------ keys that run code


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map", "names Python code"),
        ({"vision": {"trust_remote_code": True}}, "vision.trust_remote_code", "run remote code"),
        ({"parts": [{"_target_": "os.system"}]}, "parts[0]._target_", "Python object to be called"),
        ({"_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal", "hub repository"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation", "hub repository"),
        ({"_attn_implementation_autoset": "evil/kernel"}, "_attn_implementation_autoset", "hub repository"),
        ({"kernel_config": {"repo": "evil"}}, "kernel_config", "compiled kernels"),
        ({"use_kernels": True}, "use_kernels", "compiled kernels"),
        ({"conv_kernel_size": "evil/kernel"}, "conv_kernel_size", "compiled kernels"),
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files", "another file"),
        ({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, "fast_tokenizer_files", "another file"),
    ],
)
def test_keys_that_can_run_code_are_refused(folder, edit, file, change, key, why):
    edit(folder / file, **change)
    with pytest.raises(InputRefused) as caught:
        audit(folder)
    assert caught.value.what == f"{file} holds the key {key!r}"
    assert why in str(caught.value.why)
    assert caught.value.where == str(folder / file)


def test_harmless_keys_and_words_pass(folder, edit):
    edit(
        folder / "config.json",
        conv_kernel_size=3,
        _attn_implementation_autoset=True,
        id2label={"0": "kernel_error", "1": "auto_map"},
        label2id={"kernel_error": 0, "auto_map": 1},
    )
    audit(folder)


def test_a_deep_key_is_found():
    value: dict = {"auto_map": 1}
    for _ in range(500):
        value = {"next": [value]}
    with pytest.raises(InputRefused, match="holds the key"):
        rules.scan(value, where="config.json")


# ------------------------------------------------------------------------------------------------------ strict JSON


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"model_type": "bert", "model_type": "evil"}', "duplicate key: 'model_type'"),
        ("[1, 2]", "config.json is not a JSON object"),
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": ', "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[" * 100_000, "nested too deep"),
        ("{}", "config.json has no model_type"),
        ('{"model_type": 7}', "config.json has no model_type"),
    ],
)
def test_a_config_that_is_no_plain_json_is_refused(folder, text, what):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputRefused, match=what):
        audit(folder)


def test_a_config_that_is_too_large_is_refused(folder):
    with (folder / "config.json").open("r+b") as file:
        file.truncate(strictjson.MAX_CONFIG_BYTES + 1)
    with pytest.raises(InputRefused, match=r"config.json is too large: 10,000,001 bytes"):
        audit(folder)


def test_a_tokenizer_that_is_too_large_is_refused(folder):
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(200_000_001)  # sparse
    with pytest.raises(InputRefused, match=r"tokenizer.json is too large"):
        audit(folder)


def test_a_missing_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(InputRefused, match=r"there is no config.json") as caught:
        audit(folder)
    assert "save_pretrained" in str(caught.value.hint)


# --------------------------------------------------------------------------------------------- what is not supported


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]},
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
        {"model_type": "t5", "architectures": ["T5EncoderModel"]},
        {"model_type": "unheard-of", "architectures": ["UnheardOfForCausalLM"]},
        {"is_encoder_decoder": True},
        {"is_decoder": True},
    ],
)
def test_generators_are_refused_with_what_works(folder, edit, change):
    edit(folder / "config.json", **change)
    with pytest.raises(InputRefused, match="generates text") as caught:
        audit(folder)
    assert "modernbert" in str(caught.value.why)
    assert "fine-tune one of these" in str(caught.value.hint)


def test_an_unknown_encoder_passes_the_audit(folder, edit):
    edit(folder / "config.json", model_type="unheard-of", architectures=["UnheardOfModel"])
    audit(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized already"),
        ({"num_hidden_layers": 10**9}, "not a number of layers: 1000000000"),
        ({"num_hidden_layers": "two"}, "not a number of layers: 'two'"),
        ({"architectures": "BertModel"}, "architectures is not a list of names"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label has a gap: 1 is missing"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label has a duplicate label: 'a'"),
        ({"id2label": ["a", "b"]}, "id2label is not a mapping"),
        ({"num_labels": 4}, "id2label has 3 labels, num_labels says 4"),
    ],
)
def test_contradictions_in_the_config_are_refused(folder, edit, change, what):
    edit(folder / "config.json", **change)
    with pytest.raises(InputRefused, match=what):
        audit(folder)


def test_contradicting_label_maps_are_noted(folder, edit):
    edit(folder / "config.json", label2id={"negative": 2, "neutral": 1, "positive": 0})
    assert audit(folder).notes == ("label2id contradicts id2label and is ignored",)


def test_an_adapter_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputRefused, match="adapter") as caught:
        audit(folder)
    assert "merge_and_unload" in str(caught.value.hint)


def test_python_files_are_noted_and_never_read(folder, events):
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    events.clear()
    found = audit(folder)
    assert found.notes == ("modeling_evil.py ignored: code is never run",)
    assert "modeling_evil.py" not in found.files
    assert not any("modeling_evil" in path for _, path in events)


# ------------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, name):
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(InputRefused, match="symbolic link that leaves the model's folder"):
        audit(folder)


def test_a_dangling_link_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(folder / "nothing")
    with pytest.raises(InputRefused, match="symbolic link to nothing"):
        audit(folder)


def test_a_pipe_is_refused_without_waiting_for_it(folder):
    (folder / "tokenizer_config.json").unlink()
    os.mkfifo(folder / "tokenizer_config.json")
    with pytest.raises(InputRefused, match="not a plain file"):
        audit(folder)


def as_hub_cache(bert: Path, root: Path) -> Path:
    """Lay a model out as the hub's cache does: snapshots/<commit>/name → ../../blobs/<hash>."""
    snapshot, blobs = root / "models--org--tiny" / "snapshots" / ("a" * 40), root / "models--org--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for index, path in enumerate(sorted(bert.iterdir())):
        shutil.copy(path, blobs / str(index))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(index))
    return snapshot


def test_links_inside_the_hub_cache_pass(bert, tmp_path):
    assert audit(as_hub_cache(bert, tmp_path)).config["model_type"] == "bert"


def test_a_link_from_one_cached_repository_to_another_is_refused(bert, tmp_path):
    snapshot = as_hub_cache(bert, tmp_path)
    other = tmp_path / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    shutil.copy(bert / "config.json", other / "0")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "0")
    with pytest.raises(InputRefused, match="leaves the model's folder"):
        audit(snapshot)


# --------------------------------------------------------------------------------------------- sentence-transformers


def _modules(folder: Path, **change: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1].update(change)
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.fixture
def sentences(sentence, tmp_path) -> Path:
    return Path(shutil.copytree(sentence, tmp_path / "sentences"))


@pytest.mark.parametrize(
    "dotted",
    [
        "evil.Pooling",
        "sentence_transformers_evil.models.Pooling",
        "sentence_transformers.models.Evil",
        "modeling_evil.CustomPooling",
    ],
)
def test_a_module_of_foreign_code_is_refused(sentences, dotted):
    _modules(sentences, type=dotted)
    with pytest.raises(InputRefused, match="class that sentence-transformers does not have") as caught:
        audit(sentences)
    assert dotted in caught.value.what
    assert "foreign code" in str(caught.value.why)


def test_a_dense_module_is_refused_by_name(sentences):
    modules = json.loads((sentences / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.Dense"
    (sentences / "modules.json").write_text(json.dumps(modules))
    found = audit(sentences).sentence  # the encoder alone can be exported, so the refusal waits for the task
    assert found is not None
    assert found.pooling is None
    assert found.unsupported is not None
    assert found.unsupported.what == "the sentence-transformers modules Transformer, Pooling, Dense are not supported"


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a\\b"])
def test_a_module_outside_the_folder_is_refused(sentences, path):
    _modules(sentences, path=path)
    with pytest.raises(InputRefused, match="module lies outside the model's folder"):
        audit(sentences)


@pytest.mark.parametrize(
    "name", ["1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"]
)
def test_sentence_configs_are_scanned(sentences, edit, name):
    edit(sentences / name, model_args={"trust_remote_code": True})
    with pytest.raises(InputRefused, match=r"model_args.trust_remote_code"):
        audit(sentences)


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "pooling mode attention is not supported"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length is not a positive number"),
    ],
)
def test_sentence_settings_out_of_range_are_refused(sentences, edit, name, change, what):
    edit(sentences / name, **change)
    with pytest.raises(InputRefused, match=what):
        audit(sentences)


def test_another_kind_of_model_in_the_same_layout_is_refused_by_name(sentences, edit):
    edit(sentences / "config_sentence_transformers.json", model_type="CrossEncoder")
    with pytest.raises(InputRefused, match="a CrossEncoder of sentence-transformers in this layout is not supported"):
        audit(sentences)


def test_modules_that_are_wired_otherwise_wait_for_the_task(sentences, edit):
    edit(sentences / "sentence_bert_config.json", transformer_task="fill-mask")
    found = audit(sentences).sentence
    assert found is not None
    assert found.unsupported is not None
    assert "wired in a way that is not supported" in found.unsupported.what


def test_a_pooling_module_without_config_is_refused(sentences):
    (sentences / "1_Pooling" / "config.json").unlink()
    with pytest.raises(InputRefused, match=r"Pooling module has no config.json"):
        audit(sentences)


def test_modules_must_be_a_list(sentences):
    (sentences / "modules.json").write_text("{}")
    with pytest.raises(InputRefused, match="not a list of modules"):
        audit(sentences)


def test_prompts_are_read(sentences, edit):
    edit(sentences / "config_sentence_transformers.json", prompts={"query": "find: "}, default_prompt_name="query")
    found = audit(sentences).sentence
    assert found is not None
    assert (found.prompts, found.default_prompt) == ({"query": "find: "}, "query")


def test_sentence_files_are_read_and_listed(sentence):
    found = audit(sentence)
    assert found.sentence is not None
    assert found.sentence.pooling.mode == "mean"
    assert found.sentence.pooling.normalize
    assert "1_Pooling/config.json" in found.files
    assert "modules.json" in found.files


def test_the_old_layout_with_the_encoder_in_a_folder(sentences):
    encoder = sentences / "0_Transformer"
    encoder.mkdir()
    for path in [path for path in sentences.iterdir() if path.is_file() and "sentence_tr" not in path.name]:
        if path.name != "modules.json":
            shutil.move(path, encoder / path.name)
    modules = json.loads((sentences / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (sentences / "modules.json").write_text(json.dumps(modules))
    found = audit(sentences)
    assert found.sentence is not None
    assert found.sentence.encoder == "0_Transformer"
    assert "0_Transformer/config.json" in found.files
    assert "0_Transformer/sentence_bert_config.json" in found.files
