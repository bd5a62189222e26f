"""The process that is fuzzed: one mutation a line comes in, one line goes out with what became of it.

    python -m tests.fuzz.worker FOLDER MUTATIONS

A process of its own, because a mutation may crash, hang or fill the memory of whoever reads it.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["main"]


def main(root: Path, mutations: int) -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print belongs to the log
    warnings.simplefilter("ignore")
    from tests.fuzz.bench import Bench
    from tests.fuzz.doors import Traces
    from tests.fuzz.subjects import traced

    _quiet()
    _quick()
    bench = Bench(root)
    traces = Traces(traced(mutations), bench.checkpoints.values())
    traces.install()
    assert bench.answers
    gc.collect()
    gc.freeze()  # what is imported by now is never garbage
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        traces.subject = asked["subject"]
        print(json.dumps({**asked, **_one(bench, **asked)}), file=answers, flush=True)


def _one(bench: Any, subject: str, seed: int, index: int) -> dict[str, Any]:
    from tests.fuzz.bench import changes
    from tests.fuzz.doors import Fault
    from tests.fuzz.subjects import EVERY

    draw = Random(f"{seed} {subject} {index}")
    try:
        ended, done = EVERY[subject](bench, draw)
    except Fault as fault:
        return {"fault": str(fault), "done": changes(bench)}
    except BaseException as error:  # a mutation that our own test cannot judge is one to look at
        where = traceback.format_exc().strip().splitlines()[-9:]
        return {"fault": f"{type(error).__name__}: {error}"[:300], "done": "\n".join(where)}
    return {"ended": ended, "done": done}


def _quick() -> None:
    """Leave out what every mutation would do alike: building the command line, and drawing the report's page."""
    from typer import testing

    from deploycomp.report import write

    testing._get_command = functools.cache(testing._get_command)
    write.to_html = lambda _: "<!doctype html>"


def _quiet() -> None:
    import onnxruntime
    import sentence_transformers  # noqa: F401  imported now, so that it is not counted as the first mutation's
    from transformers.utils import logging as transformers_logging

    onnxruntime.set_default_logger_severity(4)
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    logging.disable(logging.CRITICAL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
