"""The table of methods: what each stores of a group at a rank or ratio, and what it says a component is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deploycomp.compress.factorize import sizes
from deploycomp.compress.factorize.autoencoder import autoencoder
from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.kfac import components, kfac
from deploycomp.compress.factorize.kronecker import kronecker
from deploycomp.compress.factorize.linear_autoencoder import linear_autoencoder
from deploycomp.compress.factorize.moments import Moments
from deploycomp.compress.factorize.pca import output_pca, principal
from deploycomp.compress.factorize.svd import svd
from deploycomp.compress.factorize.tucker import tucker

__all__ = ["METHODS", "Job", "Method", "Request"]


@dataclass(frozen=True)
class Request:
    """How small a group shall be: a rank, or how many times fewer numbers."""

    rank: int | None = None
    ratio: float | None = None

    def rank_of(self, group: Group) -> int:
        """The rank that was asked for, or the one that fits the ratio.

        Raises:
            ValueError: Not even rank 1 does.
        """
        if self.rank is not None:
            return self.rank
        assert self.ratio is not None
        rank = sizes.svd_rank(*group.shape, self.ratio)
        if rank < 1:
            raise ValueError(f"a matrix of {group.shape} has no factors {self.ratio:g} times smaller")
        return rank


@dataclass(frozen=True)
class Job:
    """A group and what is known about it.

    Args:
        group: Its matrices.
        moments: Of each.
        biases: Of each, None where there is none.
        request: How small it shall be.
        progress: Called with the share that is done.
    """

    group: Group
    moments: Sequence[Moments]
    biases: Sequence[Tensor | None]
    request: Request
    progress: Callable[[float], None]

    @property
    def rank(self) -> int:
        """Of a product of two."""
        return self.request.rank_of(self.group)

    @property
    def ratio(self) -> float:
        """Of the methods that have no ranks."""
        assert self.request.ratio is not None
        return self.request.ratio


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        make: What it stores.
        components: The loss of dropping each component of a group, descending, in one unit for all groups; None where
            there are no components, and every group gets the same ratio.
        biased: Whether it mends biases itself.
    """

    make: Callable[[Job], Stored]
    components: Callable[[Group, Sequence[Moments]], Tensor] | None = None
    biased: bool = False


def _fisher_weights(moments: Sequence[Moments]) -> Tensor:
    """FWSVD's weight of each row of the stack."""
    return torch.cat([each.fisher for each in moments]).clamp(min=0).sqrt()


def _fisher_svd(job: Job) -> Stored:
    return svd(job.group, job.rank, row_weights=_fisher_weights(job.moments))


def _autoencoder(job: Job) -> Stored:
    rows, columns = job.group.shape
    return autoencoder(job.group, sizes.autoencoder_latent(rows, columns, job.ratio), progress=job.progress)


def _linear_autoencoder(job: Job) -> Stored:
    rows, columns = job.group.shape
    return linear_autoencoder(job.group, sizes.linear_latent(rows, columns, job.ratio), progress=job.progress)


def _kronecker(job: Job) -> Stored:
    members = [len(each) for each in job.group.matrices]
    return kronecker(job.group, sizes.kronecker_sizes(members, job.group.shape[1], job.ratio))


def _tucker(job: Job) -> Stored:
    members = [len(each) for each in job.group.matrices]
    return tucker(job.group, sizes.tucker_sizes(members, job.group.shape[1], job.ratio))


def _energies(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix.double()).square() / 2


_KFAC = Method(lambda job: kfac(job.group, job.moments, job.biases, job.rank), components, biased=True)

METHODS: dict[str, Method] = {
    "auto": _KFAC,  # where it does not fit what drifted (`factorize.py`)
    "svd": Method(lambda job: svd(job.group, job.rank), lambda group, _: _energies(group.stacked)),
    "fisher_svd": Method(
        _fisher_svd, lambda group, moments: _energies(_fisher_weights(moments)[:, None] * group.stacked)
    ),
    "pca": Method(
        lambda job: output_pca(job.group, job.moments, job.biases, job.rank),
        lambda group, moments: principal(group, moments).energies / 2,
        biased=True,
    ),
    "kfac": _KFAC,
    "linear_autoencoder": Method(_linear_autoencoder),
    "autoencoder": Method(_autoencoder),
    "kronecker": Method(_kronecker),
    "tucker": Method(_tucker),
}
"""By the names of the recipe."""
