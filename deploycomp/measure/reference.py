"""A fixed piece of work, timed in a fresh process: how fast is this machine just now, whatever the model?

    python -m deploycomp.measure.reference CPU SECONDS        milliseconds of one call, on stdout

Two runs on two occasions are compared in units of it. Half of it multiplies matrices that fit into the second-level
cache, half of it reads memory that does not, as a transformer's layers do. One thread, numpy alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from deploycomp.errors import EnvironmentFailed
from deploycomp.measure.sampling import sample, warm_up

__all__ = ["main", "measure_reference"]

SIDE = 256
"""Three float32 matrices of it are 768 KB."""
STREAMED = 4_000_000
"""float32 values that are summed: 16 MB."""
SECONDS = 0.1
LIMIT_SECONDS = 60.0
NS_PER_MS = 1_000_000


def measure_reference(cpu: int, *, seconds: float = SECONDS) -> float:
    """Return the median time of one call of the kernel in a fresh process, in milliseconds.

    Args:
        cpu: The processor to run on.
        seconds: How long to time it.

    Raises:
        EnvironmentFailed: The process died or hung.
    """
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-P", "-m", "deploycomp.measure.reference", str(cpu), str(seconds)]
    try:
        done = subprocess.run(
            command, env={**os.environ, **one}, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise EnvironmentFailed("the reference kernel cannot be measured", why=str(error)) from None


def main() -> None:
    """Time the kernel and write milliseconds to stdout."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(sys.argv[1])])
    import numpy as np

    draw = np.random.default_rng(0)
    left, right = (draw.standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    streamed = draw.standard_normal(STREAMED, dtype=np.float32)

    def call(_: int) -> object:
        return left @ right @ left @ right, streamed.sum()

    seconds = float(sys.argv[2])
    warm_up(call, seconds)
    sys.stdout.write(f"{statistics.median(sample(call, seconds)) / NS_PER_MS:.6f}\n")


if __name__ == "__main__":
    main()
