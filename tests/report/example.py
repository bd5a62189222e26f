"""Realistic reports: INT8 that wins, nothing measured, INT8 that loses, INT8 tuned. Numbers near those of facts.md."""

from __future__ import annotations

import hashlib
from typing import Any

from deploycomp.measure.benchmark import ratios
from deploycomp.report.table import build_verdict

Report = dict[str, Any]

ROLES = {
    "attention.self.query": (384, 384, 0.0079),
    "attention.self.key": (384, 384, 0.0081),
    "attention.self.value": (384, 384, 0.0072),
    "attention.output.dense": (384, 384, 0.0086),
    "intermediate.dense": (384, 1536, 0.0088),
    "output.dense": (1536, 384, 0.0131),
}
BLOCKS = 6


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def layer(name: str, op: str, rows: int, columns: int, error: float) -> Report:
    scales = columns if op != "Gather" else rows
    return {
        "name": name,
        "op": op,
        "bytes_before": rows * columns * 4,
        "bytes_after": rows * columns + scales * 4,
        "error": round(error, 6),
    }


def layers() -> list[Report]:
    found = [
        layer("bert.embeddings.word_embeddings", "Gather", 30522, 384, 0.0092),
        layer("bert.embeddings.position_embeddings", "Gather", 512, 384, 0.0101),
    ]
    for block in range(BLOCKS):
        for place, (role, (rows, columns, error)) in enumerate(ROLES.items()):
            wobble = 1 + 0.09 * ((block * 5 + place * 3) % 7 - 3) / 3 + 0.05 * block * (role == "output.dense")
            found.append(layer(f"bert.encoder.layer.{block}.{role}", "MatMul", rows, columns, error * wobble))
    return [*found, layer("bert.pooler.dense", "MatMul", 384, 384, 0.0095)]


def recipe(*, int8: bool = True, evaluate: bool = True, benchmark: bool = True) -> Report:
    steps: list[Report] = [
        {
            "step": "export",
            "ops": "fused",
            "dtype": "fp32",
            "opset": 18,
            "fixed": {"batch": None, "sequence": None},
            "external_data_bytes": 1_500_000_000,
        }
    ]
    steps += [{"step": "int8", "weight_bits": "auto", "embeddings": True}] if int8 else []
    data = {"data": "sst2/validation.jsonl", "split": None, "columns": {}, "limit": None}
    shapes = {"batch_size": [1, 8], "sequence_length": [16, 128], "threads": []}
    return {
        "version": 1,
        "model": "minilm-l6-sst2",
        "revision": None,
        "task": "auto",
        "target": "auto",
        "steps": steps,
        "evaluate": {**data, "max_drop": 0.005, "batch_size": 16} if evaluate else None,
        "benchmark": {**shapes, "blocks": 3, "block_seconds": 0.5} if benchmark else None,
        "layout": "default",
        "keep_fp32": False,
    }


def export_step() -> Report:
    facts = {
        "nodes": 168,
        "operators": {
            "Add": 31,
            "Gather": 3,
            "Gelu": 6,
            "LayerNormalization": 13,
            "MatMul": 36,
            "MultiHeadAttention": 6,
        },
        "fused": {"Gelu": 6, "LayerNormalization": 13, "MultiHeadAttention": 6},
        "unfused_attention": 0,
        "dtype": "fp32",
        "opset": 18,
        "ops": "fused",
        "notes": [],
    }
    return {"step": "export", "seconds": 6.1, "facts": facts}


def int8_step(*, bits: int, why: str) -> Report:
    few = "768 weights are too few to pay for quantizing the input (< 1024)"
    facts = {
        "weight_bits": bits,
        "why": why,
        "nodes": {"Gather": [2, 3], "Gemm": [1, 2], "MatMul": [36, 36]},
        "bytes": {"int8": 22_530_048, "float": 196_608, "other": 4_104},
        "left_in_float": [
            {"node": "/bert/embeddings/token_type_embeddings/Gather", "op": "Gather", "reason": few},
            {"node": "/classifier/Gemm", "op": "Gemm", "reason": few},
        ],
    }
    return {"step": "int8", "seconds": 1.2, "facts": facts}


RESTORED = ["bert.encoder.layer.5.attention.output.dense", "bert.pooler.dense"]
"""Small layers, so that two of them in float hardly change the size."""


