"""Preprocessing of numbers and categories: imputing, scaling, encoding, binning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Preprocessor
from dlrun.core.errors import UserError
from dlrun.core.formatting import counted

FittedArray = Any  # an array in a fitted copy, None before
# A number further out than this many ranges of the training rows is warned of.
OUTLIER_RANGES = 1


@dataclass(frozen=True, eq=False)
class SimpleImputer(Preprocessor):
    """Fills missing numbers (NaN) of (N, F) columns with a statistic of the training rows.

    Attributes:
        strategy: The statistic; a column without a number in any training row takes `constant`.
        indicator: Whether to append a 0/1 column for each one that training rows lack numbers in.
        constant: What `strategy="constant"` fills in.
        fill: The fitted fill of each column (F,).
        indicator_columns: The fitted indices of the columns that have an indicator.
    """

    strategy: Literal["mean", "median", "constant"]
    indicator: bool = False
    constant: float = 0.0
    fill: FittedArray = None
    indicator_columns: FittedArray = None

    def fit(self, column: np.ndarray) -> SimpleImputer:
        """Fit the fill of each column, and which columns lack numbers."""
        missing = np.isnan(column)
        fill = np.full(column.shape[1], self.constant, np.float64)
        # The mean of no number is NaN, with a warning.
        has_numbers = ~missing.all(axis=0)
        if self.strategy != "constant" and has_numbers.any():
            average = np.nanmean if self.strategy == "mean" else np.nanmedian
            fill[has_numbers] = average(column[:, has_numbers], axis=0)
        return replace(self, fill=fill, indicator_columns=np.flatnonzero(missing.any(axis=0)))

    def __call__(self, column: np.ndarray) -> np.ndarray:
        missing = np.isnan(column)
        filled = np.where(missing, self.fill, column)
        return np.hstack([filled, missing[:, self.indicator_columns]]) if self.indicator else filled

    def state(self) -> dict[str, Any]:
        """The fills, and the indices of the columns that have an indicator."""
        return {
            "how": self.strategy,
            "fill": _to_list(self.fill),
            "flagged": _to_list(self.indicator_columns) if self.indicator else [],
        }

    def describe_new_values(
        self,
        name: str,
        labels: tuple[str, ...],
        column: np.ndarray,
        training_rows: Callable[[], np.ndarray],
    ) -> Iterator[str]:
        """Numbers that are missing where they never were, or far beyond the training rows'."""
        if not len(column):
            return
        trained = training_rows()
        had_missing = np.isnan(trained).any(axis=0)
        names = labels or tuple(f"{name} {index}" for index in range(column.shape[1]))
        for index, number_name in enumerate(names[: column.shape[1]]):
            values = column[:, index]
            if (missing := int(np.isnan(values).sum())) and not had_missing[index]:
                yield f"{number_name} is missing ({counted(missing, 'row')})"
            present = trained[~np.isnan(trained[:, index]), index]
            if not len(present):
                continue
            low, high = present.min(), present.max()
            margin = OUTLIER_RANGES * (high - low)
            if outliers := int(((values < low - margin) | (values > high + margin)).sum()):
                yield (
                    f"{number_name} is far beyond {low:g} to {high:g} ({counted(outliers, 'row')})"
                )


@dataclass(frozen=True, eq=False)
class StandardScaler(Preprocessor):
    """(x - mean) / std over training rows, with ddof 0 (book §3.6, §3.7).

    Attributes:
        mean: The fitted mean of each column.
        scale: The fitted standard deviation; 1 for a constant column, which is only centered.
    """

    mean: FittedArray = None
    scale: FittedArray = None

    def fit(self, column: np.ndarray) -> StandardScaler:
        """Fit each column's mean and standard deviation."""
        values = np.asarray(column, np.float64)
        # Rounding leaves a constant column a tiny std, which would blow it up: compare the values.
        constant = (values == values[:1]).all(axis=0)
        # Numbers beyond float32 overflow here; they are clipped, with a warning, when stored.
        with np.errstate(over="ignore"):
            std = np.where(constant, 1.0, values.std(axis=0))
        scale = np.where((std > 0) & np.isfinite(std), std, 1.0)
        return replace(self, mean=values.mean(axis=0), scale=scale)

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return (np.asarray(column, np.float64) - self.mean) / self.scale

    def state(self) -> dict[str, Any]:
        """Means and standard deviations."""
        return {"mean": _to_list(self.mean), "scale": _to_list(self.scale)}


@dataclass(frozen=True, eq=False)
class MinMaxScaler(Preprocessor):
    """(x - low) / (high - low) over training rows: those lie in [0, 1], others may lie outside.

    Attributes:
        low: The fitted minimum of each column.
        width: The fitted range of each column; 1 for a constant one.
    """

    low: FittedArray = None
    width: FittedArray = None

    def fit(self, column: np.ndarray) -> MinMaxScaler:
        """Fit each column's minimum and range."""
        values = np.asarray(column, np.float64)
        low, width = values.min(axis=0), np.ptp(values, axis=0)
        return replace(self, low=low, width=np.where(width > 0, width, 1.0))

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return (np.asarray(column, np.float64) - self.low) / self.width

    def state(self) -> dict[str, Any]:
        """Minimums and ranges."""
        return {"low": _to_list(self.low), "width": _to_list(self.width)}


