"""Try a tokenizer.json in a child process first: one that panics, grows texts or never ends must not do so here.

    with vetting(source) as vetted:      # the child runs beside the loading of the weights
        …
        vetted()                         # raises what it found

The library is written in Rust: it does not hear signals, its panics are no `Exception`, and memory that it cannot get
ends the process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from deploycomp.errors import EnvironmentFailed, InputRefused
from deploycomp.models.source import Source

__all__ = ["vetting"]

TOKENIZER = "tokenizer.json"
NEEDED = ("tokenizers", "numpy")
"""What the child imports; tokenizers asks numpy for its types when it is given lists of words."""

MAX_BYTES = 2**30
"""Address space of the child beside the file itself; XLM-R's 250,000 pieces need 400 MB."""

BYTES_PER_BYTE = 12
"""Address space for each byte of the file: parsed once in Python, then once in Rust."""

MAX_SECONDS = 10.0
SECONDS_PER_BYTE = 2e-7
"""Time for the probes, and for reading the file; XLM-R's 9 MB take 1 s in all."""

GRACE_SECONDS = 1.0
"""What the child's own clock gives it less than the parent's."""

_CHILD = Path(__file__).with_name("vet_child.py")


@contextlib.contextmanager
def vetting(source: Source) -> Iterator[Callable[[], None]]:
    """Start the child, give a function that waits for its verdict, and leave no child behind.

    Args:
        source: A checkpoint; without a tokenizer.json nothing is started.

    Raises:
        InputRefused: From the function that is given, with what was seen.
        EnvironmentFailed: No process can be started.
    """
    path = source.encoder / TOKENIZER
    name = path.relative_to(source.path).as_posix()
    if name not in source.files:
        yield lambda: None
        return
    size = source.stamps[name][0]
    seconds = MAX_SECONDS + SECONDS_PER_BYTE * size
    child = _start(path, MAX_BYTES + BYTES_PER_BYTE * size, seconds)
    try:
        yield lambda: _verdict(child, path, seconds)
    finally:
        child.kill()
        child.communicate()


def _start(path: Path, size: int, seconds: float) -> subprocess.Popen[bytes]:
    """Start the child isolated: nothing of the user's site, of the working directory or of PYTHONPATH."""
    packages = os.pathsep.join(dict.fromkeys(_place_of(name) for name in NEEDED))
    command = [sys.executable, "-I", "-S", str(_CHILD), str(path), packages, str(size), str(seconds)]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the child
        )
    except OSError as error:
        raise EnvironmentFailed("no child process can be started", where=str(path), why=str(error)) from None


def _place_of(package: str) -> str:
    """The folder that a package is imported from here: two of them need not lie in one."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise EnvironmentFailed(f"the {package} library is not installed", hint="pip install tokenizers numpy")
    return str(Path(found.origin).parent.parent)


def _verdict(child: subprocess.Popen[bytes], path: Path, seconds: float) -> None:
    try:
        out, _ = child.communicate(timeout=seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        raise _refused(path, f"it takes more than {seconds:.0f} s for a few texts") from None
    if child.returncode == -signal.SIGALRM:
        raise _refused(path, f"it takes more than {seconds:.0f} s for a few texts")
    if child.returncode != 0 or not out:
        raise _refused(path, f"the library died of it ({_how(child.returncode)}), as when memory runs out")
    why = json.loads(out).get("why")
    if why is not None:
        raise _refused(path, why)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _refused(path: Path, why: str) -> InputRefused:
    return InputRefused(
        "the tokenizer cannot be read safely",
        where=str(path),
        why=why,
        hint="take tokenizer.json from the model that it was made of, or save the tokenizer with transformers again",
    )
