"""What is mutated, how, through which door it goes, and what must hold afterwards."""

from __future__ import annotations

import csv
import difflib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from deploycomp.artifact import MANIFEST, sha256
from deploycomp.errors import DeploycompError
from tests import tiny
from tests.fuzz import graphs, reference, settings, trees, yamlcore
from tests.fuzz.doors import CANARY, UNTRACED, Fault, Ran, deploycomp, digests, watch
from tests.fuzz.mangle import mangle, yaml_trap

__all__ = ["EVERY", "SUBJECTS", "Bench", "changes", "traced"]

CHECKPOINTS = (
    ("bert", "text-classification"),
    ("roberta", "text-classification"),
    ("xlm-roberta", "token-classification"),
    ("distilbert", "question-answering"),
    ("albert", "fill-mask"),
    ("bert", "sentence-similarity"),
)
ROWS = 12
COPIED = "copied"
"""A note that says what the input at hand was copied from, and the copy: also read after the process was killed."""
CANARY_TEXT = "canary-7f3a"
"""What stands in the file that no input may bring into an artifact or a message."""


@dataclass
class Bench:
    """Where one session works: inputs that are copied and never changed, and a folder for the one at hand."""

    root: Path

    @property
    def work(self) -> Path:
        """Where the input at hand lies."""
        return self.root / "work"

    def fresh(self) -> Path:
        """An empty folder with a canary in it."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        (self.work / CANARY).write_text(f"{CANARY_TEXT}\n" * 3, encoding="utf-8")
        return self.work

    def copy(self, folder: Path, name: str) -> Path:
        """A copy of an honest folder, to break."""
        copied = Path(shutil.copytree(folder, self.fresh() / name))
        (self.work / COPIED).write_text(f"{folder}\n{copied}", encoding="utf-8")
        return copied

    @cached_property
    def checkpoints(self) -> dict[tuple[str, str], Path]:
        """Honest checkpoints of one layer."""
        layers = {"distilbert": {"n_layers": 1}}
        return {
            (arch, task): tiny.build(
                self.root / f"{arch}-{task}", arch, task, max_length=64, **layers.get(arch, {"num_hidden_layers": 1})
            )
            for arch, task in CHECKPOINTS
        }

    @cached_property
    def artifact(self) -> Path:
        """An honest artifact, its weights beside the graph."""
        from deploycomp.pipeline import export_model
        from deploycomp.recipe import Export, Recipe

        model = str(self.checkpoints["bert", "text-classification"])
        recipe = Recipe(model=model, steps=(Export(external_data_bytes=1_000),), benchmark=None)
        return export_model(recipe, self.root / "artifact").artifact.path

    @cached_property
    def answers(self) -> reference.Answers:
        """What the honest artifact answers."""
        from deploycomp.runtime import Predictor

        return reference.answer(Predictor.load(self.artifact))

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Honest rows."""
        labels = tiny.TEXT_LABELS * ROWS
        return [{"text": text, "label": label} for text, label in zip(tiny.texts(ROWS, seed=4), labels, strict=False)]


Told = tuple[str, str]
"""How it ended, and what was done."""


# ------------------------------------------------------------ checkpoints


def _checkpoint(bench: Bench, draw: Random, change: Callable[[Path, Random], str], *, only: str | None = None) -> Told:
    """Mutate a checkpoint, export it, and hold what is accepted against the original library."""
    known = [key for key in CHECKPOINTS if only in (None, key[1])]
    folder = bench.copy(bench.checkpoints[draw.choice(known)], "model")
    done = " and ".join(change(folder, draw) for _ in range(draw.choice([1, 1, 1, 2])))
    before = digests(folder)
    out = bench.work / "out"
    ran = deploycomp("export", folder, "-o", out, "--no-benchmark", "--quiet")
    _check_traces(bench, before, folder, out, ran)
    if ran.code not in (0, UNTRACED):
        return f"refused {ran.code}", f"{done}: {ran.said}"
    return _as_the_original(folder, out if ran.code == 0 else None), done


def _check_traces(bench: Bench, before: dict[str, str], folder: Path, out: Path, ran: Ran) -> None:
    """All or nothing is written, the source is as it was, and nothing of another file comes through."""
    if digests(folder) != before:
        raise Fault("the source was changed")
    left = {path.name for path in bench.work.iterdir()} - {"model", CANARY, COPIED, "out" if ran.code == 0 else ""}
    if left:
        raise Fault(f"exit {ran.code} left {sorted(left)}")
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file()) if ran.code == 0 else b""
    if CANARY_TEXT.encode() in written or CANARY_TEXT in ran.out + ran.err:
        raise Fault("the content of a file outside of the model's folder was published")


