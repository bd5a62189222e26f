"""The runtime answers what the source answers in its own library, whatever its settings say; or it is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploycomp.assess import open_source, record_source
from deploycomp.errors import InputRefused, VerificationFailed
from deploycomp.evaluate.selftest import check_selftest, read_selftest, write_selftest
from deploycomp.evaluate.text import (
    ROW_CHARACTERS,
    ROWS,
    TextReference,
    check_text,
    probe_inputs,
    record_texts,
    sample_rows,
)
from deploycomp.layout import write_tokenizer
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.runtime import Predictor
from deploycomp.runtime.encode import load_tokenizer
from tests import tiny

TASKS = ("text-classification", "token-classification", "question-answering", "feature-extraction",
         "sentence-similarity", "fill-mask")  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny model, built once and copied for each test that changes it."""
    made: dict[Any, Path] = {}

    def build(folder: Path, arch: str, task: str, **options: Any) -> Path:
        key = (arch, task, *sorted(options.items()))
        if key not in made:
            made[key] = tiny.build(tmp_path_factory.mktemp("built") / "m", arch, task, **options)
        shutil.copytree(made[key], folder)
        return folder

    return build


def published(model: TorchModel, folder: Path) -> Predictor:
    """The model behind the tokenizer and the settings that an artifact of it has: what export adds is its graph."""
    write_tokenizer(model.tokenizer, folder / "published.json")
    manifest = {
        "task": model.task,
        "precision": "fp32",
        "signature": {"inputs": {name: ["batch", "sequence"] for name in model.inputs}},
        "runtime": json.loads(json.dumps(model.runtime)),
    }
    return Predictor(load_tokenizer(folder / "published.json"), manifest, model.run)


def agree(folder: Path, task: str = "auto") -> tuple[TorchModel, TextReference]:
    """Export's own check, without its graph; raises where a text is read or answered otherwise."""
    model = load(resolve(folder), task)
    reference = record_source(model, None)
    assert len(reference.probes) > 10
    facts = check_text(published(model, folder), reference, "fp32")
    assert facts["stage"] == "text"
    assert facts["outputs"]["answers"]["worst"] < 1e-5
    return model, reference


def edit(path: Path, **values: Any) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({name: value for name, value in {**data, **values}.items() if value is not Ellipsis}))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_every_architecture_and_task(tmp_path: Path, built: Callable[..., Path], arch: str, task: str):
    agree(built(tmp_path / "m", arch, task))


# ------------------------------------------------------------ settings of the tokenizer

