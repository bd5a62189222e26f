from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from deploycomp.errors import InputRefused, UsageError
from deploycomp.measure.benchmark import Candidate, benchmark
from deploycomp.measure.candidate import examine
from deploycomp.measure.stream import batch_rows, read_stream
from deploycomp.recipe import Benchmark
from deploycomp.runtime.encode import Settings, encode_texts
from tests.measure.models import VOCABULARY, artifact, onnx_model
from tests.tiny import build, texts

TEXTS = ["a", "a b", "a b c d e f", "b c", "c d e", "a a a a", "b"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token a word, [CLS] and [SEP] around."""
    from tokenizers import models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(file)


def made(folder: Path, tokenizer: Tokenizer, **options: object) -> Path:
    path = artifact(folder, runtime={"max_length": 6}, **options)
    manifest = json.loads((path / "deploycomp.json").read_text())
    (path / "deploycomp.json").write_text(json.dumps({**manifest, "task": "feature-extraction"}))
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30), size=st.integers(1, 8))
def test_every_row_stands_in_one_batch_with_rows_of_its_length(tokenizer: Tokenizer, lengths: list[int], size: int):
    settings = Settings(max_length=20)
    rows, _ = encode_texts(tokenizer, [" ".join("a" * length) for length in lengths], settings)
    batches = batch_rows(rows, settings, size)
    assert [len(each["input_ids"]) for each in batches[:-1]] == [size] * (len(batches) - 1)
    real = [sum(row) for batch in batches for row in batch["attention_mask"]]
    assert real == sorted((length + 2 for length in lengths), reverse=True)
    for batch in batches:
        assert len(batch["input_ids"][0]) == sum(batch["attention_mask"][0])  # padded to its longest, no more


def test_rows_are_cut_to_what_the_artifact_takes(tmp_path: Path, tokenizer: Tokenizer, data: str):
    subject = examine(Candidate("a", "onnx", made(tmp_path / "a", tokenizer)))
    stream = read_stream([subject], data, batch_sizes=[1, 4])
    assert (stream.rows, stream.longest, stream.encoded["a"]) == (7, 6, 7)
    assert stream.tokens["a"] == 3 + 4 + 6 + 4 + 5 + 6 + 3
    assert [len(each["input_ids"]) for each in stream.batches["a"][4]] == [4, 3]
    assert stream.batches["a"][1][0]["input_ids"] == [[2, 4, 5, 6, 7, 3]]
    assert read_stream([subject], data, batch_sizes=[1], limit=2).rows == 2


def test_a_pair_is_two_inputs_to_an_encoder(tmp_path: Path, tokenizer: Tokenizer):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"text": "a", "text_pair": "b c"}) + "\n")
    subject = examine(Candidate("a", "onnx", made(tmp_path / "a", tokenizer)))
    asked = {"columns": {"text": "text", "text_pair": "text_pair"}}
    stream = read_stream([subject], str(tmp_path / "pairs.jsonl"), batch_sizes=[8], **asked)
    assert (stream.rows, stream.encoded["a"], stream.tokens["a"]) == (1, 2, 3 + 4)


def test_a_stream_is_measured_whole_in_every_block(tmp_path: Path, tokenizer: Tokenizer, data: str):
    path = made(tmp_path / "a", tokenizer)
    settings = Benchmark(batch_size=(4,), threads=(1,), blocks=2, block_seconds=0.02)
    found = benchmark([Candidate("a", "onnx", path)], settings, rows={"data": data}, samples=True)
    (cell,) = found["cells"]
    assert (cell["batch_size"], cell["sequence_length"]) == (4, 6)
    assert all(len(block) % 2 == 0 for block in cell["block_samples_ns"])
    calls = [each for block in cell["block_samples_ns"] for each in block]
    assert cell["throughput_per_s"] == pytest.approx(3.5 * len(calls) / (sum(calls) / 1e9))
    assert found["settings"]["rows"]["tokens"] == {"a": 31}
    (again,) = found["context"]["repeated_input"]
    assert again["ratio"] > 0
    assert VOCABULARY > 12


def test_a_file_that_knows_no_task_is_refused_alone(tmp_path: Path, data: str):
    with pytest.raises(UsageError, match="no candidate tells how its rows are read"):
        read_stream([examine(Candidate("a", "onnx", onnx_model(tmp_path)))], data, batch_sizes=[1])


def test_a_candidate_without_a_tokenizer_is_refused(tmp_path: Path, tokenizer: Tokenizer, data: str):
    path = made(tmp_path / "a", tokenizer)
    (path / "tokenizer.json").unlink()
    with pytest.raises(InputRefused, match="the tokenizer is missing"):
        read_stream([examine(Candidate("a", "onnx", path))], data, batch_sizes=[1])


def test_a_model_folder_tells_its_task_and_tokenizer(tmp_path: Path):
    folder = build(tmp_path / "model", "bert", "text-classification")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(5)))
    subject = examine(Candidate("source", "torch", folder))
    stream = read_stream([subject], str(tmp_path / "rows.jsonl"), batch_sizes=[2])
    assert [len(each["input_ids"]) for each in stream.batches["source"][2]] == [2, 2, 1]
