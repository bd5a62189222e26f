from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import InputRefused, UsageError, VerificationFailed
from deploycomp.runtime import Classification, Fill, Labels, Predictor, Span, Tags, similarity
from deploycomp.runtime.inputs import EXAMPLES
from deploycomp.runtime.raw import OUTPUTS
from tests.runtime.graphs import LABELS, WIDTH, NumpyRun, byte_level, manifest, wordpiece, write_artifact

TASKS = tuple(OUTPUTS)
TEXTS = ["a cat", "", "the big red dog runs in the blue river of vienna, and ada runs on.", "tim", "a " * 100, "dog?"]
INPUTS: dict[str, list[Any]] = {
    "text-classification": [*TEXTS, ("a cat", "a dog runs in graz")],
    "token-classification": TEXTS,
    "question-answering": [("who runs", text) for text in TEXTS],
    "feature-extraction": TEXTS,
    "sentence-similarity": TEXTS,
    "fill-mask": [f"a [MASK] runs {text} [MASK]" for text in TEXTS if len(text) < 50],
}


def _predictor(task: str, **runtime: Any) -> tuple[Predictor, NumpyRun]:
    run = NumpyRun(task)
    return Predictor(wordpiece(), manifest(task, **runtime), run), run


def _same(left: Any, right: Any) -> None:
    """Equal in structure, and in numbers up to rounding."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        left, right = list(left.values()), [right[key] for key in left]
    if isinstance(left, str | int | None):
        assert left == right
    elif isinstance(left, list | tuple):
        assert type(left) is type(right)
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            _same(one, other)
    else:
        np.testing.assert_allclose(left, right, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_the_artifact_and_any_other_run_give_the_same_answers(tmp_path: Path, task: str):
    loaded = Predictor.load(write_artifact(tmp_path / "a", task), threads=1, verify=True)
    _same(loaded(INPUTS[task]), _predictor(task)[0](INPUTS[task]))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "runtime",
    [{}, {"padding_side": "left"}, {"fixed": {"batch": 3, "sequence": 20}}, {"fixed": {"batch": None, "sequence": 24}}],
    ids=["right", "left", "fixed", "fixed-sequence"],
)
def test_a_row_does_not_depend_on_its_batch_mates(task: str, runtime: dict[str, Any]):
    """Padding is poisoned in NumpyRun, so a leak of padding shows here, too."""
    predictor, _ = _predictor(task, **runtime)
    together = predictor(INPUTS[task], batch_size=4)
    alone = [predictor([item], batch_size=1)[0] for item in INPUTS[task]]
    assert len(together) == len(INPUTS[task])
    for one, other in zip(together, alone, strict=True):
        _same(one, other)


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=30), batch_size=st.integers(1, 8))
def test_the_order_of_the_inputs_is_restored(counts: list[int], batch_size: int):
    predictor, run = _predictor("feature-extraction", max_length=30)
    texts = [" ".join(["a"] * (count - 1) + ["dog"]) if count else "" for count in counts]
    rows = predictor(texts, batch_size=batch_size)
    assert [len(row) for row in rows] == [min(count + 2, 30) for count in counts]
    assert predictor.truncated == sum(count + 2 > 30 for count in counts)
    assert sum(shape[0] for shape in run.shapes) == len(counts)
    assert all(shape[0] <= batch_size for shape in run.shapes)


def test_nothing_is_padded_to_the_maximum():
    predictor, run = _predictor("text-classification", max_length=512)
    predictor(["a cat", "a dog", "the big red dog runs in the river , on and on ."], batch_size=8)
    assert sorted(run.shapes) == [(1, 17), (2, 4)]


def test_fixed_shapes_are_fixed():
    predictor, run = _predictor("text-classification", fixed={"batch": 2, "sequence": 16})
    predictor(["a cat", "a " * 40, "dog"], batch_size=64)
    assert run.shapes == [(2, 16), (2, 16)]


@pytest.mark.parametrize("task", TASKS)
def test_no_input_gives_no_output_and_runs_nothing(task: str):
    predictor, run = _predictor(task)
    assert len(predictor([])) == 0
    assert run.shapes == []
    if task == "sentence-similarity":
        assert predictor([]).shape == (0, WIDTH)


def test_only_the_inputs_of_the_signature_are_fed():
    predictor, run = _predictor("text-classification")
    predictor("a cat")
    assert list(run.feeds[0]) == ["input_ids", "attention_mask"]


def test_truncated_counts_the_last_call():
    predictor, _ = _predictor("text-classification")
    predictor(["a " * 100, "a", "a " * 40])
    assert predictor.truncated == 2
    predictor(["a"])
    assert predictor.truncated == 0


# ------------------------------------------------------------ tasks


def test_single_label():
    predictor, _ = _predictor("text-classification")
    answer = predictor("a cat")
    assert isinstance(answer, Classification)
    assert answer.scores.keys() == set(LABELS["text-classification"])
    assert sum(answer.scores.values()) == pytest.approx(1)
    assert list(predictor("a cat", top_k=2).scores) == list(answer.scores)[:2]
    assert predictor([("a cat", "a dog")])[0] == predictor(("a cat", "a dog"))


def test_labels_without_names():
    predictor, _ = _predictor("text-classification", labels=None)
    assert predictor("a cat").label.startswith("LABEL_")


def test_multi_label():
    predictor, _ = _predictor("text-classification", problem_type="multi_label_classification")
    answer = predictor("a cat", threshold=0.0)
    assert isinstance(answer, Labels)
    assert len(answer.labels) == 3
    assert predictor("a cat", threshold=1.0).labels == ()


def test_regression():
    predictor, _ = _predictor("text-classification", problem_type="regression", labels=None)
    assert isinstance(predictor("a cat"), tuple)
    predictor._run = lambda feeds, names: [np.full((len(feeds["input_ids"]), 1), 3.5, dtype=np.float32)]
    assert predictor(["a cat", "dog"]) == [3.5, 3.5]


def test_words_get_one_tag_each_even_when_cut_off():
    predictor, _ = _predictor("token-classification", max_length=6)
    first, second = predictor([["ada", "runs", "", "vienna"], ["a"] * 20])
    assert isinstance(first, Tags)
    assert len(first.labels) == 4
    assert first.scores[2] == 0.0
    assert len(second.labels) == 20
    assert second.labels[10:] == ("O",) * 10
    assert predictor.truncated == 1


def test_a_text_gets_entities_with_characters():
    predictor, _ = _predictor("token-classification")
    text = "ada runs in vienna ."
    for entity in predictor(text):
        assert text[entity.start : entity.end] == entity.text
        assert entity.label in ("PER", "LOC")


def test_answers():
    predictor, _ = _predictor("question-answering", max_length=24)
    context = "the big dog runs in the red river . " * 5
    answer = predictor(("who runs", context))
    assert isinstance(answer, Span)
    assert context[answer.start : answer.end] == answer.text
    raw = predictor.raw([("who runs", context), ("who", "a dog")])
    assert len(raw.rows[0]) > 1, "windows"
    assert len(raw.rows[1]) == 1
    best = predictor([("who runs", context)], top_k=3)[0]
    assert len(best) == 3
    assert best[0] == answer
    assert len(predictor(("who runs", context), max_answer_tokens=1).text.split()) == 1


def test_fill_mask_has_candidates_for_each_mask():
    predictor, _ = _predictor("fill-mask")
    positions = predictor("a [MASK] runs in [MASK] .")
    assert len(positions) == 2
    assert len(positions[0]) == 5
    assert isinstance(positions[0][0], Fill)
    assert len(predictor("a [MASK]", top_k=2)[0]) == 2
    raw = predictor.raw(["a [MASK] runs"])
    assert raw.rows[0][0].outputs["logits"].shape == (1, len(predictor.tokenizer.get_vocab()))
    assert predictor(["a " * 100 + "[MASK]"]) == [[]], "the mask was cut off"
    assert predictor.truncated == 1


def test_embeddings_and_similarity():
    predictor, _ = _predictor("sentence-similarity")
    vectors = predictor(["a cat", "dog", "a cat"])
    assert vectors.shape == (3, WIDTH)
    assert vectors.dtype == np.float32
    table = similarity(vectors, vectors)
    assert table[0, 2] == pytest.approx(1)
    assert table[0, 1] < 1
    assert predictor("a cat").shape == (WIDTH,)
    features = _predictor("feature-extraction")[0](["a cat", "tim"])
    assert [array.shape for array in features] == [(4, WIDTH), (3, WIDTH)]


def test_a_byte_level_tokenizer_works_too():
    tokenizer = byte_level()
    run = NumpyRun("token-classification", tokenizer.get_vocab_size())
    predictor = Predictor(tokenizer, manifest("token-classification", pad_token_id=1), run)
    text = "  the big dog runs in graz 😀!"
    for entity in predictor(text):
        assert text[entity.start : entity.end] == entity.text == entity.text.strip()


def test_raw_and_decode_are_what_a_call_does():
    predictor, _ = _predictor("text-classification")
    raw = predictor.raw(TEXTS)
    assert raw.inputs == TEXTS
    assert predictor.decode(raw) == predictor(TEXTS)
    assert all(row.outputs["logits"].dtype == np.float32 for (row,) in raw.rows)


def test_progress_ends_at_one():
    told: list[tuple[str, float]] = []
    _predictor("text-classification")[0](TEXTS, batch_size=2, progress=lambda *what: told.append(what))
    assert {message for message, _ in told} == {"tokenize", "predict"}
    assert told[-1] == ("predict", 1.0)


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("task", "inputs", "what"),
    [
        ("text-classification", 3, "takes texts or pairs of texts (tuples), not int"),
        ("text-classification", None, "not NoneType"),
        ("text-classification", {"text": "a"}, "not dict"),
        ("text-classification", b"bytes", "not bytes"),
        ("text-classification", ["a", 5], "not int"),
        ("text-classification", [["a", "b"]], "not a list of 2 (str)"),
        ("text-classification", [("a", "b", "c")], "not a tuple of 3 (str)"),
        ("text-classification", [("a", 2)], "not a tuple of 2 (int, str)"),
        ("token-classification", ["a", ["a", "b"]], "not a mixture of both"),
        ("token-classification", [[1, 2]], "takes texts, or lists of words, not a list of 2 (int)"),
        ("question-answering", "just a text", "takes tuples of (question, context), not str"),
        ("question-answering", [("q", "c", "x")], "not a tuple of 3 (str)"),
        ("feature-extraction", [("a", "b")], "takes texts, not a tuple of 2 (str)"),
        ("sentence-similarity", [["a"]], "takes texts, not a list of 1 (str)"),
        ("fill-mask", [[]], "not a list of 0 (nothing)"),
    ],
)
def test_wrong_inputs_are_refused_with_an_example(task: str, inputs: Any, what: str):
    with pytest.raises(UsageError) as caught:
        _predictor(task)[0](inputs)
    assert what in caught.value.what
    assert caught.value.hint == f"for example {EXAMPLES[task]}"
    if isinstance(inputs, list) and "mixture" not in what:
        assert caught.value.where == f"input {len(inputs) - 1}"


def test_any_iterable_of_texts_will_do():
    predictor, _ = _predictor("text-classification")
    assert predictor(text for text in ["a cat", "dog"]) == predictor(("a cat", "dog", "tim"))[:2]
    assert predictor(np.array(["a cat", "dog"])) == predictor(["a cat", "dog"])


def test_a_text_without_a_mask_is_refused():
    predictor, _ = _predictor("fill-mask")
    with pytest.raises(UsageError, match=r"there is no \[MASK\] in the text") as caught:
        predictor(["a [MASK]", "a dog"])
    assert caught.value.where == "input 1"


@pytest.mark.parametrize("token", [None, "<other>"])
def test_a_tokenizer_without_a_mask_is_refused(token: str | None):
    with pytest.raises(InputRefused, match="no mask token"):
        _predictor("fill-mask", mask_token=token)[0]("a [MASK]")


def test_nan_is_refused():
    predictor, _ = _predictor("text-classification")
    predictor._run = lambda feeds, names: [np.full((len(feeds["input_ids"]), 3), np.nan)]
    with pytest.raises(VerificationFailed, match="returned NaN") as caught:
        predictor(["a cat"])
    assert caught.value.where == "output logits, input 0"


NO_COUNT = [0, -1, True, 2.0, "2", float("nan")]


@pytest.mark.parametrize("value", [*NO_COUNT, None])
def test_a_batch_size_that_is_no_count_is_refused(value: Any):
    predictor, run = _predictor("text-classification")
    for call in (predictor, predictor.raw):
        with pytest.raises(UsageError, match=f"batch_size is a whole number of at least one, not {value!r}") as caught:
            call(["a"], batch_size=value)
        assert (caught.value.where, caught.value.hint) == ("batch_size", "batch_size=1")
    assert run.shapes == []


@pytest.mark.parametrize("name", ["top_k", "max_answer_tokens"])
@pytest.mark.parametrize("value", NO_COUNT)
@pytest.mark.parametrize("task", TASKS)
def test_options_that_are_no_count_are_refused_before_the_model_runs(task: str, name: str, value: Any):
    predictor, run = _predictor(task)
    with pytest.raises(UsageError, match=f"{name} is a whole number of at least one, not {value!r}"):
        predictor(INPUTS[task], **{name: value})
    assert run.shapes == []
    raw = predictor.raw(INPUTS[task])
    with pytest.raises(UsageError, match=name):
        predictor.decode(raw, **{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None])
def test_a_threshold_that_is_no_share_is_refused(value: Any):
    predictor, run = _predictor("text-classification", problem_type="multi_label_classification")
    with pytest.raises(UsageError, match=f"threshold is a number from 0 to 1, not {value!r}") as caught:
        predictor(["a"], threshold=value)
    assert caught.value.where == "threshold"
    assert run.shapes == []


def test_no_answer_is_an_option_of_question_answering():
    predictor, run = _predictor("question-answering")
    pair = ("who runs", "a cat runs")
    assert predictor(pair).text
    assert predictor(pair, null_score_diff_threshold=-1e6) == Span(
        "", predictor(pair, top_k=99, null_score_diff_threshold=-1e6)[0].score, 0, 0
    )
    assert predictor(pair, null_score_diff_threshold=1e6) == predictor(pair)
    run.shapes.clear()
    for value in (float("nan"), float("inf"), True, "0"):
        with pytest.raises(UsageError, match="null_score_diff_threshold is a number, not"):
            predictor(pair, null_score_diff_threshold=value)  # type: ignore[arg-type]
    other, run = _predictor("text-classification")
    with pytest.raises(UsageError, match="null_score_diff_threshold is for question answering") as caught:
        other("a cat", null_score_diff_threshold=0.0)
    assert caught.value.why == "the task is text-classification"
    assert run.shapes == []


def test_numbers_of_numpy_are_numbers():
    predictor, _ = _predictor("text-classification", problem_type="multi_label_classification")
    options: Any = {"batch_size": np.int64(2), "top_k": np.int32(2), "threshold": np.float32(0.25)}
    _same(
        predictor(["a cat"], **options),
        predictor(["a cat"], batch_size=2, top_k=2, threshold=0.25),
    )
    for bound in (0, 1):
        predictor(["a cat"], threshold=bound)


@pytest.mark.parametrize("value", NO_COUNT)
@pytest.mark.parametrize("name", ["threads", "streams"])
def test_threads_and_streams_that_are_no_count_are_refused(tmp_path: Path, name: str, value: Any):
    folder = write_artifact(tmp_path / "a", "text-classification")
    with pytest.raises(UsageError, match=f"{name} is a whole number of at least one, not {value!r}"):
        Predictor.load(folder, **{name: value})


# ------------------------------------------------------------ threads and processes


@pytest.mark.parametrize("task", TASKS)
def test_threads_share_a_predictor(task: str):
    """Lengths and kinds of input are mixed: each call sets how the tokenizer cuts, and cuts for itself only."""
    predictor, _ = _predictor(task, max_length=20)
    words = [[["a", "cat"], ["ada"] * 30]] if task == "token-classification" else []
    asked = [*([item] for item in INPUTS[task] for _ in range(4)), INPUTS[task], *words] * 3
    alone = [predictor(each) for each in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(predictor, asked))
    for one, other in zip(together, alone, strict=True):
        _same(one, other)


class _Watched:
    """A tokenizer that tells when a call begins while another one uses it."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self._busy, self.clashes = tokenizer, threading.Lock(), 0

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            free = self._busy.acquire(blocking=False)
            self.clashes += not free
            try:
                time.sleep(0.0005)  # so that another thread comes in between, if one may
                return getattr(self._tokenizer, name)(*given, **named)
            finally:
                if free:
                    self._busy.release()

        return call


