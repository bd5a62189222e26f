"""The table of methods: what each stores of a group at a rank or ratio, and what it says a component is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from deploycomp.compress.factorize.training import STEPS, Select, Training
from deploycomp.compress.factorize.tucker import tucker
from deploycomp.compress.factorize.whitened import whitened

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
        select: How far a model with what is stored is from the source, on held-out rows: chooses epochs.
        steps: Of training, at least, where there is any.
        fisher: Whether rows are weighted by their Fisher information.
    """

    group: Group
    moments: Sequence[Moments]
    biases: Sequence[Tensor | None]
    request: Request
    progress: Callable[[float], None]
    select: Select | None = None
    steps: int = STEPS
    fisher: bool = False

    @property
    def weights(self) -> Tensor | None:
        """Of each row of the stack, where rows are weighted."""
        return _fisher_weights(self.moments) if self.fisher else None

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


def _whitened(job: Job) -> Stored:
    """SVD-LLM's, of linear layers; the one-hot inputs of an embedding are white once rows are weighted."""
    if job.moments[0].embedding:
        return svd(job.group, job.rank, row_weights=job.moments[0].frequency.sqrt())
    return whitened(job.group, job.moments, job.biases, job.rank)


def _trained(make: Callable[..., Stored], fit: Callable[[int, int, float], int], *, saturates: bool) -> Method:
    """An autoencoder of the latents that fit."""

    def run(job: Job) -> Stored:
        rows, columns = job.group.shape
        latent = fit(rows, columns, job.ratio)
        training = Training.of(rows, job.steps, latent=max(latent, 1) if saturates else None)
        options: Any = {"row_weights": job.weights, "select": job.select, "progress": job.progress}
        return make(job.group, latent, training, **options)

    return Method(run)


def _blocks(
    make: Callable[[Group, dict[str, int]], Stored], fit: Callable[[list[int], int, float], dict[str, int]]
) -> Method:
    """A decomposition into blocks of the sizes that fit."""

    def run(job: Job) -> Stored:
        members = [len(each) for each in job.group.matrices]
        return make(job.group, fit(members, job.group.shape[1], job.ratio))

    return Method(run)


def _energies(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix.double()).square() / 2


_KFAC = Method(lambda job: kfac(job.group, job.moments, job.biases, job.rank), components, biased=True)

METHODS: dict[str, Method] = {
    "auto": _KFAC,  # where it does not fit what drifted (`factorize.py`)
    "svd": Method(
        lambda job: svd(job.group, job.rank, row_weights=job.weights), lambda group, _: _energies(group.stacked)
    ),
    "fisher_svd": Method(
        lambda job: svd(job.group, job.rank, row_weights=_fisher_weights(job.moments)),
        lambda group, moments: _energies(_fisher_weights(moments)[:, None] * group.stacked),
    ),
    "pca": Method(
        lambda job: output_pca(job.group, job.moments, job.biases, job.rank),
        lambda group, moments: principal(group, moments).energies / 2,
        biased=True,
    ),
    "whitened": Method(_whitened, lambda group, moments: principal(group, moments, centred=False).energies / 2),
    "kfac": _KFAC,
    "linear_autoencoder": _trained(linear_autoencoder, sizes.linear_latent, saturates=False),
    "autoencoder": _trained(autoencoder, sizes.autoencoder_latent, saturates=True),
    "kronecker": _blocks(kronecker, sizes.kronecker_sizes),
    "tucker": _blocks(tucker, sizes.tucker_sizes),
}
"""By the names of the recipe."""