def calibration_facts() -> Report:
    smoothing = [
        {
            "input": f"layer_norm_{place}",
            "layers": [f"bert.encoder.layer.{place // 4}.{tuple(ROLES)[place % 4]}"],
            "alpha": alpha,
            "error_before": 0.00159,
            "error_after": 0.00016 if alpha else 0.00159,
            "fold": ("explicit" if place % 4 else "value") if alpha else None,
            "reason": None if alpha else "no α gains 20%, which a Mul must",
        }
        for place, alpha in enumerate([0.8] * 24 + [0.0] * 2)
    ]
    saturation = {"weight_bits": 8, "bound": 64_770, "pairs": 1_377_828_864, "saturated": 72_731, "largest": 61_608}
    query = {"pairs": 18_874_368, "saturated": 1_693, "largest": 43_170}
    return {
        "target": "x86-vnni",
        "activations": "static",
        "calibration": {"data": "sst2/train.jsonl", "split": None, "rows": 256, "digest": digest("sst2 train")},
        "uncalibrated": "",
        "smoothing": smoothing,
        "saturation": {**saturation, "layers": [{"layer": "bert.encoder.layer.0.attention.self.query", **query}]},
    }


def variant(name: str, ratio: float, low: float, high: float, why: str, *, what: str = "graph") -> Report:
    times = {(1, 16): 0.507, (1, 128): 3.0, (8, 16): 2.88, (8, 128): 22.1}
    at = [{"threads": 2, "batch_size": batch, "sequence_length": sequence} for batch, sequence in times]
    cells = [{**shape, "p50_ms": round(p50 * ratio, 4)} for shape, p50 in zip(at, times.values(), strict=True)]
    row = {"what": what, "name": name, "kept": why == "kept", "why": why, "cells": cells}
    return {**row, "ratio": ratio, "low": low, "high": high}


def tuning_facts() -> Report:
    slow = "not clearly faster: {:.2f} of the default's time ({:.2f} to {:.2f})"
    sleep = (1.48, 1.31, 1.71)
    variants = [
        variant("static", 1.0, 1.0, 1.0, "kept"),
        variant("dynamic", 1.07, 1.02, 1.13, slow.format(1.07, 1.02, 1.13)),
        variant("fp32", 2.7, 2.14, 3.06, "for comparison"),
        variant("denormals are zero", 0.95, 0.93, 0.97, "kept", what="session"),
        variant("threads sleep between operators", *sleep, slow.format(*sleep), what="session"),
    ]
    return {
        "seconds": 47.1,
        "kept": "static",
        "session": {"session.set_denormal_as_zero": "1"},
        "variants": variants,
    }


def sensitivity_facts() -> list[Report]:
    gains = [(RESTORED[1], 3.2e-4, 0.021), (RESTORED[0], 2.1e-4, 0.024)]
    gains += [(f"bert.encoder.layer.{block}.output.dense", 4.1e-5 / (block + 1), 0.094) for block in range(BLOCKS)]
    gains += [(f"bert.encoder.layer.{block}.attention.self.key", -1.3e-6, 0.023) for block in range(BLOCKS)]
    return [{"layer": name, "recovered": gain, "ms": ms, "ratio": gain / ms} for name, gain, ms in gains]


def restored_facts() -> Report:
    tried = [(0, False), (1, False), (2, True)]
    trail = [{"layers": number, "good": good} for number, good in tried]
    return {"layers": RESTORED, "drop": 0.0039, "rows": 512, "trail": trail}


def parity(*, int8: bool = True) -> list[Report]:
    measure = "max abs / max(1, max |reference|)"
    fp32 = {"worst": 3.1e-7, "tolerance": 1e-4, "measure": measure, "shape": [3, 64], "padded": True}
    stages = [{"stage": "export", "precision": "fp32", "checks": 24, "outputs": {"logits": fp32}}]
    if int8:
        worst = {"worst": 0.061, "tolerance": 0.5, "measure": measure, "shape": [1, 512], "padded": False}
        stages.append({"stage": "int8", "precision": "int8", "checks": 24, "outputs": {"logits": worst}})
    return stages


def interval(value: float, low: float, high: float) -> Report:
    return {"value": value, "low": low, "high": high}


