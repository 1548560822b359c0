"""A raw column that lies in many files: read and prepared file by file, and what is learnt of it in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import Preprocessor
from dlrun.core.errors import UserError
from dlrun.data.loading.streaming import split_by_file
from dlrun.data.preprocessing.numeric import StandardScaler
from dlrun.data.shards.npz_files import ShardSet

MAX_CLASSES = 10_000
ColumnStep = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ShardedArray:
    """Rows of one array of a shelf. column[3] is one row; any other index gives a column, unread.

    steps: what is done to the values once they are read. window: see `stream.ShardReader`.
    """

    shards: ShardSet
    name: str
    rows: np.ndarray
    window: int
    steps: tuple[ColumnStep, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return replace(self, rows=self.rows[index])
        return np.asarray(self[index : index + 1 or None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it in memory."""
        parts = list(self.iter_files())
        found = np.concatenate(parts) if parts else np.empty((0, *self.row_shape), self.dtype)
        return found.astype(dtype or found.dtype, copy=False)

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
        """The sha256 of the files and of which rows these are."""
        about = (
            f"{self.shards.digest} {self.name} {len(self)};".encode()
            + self.rows.astype(np.int64).tobytes()
        )
        return hashlib.sha256(about).hexdigest()

    def with_step(self, step: ColumnStep) -> ShardedArray:
        """The same rows, with one step more."""
        return replace(self, steps=(*self.steps, step))

    def read_rows(self, file: int, rows: np.ndarray) -> np.ndarray:
        """These rows of one file, prepared."""
        found = self.shards.read_array(file, self.name)
        found = found if len(rows) == len(found) and (np.diff(rows) == 1).all() else found[rows]
        for step in self.steps:
            found = step(found)
        return found

    def iter_files(self) -> Iterator[np.ndarray]:
        """All rows in their order, those of one file at a time."""
        return (
            self.read_rows(file, rows) for file, rows in split_by_file(self.rows, self.file_offsets)
        )


@dataclass(frozen=True, eq=False)
class StreamingScaler(Preprocessor):
    """What Standardise has to know, learnt file by file (means and squares merged: Chan, Golub & LeVeque 1979)."""

    def fit(self, column: ShardedArray) -> StandardScaler:
        """One pass over the rows."""
        count, mean, squares, low, high = 0, np.zeros(()), np.zeros(()), np.inf, -np.inf
        for part in column.iter_files():
            values = np.asarray(part, np.float64)
            here, middle = len(values), values.mean(axis=0)
            apart = middle - mean
            squares = (
                squares
                + ((values - middle) ** 2).sum(axis=0)
                + apart**2 * (count * here / (count + here))
            )
            mean, count = mean + apart * (here / (count + here)), count + here
            low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
        scale = np.sqrt(squares / count)
        return StandardScaler(mean, np.where((low < high) & (scale > 0), scale, 1.0))


@dataclass(frozen=True, eq=False)
class StreamingLabelEncoder(Preprocessor):
    """Classes or levels as 0, 1, 2, …: the different values of the training rows, in order, or those that are stated.

    names: of the values 0, 1, 2, … of a target, where they are stated. level: of an input, in which values that no
    training row has are 0 and the others begin with 1; such a value of a target raises UserError.
    """

    column: str
    names: tuple[str, ...] = ()
    level: bool = False
    values: Any = None
    counts: Any = None

    @property
    def labels(self) -> tuple[str, ...]:
        known = self.names or tuple(str(value.item()) for value in self.values)
        return ("(unknown)", *known) if self.level else known

    @property
    def prior(self) -> Tensor:
        """The share of each class (K,) among the training rows."""
        return torch.from_numpy(self.counts / self.counts.sum()).float()

    def fit(self, column: ShardedArray) -> StreamingLabelEncoder:
        """One pass over the rows. Raises UserError where there are too many different values, or one class only."""
        seen: dict[Any, int] = {}
        for part in column.iter_files():
            for value, count in zip(*np.unique(part, return_counts=True), strict=True):
                seen[value] = seen.get(value, 0) + int(count)
            if len(seen) > MAX_CLASSES:
                raise UserError(f"'{self.column}' has more than {MAX_CLASSES:,} different values: say data.kinds="
                              f"{{{self.column}: number}}")  # fmt: skip
        if len(seen) < 2 and not self.level:
            raise UserError(
                f"target '{self.column}' has one class only, '{next(iter(seen))}', in all training rows"
            )
        values = np.arange(len(self.names)) if self.names else np.array(sorted(seen))
        counts = np.array([seen.get(value, 0) for value in values.tolist()], np.float64)
        return replace(self, values=values, counts=counts)

    def __call__(self, column: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self.values, column).clip(max=len(self.values) - 1)
        known = self.values[place] == column
        if self.level:
            return np.where(known, place + 1, 0).astype(np.int64)
        if not known.all():
            strange = column[int(np.argmin(known))]
            raise UserError(
                f"target '{self.column}': a row is of class '{strange}', which no training row has; known: "
                f"{', '.join(self.labels[:20])}. Say data.hold_out=rows, or data.labels=[…] with all classes"
            )
        return place.astype(np.int64)

    def state(self) -> dict[str, Any]:
        """The values in their order."""
        return {
            "values": self.values.tolist(),
            "names": list(self.names),
            "counts": self.counts.tolist(),
        }


@dataclass(frozen=True, eq=False)
class BinaryTarget(Preprocessor):
    """A target of two classes as 0 and 1: of the numbers 0 and 1 that Counted has made, the mean is learnt."""

    prior: Any = None
    labels: tuple[str, ...] = ()

    def fit(self, column: ShardedArray) -> BinaryTarget:
        """The share of ones, which the step before has counted."""
        before: Any = column.steps[-1]
        if len(before.values) != 2:
            raise UserError(f"data.kinds: '{column.name}' is said to be binary and has {len(before.values)} values: "
                          f"{', '.join(before.labels[:20])}")  # fmt: skip
        return replace(self, prior=before.prior[1:], labels=before.labels)

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return column.astype(np.float32)

    def state(self) -> dict[str, Any]:
        """The share of ones."""
        return {"prior": self.prior.tolist()}


@dataclass(frozen=True, eq=False)
class IdentityTarget(Preprocessor):
    """A target of numbers, as it is; its mean is learnt."""

    prior: Any = None

    def fit(self, column: ShardedArray) -> IdentityTarget:
        """One pass over the rows."""
        found = StreamingScaler().fit(column)
        return replace(self, prior=torch.from_numpy(np.atleast_1d(found.mean)).float())

    def __call__(self, column: np.ndarray) -> np.ndarray:
        return column

    def state(self) -> dict[str, Any]:
        """The mean."""
        return {"mean": self.prior.tolist()}
