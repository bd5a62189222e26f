from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from deploycomp.artifact import sha256
from deploycomp.errors import EnvironmentFailed
from deploycomp.report import load_schema, write_report
from tests.report.example import EXAMPLES, wins

ROOT = Path(__file__).parents[2]

RENDER = """
import sys
from pathlib import Path
from deploycomp.report import write_report
from tests.report.example import EXAMPLES
for name, example in EXAMPLES.items():
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    write_report(example(), folder)
"""


def test_report_json_knows_the_hashes_of_its_pages(tmp_path):
    full = write_report(wins(), tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored == full
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert stored["rendered"] == {name: sha256(tmp_path / name) for name in ("report.md", "report.html")}
    jsonschema.validate(stored, load_schema())


def test_a_folder_that_cannot_be_written_is_an_error_of_the_environment(tmp_path):
    with pytest.raises(EnvironmentFailed, match="the output cannot be written"):
        write_report(wins(), tmp_path / "missing")


def test_the_same_report_gives_the_same_bytes_in_any_process(tmp_path):
    digests = []
    for seed in ("0", "4711"):
        folder = tmp_path / seed
        folder.mkdir()
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TZ": f"UTC+{len(seed)}"}
        subprocess.run([sys.executable, "-c", RENDER, str(folder)], check=True, env=env, cwd=tmp_path, timeout=120)
        digests.append(
            {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3 * len(EXAMPLES)


def test_the_room_imports_nothing_heavy():
    code = """
import sys
import deploycomp.report
import deploycomp.report.table, deploycomp.report.html, deploycomp.report.markdown, deploycomp.report.write
heavy = {"matplotlib", "jinja2", "rich", "numpy", "torch", "yaml", "jsonschema"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_an_unknown_name_of_the_room_is_an_attribute_error():
    import deploycomp.report

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = deploycomp.report.nothing
    assert all(getattr(deploycomp.report, name) is not None for name in deploycomp.report.__all__)
