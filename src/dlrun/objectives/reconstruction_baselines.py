"""Baselines of a reconstruction: the mean row, and PCA (Baldi & Hornik 1989)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlrun.core.dataset import Source
from dlrun.core.objective import Objective
from dlrun.core.types import Batch, Step

# Least probability of a pixel: one that is black in all training rows may be white in another.
EPSILON = 1e-6


class MeanReconstruction(Objective):
    """Reconstructs every row as the mean training row; nothing is learned by steps.

    Args:
        train: Training rows; their mean is taken when the first batch is measured.
        read: Batch → rows (B, *shape).
        shape: Of a row.
        logits: Whether rows are pixels and outputs are log-odds.
        measure: (raw outputs, rows) → the step that the objective to be compared would yield.
    """

    mean: Tensor

    def __init__(
        self,
        train: Source,
        read: Callable[[Batch], Tensor],
        shape: tuple[int, ...],
        logits: bool,
        measure: Callable[[Tensor, Tensor], Step],
    ) -> None:
        super().__init__()
        self.train_rows, self.read, self.logits, self.measure = train, read, logits, measure
        self.groups: dict[str, list[nn.Parameter]] = {}
        self.known = False
        self.register_buffer("mean", torch.zeros(shape), persistent=False)

    def steps(self, batch: Batch) -> Iterator[Step]:
        if not self.known:
            # Not before it is needed: it takes a pass over all training rows.
            self.mean.copy_(self.compute_mean())
            self.known = True
        rows = self.read(batch)
        prediction = self.mean.clamp(EPSILON, 1 - EPSILON).logit() if self.logits else self.mean
        yield self.measure(prediction.expand_as(rows), rows)

    def compute_mean(self) -> Tensor:
        """The mean of all training rows."""
        # float64: a float32 sum over many rows loses digits.
        total, count = torch.zeros_like(self.mean, dtype=torch.float64, device="cpu"), 0
        for batch in self.train_rows.batches(512):
            rows = self.read(batch)
            total += rows.double().sum(0).cpu()
            count += len(rows)
        return (total / count).float()


MAX_PCA_FEATURES = 4096  # numbers of a row; beyond, their covariances take minutes


@dataclass(frozen=True)
class PCAReconstruction:
    """A projection onto principal components.

    Attributes:
        mean: (D,), float64 on the CPU.
        directions: (count, D), of unit length.
    """

    mean: Tensor
    directions: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (B, *shape), reconstructed from their components."""
        centred = rows.flatten(1).double().cpu() - self.mean
        reconstructed = centred @ self.directions.T @ self.directions + self.mean
        return reconstructed.reshape(rows.shape).to(rows.device, rows.dtype)


def fit_pca(batches: Iterable[Tensor], count: int) -> PCAReconstruction:
    """The first `count` principal components of rows (B, *shape), at most one a number."""
    from scipy.linalg import eigh

    total, products, number = torch.zeros(()), torch.zeros(()), 0
    for rows in batches:
        flat = rows.flatten(1).double().cpu()
        total, products, number = total + flat.sum(0), products + flat.T @ flat, number + len(flat)
    mean = total / number
    width = len(mean)
    # One pass over the rows: E[xxᵀ] - E[x]E[x]ᵀ, in float64.
    covariance = products / number - torch.outer(mean, mean)
    # Eigenvalues come in ascending order: the last ones are the largest.
    _, vectors = eigh(covariance.numpy(), subset_by_index=[width - min(count, width), width - 1])
    return PCAReconstruction(mean, torch.from_numpy(vectors.T.copy()))
