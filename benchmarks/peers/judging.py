"""Every candidate on the model's data, judged in this process: one tokenizer, one batching, one metric.

The candidate itself lives in its child; what a `Predictor` here calls its session is a pipe to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from candidates import Candidate
from common import say
from live import serve
from models import Model, PeerFailed

from deploycomp.errors import DeploycompError
from deploycomp.runtime.session import Run

__all__ = ["judge"]

SOURCE = "source"
Result = dict[str, Any]


def judge(
    model: Model, candidates: list[Candidate], *, threads: int, limit: int | None, failed: dict[str, str]
) -> Result:
    """Score all candidates and the PyTorch source.

    Returns:
        metric, rows, source, and for each candidate its scores' main metric and its agreement with the source.
    """
    from deploycomp.assess import source_predictor
    from deploycomp.data import load_rows
    from deploycomp.evaluate import evaluate_candidates
    from deploycomp.models import resolve
    from deploycomp.models.load import load
    from deploycomp.runtime import Predictor

    source = load(resolve(str(model.real.path)), model.real.task)
    template = source_predictor(source)
    reference = Predictor(template.tokenizer, template.manifest, _remembered(source.run))
    rows = load_rows(
        str(model.real.data),
        task=model.real.task,
        labels=template.runtime["labels"],
        problem_type=template.runtime["problem_type"],
        limit=limit,
    )
    found: Result = {"rows": len(rows), "digest": rows.digest, "scores": {}, "agreement": {}, "drop": {}}
    for each in candidates:
        say(f"{model.name}: judging {each.name} on {len(rows)} rows")
        try:
            with serve(each, model, threads=threads) as run:
                predictor = Predictor(template.tokenizer, template.manifest, run)
                evaluation = evaluate_candidates({SOURCE: reference, each.name: predictor}, rows)
        except (PeerFailed, DeploycompError) as error:
            failed[f"{each.name}, accuracy"] = str(error)
            continue
        metric = evaluation["metric"]
        found |= {"metric": metric, "source": evaluation["scores"][SOURCE][metric]}
        found["scores"][each.name] = evaluation["scores"][each.name][metric]
        found["agreement"][each.name] = evaluation["agreement"][each.name]
        found["drop"][each.name] = evaluation["drop"][each.name]
    return found


def _remembered(run: Run) -> Run:
    """The source is asked the same batches for every candidate; PyTorch answers them once."""
    known: dict[tuple[tuple[int, ...], bytes], list[np.ndarray]] = {}

    def remembered(feeds: dict[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
        ids = feeds["input_ids"]
        key = (ids.shape, ids.tobytes())
        if key not in known:
            known[key] = run(feeds, outputs)
        return known[key]

    return remembered
