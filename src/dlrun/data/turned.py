"""Pictures turned by quarters: in memory at once, on the disk when they are looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.data.pictures import Pictures

QUARTERS = 4


@dataclass(frozen=True, eq=False)
class Turned:
    """Rows of a column of square pictures, each with a turn, as uint8 (N, C, H, W); indexed like that column.

    rows: QUARTERS · row of the column + quarters, to the left (N,).
    """

    of: Pictures
    rows: np.ndarray

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return replace(self, rows=self.rows[index])
        return next(self.batches(self.rows[index : index + 1 or None], 1))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it in memory."""
        return np.concatenate(list(self.batches(self.rows, max(1, len(self))))).astype(dtype or np.uint8, copy=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.of.shape[1:])

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """The pictures of these of the numbers `rows`, uint8 (B, C, H, W), `size` at a time."""
        which, quarters = np.divmod(rows, QUARTERS)
        for number, found in enumerate(self.of.batches(self.of.rows[which], size)):
            yield turned(found, quarters[number * size : (number + 1) * size])

    def name(self, index: int) -> str:
        """The file of a row."""
        return self.of.name(int(self.rows[index]) // QUARTERS)

    @property
    def digest(self) -> str:
        """The sha256 of the pictures and their turns, see Pictures."""
        return hashlib.sha256(self.of.digest.encode() + self.rows.astype(np.int64).tobytes()).hexdigest()

    @property
    def marks(self) -> np.ndarray:
        """A digest of each row (N, 16), uint8: of equal pictures, equally turned, equal ones."""
        which, quarters = np.divmod(self.rows, QUARTERS)
        marks = np.concatenate([self.of.marks[which], quarters.astype(np.uint8)[:, None]], 1)
        digests = [hashlib.blake2b(mark.tobytes(), digest_size=16).digest() for mark in marks]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def turned(pictures: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    """Square pictures (N, C, H, H), each turned to the left by so many quarters (N,)."""
    found = np.array(pictures)
    for count in range(1, QUARTERS):
        rows = quarters == count
        found[rows] = np.rot90(pictures[rows], count, axes=(2, 3))
    return found


def turned_column(column: Any, which: np.ndarray, quarters: np.ndarray) -> Any:
    """These rows of a column of pictures, turned: an array of an array; a view that reads nothing yet of Pictures."""
    if isinstance(column, Pictures):
        return Turned(column, QUARTERS * which + quarters)
    return turned(column[which], quarters)
