"""Our artifacts in other people's loaders: optimum's `ORTModelFor…` and sentence-transformers' ONNX backend.

They need transformers 4.57, so they live in a venv of their own (`python benchmarks/peer_venv.py`), and one process
there opens everything. What it answers must be what plain ONNX Runtime answers here on the same inputs.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny

pytestmark = pytest.mark.compat

ROOT = Path(__file__).parent.parent.parent
PEER = Path(__file__).with_name("peer.py")
PEER_LIMIT_SECONDS = 300

TEXTS = ["the new film was great", "read it at night", "who is anna ? not peter today in the big city"]
MASKED = [f"{text} [MASK]" for text in TEXTS]
CONTEXTS = ["anna went to paris", "the river is cold at night", "peter was in the old city of london today"]

SAME: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
"""Both sides run one version of ONNX Runtime on one graph; only the number of threads may differ."""
SAME_VECTOR: dict[str, Any] = {"atol": 1e-4, "rtol": 0.0}
"""sentence-transformers pools in PyTorch what the graph pools by itself."""

LOADERS = {
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "question-answering": "ORTModelForQuestionAnswering",
    "feature-extraction": "ORTModelForFeatureExtraction",
    "sentence-similarity": "ORTModelForFeatureExtraction",
    "fill-mask": "ORTModelForMaskedLM",
}
FILES: dict[str, dict[str, tuple[dict[str, str], str]]] = {
    "default": {"int8": ({}, "model.onnx"), "fp32": ({"file_name": "model_fp32.onnx"}, "model_fp32.onnx")},
    "transformers.js": {
        "int8": ({"subfolder": "onnx", "file_name": "model_quantized.onnx"}, "onnx/model_quantized.onnx"),
        "fp32": ({"subfolder": "onnx"}, "onnx/model.onnx"),
    },
    "sentence-transformers": {
        "int8": ({"file_name": "onnx/model_qint8.onnx"}, "onnx/model_qint8.onnx"),
        "fp32": ({}, "onnx/model.onnx"),
    },
}
"""Layout → precision → (what its user passes to from_pretrained, the file that is meant)."""


@dataclass(frozen=True)
class Case:
    """One artifact's graph in one loader."""

    task: str
    layout: str
    precision: str
    arch: str = "bert"

    @property
    def id(self) -> str:
        return f"{self.arch}-{self.task}-{self.layout}-{self.precision}"

    @property
    def folder(self) -> str:
        return f"{self.arch}-{self.task}-{self.layout}"

    @property
    def loader(self) -> str:
        return "SentenceTransformer" if self.layout == "sentence-transformers" else LOADERS[self.task]

    @property
    def texts(self) -> list[str]:
        return MASKED if self.task == "fill-mask" else TEXTS

    @property
    def pairs(self) -> list[str] | None:
        return CONTEXTS if self.task == "question-answering" else None


PRECISIONS = ("fp32", "int8")
OPTIMUM = [
    *(Case(task, "default", precision) for task in LOADERS for precision in PRECISIONS),
    *(Case("text-classification", "transformers.js", precision) for precision in PRECISIONS),
    *(Case("text-classification", "default", precision, "roberta") for precision in PRECISIONS),
    *(Case("token-classification", "default", precision, "distilbert") for precision in PRECISIONS),
]
SENTENCE = [Case("sentence-similarity", "sentence-transformers", precision) for precision in PRECISIONS]


@dataclass(frozen=True)
class Loaded:
    """What the peer's process left."""

    folder: Path
    results: dict[str, Any]

    def arrays(self, case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Inputs and outputs of a case, or a failure with the peer's own words."""
        if error := self.results[case.id]["error"]:
            pytest.fail(f"{case.loader} cannot run it: {error}")
        with np.load(self.folder / f"{case.id}.npz") as found:
            split = {side: {k[len(side) :]: found[k] for k in found if k.startswith(side)} for side in ("in.", "out.")}
        return split["in."], split["out."]


@pytest.fixture(scope="module")
def peer_python() -> Path:
    venv = runpy.run_path(str(ROOT / "benchmarks" / "peers" / "venvs.py"))["OPTIMUM"]
    if not venv.complete:
        pytest.skip("the venv with optimum-onnx is missing or of other pins: make test-compat makes it")
    return venv.python


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, peer_python: Path) -> Path:
    """Every artifact that a case needs, with its FP32 graph beside it."""
    from deploycomp.pipeline import export_model
    from deploycomp.recipe import Export, Int8, Recipe

    root = tmp_path_factory.mktemp("compat")
    for case in {each.folder: each for each in (*OPTIMUM, *SENTENCE)}.values():
        source = tiny.build(root / "source" / case.folder, case.arch, case.task)
        recipe = Recipe.check(
            {
                "model": str(source),
                "steps": [Export().model_dump(), Int8().model_dump()],
                "benchmark": None,
                "layout": case.layout,
                "keep_fp32": True,
            }
        )
        export_model(recipe, root / case.folder)
    return root


