"""Steps from a raw column to numbers, learnt on training rows. Frozen: `fit` returns a copy that has learnt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from dlrun.core.dataset import Ragged
from dlrun.core.errors import UserError
from dlrun.data.loading.table import SparseCounts

FittedArray = Any  # an array, once `fit` has learnt it


@dataclass(frozen=True, eq=False)
class SimpleImputer:
    """Fills missing numbers (NaN) of (N, F) columns with what the training rows' present ones say.

    indicator: a further 0/1 column for each column in which training rows had missing numbers. A column without any
    number among the training rows is filled with `constant`.
    """

    strategy: Literal["mean", "median", "constant"]
    indicator: bool = False
    constant: float = 0.0
    fill: FittedArray = None
    indicator_columns: FittedArray = None

    def fit(self, column: np.ndarray) -> SimpleImputer:
        """Learn the fill of each column, and which columns miss numbers."""
        missing = np.isnan(column)
        fill = np.full(column.shape[1], self.constant, np.float64)
        known = ~missing.all(axis=0)
        if self.strategy != "constant" and known.any():
            average = np.nanmean if self.strategy == "mean" else np.nanmedian
            fill[known] = average(column[:, known], axis=0)
        return replace(self, fill=fill, indicator_columns=np.flatnonzero(missing.any(axis=0)))

    def __call__(self, column: np.ndarray) -> np.ndarray:
        missing = np.isnan(column)
        filled = np.where(missing, self.fill, column)
        return np.hstack([filled, missing[:, self.indicator_columns]]) if self.indicator else filled

    def state(self) -> dict[str, Any]:
        """The fills, and the numbers of the columns that have an indicator."""
        return {
            "how": self.strategy,
            "fill": _to_list(self.fill),
            "flagged": _to_list(self.indicator_columns) if self.indicator else [],
        }


@dataclass(frozen=True, eq=False)
class StandardScaler:
    """(x - mean) / std over training rows, std with ddof 0; a constant column is only centred (book §3.6, §3.7)."""

    mean: FittedArray = None
    scale: FittedArray = None

    def fit(self, column: np.ndarray) -> StandardScaler:
        """Learn each column's mean and standard deviation."""
        values = np.asarray(column, np.float64)
        constant = (values == values[:1]).all(axis=0)
        with np.errstate(
            over="ignore"
        ):  # numbers that float32 cannot hold are cut, and told, when they are stored
            scale = np.where(constant, 1.0, values.std(axis=0))
        return replace(
            self,
            mean=values.mean(axis=0),
            scale=np.where((scale > 0) & np.isfinite(scale), scale, 1.0),
        )

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return (np.asarray(column, np.float64) - self.mean) / self.scale

    def state(self) -> dict[str, Any]:
        """Means and standard deviations."""
        return {"mean": _to_list(self.mean), "scale": _to_list(self.scale)}


@dataclass(frozen=True, eq=False)
class MinMaxScaler:
    """(x - low) / (high - low) over training rows: those lie in [0, 1], others may lie outside."""

    low: FittedArray = None
    width: FittedArray = None

    def fit(self, column: np.ndarray) -> MinMaxScaler:
        """Learn each column's smallest and largest value."""
        values = np.asarray(column, np.float64)
        low, width = values.min(axis=0), np.ptp(values, axis=0)
        return replace(self, low=low, width=np.where(width > 0, width, 1.0))

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return (np.asarray(column, np.float64) - self.low) / self.width

    def state(self) -> dict[str, Any]:
        """Lows and widths."""
        return {"low": _to_list(self.low), "width": _to_list(self.width)}


