"""Does the autoencoder beat factorization offline? The comparison of Banaei et al. 2023, on fine-tuned models.

    .venv/bin/python benchmarks/factorize/run.py [--models stsb,sst2,clinc150] [--ratios 3,10,25] [--limit 1000]

One kind of matrix at a time (embeddings, key, FFN out) is stored with a third, a tenth, a 25th of its numbers, and put
back without any training on text: every method, each matrix alone (separated) and all layers' together with one decoder
(concatenated). Rows of the train split weigh directions for the methods that use data; test rows are reported (SST-2:
validation). What an autoencoder stores is judged twice: with the norms of the source's rows, as the paper has it, and
with the norms that come closest, which is what `deploycomp` ships. Every cell is kept (`--work`), and a second call
goes on where the first was stopped. Markdown to stdout.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

import torch
from cells import CACHE, SUBJECTS, Subject, change, interval, kept, subject
from common import machine, say

from deploycomp.compress.answers import Answers
from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.matrices import install, units_of
from deploycomp.compress.factorize.methods import METHODS, Job, Request
from deploycomp.compress.factorize.moments import Moments, measure_moments
from deploycomp.measure.context import context
from deploycomp.models.factors import RULES

KINDS = {"embeddings": "Embeddings", "key": "Key", "ffn_out": "FFN out"}
NAMES = {
    "svd": "SVD",
    "fisher_svd": "Fisher-weighted SVD",
    "pca": "output PCA (data)",
    "kfac": "K-FAC (data)",
    "linear_autoencoder": "linear autoencoder",
    "autoencoder": "autoencoder",
    "linear_autoencoder, fitted": "linear autoencoder, fitted norms",
    "autoencoder, fitted": "autoencoder, fitted norms",
    "kronecker": "Kronecker sum",
    "tucker": "Tucker",
}
Column = tuple[str, float]
"""A kind of matrix and a ratio."""
Way = tuple[str, str]
"""A method and a grouping."""
TEMPERATURE, SEED = 2.0, 0
LIMIT = 1_000


@dataclass(frozen=True)
class Cell:
    """One method on one kind of matrix of one model."""

    model: str
    kind: str
    ratio: float
    method: str
    grouping: str

    @property
    def trained(self) -> bool:
        """Whether it is an autoencoder's."""
        return "autoencoder" in self.method

    def place(self, work: Path) -> Path:
        """Where it is kept."""
        return work / self.model / f"{self.kind}-{self.ratio:g}-{self.method}-{self.grouping}.json"


def cells(model: str, ratios: Sequence[float]) -> list[Cell]:
    """All of one model, the quick ones first: a matrix alone is trained for as long as all together."""
    all_of = [
        Cell(model, kind, ratio, method, grouping)
        for method in NAMES
        if method in METHODS
        for kind in KINDS
        for ratio in ratios
        for grouping in ("separated", "concatenated")
        # there is one table of embeddings; K-FAC weighs each layer by itself
        if grouping == "separated" or (kind != "embeddings" and method != "kfac")
    ]
    return sorted(all_of, key=lambda each: (each.trained, each.grouping == "separated"))


def measure(cell: Cell, on: Subject, moments: Mapping[str, Moments]) -> dict[str, Any]:
    """Store one kind of matrix, and judge the model that has it back."""
    began = time.perf_counter()
    model = on.model
    units = units_of(model.module, model.anatomy, [cell.kind], cell.grouping)
    student, numbers, of = model.fork(), 0, 0
    papers = model.fork() if cell.trained else None
    try:
        for unit in units:
            group = unit.group(model.module)
            biases = [getattr(model.module.get_submodule(path), "bias", None) for path in unit.paths]
            request = Request(ratio=cell.ratio)
            job = Job(group, [moments[path] for path in unit.paths], biases, request, lambda _: None)
            stored = METHODS[cell.method].make(job)
            student = install(student, unit, stored, "smaller")
            if papers is not None:
                papers = install(papers, unit, _enforced(stored, group), "smaller")
            numbers, of = numbers + stored.numbers, of + group.shape[0] * group.shape[1]
    except ValueError as error:
        return {"refused": str(error)}
    seconds = time.perf_counter() - began
    found = {"numbers": numbers, "of": of, "seconds": seconds}
    if papers is None:
        return found | {"scores": on.scores(student)}
    return found | {"scores": on.scores(papers), "fitted": on.scores(student)}


def _enforced(stored: Stored, group: Group) -> Stored:
    """The same with the norms of the source's rows (Banaei et al. 2023, "norm enforcement")."""
    rows = group.split(torch.linalg.vector_norm(group.stacked.float(), dim=1))
    rule = RULES[stored.rule]
    own = [
        {**each, "norms": torch.ones(len(norms))} for each, norms in zip(stored.own, rows, strict=True)
    ]  # lengths of what is decoded, without any norm
    lengths = [torch.linalg.vector_norm(rule.rows(each, stored.shared, None), dim=1) for each in own]
    norms = [norm / length.clamp(min=1e-12) for norm, length in zip(rows, lengths, strict=True)]
    return replace(stored, own=tuple({**each, "norms": norm} for each, norm in zip(own, norms, strict=True)))