def evaluation() -> Report:
    exact = interval(0.894495, 0.872706, 0.912924)
    return {
        "data": "sst2/validation.jsonl",
        "split": None,
        "digest": digest("sst2"),
        "rows": 872,
        "metric": "accuracy",
        "scores": {
            "source": {"accuracy": exact, "f1": interval(0.896860, 0.8741, 0.9162)},
            "fp32": {"accuracy": exact, "f1": interval(0.896860, 0.8741, 0.9162)},
            "artifact": {"accuracy": interval(0.893349, 0.871467, 0.911868), "f1": interval(0.895740, 0.8729, 0.9151)},
        },
        "agreement": {"fp32": interval(1.0, 0.995614, 1.0), "artifact": interval(0.981651, 0.970432, 0.988667)},
        "drop": {
            "fp32": {**interval(0.0, 0.0, 0.0), "p_value": 1.0},
            "artifact": {**interval(0.001147, -0.008028, 0.010321), "p_value": 1.0},
        },
        "max_drop": 0.005,
        "alone": {
            "artifact": {
                "batch_size": 16,
                "score": interval(0.894495, 0.872706, 0.912924),
                "agreement": interval(0.996560, 0.989937, 0.998829),
            }
        },
    }


def cell(candidate: str, batch: int, sequence: int, p50: float, *, threads: int = 2, spread: float = 0.02) -> Report:
    return {
        "candidate": candidate,
        "threads": threads,
        "batch_size": batch,
        "sequence_length": sequence,
        "p50_ms": p50,
        "p90_ms": round(p50 * 1.06, 4),
        "p99_ms": round(p50 * 1.31, 4) if p50 < 3 else None,
        "mean_ms": round(p50 * 1.02, 4),
        "throughput_per_s": round(batch * 1000 / (p50 * 1.02), 2),
        "samples": round(1500 / p50) + 3,
        "block_p50_ms": [round(p50 * (1 + spread / 2 * part), 4) for part in NOISE[candidate]],
    }


NOISE = {"source": (-1, 0, 1), "fp32": (1, 0, -1), "artifact": (0, -1, 1)}
"""How the three blocks of a candidate lie around their median: every one has its own noise."""


def benchmark(times: dict[tuple[int, int], tuple[float, float, float]]) -> Report:
    names = ("source", "fp32", "artifact")
    measured: Report = {
        "settings": {
            "batch_size": [1, 8],
            "sequence_length": [16, 128],
            "threads": [2],
            "blocks": 3,
            "block_seconds": 0.5,
        },
        "context": {"threads_available": 2, "load": [0.4, 0.5, 0.5], "governor": None},
        "candidates": {
            "source": {"kind": "torch", "bytes": 90_852_480, "load_ms": 512.4, "peak_rss_bytes": 612_000_000},
            "fp32": {"kind": "onnx", "bytes": 90_944_112, "load_ms": 188.0, "peak_rss_bytes": 241_000_000},
            "artifact": {"kind": "onnx", "bytes": 23_012_480, "load_ms": 74.2, "peak_rss_bytes": 131_000_000},
        },
        "cells": [
            cell(name, batch, sequence, p50)
            for (batch, sequence), row in times.items()
            for name, p50 in zip(names, row, strict=True)
        ],
    }
    measured["ratios"] = {name: ratios(measured, "artifact", name) for name in ("source", "fp32")}
    measured["fp32_ratios"] = ratios(measured, "fp32", "source")
    return measured


def base(*, int8: bool, bits: int, why: str, flags: list[str], name: str, target: str) -> Report:
    return {
        "schema_version": 1,
        "deploycomp": "0.1.0",
        "created": "2026-11-20T10:00:00Z",
        "seconds": 21.3,
        "source": {
            "name": "minilm-l6-sst2",
            "revision": None,
            "digest": digest("source"),
            "model_type": "bert",
            "task": "text-classification",
            "parameters": 22_713_986,
            "bytes": 90_855_944,
        },
        "artifact": {
            "model": "model.onnx",
            "bytes": 23_012_480 if int8 else 90_944_112,
            "fp32_bytes": 90_944_112,
            "precision": "int8" if int8 else "fp32",
            "target": target,
            "digest": digest("artifact"),
        },
        "recipe": recipe(int8=int8),
        "versions": {
            "onnx": "1.23.2",
            "onnx-ir": "1.1.0",
            "onnxruntime": "1.31.1",
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.23.0",
        },
        "machine": {
            "name": name,
            "arch": "x86_64",
            "cores": 2,
            "threads": 2,
            "flags": flags,
            "memory_bytes": 8_000_000_000,
        },
        "steps": [export_step(), *([int8_step(bits=bits, why=why)] if int8 else [])],
        "parity": parity(int8=int8),
        "layers": layers() if int8 else [],
        "evaluation": None,
        "benchmark": None,
    }


