"""A raw column that lies in many files: read file by file, and its statistics in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import Preprocessor, RawColumn, StoredColumn
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.loading.streaming import ShardedColumn, split_by_file
from dlrun.data.preprocessing.numeric import StandardScaler
from dlrun.data.shards.npz_files import ShardSet

MAX_CLASSES = 10_000
ColumnStep = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ShardedArray(RawColumn):
    """Rows of one array of a shard set: column[3] reads one row, other indices give a column.

    Attributes:
        shards: The files.
        name: The array's name in them.
        rows: Which rows of all files these are, in order.
        window: The number of files in memory at once.
        steps: What is applied to the values when they are read.
    """

    shards: ShardSet
    name: str
    rows: np.ndarray
    window: int
    steps: tuple[ColumnStep, ...] = ()

    reads_files = True

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return replace(self, rows=self.rows[index])
        return np.asarray(self[index : index + 1 or None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        arrays = list(self.iter_files()) or [np.empty((0, *self.row_shape), self.dtype)]
        values = np.concatenate(arrays)
        return values.astype(dtype or values.dtype, copy=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.shards.headers[self.name][1]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shards.headers[self.name][0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.row_shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def file_offsets(self) -> np.ndarray:
        return self.shards.file_offsets

    @property
    def digest(self) -> str:
        """The sha256 of the files, and of which rows these are."""
        header = f"{self.shards.digest} {self.name} {len(self)};".encode()
        return hashlib.sha256(header + self.rows.astype(np.int64).tobytes()).hexdigest()

    def apply(self, step: ColumnStep) -> ShardedArray:
        """A copy with one more step, applied when a file is read: nothing is stored prepared."""
        return replace(self, steps=(*self.steps, step))

    def store(self, name: str, kind: Kind) -> StoredColumn:
        return ShardedColumn(self, self.rows, kind)

    def read_rows(self, file: int, rows: np.ndarray) -> np.ndarray:
        """These rows of one file, prepared."""
        values = self.shards.read_array(file, self.name)
        is_whole_file = len(rows) == len(values) and (np.diff(rows) == 1).all()
        if not is_whole_file:  # indexing copies
            values = values[rows]
        for step in self.steps:
            values = step(values)
        return values

    def iter_files(self) -> Iterator[np.ndarray]:
        """All rows in their order, those of one file at a time."""
        return (
            self.read_rows(file, rows) for file, rows in split_by_file(self.rows, self.file_offsets)
        )


@dataclass(frozen=True, eq=False)
class StreamingScaler(Preprocessor):
    """Fits a StandardScaler file by file; means and squares merge (Chan, Golub & LeVeque 1979)."""

    def fit(self, column: ShardedArray) -> StandardScaler:
        """Fit in one pass over the rows."""
        count, mean, squares, low, high = 0, np.zeros(()), np.zeros(()), np.inf, -np.inf
        for rows in column.iter_files():
            values = np.asarray(rows, np.float64)
            size, file_mean = len(values), values.mean(axis=0)
            delta = file_mean - mean
            total = count + size
            within_file = ((values - file_mean) ** 2).sum(axis=0)
            squares = squares + within_file + delta**2 * (count * size / total)
            mean, count = mean + delta * (size / total), total
            low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
        scale = np.sqrt(squares / count)
        # Rounding leaves a constant column a tiny scale: its extremes tell.
        return StandardScaler(mean, np.where((low < high) & (scale > 0), scale, 1.0))


@dataclass(frozen=True, eq=False)
class StreamingLabelEncoder(Preprocessor):
    """Classes or levels as 0, 1, 2, …: the distinct values of the training rows, or stated ones.

    Attributes:
        column: The column's name, for messages.
        names: Of the values 0, 1, 2, … of a target, if they are stated.
        level: Whether this is an input, in which values without a training row are 0 and the others
            begin with 1; in a target they raise UserError.
        values: The fitted values, in order.
        counts: How many training rows have each of them.
    """

    column: str
    names: tuple[str, ...] = ()
    level: bool = False
    values: Any = None
    counts: Any = None

    @property
    def labels(self) -> tuple[str, ...]:
        names = self.names or tuple(str(value.item()) for value in self.values)
        return ("(unknown)", *names) if self.level else names

    @property
    def prior(self) -> Tensor:
        """The share of each class (K,) among the training rows."""
        return torch.from_numpy(self.counts / self.counts.sum()).float()

    def fit(self, column: ShardedArray) -> StreamingLabelEncoder:
        """Count the values in one pass over the rows.

        Raises:
            UserError: There are too many distinct values, or one class only.
        """
        totals: dict[Any, int] = {}
        for rows in column.iter_files():
            for value, count in zip(*np.unique(rows, return_counts=True), strict=True):
                totals[value] = totals.get(value, 0) + int(count)
            # Numbers taken for classes would fill the memory with counts.
            if len(totals) > MAX_CLASSES:
                raise UserError(
                    f"'{self.column}' has more than {MAX_CLASSES:,} different values: say "
                    f"data.kinds={{{self.column}: number}}"
                )
        if len(totals) < 2 and not self.level:
            raise UserError(
                f"target '{self.column}' has one class only, '{next(iter(totals))}', "
                "in all training rows"
            )
        # Stated classes without a training row keep their index.
        values = np.arange(len(self.names)) if self.names else np.array(sorted(totals))
        counts = np.array([totals.get(value, 0) for value in values.tolist()], np.float64)
        return replace(self, values=values, counts=counts)

    def __call__(self, column: np.ndarray) -> np.ndarray:
        # Values are sorted: one search for all rows, without a Python loop.
        index = np.searchsorted(self.values, column).clip(max=len(self.values) - 1)
        is_known = self.values[index] == column
        if self.level:
            return np.where(is_known, index + 1, 0).astype(np.int64)
        if not is_known.all():
            unknown = column[int(np.argmin(is_known))]
            raise UserError(
                f"target '{self.column}': a row is of class '{unknown}', which no training row "
                f"has; known: {', '.join(self.labels[:20])}. Say data.hold_out=rows, "
                "or data.labels=[…] with all classes"
            )
        return index.astype(np.int64)

    def state(self) -> dict[str, Any]:
        """The values in their order."""
        return {
            "values": self.values.tolist(),
            "names": list(self.names),
            "counts": self.counts.tolist(),
        }


@dataclass(frozen=True, eq=False)
class BinaryTarget(Preprocessor):
    """A target of two classes as 0 and 1, after a StreamingLabelEncoder.

    Attributes:
        prior: The fitted share of ones (1,).
        labels: The names of the two classes.
    """

    prior: Any = None
    labels: tuple[str, ...] = ()

    def fit(self, column: ShardedArray) -> BinaryTarget:
        """Take the share of ones, which the step before has counted."""
        # The column is still unread: its last step is the StreamingLabelEncoder.
        encoder: Any = column.steps[-1]
        if len(encoder.values) != 2:
            raise UserError(
                f"data.kinds: '{column.name}' is said to be binary and has {len(encoder.values)} "
                f"values: {', '.join(encoder.labels[:20])}"
            )
        return replace(self, prior=encoder.prior[1:], labels=encoder.labels)

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return column.astype(np.float32)

    def state(self) -> dict[str, Any]:
        """The share of ones."""
        return {"prior": self.prior.tolist()}


@dataclass(frozen=True, eq=False)
class IdentityTarget(Preprocessor):
    """A target of numbers, unchanged.

    Attributes:
        prior: The fitted mean (1,) or (k,).
    """

    prior: Any = None

    def fit(self, column: ShardedArray) -> IdentityTarget:
        """Fit the mean in one pass over the rows."""
        scaler = StreamingScaler().fit(column)
        return replace(self, prior=torch.from_numpy(np.atleast_1d(scaler.mean)).float())

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return column

    def state(self) -> dict[str, Any]:
        """The mean."""
        return {"mean": self.prior.tolist()}