def _as_the_original(folder: Path, out: Path | None) -> str:
    """Whether what was accepted answers as transformers does; without an artifact the loaded model answers."""
    from deploycomp.runtime import Predictor

    if out is not None:
        try:
            predictor = Predictor.load(out, verify=True)
        except DeploycompError as error:
            raise Fault(f"accepted, and then it cannot be opened: {error}") from None
    else:
        from deploycomp.assess import source_predictor
        from deploycomp.models import resolve
        from deploycomp.models.load import load

        predictor = source_predictor(load(resolve(folder)))
    try:
        want = reference.reference(folder, predictor.task)
    except Exception as error:  # what the library itself cannot load has no right answer
        return f"accepted, the library cannot load it: {type(error).__name__}"
    if not any(want):
        return "accepted, the library answers nothing"
    try:
        got = reference.answer(predictor)
    except DeploycompError as error:
        raise Fault(f"accepted, and then it cannot answer: {error.what}") from None
    except Exception as error:
        raise Fault(f"accepted, and then the predictor raises {type(error).__name__}: {error}") from None
    said = reference.difference(want, got, predictor.task)
    if said:
        raise Fault(f"{predictor.task} answers otherwise than the original: {said}")
    return "answers as the original" if out is not None else "accepted, judged before tracing"


def _json_file(name: str, keys: dict[str, list[Any]], odd: tuple[Any, ...] = trees.ODD) -> Callable[..., str]:
    """A way to change a JSON file, mostly its content and sometimes its bytes."""

    def change(folder: Path, draw: Random) -> str:
        path = folder / name
        text = path.read_bytes() if path.exists() else b"{}"
        if draw.random() < BYTES:
            path.write_bytes(mangle(text, draw))
            return f"bytes of {name}"
        try:
            tree = trees.read(text)
        except (ValueError, RecursionError):
            return f"{name} once more"
        path.write_bytes(trees.write(trees.change(tree, draw, keys=keys, odd=odd)))
        return name

    return change


BYTES = 0.06
"""How often the bytes of a text file are changed and not what they say."""


def _config(bench: Bench, draw: Random) -> Told:
    return _checkpoint(bench, draw, _json_file("config.json", settings.CONFIG))


def _tokenizer(bench: Bench, draw: Random) -> Told:
    def change(folder: Path, draw: Random) -> str:
        if draw.random() < 0.35:
            return settings.hostile_node(folder / "tokenizer.json", draw)
        return _json_file("tokenizer.json", settings.TOKENIZER)(folder, draw)

    return _checkpoint(bench, draw, change)


def _tokenizer_config(bench: Bench, draw: Random) -> Told:
    name = draw.choices(["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"], weights=[8, 1, 1])[0]
    return _checkpoint(bench, draw, _json_file(name, settings.TOKENIZER_CONFIG))


def _sentence(bench: Bench, draw: Random) -> Told:
    name = draw.choice(list(settings.SENTENCE))
    return _checkpoint(bench, draw, _json_file(name, settings.SENTENCE[name]), only="sentence-similarity")


def _weights(bench: Bench, draw: Random) -> Told:
    return _checkpoint(bench, draw, settings.change_weights)


# ------------------------------------------------------------ artifacts


def _manifest(bench: Bench, draw: Random) -> Told:
    folder = bench.copy(bench.artifact, "artifact")
    done = _json_file(MANIFEST, settings.MANIFEST)(folder, draw)
    return _artifact(bench, draw, folder), done


def _graph(bench: Bench, draw: Random) -> Told:
    """Graph, weights beside it, or tokenizer of an artifact; sometimes the attacker also seals it anew."""
    folder = bench.copy(bench.artifact, "artifact")
    name = draw.choices(["model.onnx", "model.onnx.data", "tokenizer.json"], weights=[6, 2, 1])[0]
    if name == "tokenizer.json":
        done = settings.hostile_node(folder / name, draw)
    elif name == "model.onnx" and draw.random() < 0.6:
        done = graphs.change(folder / name, draw, canary=CANARY)
    else:
        (folder / name).write_bytes(mangle((folder / name).read_bytes(), draw))
        done = f"bytes of {name}"
    if draw.random() < 0.5:
        _seal(folder)
        return _resealed(folder), f"{done}, sealed anew"
    return _artifact(bench, draw, folder), done


def _artifact(bench: Bench, draw: Random, folder: Path) -> str:
    """What is changed is refused, or answers as the honest copy."""
    data = _write_rows(bench.work / "rows.jsonl", bench.rows)
    commands = (("inspect", folder), ("evaluate", folder, data), ("export", "--recipe", folder, "--dry-run"))
    ran = deploycomp(*draw.choice(commands))
    got = _opened(folder)
    if isinstance(got, DeploycompError):
        return f"refused {got.exit_code} (the command: {ran.code})"
    said = reference.difference(bench.answers, got, "text-classification")
    if said:
        raise Fault(f"a changed artifact was verified and answers otherwise: {said}")
    return f"answers as the honest copy (the command: {ran.code})"


