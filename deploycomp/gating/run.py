"""One gate from front to back, and the calibration of the machine that it runs on."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.errors import GateFailed, Inconclusive, UsageError
from deploycomp.gate import checks as told
from deploycomp.gate.fingerprint import fingerprint
from deploycomp.gate.noise import measure_noise
from deploycomp.gate.rounds import BASELINE, CANDIDATE, MAX_ROUNDS, Measure, Played, Quantity, Rules, play
from deploycomp.gate.sequential import FAIL, INCONCLUSIVE
from deploycomp.gate.stored import Stored, write_samples
from deploycomp.gating.files import check_noise, load_stored, why_advisory
from deploycomp.gating.goals import DEFAULT_MAX_DROP, Data, Goals, Setting
from deploycomp.gating.processes import AgainstStored, Processes

if TYPE_CHECKING:
    from deploycomp.measure.rounds import Bench

__all__ = ["NOISE_FILE", "calibrate", "raise_verdict", "run_gate"]

Progress = Callable[[str, float], None]
Check = dict[str, Any]

NOISE_FILE = Path(".deploycomp/gate-noise.json")
"""Where `gate calibrate` writes what a machine can decide, below the working directory."""
BUSY = 0.25
"""Foreign or stolen share of the processors from which on it is said; it never decides."""


def run_gate(
    candidate: Path,
    baseline: Path,
    goals: Goals | None = None,
    *,
    rules: Rules | None = None,
    setting: Setting | None = None,
    data: Data | None = None,
    noise: Path | None = None,
    retrained: bool = False,
    allow_advisory: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Decide whether *candidate* meets its goals against *baseline*; see docs/gate.md for how.

    Args:
        candidate: An artifact, or an `.onnx` file.
        baseline: The same, or the `.json` of an earlier gate, of `gate calibrate` or of `benchmark`.
        goals: What it may cost.
        rules: How sure to be, and how long to measure.
        setting: Shapes and threads.
        data: Rows to compare the main metric on.
        noise: What `calibrate` wrote for this machine; a tolerance below its floor is refused.
        retrained: The candidate was trained anew, so its answers may differ; *data* then must judge them.
        allow_advisory: Measure against a stored baseline although it cannot be compared strictly.
        progress: Called with a message and the share of the work that is done.

    Returns:
        The result, as in `report/gate.schema.json`; a verdict other than "pass" is returned too, see `raise_verdict`.

    Raises:
        UsageError: Goals, shapes or files that do not go together, a budget or a tolerance that cannot be decided.
        InputRefused: A model cannot be read, or has inputs that no data can be made for.
        VerificationFailed: Processes of one model answered differently.
        EnvironmentFailed: A child died.
    """
    gate = _Gate(candidate, baseline, goals or Goals(), rules or Rules(), setting or Setting(), data, retrained)
    return gate.run(noise=noise, allow_advisory=allow_advisory, progress=progress or (lambda _message, _share: None))


def raise_verdict(result: Mapping[str, Any]) -> None:
    """Raise what the verdict of a gate means; nothing where it passed.

    Raises:
        GateFailed: A goal is broken.
        Inconclusive: The measurement cannot decide.
    """
    if result["verdict"] == FAIL:
        raise GateFailed(
            "the candidate fails the gate", where=result["candidate"], why=result["why"], hint=result["next"]
        )
    if result["verdict"] == INCONCLUSIVE:
        raise Inconclusive("the gate cannot decide", where=result["candidate"], why=result["why"], hint=result["next"])