SETTINGS: dict[str, dict[str, Any]] = {
    "lower case": {"do_lower_case": True},
    "case": {"do_lower_case": False},
    "accents kept": {"strip_accents": False},
    "accents stripped": {"strip_accents": True},
    "Chinese apart": {"tokenize_chinese_chars": True},
    "Chinese together": {"tokenize_chinese_chars": False},
    "a space before": {"add_prefix_space": True},
    "no space before": {"add_prefix_space": False},
    "cut on the left": {"truncation_side": "left"},
    "padded on the left": {"padding_side": "left"},
    "a short limit": {"model_max_length": 12},
    "no limit": {"model_max_length": 10**30},
    "token types": {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    "no token types": {"model_input_names": ["input_ids", "attention_mask"]},
    "special tokens split": {"split_special_tokens": True},
    "offsets not trimmed": {"trim_offsets": False},
    "spaces cleaned": {"clean_up_tokenization_spaces": True},
    "another unknown token": {"unk_token": "x"},
    "an extra token": {"extra_special_tokens": ["good"], "additional_special_tokens": ["good"]},
    "an added token": {
        "added_tokens_decoder": {"60": {"content": "lond", "lstrip": False, "rstrip": False, "normalized": True,
                                        "single_word": False, "special": False}},
    },
    "an added token that eats spaces": {
        "added_tokens_decoder": {"61": {"content": "good", "lstrip": True, "rstrip": True, "normalized": False,
                                        "single_word": True, "special": False}},
    },
    "remnants of training": {"max_length": 9, "stride": 3, "truncation_strategy": "only_first", "pad_to_multiple_of": 8,
                             "truncation": True, "padding": "max_length"},
    "spaces kept": {"remove_space": False, "keep_accents": True},
    "split at punctuation": {"split_by_punct": True},
    "words never split": {"never_split": ["london"], "do_basic_tokenize": False},
    "an end token": {"add_bos_token": True, "add_eos_token": True},
    "the library's own class": {"tokenizer_class": "PreTrainedTokenizerFast"},
}  # fmt: skip
"""What a tokenizer_config.json may say; each either changes what the artifact does, or is refused by name."""


def flipped(folder: Path, name: str) -> None:
    """The setting is honoured, or refused with a reason; there is no third way."""
    edit(folder / "tokenizer_config.json", **SETTINGS[name])
    with contextlib.suppress(InputRefused):
        agree(folder)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("arch", ["bert", "roberta", "xlm-roberta"])
def test_a_tokenizers_setting_is_honoured_or_refused(tmp_path: Path, built: Callable[..., Path], arch: str, name: str):
    flipped(built(tmp_path / "m", arch, "text-classification"), name)


@pytest.mark.parametrize("name", ["lower case", "a space before", "cut on the left", "a short limit", "no token types"])
@pytest.mark.parametrize("task", TASKS)
def test_a_tokenizers_setting_on_every_task(tmp_path: Path, built: Callable[..., Path], task: str, name: str):
    if (task, name) == ("question-answering", "a short limit"):
        pytest.skip("windows of 12 tokens move by one: a thousand of them say no more than ten")
    flipped(built(tmp_path / "m", "bert", task), name)
    flipped(built(tmp_path / "r", "roberta", task), name)


def test_settings_change_what_the_artifact_does(tmp_path: Path, built: Callable[..., Path]):
    """A setting that agrees because nobody heard it would agree too: these must be heard."""
    plain = load(resolve(built(tmp_path / "plain", "bert", "text-classification")))
    texts = ["Anna Was In LONDON", " ".join(tiny.texts(80, seed=1)), ("good film", "bad film")]
    before = published(plain, tmp_path).tokens(texts)
    heard = {}
    for name in ("case", "cut on the left", "a short limit", "no token types"):
        folder = built(tmp_path / name, "bert", "text-classification")
        edit(folder / "tokenizer_config.json", **SETTINGS[name])
        model = load(resolve(folder))
        heard[name] = (published(model, folder).tokens(texts), model.inputs)
    assert heard["case"][0][0] != before[0]
    assert heard["cut on the left"][0][1] != before[1]
    assert len(heard["cut on the left"][0][1]) == len(before[1])
    assert len(heard["a short limit"][0][1]) == 12
    assert heard["no token types"][1] == ("input_ids", "attention_mask")


# ------------------------------------------------------------ settings of sentence-transformers


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("sentence_bert_config.json", {"max_seq_length": 9}),
        ("sentence_bert_config.json", {"max_seq_length": 100}),
        ("sentence_bert_config.json", {"max_seq_length": None}),
        ("config_sentence_transformers.json", {"prompts": {"query": "find: "}, "default_prompt_name": "query"}),
        ("config_sentence_transformers.json", {"prompts": {"query": "find: ", "other": ""}}),
        ("1_Pooling/config.json", {"include_prompt": False}),
    ],
)
@pytest.mark.parametrize("arch", ["bert", "roberta"])
def test_settings_of_sentence_transformers(
    tmp_path: Path, built: Callable[..., Path], arch: str, file: str, values: dict[str, Any]
):
    folder = built(tmp_path / "m", arch, "sentence-similarity")
    edit(folder / "tokenizer_config.json", do_lower_case=False, model_max_length=50)
    edit(folder / file, **values)
    model, _ = agree(folder)
    assert model.max_length == (values.get("max_seq_length") or (50 if "max_seq_length" in values else 128))


def test_the_default_prompt_is_put_before_every_text_and_others_by_name(tmp_path: Path, built: Callable[..., Path]):
    from sentence_transformers import SentenceTransformer

    folder = built(tmp_path / "m", "bert", "sentence-similarity")
    prompts = {"query": "find the ", "document": "read: "}
    edit(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name="query")
    predictor = published(load(resolve(folder)), folder)
    source = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    for name in (None, "query", "document"):
        wanted = source.encode(["good film"], prompt_name=name, show_progress_bar=False)
        np.testing.assert_allclose(predictor(["good film"], prompt_name=name), wanted, atol=1e-5)
    assert predictor.tokens(["good"]) != predictor.tokens(["find the good"])
    with pytest.raises(Exception, match="the model has no prompt 'passage'") as refused:
        predictor(["x"], prompt_name="passage")
    assert refused.value.why == "its prompts: query, document"


def test_prompts_left_out_of_pooling_are_refused(tmp_path: Path, built: Callable[..., Path]):
    folder = built(tmp_path / "m", "bert", "sentence-similarity")
    edit(folder / "config_sentence_transformers.json", prompts={"query": "find: "})
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(InputRefused, match="leaves its prompts out of the pooling"):
        load(resolve(folder))
    agree(folder, "feature-extraction")  # what the message says to type


