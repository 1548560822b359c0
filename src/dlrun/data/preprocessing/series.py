"""Preprocessing of series: scaled by what the training windows see, targets like their input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import Preprocessor, SlidingWindows

FittedArray = Any  # an array in a fitted copy, None before


@dataclass(frozen=True, eq=False)
class SeriesScaler(Preprocessor):
    """(x - mean) / std of each column, over the rows that training windows touch (book §6.3).

    Attributes:
        mean: The fitted mean of each column.
        scale: The fitted standard deviation (ddof 0); 1 for a constant column.
    """

    mean: FittedArray = None
    scale: FittedArray = None

    def fit(self, column: SlidingWindows) -> SeriesScaler:
        """Fit each column's mean and standard deviation."""
        # Windows overlap: rows counted once a window would weigh the middle of the series more.
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
class TargetScaler(Preprocessor):
    """(y - mean) / std of a target (N, horizons).

    The statistics are those of the same column of the input, where that has it, or else of the
    target's training rows.

    Attributes:
        input: The series input.
        column: The index of the target's column in that input; None without one, as in a table.
        mean: The fitted mean.
        scale: The fitted standard deviation.
    """

    input: str = ""
    column: int | None = None
    mean: FittedArray = None
    scale: FittedArray = None

    def with_fitted_inputs(self, fitted: Mapping[str, tuple[Any, ...]]) -> TargetScaler:
        """A copy with the statistics of its column in the input."""
        if self.column is None:
            return self
        (scaler,) = fitted[self.input]
        mean, scale = float(scaler.mean[self.column]), float(scaler.scale[self.column])
        return replace(self, mean=mean, scale=scale)

    def fit(self, column: np.ndarray) -> TargetScaler:
        """Fit one mean and standard deviation for all horizons, unless the input has them."""
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
    """Mean and standard deviation of each column.

    Args:
        values: Rows of numbers (T, columns).

    Returns:
        Means (columns,), and standard deviations with ddof 0; 1 for a constant column.
    """
    # Rounding leaves a constant column a tiny std: compare the values.
    constant = (values == values[:1]).all(axis=0)
    scale = np.where(constant, 1.0, values.std(axis=0))
    return values.mean(axis=0), np.where(scale > 0, scale, 1.0)