@pytest.mark.parametrize("task", TASKS)
def test_one_thread_at_a_time_uses_the_tokenizer(task: str):
    predictor, _ = _predictor(task)
    watched: Any = _Watched(predictor.tokenizer)
    predictor.tokenizer = watched
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(predictor, [INPUTS[task][:2]] * 8))
    assert watched.clashes == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_loaded_predictor_is_opened_again_where_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
):
    write_artifact(tmp_path / "a", task)
    monkeypatch.chdir(tmp_path)
    first = Predictor.load("a", threads=1, streams=2)
    sent = pickle.dumps(first)
    monkeypatch.chdir("/")  # another process may stand elsewhere
    again = pickle.loads(sent)
    _same(again(INPUTS[task]), first(INPUTS[task]))
    assert again._opened == first._opened
    assert again._streams == 2
    assert len(sent) < 1000  # a folder and options: no weight, no tokenizer
    assert pickle.loads(pickle.dumps(again)).task == task


def test_another_artifact_in_its_place_is_not_the_predictor_that_was_sent(tmp_path: Path):
    folder = write_artifact(tmp_path / "a", "text-classification")
    sent = pickle.dumps(Predictor.load(folder, threads=1))
    shutil.rmtree(folder)
    write_artifact(folder, "feature-extraction")
    with pytest.raises(InputRefused, match="another one by now") as caught:
        pickle.loads(sent)
    assert caught.value.where == str(folder)


