"""Does the candidate compute what the baseline computes? Faster but wrong is wrong.

Both run the same probes; they may differ by what the looser precision of the two may cost (`parity.TOLERANCES`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploycomp.artifact import MANIFEST, Artifact
from deploycomp.errors import InputRefused, UsageError, VerificationFailed
from deploycomp.external import check_external_data
from deploycomp.gate import checks
from deploycomp.gate.sequential import FAIL, PASS

if TYPE_CHECKING:
    from deploycomp.evaluate.parity import Probe
    from deploycomp.measure.candidate import Subject
    from deploycomp.runtime.session import Run

__all__ = ["check_answers", "check_texts"]

PRECISIONS = ("fp32", "fp16", "int8")
"""From strict to loose."""
INTEGER_OPERATORS = ("Quantize", "Integer", "QLinear", "QGemm", "QAttention")
"""Parts of the names of operators that make a graph an INT8 one."""
RANDOM_TOKENS = 512
TRAINED_ANEW = "if the candidate was trained anew: --retrained --eval DATA"


@dataclass(frozen=True)
class _Opened:
    """A model that runs here."""

    subject: Subject
    manifest: dict[str, Any]
    """Of an artifact, empty for a plain .onnx file."""
    run: Run
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: tuple[int | None, int | None]
    """Batch and sequence that the graph is fixed to."""

    @property
    def precision(self) -> str:
        """What its manifest says, or its operators and weights."""
        return self.manifest.get("precision") or _precision(self.subject.model)


def check_answers(candidate: Subject, baseline: Subject, *, longest: int) -> dict[str, Any]:
    """Run both on the same probes and compare.

    Args:
        candidate: What is judged.
        baseline: What its answers must be.
        longest: Tokens of the longest probe.

    Returns:
        The check; it fails where the answers differ by more than the precision may cost, or are not finite.

    Raises:
        UsageError: Tasks, labels, vocabularies, inputs or outputs differ, so that answers cannot be compared.
        InputRefused: A model cannot be opened, or the baseline's own answers are not finite.
    """
    from deploycomp.evaluate.parity import TOLERANCES, Reference, check

    old, new = _open(baseline), _open(candidate)
    _check_comparable(old, new)
    reference = Reference.record(old.run, _probes(old, longest), old.outputs)
    if not all(np.isfinite(each).all() for answers in reference.answers for each in answers):
        raise InputRefused("the baseline's own answers are not finite", where=str(old.subject.model))
    precision = max(old.precision, new.precision, key=PRECISIONS.index)
    limit = TOLERANCES[precision].limit
    try:
        outputs = check(new.run, reference, precision, stage="gate")["outputs"]
    except VerificationFailed as broken:
        why = f": {broken.why}" if broken.why else ""
        return checks.check(
            "answers",
            FAIL,
            f"the answers are not the baseline's, {broken.where}{why or ': ' + broken.what}",
            limit=limit,
        )
    worst = max(each["worst"] for each in outputs.values())
    reason = f"the same as the baseline's within {worst:.2g}, {precision} may differ by {limit:g}"
    return checks.check("answers", PASS, reason, candidate=worst, limit=limit)


def check_texts(candidate: Subject) -> dict[str, Any]:
    """Ask an artifact, here, the texts that its source answered when it was exported.

    Args:
        candidate: What is judged.

    Returns:
        The check; it fails where a text is read or answered otherwise, and is skipped where nothing is known of texts.
    """
    from deploycomp.evaluate.selftest import check_selftest
    from deploycomp.evaluate.text import STAGE
    from deploycomp.runtime import Predictor

    folder = candidate.candidate.path
    if not (folder / MANIFEST).is_file():
        return checks.skipped(STAGE, "an .onnx file alone reads no text")
    predictor = Predictor.load(folder, spinning=False, verify=True)
    try:
        facts = check_selftest(predictor, predictor.manifest)
    except VerificationFailed as broken:
        return checks.check(STAGE, FAIL, f"{broken.what}, {broken.where}: {broken.why}")
    if facts is None:
        return checks.skipped(STAGE, "the artifact holds no texts: it was exported by an earlier deploycomp")
    answers = facts["outputs"]["answers"]
    reason = f"{facts['checks']} texts are read as by the source and answered within {answers['worst']:.2g}"
    return checks.check(STAGE, PASS, reason, candidate=answers["worst"], limit=answers["tolerance"])


def _open(subject: Subject) -> _Opened:
    from deploycomp.runtime.session import SPINNING, open_session, runner

    folder = subject.candidate.path
    artifact = Artifact.open(folder) if (folder / MANIFEST).is_file() else None
    if artifact:
        artifact = artifact.verify()
    session = open_session(subject.model, spinning=False, config={**subject.session, SPINNING: "0"})
    shapes = [each.shape for each in session.get_inputs()]
    batch, sequence = (next((shape[axis] for shape in shapes if isinstance(shape[axis], int)), None) for axis in (0, 1))
    return _Opened(
        subject,
        artifact.manifest if artifact else {},
        runner(session, model=subject.model),
        tuple(each.name for each in session.get_inputs()),
        tuple(each.name for each in session.get_outputs()),
        (batch, sequence),
    )


def _check_comparable(old: _Opened, new: _Opened) -> None:
    """Refuse to compare answers to different questions."""
    pairs = {
        "inputs": (sorted(old.inputs), sorted(new.inputs)),
        "outputs": (sorted(old.outputs), sorted(new.outputs)),
        "vocabulary": (old.subject.vocabulary, new.subject.vocabulary),
        "fixed batch and sequence": (old.fixed, new.fixed),
    }
    if old.manifest and new.manifest:
        pairs["task"] = (old.manifest.get("task"), new.manifest.get("task"))
        labels = [(each.manifest.get("runtime") or {}).get("labels") for each in (old, new)]
        pairs["labels"] = (labels[0], labels[1])
    for name, (then, now) in pairs.items():
        if then != now:
            raise UsageError(
                f"the two have different {name}: their answers cannot be compared",
                where=str(new.subject.candidate.path),
                why=f"baseline: {then}, candidate: {now}",
                hint=TRAINED_ANEW,
            )


def _probes(model: _Opened, longest: int) -> list[Probe]:
    from deploycomp.evaluate.parity import PROBE_TEXT, make_probes

    subject, (batch, sequence) = model.subject, model.fixed
    runtime: dict[str, Any] = model.manifest.get("runtime") or {}
    file, first, last = subject.model.parent / "tokenizer.json", None, None
    if subject.candidate.path.is_dir():
        file = subject.candidate.path / "tokenizer.json"
    if file.is_file():
        from deploycomp.runtime.encode import load_tokenizer

        encoded = load_tokenizer(file).encode(PROBE_TEXT)
        special = encoded.special_tokens_mask
        ids = [each for each, mark in zip(encoded.ids, special, strict=True) if not mark]
        first = encoded.ids[0] if special[0] else None
        last = encoded.ids[-1] if special[-1] else None
    else:
        ids = np.random.default_rng(0).integers(0, subject.vocabulary, RANDOM_TOKENS).tolist()
    return make_probes(
        ids,
        model.inputs,
        max_length=min(longest, subject.max_length or longest),
        pad_token_id=runtime.get("pad_token_id") or 0,
        first=first,
        last=last,
        batch=batch,
        sequence=sequence,
    )


def _precision(file: Path) -> str:
    """Tell the precision of a graph by its operators and weights."""
    import onnx_ir as ir

    check_external_data(file)
    graph = ir.load(file).graph
    if any(part in node.op_type for node in graph for part in INTEGER_OPERATORS):
        return "int8"
    half = any(value.dtype == ir.DataType.FLOAT16 for value in graph.initializers.values())
    return "fp16" if half else "fp32"
