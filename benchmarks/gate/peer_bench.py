"""The test that pytest-benchmark runs: one row of 128 random tokens, as its documentation shows."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime


def test_latency(benchmark: Any) -> None:
    session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"])
    ids = np.random.default_rng(0).integers(0, 1000, (1, 128))
    every = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    feeds = {each.name: every[each.name] for each in session.get_inputs()}
    benchmark(session.run, None, feeds)
