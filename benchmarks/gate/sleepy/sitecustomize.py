"""Python runs this file at its start: sessions of one model get slower, as BENCH_SLEEPY_MODEL and _PERCENT say."""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MODEL = os.environ.get("BENCH_SLEEPY_MODEL")
SHARE = float(os.environ.get("BENCH_SLEEPY_PERCENT", "0")) / 100


class _Loader(importlib.abc.Loader):
    """Loads onnxruntime as always, then wraps its session."""

    def __init__(self, loader: Any):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        plain = module.InferenceSession

        class Sleepy(plain):
            def __init__(self, model: Any, *args: Any, **more: Any):
                self._late = isinstance(model, str | os.PathLike) and str(Path(model).resolve()) == MODEL
                super().__init__(model, *args, **more)

            def run(self, *args: Any, **more: Any) -> Any:
                start = time.perf_counter()
                found = super().run(*args, **more)
                end = time.perf_counter()
                while self._late and time.perf_counter() < end + SHARE * (end - start):
                    pass  # time.sleep wakes up 60 µs late, a tenth of what is wanted here
                return found

        module.InferenceSession = Sleepy


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "onnxruntime":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


if MODEL:
    sys.meta_path.insert(0, _Finder())
