"""Steps for series: standardised with what the training windows see, and targets as their own column is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import SlidingWindows

FittedArray = Any  # an array, once `fit` has learnt it


@dataclass(frozen=True, eq=False)
class SeriesScaler:
    """(x - mean) / std of each column, over the rows that training windows touch, each once (book §6.3)."""

    mean: FittedArray = None
    scale: FittedArray = None

    def fit(self, column: SlidingWindows) -> SeriesScaler:
        """Learn each column's mean and standard deviation (ddof 0); a constant column is only centred."""
        mean, scale = compute_statistics(column.unique_rows())
        return replace(self, mean=mean, scale=scale)

    def __call__(self, column: SlidingWindows) -> SlidingWindows:
        return replace(column, values=((column.values - self.mean) / self.scale).astype(np.float32))

    def state(self) -> dict[str, Any]:
        """Means and standard deviations."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @property
    def shift_and_scale(self) -> tuple[Tensor, Tensor]:
        """Shift and scale (columns,) back to the columns' own units."""
        return torch.from_numpy(self.mean).float(), torch.from_numpy(self.scale).float()


@dataclass(frozen=True, eq=False)
class TargetScaler:
    """(y - mean) / std of a target (N, horizons): those of its column where the input holds it, else of training rows.

    input: the series input, column: the place of the target's column in it; None where it is not there, as in a table.
    """

    input: str = ""
    column: int | None = None
    mean: FittedArray = None
    scale: FittedArray = None

    def with_fitted_inputs(self, learnt: Mapping[str, tuple[Any, ...]]) -> TargetScaler:
        """The same with what has been learnt of the inputs."""
        if self.column is None:
            return self
        (series,) = learnt[self.input]
        return replace(
            self, mean=float(series.mean[self.column]), scale=float(series.scale[self.column])
        )

    def fit(self, column: np.ndarray) -> TargetScaler:
        """Learn one mean and standard deviation for all horizons, unless the input has them."""
        if self.mean is not None:
            return self
        mean, scale = compute_statistics(column.reshape(-1, 1))
        return replace(self, mean=float(mean[0]), scale=float(scale[0]))

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return (np.asarray(column, np.float64) - self.mean) / self.scale

    def state(self) -> dict[str, Any]:
        """Mean and standard deviation."""
        return {"mean": self.mean, "scale": self.scale}

    @property
    def shift_and_scale(self) -> tuple[Tensor, Tensor]:
        """Shift and scale (1,) back to the target's own unit."""
        return torch.tensor([self.mean]), torch.tensor([self.scale])


def compute_statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column (ddof 0); 1 for a column that is constant."""
    constant = (values == values[:1]).all(axis=0)
    scale = np.where(constant, 1.0, values.std(axis=0))
    return values.mean(axis=0), np.where(scale > 0, scale, 1.0)