def test_a_default_prompt_that_is_not_there_is_refused(tmp_path: Path, built: Callable[..., Path]):
    folder = built(tmp_path / "m", "bert", "sentence-similarity")
    edit(folder / "config_sentence_transformers.json", prompts={"a": "b"}, default_prompt_name="c")
    with pytest.raises(InputRefused, match="default_prompt_name names a prompt that is not there: 'c'"):
        resolve(folder)


@pytest.mark.parametrize("kind", ["Dense", "LayerNorm", "Dropout"])
def test_further_modules_are_refused_and_what_the_message_says_works(
    tmp_path: Path, built: Callable[..., Path], kind: str
):
    folder = built(tmp_path / "m", "bert", "sentence-similarity")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": f"3_{kind}", "type": f"sentence_transformers.models.{kind}"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / f"3_{kind}").mkdir()
    (folder / f"3_{kind}" / "config.json").write_text(json.dumps({"dropout": 0.1}))
    if kind == "Dropout":  # it does nothing once training is over
        agree(folder)
        return
    with pytest.raises(InputRefused, match=f"modules Transformer, Pooling, Normalize, {kind} are not") as refused:
        load(resolve(folder))
    assert refused.value.hint is not None
    assert refused.value.hint.startswith("--task feature-extraction")
    agree(folder, "feature-extraction")


# ------------------------------------------------------------ heads


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({"problem_type": "regression"}, "identity"),
        ({"problem_type": ...}, "sigmoid"),
        ({"problem_type": ..., "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
        ({"problem_type": ..., "sentence_transformers": {"activation_fn": "torch.nn.Identity"}}, "identity"),
        ({"sentence_transformers": {"version": "4.0.0"}}, "sigmoid"),
    ],
)  # fmt: skip
def test_the_one_score_of_a_model_is_that_of_its_library(
    tmp_path: Path, built: Callable[..., Path], config: dict[str, Any], activation: str
):
    folder = built(tmp_path / "m", "bert", "text-classification", problem_type="regression")
    edit(folder / "config.json", **config)
    model, _ = agree(folder)
    assert model.activation == activation


def test_an_activation_that_nobody_knows_is_refused(tmp_path: Path, built: Callable[..., Path]):
    folder = built(tmp_path / "m", "bert", "text-classification", problem_type="regression")
    edit(folder / "config.json", sbert_ce_default_activation_function="torch.nn.modules.activation.Tanh")
    with pytest.raises(
        InputRefused, match=r"activation over the score is not supported: torch\.nn\.modules"
    ) as refused:
        load(resolve(folder))
    assert "Sigmoid" in str(refused.value.why)


@pytest.mark.parametrize(
    ("kind", "labels"), [("multi_label_classification", None), ("single_label_classification", ("a", "b")),
                         ("regression", ("x", "y"))]
)  # fmt: skip
def test_kinds_of_text_classification(tmp_path: Path, kind: str, labels: tuple[str, ...] | None):
    agree(tiny.build(tmp_path / "m", "bert", "text-classification", problem_type=kind, labels=labels))


# ------------------------------------------------------------ a model that was cut


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_was_cut_answers_inside_its_library(tmp_path: Path, built: Callable[..., Path], task: str):
    from deploycomp.models import checkpoint
    from tests.models.test_checkpoint import Heads, cut

    model = cut(load(resolve(built(tmp_path / "m", "bert", task))), Heads(1, (0, 2)))
    (tmp_path / "cut").mkdir()
    checkpoint.save(model, tmp_path / "cut")
    made, _ = agree(tmp_path / "cut")
    assert made.plan


# ------------------------------------------------------------ what the check sees


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictor, TextReference]:
    folder = tiny.build(tmp_path_factory.mktemp("asked") / "m", "bert", "text-classification")
    model = load(resolve(folder))
    return published(model, folder), record_source(model, None)


def test_other_tokens_are_told_with_the_text_and_the_place(asked: tuple[Predictor, TextReference]):
    predictor, reference = asked
    other = Predictor(predictor.tokenizer, {**predictor.manifest, "runtime": {**predictor.runtime, "max_length": 100}},
                      predictor._run)  # fmt: skip
    with pytest.raises(VerificationFailed, match="reads a text otherwise than its source does") as failed:
        check_text(other, reference, "fp32")
    assert "(128 and 100 in all)" in str(failed.value.why)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_other_answers_are_told(asked: tuple[Predictor, TextReference], precision: str):
    predictor, reference = asked
    shifted = Predictor(
        predictor.tokenizer,
        predictor.manifest,
        lambda feeds, names: [a[:, ::-1] * 4 for a in predictor._run(feeds, names)],
    )
    with pytest.raises(VerificationFailed, match="answers a text otherwise than its source does") as failed:
        check_text(shifted, reference, precision)
    assert failed.value.hint is not None


