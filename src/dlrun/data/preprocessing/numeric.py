"""Preprocessing of numbers and categories: imputing, scaling, encoding, binning, multi-hot."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from dlrun.core.dataset import Preprocessor, Ragged
from dlrun.core.errors import UserError
from dlrun.data.loading.table import SparseCounts

FittedArray = Any  # an array in a fitted copy, None before


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
                f"training row has, as '{unknown}': no model can have learnt it. Classes known: "
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


@dataclass(frozen=True, eq=False)
class MultiHot(Preprocessor):
    """Word lists → the set of words of each row, as sparse counts (book §3.4, §3.5).

    Attributes:
        words: The number of columns.
        chunk: Rows marked at once: a table of chunk × words bytes stays in the processor's cache.
    """

    words: int
    chunk: int = 512

    def fit(self, column: Ragged) -> MultiHot:
        """Nothing to fit: the words are numbered by the dataset."""
        return self

    def __call__(self, column: Ragged) -> SparseCounts:
        marks = np.zeros((min(self.chunk, max(1, len(column))), self.words), np.bool_)
        flat, words_per_chunk, lengths = marks.reshape(-1), [], []
        for first in range(0, len(column), len(marks)):
            offsets = column.offsets[first : first + len(marks) + 1]
            words = column.values[offsets[0] : offsets[-1]]
            rows = np.repeat(np.arange(len(offsets) - 1) * self.words, np.diff(offsets))
            flat[rows + words] = True
            marked = np.flatnonzero(flat)
            flat[marked] = False  # clears only what was set: the table is used again
            words_per_chunk.append(marked % self.words)
            lengths.append(np.bincount(marked // self.words, minlength=len(offsets) - 1))
        starts = np.concatenate([[0], np.cumsum(np.concatenate([*lengths, []]))]).astype(np.int32)
        columns = np.concatenate([*words_per_chunk, np.empty(0, np.int64)]).astype(np.int32)
        return SparseCounts(
            torch.from_numpy(starts),
            torch.from_numpy(columns),
            torch.ones(len(columns)),
            self.words,
        )

    def state(self) -> dict[str, Any]:
        """The number of words."""
        return {"words": self.words}


def _to_list(values: np.ndarray | None) -> list[Any]:
    return [] if values is None else np.asarray(values).tolist()