@dataclass(frozen=True, eq=False)
class LabelEncoder(Preprocessor):
    """Class names → 0, 1, 2, … (int64).

    A stated class without a training row keeps its index: held-out rows of it count as wrong.

    Attributes:
        column: The target's name, for messages.
        names: The classes in order; where none are stated, `fit` takes the training rows', sorted.
    """

    column: str
    names: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names

    def fit(self, column: np.ndarray) -> LabelEncoder:
        """Fit the classes, unless they are stated."""
        if self.names:
            return self
        return replace(self, names=tuple(sorted({str(value) for value in column})))

    def __call__(self, column: np.ndarray) -> np.ndarray:
        """Encode a column of class names (N,).

        Raises:
            UserError: A row is of a class without an index.
        """
        index = {name: number for number, name in enumerate(self.names)}
        encoded = np.array([index.get(str(value), -1) for value in column], np.int64)
        if (encoded < 0).any():
            unknown = str(column[int(np.argmin(encoded))])
            raise UserError(
                f"{self.column}: {int((encoded < 0).sum())} held-out rows are of a class that no "
                f"training row has, as '{unknown}': no model can have learned it. Classes known: "
                f"{', '.join(self.names[:20])}. Split by class (stratified), or take those rows out"
            )
        return encoded

    def state(self) -> dict[str, Any]:
        """The classes in their order."""
        return {"names": list(self.names)}


@dataclass(frozen=True, eq=False)
class OrdinalEncoder(Preprocessor):
    """Texts → 2, 3, … (int64) for levels of training rows; 0 = any other level, 1 = missing ('').

    Attributes:
        levels: The fitted levels, sorted.
        max_levels: How many levels, the most frequent ones, are told apart; None for all.
    """

    levels: tuple[str, ...] = ()
    max_levels: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return ("(unknown)", "(missing)", *self.levels)

    def fit(self, column: np.ndarray) -> OrdinalEncoder:
        """Fit the levels; equally frequent ones are taken in alphabetical order."""
        counts = Counter(str(value) for value in column)
        # Missing has an index of its own, whether or not training rows lack values.
        counts.pop("", None)
        # Ties are broken by name, so that the same rows always give the same levels.
        frequent = sorted(counts, key=lambda level: (-counts[level], level))[: self.max_levels]
        return replace(self, levels=tuple(sorted(frequent)))

    def __call__(self, column: np.ndarray) -> np.ndarray:
        index = {level: number for number, level in enumerate(self.levels, start=2)}
        index[""] = 1
        return np.array([index.get(str(value), 0) for value in column], np.int64)

    def state(self) -> dict[str, Any]:
        """The levels in their order."""
        return {"levels": list(self.levels)}

    def describe_new_values(
        self,
        name: str,
        labels: tuple[str, ...],
        column: np.ndarray,
        training_rows: Callable[[], np.ndarray],
    ) -> Iterator[str]:
        """Levels that no training row has, and missing ones where none was."""
        trained = training_rows()
        # With max_levels, rare levels of training rows have no index but are not new.
        levels = {*self.levels} if self.max_levels is None else {str(value) for value in trained}
        new = Counter(str(value) for value in column if str(value) not in levels and value != "")
        if new:
            examples = f"{', '.join(sorted(new)[:3])}{' …' if len(new) > 3 else ''}"
            yield f"{name} is {examples} ({counted(sum(new.values()), 'row')})"
        if (missing := int((column == "").sum())) and not (trained == "").any():
            yield f"{name} is missing ({counted(missing, 'row')})"


@dataclass(frozen=True, eq=False)
class KBinsDiscretizer(Preprocessor):
    """Numbers (N,) → 1, 2, … (int64): which of `count` equally filled bins; 0 = missing.

    Attributes:
        count: The number of bins.
        edges: The fitted inner edges: quantiles of the training rows, equal ones merged.
    """

    count: int
    edges: FittedArray = None

    @property
    def labels(self) -> tuple[str, ...]:
        edges = [f"{edge:g}" for edge in _to_list(self.edges)]
        last = f"above {edges[-1]}" if edges else "any"
        return ("(missing)", *(f"up to {edge}" for edge in edges), last)

    def fit(self, column: np.ndarray) -> KBinsDiscretizer:
        """Fit the edges."""
        present = column[~np.isnan(column)]
        if not len(present):
            return replace(self, edges=np.empty(0))
        quantiles = np.arange(1, self.count) / self.count
        return replace(self, edges=np.unique(np.quantile(present, quantiles)))

    def __call__(self, column: np.ndarray) -> np.ndarray:
        # Values beyond the training rows fall into the first or the last bin.
        bins = 1 + np.searchsorted(self.edges, np.nan_to_num(column), side="left")
        return np.where(np.isnan(column), 0, bins).astype(np.int64)

    def state(self) -> dict[str, Any]:
        """The inner edges."""
        return {"edges": _to_list(self.edges)}


def _to_list(values: np.ndarray | None) -> list[Any]:
    return [] if values is None else np.asarray(values).tolist()