def test_a_predictor_without_a_folder_cannot_be_sent():
    with pytest.raises(UsageError, match="cannot be sent to another process") as caught:
        pickle.dumps(_predictor("text-classification")[0])
    assert caught.value.why == ("it was not made by Predictor.load, so there is no folder that could be opened there")


def test_a_spawned_process_answers_the_same(tmp_path: Path):
    loaded = Predictor.load(write_artifact(tmp_path / "a", "question-answering"), threads=1)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        _same(pool.submit(loaded, INPUTS["question-answering"]).result(60), loaded(INPUTS["question-answering"]))
    resource_tracker._resource_tracker._stop()  # Python's own helper; other tests count children


def test_unknown_tasks_and_inputs_are_refused():
    with pytest.raises(InputRefused, match="unknown task 'translation'"):
        Predictor(wordpiece(), {"task": "translation"}, NumpyRun("text-classification"))
    strange = manifest("text-classification")
    strange["signature"]["inputs"]["pixel_values"] = ["batch"]
    with pytest.raises(InputRefused, match="input 'pixel_values' that a text does not give"):
        Predictor(wordpiece(), strange, NumpyRun("text-classification"))


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(InputRefused, match="names 2 labels, the model has 3"):
        _predictor("text-classification", labels=["a", "b"])[0]("a cat")


