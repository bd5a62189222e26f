"""Latency, memory and size, measured in fresh child processes with interleaved blocks.

    benchmark.py   candidates × threads × shapes → the "benchmark" part of report.json
    result.py      answers of the children → figures, times on the device, checks of digests and of caching
    rounds.py      checked candidates and shapes, measured one fresh child at a time
    candidate.py   what is measured, and what is refused before anything runs
    children.py    one child process at a time: start, time limit, kill
    worker.py      the child: open one model, measure its cells, answer in JSON
    cell.py        one cell in the child: batches, warm-up, timed, repeated and fresh calls, digests
    engines.py     how the child runs an ONNX or a PyTorch model: numpy in, numpy out
    sampling.py    warm-up and timed loop
    verify.py      timed answers against those of the warm-up
    profile.py     where the time of an ONNX session goes, and on which provider
    device.py      time on a CUDA device, by its events
    gpu.py         what NVML tells
    stream.py      real rows, tokenized in the parent
    figures.py     percentiles that the samples support; ratios with an interval
    bootstrap.py   intervals that resample whole blocks
    context.py     the machine and what else it did meanwhile

This file imports nothing: the child's memory and start are part of the measurement.
"""
