"""The front door, `deploycomp` and `python -m deploycomp`: what must hold before anything else is imported."""

from __future__ import annotations

import sys

from deploycomp.cli import process

__all__ = ["main"]


def main() -> None:
    """Run the command line; ends the process."""
    process.quiet_signals()
    process.with_docstrings()
    process.open_streams()
    try:
        process.last_words()
        from deploycomp.cli.app import run
    except BaseException as error:  # nothing but memory or a broken installation stops an import
        kind = "memory ran out" if isinstance(error, MemoryError) else "deploycomp cannot be imported"
        process.say(
            kind, error="EnvironmentFailed", code=process.FAILED, hint="install it again: pip install deploycomp"
        )
        process.leave(process.FAILED)
    try:
        code = run(sys.argv[1:])
    except BaseException:  # it raises nothing, unless no memory is left for that
        code = process.short_of_memory()
    process.leave(code)


if __name__ == "__main__":
    main()