def test_what_is_no_artifact_is_refused(tmp_path: Path):
    with pytest.raises(InputRefused, match="there is no artifact here"):
        Predictor.load(tmp_path)
    folder = write_artifact(tmp_path / "a", "text-classification")
    manifest = json.loads((folder / "deploycomp.json").read_text())
    (folder / "deploycomp.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(InputRefused, match="schema version 99"):
        Predictor.load(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", None, 3])
def test_a_model_outside_of_the_artifact_is_refused(tmp_path: Path, name: Any):
    folder = write_artifact(tmp_path / "a", "text-classification")
    sealed = json.loads((folder / "deploycomp.json").read_text())
    (folder / "deploycomp.json").write_text(json.dumps({**sealed, "model": name}))
    with pytest.raises(InputRefused, match="names no model in its folder"):
        Predictor.load(folder, threads=1)


def test_verify_finds_a_changed_file(tmp_path: Path):
    folder = write_artifact(tmp_path / "a", "text-classification")
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    Predictor.load(folder, threads=1)
    with pytest.raises(InputRefused, match=r"tokenizer\.json has changed"):
        Predictor.load(folder, verify=True)


def test_the_session_config_of_the_manifest_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from deploycomp.runtime import predictor, session

    seen: dict[str, Any] = {}

    def opened(model: Path, **how: Any) -> Any:
        seen.update(how)
        return session.open_session(model, **how)

    monkeypatch.setattr(predictor, "open_session", opened)
    config = {"session.x64quantprecision": "1"}
    Predictor.load(write_artifact(tmp_path / "a", "fill-mask", session=config), threads=1, spinning=False)
    assert seen == {"threads": 1, "providers": None, "spinning": False, "config": config}
