"""The models that are compared, their real rows as token ids, and the folder where what is made of them is kept."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Real, real_models, say
from finetune import DATA, JOBS, ensure
from venvs import OWN, Venv

if TYPE_CHECKING:
    from deploycomp.runtime.encode import Encoded

__all__ = ["DEFAULT_MODELS", "RANDOM_BASE", "Model", "PeerFailed", "find_models", "last_line"]

RANDOM_BASE = "bert-base-random"
"""BERT-base with seeded random weights: its latency is that of any fine-tuned one, its accuracy means nothing."""
DONOR = "minilm-l6-sst2"
"""The real model whose tokenizer and data it takes."""
FINETUNED = {f"minilm-l6-{job}": job for job in JOBS}
"""The models that `finetune.py` makes: how all answer pairs and questions."""
DEFAULT_MODELS = ("minilm-l6-sst2", "minilm-l6-wnut17", RANDOM_BASE)

CALIBRATION_ROWS = 300
"""NNCF's default `subset_size`."""
SEED = 0
STAMP = "made-from.sha256"
BUILD = Path(__file__).with_name("build.py")


class PeerFailed(Exception):
    """A peer cannot be built or run; it is listed, and the others go on."""


@dataclass(frozen=True)
class Model:
    """A model on its way through the peers."""

    real: Real
    work: Path
    """The cache."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.real.name

    @property
    def judged(self) -> bool:
        """Whether its accuracy means anything."""
        return self.name != RANDOM_BASE

    @cached_property
    def vocabulary(self) -> int:
        """Its number of tokens."""
        return int(json.loads((self.real.path / "config.json").read_text(encoding="utf-8"))["vocab_size"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over its files."""
        digest = hashlib.sha256()
        for file in sorted(self.real.path.iterdir()):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of its weights on disk."""
        return sum(file.stat().st_size for file in self.real.path.glob("*.safetensors"))

    @property
    def training(self) -> Path:
        """The rows that may be learned from."""
        return self.real.data.with_name("train.jsonl")

    def calibration(self) -> list[list[list[int]]]:
        """Real training rows, each as token ids and token types."""
        rows = self._encode(random.Random(SEED).sample(_read(self.training), CALIBRATION_ROWS))
        return [[list(row.encoding.ids), list(row.encoding.type_ids)] for row in rows]

    def stream(self, limit: int) -> list[list[int]]:
        """Real rows as token ids, with their real lengths."""
        return [list(row.encoding.ids) for row in self._encode(_read(self.real.data)[:limit])]

    def make(self, venv: Venv, what: str, **request: Any) -> Path:
        """Let a peer make *what* of this model, once for these weights, pins and options; return the folder.

        Raises:
            PeerFailed: It cannot.
        """
        made_of = json.dumps([self.digest, venv.digest(), BUILD.read_text(encoding="utf-8"), request])
        out, key = self.work / what / self.name, hashlib.sha256(made_of.encode()).hexdigest()
        stamp = out / STAMP
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
            return out
        say(f"{self.name}: {venv.name} makes {what}")
        fresh = out.with_name(out.name + ".new")
        full = {"what": what, "model": str(self.real.path), "task": self.real.task, "out": str(fresh), **request}
        _build(venv, full)
        (fresh / STAMP).write_text(key, encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
        return out

    def _encode(self, rows: list[dict[str, Any]]) -> list[Encoded]:
        from deploycomp.runtime.encode import Settings, encode_questions, encode_texts, load_tokenizer

        tokenizer = load_tokenizer(self.real.path / "tokenizer.json")
        if self.real.task == "question-answering":
            return encode_questions(tokenizer, [(row["question"], row["context"]) for row in rows], Settings())[0]
        words = self.real.task == "token-classification"
        texts = [row["tokens"] if words else _text(row) for row in rows]
        return encode_texts(tokenizer, texts, Settings(), words=words)[0]


def find_models(names: list[str], work: Path) -> list[Model]:
    """Find the real models, and make the random one."""
    return [_find(name, work) for name in names]


def _find(name: str, work: Path) -> Model:
    if name == RANDOM_BASE:
        return _random_base(work)
    if name not in FINETUNED:
        return Model(real_models([name])[0], work)
    job = JOBS[FINETUNED[name]]
    return Model(Real(name, job.task, ensure(FINETUNED[name]), DATA / job.data / "validation.jsonl"), work)


def _text(row: dict[str, Any]) -> str | tuple[str, str]:
    """A text, or a pair of them."""
    return (row["text"], row["text_pair"]) if "text_pair" in row else row["text"]


def last_line(text: str) -> str:
    """The last line that says anything: of a traceback the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _random_base(work: Path) -> Model:
    donor = real_models([DONOR])[0]
    out = work / "peers" / RANDOM_BASE
    if not (out / "tokenizer_config.json").is_file():  # written last
        say(f"making {RANDOM_BASE}")
        _build(OWN, {"what": "random_bert", "out": str(out), "tokenizer": str(donor.path), "seed": SEED})
    return Model(Real(RANDOM_BASE, donor.task, out, donor.data), work)


def _build(venv: Venv, request: dict[str, Any]) -> None:
    shutil.rmtree(request["out"], ignore_errors=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CI": "true"}  # the latter keeps NNCF's telemetry off
    line, given = [str(venv.python), str(BUILD)], json.dumps(request)
    done = subprocess.run(line, input=given, text=True, capture_output=True, env=environment)
    if done.returncode:
        raise PeerFailed(last_line(done.stderr))


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        sys.exit(f"{path} does not exist; set DEPLOYCOMP_DATA")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
