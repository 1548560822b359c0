"""Principal components: what the best linear autoencoder finds (Baldi & Hornik 1989), without an optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

WIDEST = 4096  # numbers of a row; beyond, their covariances take minutes


@dataclass(frozen=True)
class Principal:
    """mean (D,) and directions (count, D) of unit length, float64 on the CPU."""

    mean: Tensor
    directions: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (B, *shape) as their codes say them."""
        centred = rows.flatten(1).double().cpu() - self.mean
        again = centred @ self.directions.T @ self.directions + self.mean
        return again.reshape(rows.shape).to(rows.device, rows.dtype)


def principal(batches: Iterable[Tensor], count: int) -> Principal:
    """The first `count` principal components of rows (B, *shape), or as many as a row has numbers."""
    from scipy.linalg import eigh

    total, products, number = torch.zeros(()), torch.zeros(()), 0
    for rows in batches:
        flat = rows.flatten(1).double().cpu()
        total, products, number = total + flat.sum(0), products + flat.T @ flat, number + len(flat)
    mean = total / number
    width = len(mean)
    covariance = products / number - torch.outer(mean, mean)
    _, vectors = eigh(covariance.numpy(), subset_by_index=[width - min(count, width), width - 1])
    return Principal(mean, torch.from_numpy(vectors.T.copy()))