def calibrate(
    artifact: Path,
    goals: Goals | None = None,
    *,
    rules: Rules | None = None,
    setting: Setting | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model against itself for the whole budget, and say what this machine can decide.

    Args:
        artifact: An artifact, or an `.onnx` file.
        goals: The tolerances that the smallest detectable slowdown is told for.
        rules: Those of the gates to come: the noise floor depends on budget and rates.
        setting: Shapes and threads of the gates to come.
        progress: Called with a message and the share of the work that is done.

    Returns:
        "numbers": for each gated number its median, and what `deploycomp.gate.noise.Noise` says; the fingerprint of the
        machine stands in "context". It is a stored baseline too: its samples and the reference kernel are in it.

    Raises:
        UsageError, InputRefused, VerificationFailed, EnvironmentFailed: As `run_gate` does.
    """
    gate = _Gate(artifact, artifact, goals or Goals(), rules or Rules(), setting or Setting())
    return gate.calibrate(progress or (lambda _message, _share: None))


@dataclass
class _Gate:
    """One gate, filled from front to back."""

    candidate: Path
    baseline: Path
    goals: Goals
    rules: Rules
    setting: Setting
    data: Data | None = None
    retrained: bool = False

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.seed = random.SystemRandom().randrange(1 << 32) if self.setting.seed is None else self.setting.seed
        if self.data is None and self.retrained:
            raise UsageError("answers may only differ where data judge them", hint="--retrained --eval DATA")
        if self.data is None and self.goals.max_drop is not None:
            raise UsageError("a largest drop needs data to measure it on", hint="--max-drop 0.5% --eval DATA")

    def run(self, *, noise: Path | None, allow_advisory: bool, progress: Progress) -> dict[str, Any]:
        """Everything, in order; the first thing that fails ends it."""
        stored = load_stored(self.baseline, self.rules) if self.baseline.suffix == ".json" else None
        if stored and self.data is not None:
            raise UsageError("a stored baseline answers no data", hint="name the artifact as --baseline")
        bench = self._open({CANDIDATE: self.candidate}) if stored else self._open(self._both())
        context = self._context(bench)
        wanted = list(self.setting.quantities(bench.plan.threads))
        if noise is not None:
            check_noise(noise, context["fingerprint"], self.goals, self.rules, wanted)
        advisory = why_advisory(stored, context["fingerprint"]) if stored else []
        if advisory and not allow_advisory:
            return self._refused(advisory, context)
        done: list[Check] = []
        for check in self._cheap(bench, stored, progress):
            done.append(check)
            if check["verdict"] == FAIL:
                return self._result([*done, *self._left(done)], context, advisory=bool(advisory))
        processes = Processes(bench)
        measure = AgainstStored(processes, stored, wanted, self.seed) if stored else processes
        played = self._play(bench, measure, context, progress, most=stored.rounds if stored else MAX_ROUNDS)
        context["warnings"] = processes.check()
        result = self._result([*done, *told.measured(played)], context, advisory=bool(advisory))
        return {
            **result,
            "rounds": played.rounds,
            "looks": played.seen,
            "next": told.advice(played, context, busy=BUSY),
            "samples": self._samples(played, processes),
        }

    def calibrate(self, progress: Progress) -> dict[str, Any]:
        """Measure A/A to the end of the budget."""
        bench = self._open(self._both())
        context = self._context(bench)
        processes = Processes(bench, with_reference=True)
        played = self._play(bench, processes, context, progress, to_the_end=True)
        context["warnings"] = processes.check()
        return {
            "artifact": str(self.candidate),
            "bytes": bench.subjects[CANDIDATE].bytes,
            **asdict(self.rules),
            "rounds": played.rounds,
            "seconds": time.monotonic() - self.started,
            "numbers": [self._noise(played, quantity) for quantity in played.limits],
            "disturbance": told.disturbance(context, busy=BUSY),
            "context": context,
            "samples": self._samples(played, processes),
        }

    def _both(self) -> dict[str, Path]:
        return {BASELINE: self.baseline, CANDIDATE: self.candidate}

    def _open(self, paths: Mapping[str, Path]) -> Bench:
        from deploycomp.measure.candidate import Candidate
        from deploycomp.measure.rounds import open_bench
        from deploycomp.recipe import Recipe

        for side, path in paths.items():
            if not path.exists():
                raise UsageError(f"there is no such {side}", where=str(path))
        wanted = {name: value for name, value in asdict(self.setting).items() if name != "seed"}
        settings = Recipe.check({"benchmark": wanted}, where="gate").benchmark
        assert settings is not None
        candidates = [Candidate(side, "onnx", path) for side, path in paths.items()]
        return open_bench(candidates, settings, seed=self.seed)

    def _context(self, bench: Bench) -> dict[str, Any]:
        from deploycomp.measure.context import context

        about = context()
        return {**about, "fingerprint": fingerprint(about, bench.plan.threads)}

    def _cheap(self, bench: Bench, stored: Stored | None, progress: Progress) -> Iterator[Check]:
        """Size, texts, answers, accuracy: each is made only when it is asked for."""
        from deploycomp.gating.answers import check_answers, check_texts

        subjects = bench.subjects
        progress("comparing answers", 0.0)
        if stored is not None:
            if stored.bytes is None:
                yield told.skipped("size", "the stored baseline does not say it")
            else:
                yield told.size(stored.bytes, subjects[CANDIDATE].bytes, self.goals.max_size_growth)
            yield check_texts(subjects[CANDIDATE])
            yield told.skipped("answers", "a stored baseline gives no answers to compare with")
            return
        yield told.size(subjects[BASELINE].bytes, subjects[CANDIDATE].bytes, self.goals.max_size_growth)
        yield check_texts(subjects[CANDIDATE])
        if self.retrained:
            yield told.skipped("answers", "the candidate was trained anew: accuracy judges it")
        else:
            yield check_answers(subjects[CANDIDATE], subjects[BASELINE], longest=max(self.setting.sequence_length))
        if self.data is not None:
            from deploycomp.gating.accuracy import check_accuracy

            yield check_accuracy(self.candidate, self.baseline, self.data, self.goals, progress=progress)

    def _left(self, done: list[Check]) -> list[Check]:
        """What is not worth a second any more."""
        made = {each["kind"] for each in done}
        kinds = ["text", "answers", *(["accuracy"] if self.data else []), "latency", "memory"]
        return [told.skipped(kind, f"{done[-1]['name']} fails already") for kind in kinds if kind not in made]

    def _play(self, bench: Bench, measure: Measure, context: dict[str, Any], progress: Progress, **how: Any) -> Played:
        from deploycomp.measure.context import Watch

        watch = Watch.start()
        threads, limit = bench.plan.threads, self.goals.limit
        played = play(measure, limit, self.rules, threads=threads, seed=self.seed, progress=progress, **how)
        context |= watch.stop() if watch else {}
        return played

    def _refused(self, advisory: list[str], context: dict[str, Any]) -> dict[str, Any]:
        """The result where the stored baseline proves too little: nothing is measured, and nothing passes."""
        kinds = ("size", "latency", "memory")
        checks = [told.skipped(kind, "the stored baseline cannot be compared strictly") for kind in kinds]
        return {
            **self._result(checks, context, advisory=True),
            "verdict": INCONCLUSIVE,
            "why": f"the stored baseline cannot be compared strictly: {'; '.join(advisory)}",
            "next": "name the artifact as --baseline, so that both are measured here and now, or add --allow-advisory",
        }

    def _result(self, checks: list[Check], context: dict[str, Any], *, advisory: bool) -> dict[str, Any]:
        """The result of a gate without rounds."""
        goals = asdict(self.goals)
        if self.data is not None and goals["max_drop"] is None:
            goals["max_drop"] = DEFAULT_MAX_DROP
        return {
            "verdict": told.verdict_of(checks),
            "advisory": advisory,
            "goals": goals,
            "false_alarm": self.rules.false_alarm,
            "missed": self.rules.missed,
            "rounds": 0,
            "looks": [],
            "seconds": time.monotonic() - self.started,
            "candidate": str(self.candidate),
            "baseline": str(self.baseline),
            "checks": checks,
            "why": told.why(checks),
            "next": None,
            "context": context,
            "samples": {},
        }

    def _samples(self, played: Played, processes: Processes) -> dict[str, Any]:
        first = {str(count): sides for count, sides in played.first.items()}
        return write_samples(played.values, processes.reference, seed=self.seed, first=first)

    def _noise(self, played: Played, quantity: Quantity) -> dict[str, Any]:
        limit = self.goals.limit(quantity)
        noise = measure_noise(played.differences(quantity), played.looks, hypotheses=len(played.limits))
        return {
            "kind": quantity.kind,
            "name": quantity.name,
            "cell": quantity.cell,
            "unit": quantity.unit,
            "value": statistics.median(played.values[CANDIDATE][quantity]),
            **asdict(noise),
            "tolerance": limit,
            "detectable": noise.detectable(limit),
        }
