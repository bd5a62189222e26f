"""Mutated recipes and rows: refused, or read as YAML 1.2 and a plain reader read them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

from tests import tiny
from tests.fuzz import settings, trees, yamlcore
from tests.fuzz.bench import BYTES, Bench, Told
from tests.fuzz.doors import Fault, deploycomp
from tests.fuzz.mangle import mangle, yaml_trap

__all__ = ["recipe", "rows"]


def recipe(bench: Bench, draw: Random) -> Told:
    """A recipe is refused, or means what YAML 1.2 says."""
    from deploycomp.recipe import find_recipes

    found = find_recipes()
    name = draw.choice(sorted(found))
    text = found[name].read_text(encoding="utf-8")
    for _ in range(draw.choice([1, 1, 2])):
        text = yaml_trap(text, draw)
    data = text.encode("utf-8", "surrogatepass")
    path = bench.fresh() / "recipe.yaml"
    path.write_bytes(mangle(data, draw) if draw.random() < BYTES else data)
    ran = deploycomp("export", "some-model", "--recipe", path, "--dry-run", "--json")
    if ran.code != 0:
        return f"refused {ran.code}", f"{name}: {ran.said}"
    said = json.loads(ran.out)
    del said["model"]  # the command line names another
    wrong = yamlcore.misread(path.read_text(encoding="utf-8"), said)
    if wrong:
        raise Fault(f"a value is read otherwise than YAML 1.2 reads it: {wrong}")
    return "read as written", name


def rows(bench: Bench, draw: Random) -> Told:
    """Rows are refused, or scored as an honest reader scores them."""
    kind = draw.choice(["jsonl", "jsonl", "csv", "tsv"])
    work = bench.fresh()
    path = work / f"rows.{kind}"
    rows = [dict(row) for row in bench.rows]
    data = _jsonl(rows, draw) if kind == "jsonl" else _table(rows, draw, "," if kind == "csv" else "\t")
    path.write_bytes(mangle(data, draw) if draw.random() < 0.4 else data)
    ran = deploycomp("evaluate", bench.artifact, path, "--json")
    if ran.code != 0:
        return f"refused {ran.code}", f"{kind}: {ran.said}"
    honest = _honest(path, kind)
    if honest is None:
        return "accepted, not judged", kind
    said = json.loads(ran.out)
    _check_score(bench.artifact, honest, said)
    return "scored as read", kind


def _check_score(artifact: Path, honest: list[tuple[str, str]], said: dict[str, Any]) -> None:
    from deploycomp.runtime import Predictor

    if said["rows"] != len(honest):
        raise Fault(f"{said['rows']} rows are judged, the file has {len(honest)}")
    answers = Predictor.load(artifact)([text for text, _ in honest])
    right = sum(answer.label == label for answer, (_, label) in zip(answers, honest, strict=True)) / len(honest)
    found = said["scores"]["artifact"]["accuracy"]["value"]
    if abs(found - right) > 1e-9:
        raise Fault(f"accuracy {found} is told, {right} is right")


def _jsonl(rows: list[dict[str, Any]], draw: Random) -> bytes:
    lines = [trees.write(trees.Pairs(row.items())) for row in rows]
    for _ in range(draw.choice([1, 1, 2])):
        number = draw.randrange(len(lines))
        kind = draw.choice(["tree", "tree", "tree", "blank", "cut", "twice", "swap", "comment", "array"])
        if kind == "tree":
            lines[number] = _row(lines[number], draw)
        elif kind == "cut":
            lines[number] = lines[number][: len(lines[number]) // 2]
        elif kind == "twice":
            lines.insert(number, lines[number])
        elif kind == "swap":
            lines[number], lines[0] = lines[0], lines[number]
        else:
            lines.insert(number, {"blank": b"  ", "comment": b"// no row", "array": b"[1, 2]"}[kind])
    return b"\n".join(lines) + draw.choice([b"\n", b""])


def _row(line: bytes, draw: Random) -> bytes:
    try:
        return trees.write(trees.change(trees.read(line), draw, keys=settings.ROW))
    except (ValueError, RecursionError):  # it was changed before and is no JSON any more
        return line


def _table(rows: list[dict[str, Any]], draw: Random, comma: str) -> bytes:
    cells = [["text", "label"], *([row["text"], row["label"]] for row in rows)]
    for _ in range(draw.choice([1, 1, 2])):
        row = draw.choice(cells)
        kind = draw.choice(["cell", "cell", "more", "less", "header", "empty"])
        if kind == "cell":
            at = draw.randrange(max(1, len(row)))
            row[at : at + 1] = [draw.choice(settings.CELLS)]
        elif kind == "more":
            row.append("x")
        elif kind == "less":
            row[-1:] = []
        elif kind == "header":
            cells[0] = draw.choice([["label", "text"], ["text", "text"], ["", "label"], ["Text", "Label"], ["text"]])
        elif kind == "empty":
            cells.insert(draw.randrange(len(cells)), [])
    if comma == "\t":
        return "\n".join("\t".join(row) for row in cells).encode("utf-8", "surrogatepass") + b"\n"
    text = io.StringIO()
    csv.writer(text).writerows(cells)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _honest(path: Path, kind: str) -> list[tuple[str, str]] | None:
    """The rows as a plain reader sees them; None where a plain reader has no opinion."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if kind == "jsonl":
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            quoting = csv.QUOTE_MINIMAL if kind == "csv" else csv.QUOTE_NONE
            lines = csv.reader(io.StringIO(text, newline=""), delimiter="," if kind == "csv" else "\t", quoting=quoting)
            header, *rest = [line for line in lines if line]
            if len(set(header)) < len(header) or any(len(line) != len(header) for line in rest):
                return None
            found = [dict(zip(header, line, strict=True)) for line in rest]
        rows = [(row["text"], row["label"]) for row in found]
    except (ValueError, KeyError, TypeError, csv.Error):
        return None
    plain = all(isinstance(text, str) and isinstance(label, str) for text, label in rows)
    return rows if plain and all(label in tiny.TEXT_LABELS for _, label in rows) else None