def judged(report: Report) -> Report:
    return {**report, "verdict": build_verdict(report)}


def wins() -> Report:
    """INT8 on a CPU with VNNI, evaluated and measured."""
    report = base(
        int8=True,
        bits=8,
        why="x86-vnni guarantees an INT8 dot product that cannot saturate",
        flags=["avx2", "avx512_vnni", "avx512f", "f16c", "fma", "sse4_2"],
        name="AMD EPYC 9B14",
        target="x86-vnni",
    )
    report["evaluation"] = evaluation()
    report["benchmark"] = benchmark(
        {
            (1, 16): (6.1, 2.0, 0.61),
            (1, 128): (23.3, 10.4, 3.68),
            (8, 16): (29.4, 9.9, 3.35),
            (8, 128): (168.0, 69.5, 27.7),
        }
    )
    return judged(report)


def bare() -> Report:
    """FP32 without evaluation and without benchmark."""
    report = base(int8=False, bits=8, why="", flags=["avx2", "fma"], name="AMD EPYC 9B14", target="x86-avx2")
    report["recipe"] = recipe(int8=False, evaluate=False, benchmark=False)
    return judged(report)


def loses() -> Report:
    """INT8 on a CPU without an INT8 dot product: slower than FP32, a real loss of accuracy, a noisy machine."""
    report = base(
        int8=True,
        bits=7,
        why="x86-avx2 guarantees no INT8 dot product, and U8S8 products of 8-bit weights would saturate",
        flags=["avx2", "fma", "sse4_2"],
        name="Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz",
        target="x86-avx2",
    )
    facts = report["steps"][1]["facts"]
    facts.update(target="x86-avx2", activations="dynamic", calibration=None)
    facts["uncalibrated"] = "no calibration data was given, and the evaluation data has no train split beside it"
    scores = evaluation()
    scores["scores"]["artifact"]["accuracy"] = interval(0.877294, 0.853925, 0.897362)
    scores["agreement"]["artifact"] = interval(0.958716, 0.943407, 0.970026)
    scores["drop"]["artifact"] = {**interval(0.017202, 0.004587, 0.029817), "p_value": 0.0081}
    scores["max_drop"] = None
    scores["alone"]["artifact"]["agreement"] = interval(0.985092, 0.974648, 0.991276)
    report["evaluation"] = scores
    report["benchmark"] = benchmark(
        {
            (1, 16): (7.9, 2.6, 2.81),
            (1, 128): (41.2, 19.7, 22.4),
            (8, 16): (38.0, 18.1, 18.4),
            (8, 128): (322.0, 148.0, 131.0),
        }
    )
    report["benchmark"]["cells"][0]["block_p50_ms"] = [7.4, 7.9, 9.1]
    report["benchmark"]["candidates"]["artifact"]["peak_rss_bytes"] = 655_000_000
    return judged(report)


def tuned() -> Report:
    """INT8 with static ranges, smoothed, tuned on this machine, with two layers put back to float."""
    report = wins()
    report["artifact"]["bytes"] = 23_897_216
    export, int8 = (step["facts"] for step in report["steps"])
    export["rewrites"] = {"reshapes_dropped": 48, "first_token_only": 14}
    int8.update(calibration_facts(), tuning=tuning_facts(), sensitivity=sensitivity_facts(), restored=restored_facts())
    int8["nodes"] = {"Gather": [2, 3], "Gemm": [0, 2], "MatMul": [35, 36]}
    int8["bytes"] = {"int8": 22_235_136, "float": 1_376_256, "other": 4_104}
    int8["left_in_float"] += [
        {"node": f"{name}/{op}", "op": op, "reason": "stays in float, as asked"}
        for name, op in zip(RESTORED, ("MatMul", "Gemm"), strict=True)
    ]
    report["layers"] = [
        {**each, "clip": "max"} | ({"activations": "static", "bias_corrected": True} if each["op"] == "MatMul" else {})
        for each in report["layers"]
        if each["name"] not in RESTORED
    ]
    return judged(report)