def run(name: str, ratios: Sequence[float], limit: int, work: Path, *, table: bool) -> None:
    """Measure what is missing of one model, or nothing, and print its tables."""
    on = subject(name, limit)
    say(f"{name}: {len(on.gold)} judged rows, {on.rows.facts['rows']} to learn from")
    wanted = cells(name, ratios)
    if table:
        wanted = [cell for cell in wanted if cell.place(work).is_file()]
    source = Cell(name, "source", 1, "none", "none")
    found = {source: kept(source.place(work), lambda: {"scores": on.scores(on.model)})}
    moments = {} if table else _moments(on)
    found |= {cell: kept(cell.place(work), lambda cell=cell: measure(cell, on, moments)) for cell in wanted}
    _print(on, found, ratios)


def _moments(on: Subject) -> dict[str, Moments]:
    paths = [
        path
        for unit in units_of(on.model.module, on.model.anatomy, ["key", "ffn_out"], "separated")
        for path in unit.paths
    ]
    soft = Answers(on.model, temperature=TEMPERATURE)
    embedding = on.model.anatomy.embeddings["word"]
    return measure_moments(soft, on.model.module, embedding, paths, on.rows.batches, seed=SEED)


def _print(on: Subject, found: Mapping[Cell, dict[str, Any]], ratios: Sequence[float]) -> None:
    source = next(value for cell, value in found.items() if cell.kind == "source")
    whole = interval(on, source["scores"])
    print(f"\n### {on.name}: {on.metric} × 100 without any training ({len(on.gold)} rows; source {_words(whole)})\n")
    fitted = {
        replace(cell, method=f"{cell.method}, fitted"): {**each, "scores": each["fitted"]}
        for cell, each in found.items()
        if "fitted" in each
    }
    found = {**found, **fitted}
    columns = [(kind, ratio) for kind in KINDS for ratio in ratios]
    rows = {
        f"{NAMES[method]}, {grouping}": [found.get(Cell(on.name, *column, method, grouping)) for column in columns]
        for method in NAMES
        for grouping in ("separated", "concatenated")
    }
    rows = {name: row for name, row in rows.items() if any(each is not None for each in row)}
    _table(columns, {name: [_score(on, each) for each in row] for name, row in rows.items()})
    print("\nNumbers stored, in thousands:\n")
    _table(columns, {name: [_size(each) for each in row] for name, row in rows.items()})
    print("\nAhead by, in points (95 % interval of the paired difference):\n")
    _table(columns, {_claim(claim): [_ahead(on, found, claim, column) for column in columns] for claim in CLAIMS})


def _table(columns: Sequence[Column], rows: Mapping[str, Sequence[str]]) -> None:
    print("| | " + " | ".join(f"{KINDS[kind]} ÷{ratio:g}" for kind, ratio in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name, texts in rows.items():
        print(f"| {name} | " + " | ".join(texts) + " |")


def _words(value: Any) -> str:
    return f"{100 * value.value:.1f} ({100 * value.low:.1f}…{100 * value.high:.1f})"


def _score(on: Subject, value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    return "–" if "refused" in value else f"{100 * interval(on, value['scores']).value:.1f}"


def _size(value: Mapping[str, Any] | None) -> str:
    return "" if value is None or "refused" in value else f"{value['numbers'] / 1e3:.1f}"


CLAIMS = (
    (("autoencoder", "concatenated"), ("svd", "concatenated")),
    (("svd", "concatenated"), ("svd", "separated")),
    (("linear_autoencoder", "concatenated"), ("svd", "concatenated")),
    (("autoencoder", "separated"), ("svd", "separated")),
    (("autoencoder, fitted", "concatenated"), ("svd", "concatenated")),
    (("linear_autoencoder, fitted", "concatenated"), ("svd", "concatenated")),
    (("autoencoder, fitted", "separated"), ("svd", "separated")),
)
"""What the paper's order says: the first is ahead of the second; and whether norms that are fitted change it."""


def _claim(claim: tuple[Way, Way]) -> str:
    return " over ".join(f"{NAMES[method]}, {grouping}" for method, grouping in claim)


def _ahead(on: Subject, found: Mapping[Cell, dict[str, Any]], claim: tuple[Way, Way], column: Column) -> str:
    first, second = (found.get(Cell(on.name, *column, *way)) for way in claim)
    if first is None or second is None or "refused" in first or "refused" in second:
        return ""
    gain = change(on, first["scores"], second["scores"])
    return f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f}…{100 * gain.high:+.1f})"


def main() -> None:
    """Measure what is missing, and print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SUBJECTS))
    parser.add_argument("--ratios", default="3,10,25")
    parser.add_argument("--limit", type=int, default=LIMIT, help="judged rows of each model")
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    parser.add_argument("--work", type=Path, default=CACHE / "paper")
    asked = parser.parse_args()
    ratios = [float(each) for each in asked.ratios.split(",")]
    for name in asked.models.split(","):
        if name not in SUBJECTS:
            parser.error(f"unknown model {name!r}; known: {', '.join(SUBJECTS)}")
        run(name, ratios, asked.limit, asked.work, table=asked.table)
    print(f"\n{machine(context())}")


if __name__ == "__main__":
    main()
