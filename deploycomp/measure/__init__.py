"""Latency, memory and size, measured in fresh child processes with interleaved blocks.

    benchmark.py   candidates × threads × shapes → the "benchmark" part of report.json
    candidate.py   what is measured, and what is refused before anything runs
    children.py    one child process at a time: start, time limit, kill
    worker.py      the child: open one model, measure its cells, answer in JSON
    engines.py     how the child runs an ONNX or a PyTorch model: numpy in, numpy out
    sampling.py    warm-up and timed loop
    figures.py     percentiles that the samples support; ratios with an interval
    context.py     the machine and what else it did meanwhile

This file imports nothing: the child's memory and start are part of the measurement.
"""
