"""A raw column of pictures that stay on the disk until they are looked at."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.core.errors import Refused
from dlrun.data.images import decoded_cache
from dlrun.data.images.archives import Files, printable
from dlrun.data.images.decode import Reading
from dlrun.data.images.decoded_cache import Store

log = logging.getLogger("dlrun")

NAMED = 5  # files that a message names


@dataclass(frozen=True, eq=False)
class Pictures:
    """Rows of a store, as uint8 (N, C, H, W). column[3] is one picture; any other index gives a column, unread."""

    store: Store
    rows: np.ndarray

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return replace(self, rows=self.rows[index])
        if self.store.values is not None:
            return np.array(self.store.values[self.rows[index]])
        return next(self.batches(self.rows[index : index + 1 or None], 1))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it in memory."""
        return np.concatenate(list(self.batches(self.rows, max(1, len(self))))).astype(dtype or np.uint8, copy=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), self.store.reading.channels, *self.store.reading.size)

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """The pictures of these rows of the store, uint8 (B, C, H, W), `size` at a time; decoded as they go."""
        if self.store.values is None:
            yield from decoded_cache.batches(self.store, rows, size)
        else:
            yield from (self.store.values[rows[low : low + size]] for low in range(0, len(rows), size))

    def name(self, index: int) -> str:
        """The file of a row."""
        return printable(self.store.files.names[int(self.rows[index])])

    @property
    def digest(self) -> str:
        """The sha256 of what the files hold and how they are read: equal wherever they lie, kept or not."""
        parts = (
            f"{decoded_cache.FORMAT} {self.store.reading} {len(self)};".encode() + self.store.sums[self.rows].tobytes()
        )
        return hashlib.sha256(parts).hexdigest()

    @property
    def marks(self) -> np.ndarray:
        """A digest of each picture's pixels (N, 16), uint8: equal pictures have equal ones, whatever their format."""
        return self.store.look.marks[self.rows]

    @property
    def faults(self) -> dict[str, str]:
        """The files that were left out, and why."""
        return {printable(self.store.files.names[row]): reason for row, reason in self.store.look.faults.items()}


def pictures(files: Files, reading: Reading, *, keep: bool, skip: bool, advice: str = "") -> Pictures:
    """The column of these files. keep: decoded once and kept on the disk, else decoded as they go.

    skip: files that give no picture are left out (`rows` tells which are there), else refused, with some advice.
    """
    found = decoded_cache.store(files, reading, keep=keep)
    faults = found.look.faults
    if not faults:
        return Pictures(found, np.arange(len(files)))
    told = listed([f"'{printable(files.names[row])}' ({reason})" for row, reason in faults.items()])
    count = f"{len(faults):,} of {len(files):,} files in {files.place} {'gives' if len(faults) == 1 else 'give'}"
    if not skip or len(faults) == len(files):
        raise Refused(f"{count} no picture: {told}{advice}")
    log.warning("%s no picture and %s left out: %s", count, "is" if len(faults) == 1 else "are", told)
    return Pictures(found, np.array([row for row in range(len(files)) if row not in faults]))


def listed(names: list[str]) -> str:
    """The first names, and how many there are beside."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
