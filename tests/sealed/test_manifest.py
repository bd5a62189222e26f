"""A manifest may come from anywhere: each part that code reads is what it must be, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deploycomp.artifact import MANIFEST, Artifact
from deploycomp.errors import InputRefused
from deploycomp.inspection import inspect_path
from deploycomp.runtime import Predictor
from deploycomp.sealed.manifest import MAX_NUMBER, SEAL
from tests.cli import made
from tests.runtime.graphs import write_artifact

HASH = "0" * 64


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out", "text-classification")


def change(place: Path, path: str, value: Any) -> None:
    """Set one value in a manifest."""
    manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    home = manifest
    *parents, last = path.split(".")
    for key in parents:
        home = home[key]
    home[last] = value
    (place / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("schema_version", True, "has schema version True"),
        ("schema_version", 1.0, "has schema version 1.0"),
        ("task", 7, "task in the manifest is not a text"),
        ("target", [], "target in the manifest is not a text"),
        ("precision", "int9", "precision in the manifest is not one of fp32, fp16, int8"),
        ("precision", {}, "precision in the manifest is not one of"),
        ("signature", [], "signature in the manifest is not an object"),
        ("signature.inputs", ["input_ids"], "signature.inputs in the manifest is not names with lists of dimensions"),
        ("signature.inputs", {"input_ids": 3}, "signature.inputs in the manifest is not names"),
        ("signature.outputs", {"logits": [None]}, "signature.outputs in the manifest is not names"),
        ("runtime", "fast", "runtime in the manifest is not an object"),
        ("runtime", [1], "runtime in the manifest is not an object"),
        ("runtime.max_length", "32", "runtime.max_length in the manifest is not a number from 1"),
        ("runtime.max_length", 0, "runtime.max_length in the manifest is not a number from 1"),
        ("runtime.max_length", True, "runtime.max_length in the manifest is not a number"),
        ("runtime.max_length", MAX_NUMBER + 1, "runtime.max_length in the manifest is not a number"),
        ("runtime.max_length", 10**4000, "runtime.max_length in the manifest is not a number"),
        ("runtime.pad_token_id", -1, "runtime.pad_token_id in the manifest is not a number from 0"),
        ("runtime.pad_token_type_id", 0.5, "runtime.pad_token_type_id in the manifest is not a number from 0"),
        ("runtime.padding_side", "middle", "runtime.padding_side in the manifest is not left or right"),
        ("runtime.labels", {"0": "a"}, "runtime.labels in the manifest is not a list of texts"),
        ("runtime.labels", [1, 2, 3], "runtime.labels in the manifest is not a list of texts"),
        ("runtime.problem_type", "multilabel", "runtime.problem_type in the manifest is not one of"),
        ("runtime.mask_token", 3, "runtime.mask_token in the manifest is not a text"),
        ("runtime.fixed", [1], "runtime.fixed in the manifest is not an object"),
        ("runtime.fixed.batch", 0, "runtime.fixed.batch in the manifest is not a number from 1"),
        ("runtime.fixed.sequence", "8", "runtime.fixed.sequence in the manifest is not a number from 1"),
        ("runtime.session", ["x"], "runtime.session in the manifest is not names with texts or numbers"),
        ("runtime.session", {"x": {}}, "runtime.session in the manifest is not names"),
        ("source", "hub", "source in the manifest is not an object"),
        ("source", {"name": 3}, "source.name in the manifest is not a text"),
        ("recipe", [], "recipe in the manifest is not an object"),
        ("versions", 3, "versions in the manifest is not an object"),
        ("steps", {}, "steps in the manifest is not a list"),
        ("evidence", "report.json", "evidence in the manifest is not a list of texts"),
        ("files", [], "names no files with their hashes"),
        ("files", {"a": {"sha256": "0"}}, "names no files with their hashes"),
        ("files", {"a": {"sha256": HASH.replace("0", "Z")}}, "names no files with their hashes"),
        ("files", {"/etc/passwd": {"sha256": HASH}}, "names a file outside its folder: '/etc/passwd'"),
        ("files", {"a/../b": {"sha256": HASH}}, r"names a file outside its folder: 'a/../b'"),
        ("files", {"a\0b": {"sha256": HASH}}, r"names a file outside its folder: 'a\\x00b'"),
        ("files", {"": {"sha256": HASH}}, "names a file outside its folder: ''"),
        ("model", "a\0b", r"names no model in its folder: 'a\\x00b'"),
        ("model", "onnx/../model.onnx", "names no model in its folder"),
        ("model", "", "names no model in its folder"),
        ("model", ["model.onnx"], "names no model in its folder"),
        ("model", {}, "names no model in its folder"),
    ],
)
def test_a_part_of_another_shape_is_refused_by_name(place: Path, path: str, value: Any, reason: str):
    change(place, path, value)
    for read in (Predictor.load, lambda folder: Artifact.open(folder).model):
        with pytest.raises(InputRefused, match=reason) as caught:
            read(place)
        assert caught.value.exit_code == 3
        assert str(place) in str(caught.value.where)


@pytest.mark.parametrize("path", ["runtime", "signature", "signature.inputs", "runtime.fixed", "runtime.labels"])
def test_a_part_may_be_null(place: Path, path: str):
    change(place, path, None)
    assert Predictor.load(place, threads=1)(["a cat"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"schema_version": 1, "task": "a", "task": "b", "files": {}}', "the key 'task' stands twice"),
        ('{"schema_version": 1, "files": {"a": {"sha256": "0", "sha256": "1"}}}', "the key 'sha256' stands twice"),
        ('{"schema_version": 1, "files": {}, "x": NaN}', "NaN is not a JSON number"),
        ('{"schema_version": 1, "files": {}, "x": 1e999}', "1e999 is beyond every number"),
        ('{"schema_version": 1, "files": {}, "x": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"schema_version": 1, "files": {}, "x": "\\ud800"}', "surrogates not allowed"),
        ('{"schema_version": 1, "files": {"\\udcff": {}}}', "surrogates not allowed"),
        ("[" * 100_000, "recursion"),
    ],
)
@pytest.mark.parametrize("name", [MANIFEST, "report.json"])
def test_json_that_readers_disagree_on_is_refused(place: Path, name: str, text: str, reason: str):
    (place / name).write_text(text)
    with pytest.raises(InputRefused, match=f"{name} cannot be read") as caught:
        Artifact.open(place).verify()
    assert reason in (caught.value.why or "")
    assert caught.value.where == str(place / name)


def test_bytes_that_are_no_text_are_refused(place: Path):
    (place / MANIFEST).write_bytes(b'{"schema_version": 1, "name": "\xe4"}')
    with pytest.raises(InputRefused, match=f"{MANIFEST} cannot be read"):
        inspect_path(str(place))


@pytest.mark.parametrize("rendered", [None, 3, ["report.md"], {"report.md": 3}, {"../x": "0"}])
def test_a_report_that_claims_pages_oddly_is_no_bug(place: Path, rendered: Any):
    (place / "report.json").write_text(json.dumps({"rendered": rendered}))
    (place / "report.md").write_text("# page")
    with pytest.raises(InputRefused, match=r"report.md (was added|has changed)"):
        Artifact.open(place).verify()


def test_an_edited_manifest_is_not_what_was_sealed(tmp_path: Path):
    """Other labels, with every file as it was: only the manifest's own digest can tell."""
    folder = Path(shutil.copytree(made.fp32().path, tmp_path / "copy"))
    Artifact.open(folder).verify()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["runtime"]["labels"].reverse()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputRefused, match=r"not what was sealed: deploycomp\.json has changed"):
        Artifact.open(folder).verify()
    del manifest[SEAL]  # as artifacts of before have it
    (folder / MANIFEST).write_text(json.dumps(manifest))
    Artifact.open(folder).verify()
