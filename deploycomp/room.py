"""Whether the heavy libraries can be imported at all: some of them hang or die where they cannot."""

from __future__ import annotations

import resource

from deploycomp.errors import EnvironmentFailed

__all__ = ["LEAST_ADDRESS_SPACE", "check_room"]

LEAST_ADDRESS_SPACE = 2_000_000_000
"""Bytes that torch, scipy and datasets map when they are imported: 1.9 GB, measured with one thread. With less, the
OpenBLAS inside scipy asks for its buffers for ever, deaf to every signal but SIGKILL."""


def check_room() -> None:
    """Refuse a limit on the address space under which the libraries cannot be imported.

    Raises:
        EnvironmentFailed: `ulimit -v` allows too little.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise EnvironmentFailed(
            f"the address space is limited to {limit / 1e6:,.0f} MB",
            why=f"memory runs out while libraries are imported: they map {LEAST_ADDRESS_SPACE / 1e6:,.0f} MB",
            hint="ulimit -v unlimited; a cgroup limits what is used instead: docker run --memory 4g",
        )