@pytest.fixture(scope="module")
def loaded(artifacts: Path, peer_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """One process of the peer over all cases; it is kept from the hub and from our packages."""
    work = tmp_path_factory.mktemp("peer")
    cases = [
        {
            "id": case.id,
            "folder": str(artifacts / case.folder),
            "loader": case.loader,
            "options": FILES[case.layout][case.precision][0],
            "texts": case.texts,
            "pairs": case.pairs,
            "answers": case.task if case.task == "text-classification" else None,
        }
        for case in (*OPTIMUM, *SENTENCE)
    ]
    (work / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(peer_python), str(PEER), str(work / "cases.json")],
        env={**environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=PEER_LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Loaded(work, json.loads((work / "results.json").read_text(encoding="utf-8")))


def _model(artifacts: Path, case: Case) -> Path:
    return artifacts / case.folder / FILES[case.layout][case.precision][1]


@pytest.mark.parametrize("case", OPTIMUM, ids=lambda case: case.id)
def test_optimum_answers_as_onnxruntime_does(case: Case, loaded: Loaded, artifacts: Path) -> None:
    from deploycomp.runtime.session import open_session, runner

    feeds, outputs = loaded.arrays(case)
    model = _model(artifacts, case)
    session = open_session(model, threads=1)
    names = [each.name for each in session.get_outputs() if each.name in outputs]
    assert sorted(names) == sorted(outputs)
    fed = {each.name: feeds[each.name] for each in session.get_inputs()}
    for name, expected in zip(names, runner(session, model=model)(fed, tuple(names)), strict=True):
        np.testing.assert_allclose(outputs[name], expected, **SAME)


@pytest.mark.parametrize("case", OPTIMUM, ids=lambda case: case.id)
def test_transformers_4_tokenizes_as_our_runtime_does(case: Case, loaded: Loaded, artifacts: Path) -> None:
    from deploycomp.runtime.encode import load_tokenizer

    feeds, _ = loaded.arrays(case)
    tokenizer = load_tokenizer(artifacts / case.folder / "tokenizer.json")
    for row, text in enumerate(case.texts):
        encoding = tokenizer.encode(text, case.pairs[row] if case.pairs else None)
        real = feeds["attention_mask"][row].astype(bool)
        assert feeds["input_ids"][row][real].tolist() == encoding.ids


@pytest.mark.parametrize("arch", ["bert", "roberta"])
def test_a_transformers_pipeline_answers_as_the_predictor_does(arch: str, loaded: Loaded, artifacts: Path) -> None:
    from deploycomp.runtime import Predictor

    case = Case("text-classification", "default", "int8", arch)
    loaded.arrays(case)
    theirs = loaded.results[case.id]["answers"]
    predictor = Predictor.load(artifacts / case.folder, threads=1)
    for text, answer in zip(case.texts, theirs, strict=True):  # one by one: that is how a pipeline batches
        ours = predictor(text)
        assert ours.label == answer["label"]
        assert ours.score == pytest.approx(answer["score"], abs=1e-5)


@pytest.mark.parametrize("case", SENTENCE, ids=lambda case: case.id)
def test_sentence_transformers_embeds_as_our_graph_does(
    case: Case, loaded: Loaded, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploycomp.artifact import Artifact
    from deploycomp.runtime import Predictor, encode
    from deploycomp.runtime.encode import load_tokenizer
    from deploycomp.runtime.session import open_session, runner

    _, outputs = loaded.arrays(case)
    # One batch, as sentence-transformers makes it: without calibration, ranges span the batch.
    monkeypatch.setattr(encode, "CALL_TOKENS", 1_000_000)
    folder, model = artifacts / case.folder, _model(artifacts, case)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    run = runner(open_session(model, threads=1), model=model)
    ours = Predictor(tokenizer, Artifact.open(folder).manifest, run)(case.texts)
    np.testing.assert_allclose(outputs["sentence_embedding"], ours, **SAME_VECTOR)