@dataclass(frozen=True, eq=False)
class LabelEncoder:
    """Class names → 0, 1, 2, … (int64).

    names: the classes that the question is about, in order; without them they are those of the training rows, sorted.
    A class that is stated but has no training row keeps its place: held-out rows of it then count as wrong. A row
    of a class that is not stated raises UserError.
    """

    column: str
    names: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names

    def fit(self, column: np.ndarray) -> LabelEncoder:
        """Learn the classes, unless they are stated."""
        return (
            self
            if self.names
            else replace(self, names=tuple(sorted({str(value) for value in column})))
        )

    def __call__(self, column: np.ndarray) -> np.ndarray:
        index = {name: number for number, name in enumerate(self.names)}
        found = np.array([index.get(str(value), -1) for value in column], np.int64)
        if (found < 0).any():
            strange = str(column[int(np.argmin(found))])
            raise UserError(
                f"{self.column}: {int((found < 0).sum())} held-out rows are of a class that no training row has, as "
                f"'{strange}': no model can have learnt it. Classes known: {', '.join(self.names[:20])}. "
                f"Split by class (stratified), or take those rows out"
            )
        return found

    def state(self) -> dict[str, Any]:
        """The classes in their order."""
        return {"names": list(self.names)}


@dataclass(frozen=True, eq=False)
class OrdinalEncoder:
    """Texts → 2, 3, … (int64) for the levels that training rows have; 0 = any other level, 1 = missing ('').

    most: so many levels, the most frequent ones, are told apart; None for all.
    """

    levels: tuple[str, ...] = ()
    max_levels: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return ("(unknown)", "(missing)", *self.levels)

    def fit(self, column: np.ndarray) -> OrdinalEncoder:
        """Learn the levels."""
        counts = Counter(str(value) for value in column)
        counts.pop("", None)
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
class KBinsDiscretizer:
    """Numbers (N,) → 1, 2, … (int64): which of `count` equally filled bins of the training rows; 0 = missing."""

    count: int
    edges: FittedArray = None

    @property
    def labels(self) -> tuple[str, ...]:
        edges = [f"{edge:g}" for edge in _to_list(self.edges)]
        return (
            "(missing)",
            *(f"up to {edge}" for edge in edges),
            f"above {edges[-1]}" if edges else "any",
        )

    def fit(self, column: np.ndarray) -> KBinsDiscretizer:
        """Learn the edges: quantiles, equal ones merged."""
        known = column[~np.isnan(column)]
        shares = np.arange(1, self.count) / self.count
        return replace(
            self, edges=np.unique(np.quantile(known, shares)) if len(known) else np.empty(0)
        )

    def __call__(self, column: np.ndarray) -> np.ndarray:
        bins = 1 + np.searchsorted(self.edges, np.nan_to_num(column), side="left")
        return np.where(np.isnan(column), 0, bins).astype(np.int64)

    def state(self) -> dict[str, Any]:
        """The inner edges."""
        return {"edges": _to_list(self.edges)}


@dataclass(frozen=True, eq=False)
class MultiHot:
    """Word lists → the set of words of each row, as a sparse bag of `words` columns (book §3.4, §3.5)."""

    words: int
    chunk: int = 512  # rows marked at once: a table of chunk × words bytes stays in the cache

    def fit(self, column: Ragged) -> MultiHot:
        """Nothing to learn: the words are numbered by the dataset."""
        return self

    def __call__(self, column: Ragged) -> SparseCounts:
        marks = np.zeros((min(self.chunk, max(1, len(column))), self.words), np.bool_)
        flat, found, sizes = marks.reshape(-1), [], []
        for first in range(0, len(column), len(marks)):
            offsets = column.offsets[first : first + len(marks) + 1]
            words = column.values[offsets[0] : offsets[-1]]
            rows = np.repeat(np.arange(len(offsets) - 1) * self.words, np.diff(offsets))
            flat[rows + words] = True
            where = np.flatnonzero(flat)
            flat[where] = False
            found.append(where % self.words)
            sizes.append(np.bincount(where // self.words, minlength=len(offsets) - 1))
        starts = np.concatenate([[0], np.cumsum(np.concatenate([*sizes, []]))]).astype(np.int32)
        columns = np.concatenate([*found, np.empty(0, np.int64)]).astype(np.int32)
        return SparseCounts(
            torch.from_numpy(starts),
            torch.from_numpy(columns),
            torch.ones(len(columns)),
            self.words,
        )

    def state(self) -> dict[str, Any]:
        """How many words there are."""
        return {"words": self.words}


def _to_list(values: np.ndarray | None) -> list[Any]:
    return [] if values is None else np.asarray(values).tolist()
