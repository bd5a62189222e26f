"""Hold a candidate to its goals against a baseline: cheap and decisive first, and nothing more once something failed.

    files ─ fingerprint ─ size ─ answers ─ accuracy* ─ latency and memory in rounds ─► result (report/gate.schema.json)

    goals.py       what is asked for
    run.py         `run_gate`, `calibrate`: one gate from front to back
    answers.py     does the candidate compute what the baseline computes?
    accuracy.py    the paired drop of the main metric
    processes.py   one fresh process → the numbers that are gated
    files.py       stored baselines and noise files

The statistics are `deploycomp.gate`, measuring is `deploycomp.measure`; this room only brings them together.
"""

from __future__ import annotations

from deploycomp.gating.goals import Data, Goals, Setting
from deploycomp.gating.run import NOISE_FILE, calibrate, raise_verdict, run_gate

__all__ = ["NOISE_FILE", "Data", "Goals", "Setting", "calibrate", "raise_verdict", "run_gate"]