def test_rounding_is_held_to_what_a_precision_may_cost(asked: tuple[Predictor, TextReference]):
    predictor, reference = asked

    def noisy(feeds: dict[str, Any], names: tuple[str, ...]) -> list[np.ndarray]:
        return [a + np.float32(0.02) * np.sin(np.arange(a.size)).reshape(a.shape) for a in predictor._run(feeds, names)]

    other = Predictor(predictor.tokenizer, predictor.manifest, noisy)
    assert 0 < check_text(other, reference, "int8")["outputs"]["answers"]["worst"] < 0.3
    with pytest.raises(VerificationFailed):
        check_text(other, reference, "fp32")


def test_a_library_that_does_not_take_a_probe_is_counted():
    class Picky:
        task, runtime, tokenizer = "sentence-similarity", {}, None

        def tokens(self, inputs: Any) -> list[list[int]]:
            if any(each == "" for each in inputs):
                raise ValueError("nothing")
            return [[1] for _ in inputs]

        def answer(self, inputs: Any, **_: Any) -> Any:
            from deploycomp.runtime.results import Answered

            return Answered([np.ones(3, np.float32) for _ in inputs])

    inputs = probe_inputs("sentence-similarity", max_length=8, mask=None)
    reference = record_texts(Picky(), inputs)
    assert (len(reference.probes), reference.unanswered) == (len(inputs) - 2, 2)
    facts = check_text(Picky(), reference, "fp32")
    assert facts["note"] == "2 probes that the source's own library does not take"
    with pytest.raises(ValueError, match="nothing"):
        record_texts(Picky(), [], rows=[""])


def test_rows_are_spread_and_bounded():
    rows = sample_rows([str(index) for index in range(1000)])
    assert len(rows) == ROWS
    assert rows[-1] == "945"
    assert len(sample_rows(["x" * (ROW_CHARACTERS // 4)] * 50)) == 4
    assert len(sample_rows(["x" * 10 * ROW_CHARACTERS] * 5)) == 1
    assert sample_rows([]) == []


def test_what_a_library_raises_on_an_input_is_a_refusal_with_its_words(tmp_path: Path, built: Callable[..., Path]):
    model = load(resolve(built(tmp_path / "m", "bert", "fill-mask")))
    library = open_source(model.source, model.task, model.runtime)
    with pytest.raises(InputRefused, match="own library does not take an input") as refused:
        library.answer(["no mask here"])
    assert "mask_token" in str(refused.value.why)


# ------------------------------------------------------------ the selftest of a manifest


@pytest.mark.parametrize("task", TASKS)
def test_a_manifest_holds_its_probes(tmp_path: Path, built: Callable[..., Path], task: str):
    folder = built(tmp_path / "m", "bert", task)
    model, reference = agree(folder)
    predictor = published(model, folder)
    manifest = json.loads(json.dumps({**predictor.manifest, "selftest": write_selftest(reference)}))
    assert len(json.dumps(manifest)) < 60_000
    facts = check_selftest(predictor, manifest)
    assert facts is not None
    assert facts["checks"] > 15
    read = read_selftest(manifest)
    assert read is not None
    broken = replace(read, probes=(replace(read.probes[0], tokens=(1, 2)),))
    with pytest.raises(VerificationFailed):
        check_text(predictor, broken, "fp32")


def test_a_manifest_without_probes_is_not_asked_and_a_broken_one_is_refused(asked: tuple[Predictor, TextReference]):
    predictor, _ = asked
    assert check_selftest(predictor, predictor.manifest) is None
    for entries in ({"a": 1}, [{"input": "x"}], [1], [{"input": "[", "tokens": "", "numbers": "", "decision": "[]"}]):
        with pytest.raises(InputRefused, match="selftest cannot be read"):
            check_selftest(predictor, {**predictor.manifest, "selftest": entries})


def test_a_source_that_its_library_does_not_open_is_refused(tmp_path: Path, built: Callable[..., Path]):
    model = load(resolve(built(tmp_path / "m", "bert", "text-classification")))
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputRefused, match=r"model\.safetensors changed while the model was loaded"):
        open_source(model.source, model.task, model.runtime)


def test_what_a_library_raises_is_a_refusal(
    tmp_path: Path, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    model = load(resolve(built(tmp_path / "m", "bert", "text-classification")))

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such thing\nmore")

    monkeypatch.setattr("deploycomp.evaluate.library.open_library", broken)
    with pytest.raises(InputRefused, match="the model's own library cannot open it") as refused:
        open_source(model.source, model.task, model.runtime)
    assert refused.value.why == "RuntimeError: no such thing"