def _resealed(folder: Path) -> str:
    """What an attacker sealed is that attacker's model: it is refused, or runs without harm."""
    ran = deploycomp("inspect", folder)
    got = _opened(folder)
    return f"refused {got.exit_code}" if isinstance(got, DeploycompError) else f"runs (inspect: {ran.code})"


def _opened(folder: Path) -> reference.Answers | DeploycompError:
    """What an artifact answers, or the reason why it does not."""
    from deploycomp.runtime import Predictor

    try:
        with watch() as seen:
            answers = reference.answer(Predictor.load(folder, verify=True))
    except DeploycompError as error:
        return error
    except Exception as error:
        raise Fault(f"Predictor raises {type(error).__name__}: {error}"[:300]) from None
    if seen:
        raise Fault(seen[0])
    return answers


def _seal(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name in manifest["files"]:
        manifest["files"][name] = {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


# ------------------------------------------------------------ recipes


def _recipe(bench: Bench, draw: Random) -> Told:
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
    wrong = yamlcore.misread(path.read_text(encoding="utf-8"), json.loads(ran.out))
    if wrong:
        raise Fault(f"a value is read otherwise than YAML 1.2 reads it: {wrong}")
    return "read as written", name


# ------------------------------------------------------------ rows


def _rows(bench: Bench, draw: Random) -> Told:
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


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _self_check(bench: Bench, _: Random) -> Told:
    """Break three things that no artifact follows, and see that each is seen."""
    key = "bert", "text-classification"
    if said := reference.difference(reference.reference(bench.checkpoints[key], key[1]), bench.answers, key[1]):
        return f"an honest artifact differs: {said}", ""
    harms: dict[str, Callable[[Path], object]] = {
        "labels": lambda folder: _edit(
            folder / "config.json", id2label={"0": "positive", "1": "negative", "2": "neutral"}
        ),
        "side": lambda folder: _edit(folder / "tokenizer_config.json", truncation_side="left"),
        "weights": lambda folder: settings.change_number(folder / "model.safetensors"),
    }
    blind = []
    for name, harm in harms.items():
        folder = bench.copy(bench.checkpoints[key], "model")
        harm(folder)
        if reference.difference(reference.reference(folder, key[1]), bench.answers, key[1]) is None:
            blind.append(name)
    return (f"nothing was seen of {', '.join(blind)}" if blind else "three differences were seen"), ""


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def changes(bench: Bench) -> str:
    """What the files of the input at hand say now, beside what they said."""
    note = bench.work / COPIED
    if not note.exists():
        files = [path for path in sorted(bench.work.iterdir()) if path.is_file() and path.name != CANARY]
        return "\n".join(f"{path.name}: {path.read_bytes()[:SHOWN]!r}" for path in files)
    folders = [Path(line) for line in note.read_text(encoding="utf-8").splitlines()]
    before, after = map(digests, folders)
    told: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            told += _changed(*(_lines(folder / name) for folder in folders), name)
    return f"{folders[0].name}\n" + "\n".join(told[:DIFFERENCES])


DIFFERENCES = 12
SHOWN = 900
WIDTH = 160


def _lines(path: Path) -> list[str]:
    """A file, JSON with one value a line."""
    if not path.exists():
        return []
    data = path.read_bytes()
    try:
        return json.dumps(json.loads(data), indent=0).splitlines()
    except (ValueError, RecursionError):
        return [repr(line) for line in data[:50_000].splitlines()] if len(data) < 100_000 else [f"{len(data)} bytes"]


def _changed(old: list[str], new: list[str], name: str) -> list[str]:
    lines = difflib.unified_diff(old, new, n=0, lineterm="")
    return [f"{name}: {line}"[:WIDTH] for line in lines if not line.startswith(("---", "+++", "@@"))]


SUBJECTS: dict[str, tuple[float, Callable[[Bench, Random], Told]]] = {
    "config": (0.16, _config),
    "tokenizer": (0.14, _tokenizer),
    "tokenizer-config": (0.16, _tokenizer_config),
    "sentence": (0.1, _sentence),
    "weights": (0.08, _weights),
    "manifest": (0.1, _manifest),
    "graph": (0.1, _graph),
    "recipe": (0.08, _recipe),
    "rows": (0.08, _rows),
}
"""Name → its share of all mutations, and what is done."""

TRACES_OF = {"config": 40, "sentence": 50, "weights": 40, "tokenizer": 140, "tokenizer-config": 80}
"""One mutated model in so many is traced; what else is accepted is judged as it was loaded."""


def traced(mutations: int) -> dict[str, int]:
    """How many mutated models are traced for each subject, of so many mutations in all."""
    return {name: max(1, round(mutations * SUBJECTS[name][0] / each)) for name, each in TRACES_OF.items()}


EVERY = {**{name: way for name, (_, way) in SUBJECTS.items()}, "self-check": _self_check}
"""Those, and the check of the check."""