def pruned() -> Report:
    """Heads and neurons pruned to a speed-up before the export, then INT8."""
    report = wins()
    units = {
        "0.heads": {"kept": 9, "of": 12, "size": 32}, "0.neurons": {"kept": 992, "of": 1536, "size": 1},
        "1.heads": {"kept": 12, "of": 12, "size": 32}, "1.neurons": {"kept": 0, "of": 1536, "size": 1},
    }  # fmt: skip
    facts = {
        "goal": {"speedup": 1.5},
        "calibration": {
            "data": "train.jsonl", "split": "train", "rows": 391, "digest": None, "tokens": 9984, "held_out_rows": 240,
        },
        "units": units,
        "parameters": {"before": 22_714_754, "after": 18_500_110},
        "divergence": 0.00213,
        "trail": [{"round": 0, "cost": 21.0}, {"round": 1, "cost": 14.0, "divergence": 0.00213, "tried": [0.00213]}],
        "measured": [{"predicted": 1.504, "speedup": 1.51, "low": 1.49, "high": 1.52, "cost": 14.0}],
        "table": None,
        "refits": [
            {"what": "norms", "kept": False, "before": 0.00213, "after": 0.00251},
            {"what": "head", "kept": True, "before": 0.00213, "after": 0.00201},
        ],
        "recovery": {"steps": 512, "seconds": 180.0, "before": 0.00201, "after": 0.00112, "kept": True},
    }  # fmt: skip
    report["steps"].insert(0, {"step": "prune", "seconds": 171.0, "facts": facts})
    return judged(report)


def factorized() -> Report:
    """Half of the numbers in factors before the export, then INT8 that stores the factors."""
    report = wins()
    low_rank = {"rule": "low_rank", "form": "smaller"}
    matrices = {
        "embeddings": {
            "rows": 30522, "columns": 384, "of": 11_720_448, "numbers": 5_192_592, **low_rank,
            "sizes": {"rank": 168, "norms": 0, "shift": 0},
        },
        "0.query+key+value": {"rows": 1152, "columns": 384, "of": 442_368, "numbers": 442_368},
        "0.ffn_in": {
            "rows": 1536, "columns": 384, "of": 589_824, "numbers": 430_080, **low_rank,
            "sizes": {"rank": 224, "norms": 0, "shift": 0}, "form": "faster",
        },
        "0.ffn_out": {
            "rows": 384, "columns": 1536, "of": 589_824, "numbers": 9_216, "rule": "autoencoder", "form": "smaller",
            "sizes": {"latent": 4, "inner": 8, "outer": 16},
        },
    }  # fmt: skip
    facts = {
        "goal": {"size": 0.5},
        "method": "auto",
        "grouping": "joint",
        "calibration": {
            "data": "train.jsonl", "split": "train", "rows": 391, "digest": None, "tokens": 9984, "held_out_rows": 240,
        },
        "matrices": matrices,
        "parameters": {"before": 22_714_754, "after": 11_357_377},
        "divergence": 0.0339,
        "refits": [
            {"what": "norms", "kept": False, "before": 0.0341, "after": 0.0632},
            {"what": "head", "kept": True, "before": 0.0341, "after": 0.0339},
        ],
        "forms": {"chosen": "smaller", "ratio": 0.97, "low": 0.94, "high": 1.01},
        "table": None,
        "measured": [],
    }  # fmt: skip
    report["steps"].insert(0, {"step": "factorize", "seconds": 88.0, "facts": facts})
    dense = [{"name": "layer.0.attention.output.dense.weight_int8", "reason": "its factors are no smaller"}]
    groups = [
        {"rule": "low_rank", "bits": 8, "rebuilt": ["layer.0.output.dense.weight_int8"], "dense": [], "absent": [],
         "off_by_one": 0, "bytes": {"before": 589_824, "after": 430_080}},
        {"rule": "low_rank", "bits": 8, "rebuilt": [], "dense": dense, "absent": [],
         "off_by_one": 0, "bytes": {"before": 147_456, "after": 147_456}},
    ]  # fmt: skip
    report["steps"][-1]["facts"]["stored"] = {"groups": groups, "bytes": {"before": 22_944_680, "after": 11_905_112}}
    return judged(report)


EXAMPLES = {
    "wins": wins,
    "bare": bare,
    "loses": loses,
    "tuned": tuned,
    "pruned": pruned,
    "factorized": factorized,
}
