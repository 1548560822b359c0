"""A raw column of pictures that stay on the disk until they are looked at."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.core.errors import UserError
from dlrun.data.images import decoded_cache
from dlrun.data.images.archives import FileList, decode_name
from dlrun.data.images.decode import Reading
from dlrun.data.images.decoded_cache import ImageStore

log = logging.getLogger("dlrun")

MAX_LISTED_FILES = 5  # files that a message names


@dataclass(frozen=True, eq=False)
class ImageFileColumn:
    """Rows of a store, as uint8 (N, C, H, W). column[3] is one picture; any other index gives a column, unread."""

    store: ImageStore
    rows: np.ndarray

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return replace(self, rows=self.rows[index])
        if self.store.pixels is not None:
            return np.array(self.store.pixels[self.rows[index]])
        return next(self.batches(self.rows[index : index + 1 or None], 1))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it in memory."""
        return np.concatenate(list(self.batches(self.rows, max(1, len(self))))).astype(
            dtype or np.uint8, copy=False
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), self.store.reading.channels, *self.store.reading.size)

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """The pictures of these rows of the store, uint8 (B, C, H, W), `size` at a time; decoded as they go."""
        if self.store.pixels is None:
            yield from decoded_cache.iter_image_batches(self.store, rows, size)
        else:
            yield from (
                self.store.pixels[rows[low : low + size]] for low in range(0, len(rows), size)
            )

    def name(self, index: int) -> str:
        """The file of a row."""
        return decode_name(self.store.files.names[int(self.rows[index])])

    @property
    def digest(self) -> str:
        """The sha256 of what the files hold and how they are read: equal wherever they lie, kept or not."""
        parts = (
            f"{decoded_cache.CACHE_VERSION} {self.store.reading} {len(self)};".encode()
            + self.store.file_hashes[self.rows].tobytes()
        )
        return hashlib.sha256(parts).hexdigest()

    @property
    def pixel_hashes(self) -> np.ndarray:
        """A digest of each picture's pixels (N, 16), uint8: equal pictures have equal ones, whatever their format."""
        return self.store.summary.pixel_hashes[self.rows]

    @property
    def skipped_files(self) -> dict[str, str]:
        """The files that were left out, and why."""
        return {
            decode_name(self.store.files.names[row]): reason
            for row, reason in self.store.summary.errors.items()
        }


def load_image_column(
    files: FileList, reading: Reading, *, keep: bool, skip: bool, advice: str = ""
) -> ImageFileColumn:
    """The column of these files. keep: decoded once and kept on the disk, else decoded as they go.

    skip: files that give no picture are left out (`rows` tells which are there), else refused, with some advice.
    """
    found = decoded_cache.open_image_store(files, reading, keep=keep)
    faults = found.summary.errors
    if not faults:
        return ImageFileColumn(found, np.arange(len(files)))
    told = format_file_list(
        [f"'{decode_name(files.names[row])}' ({reason})" for row, reason in faults.items()]
    )
    count = f"{len(faults):,} of {len(files):,} files in {files.root} {'gives' if len(faults) == 1 else 'give'}"
    if not skip or len(faults) == len(files):
        raise UserError(f"{count} no picture: {told}{advice}")
    log.warning(
        "%s no picture and %s left out: %s", count, "is" if len(faults) == 1 else "are", told
    )
    return ImageFileColumn(found, np.array([row for row in range(len(files)) if row not in faults]))


def format_file_list(names: list[str]) -> str:
    """The first names, and how many there are beside."""
    more = f" and {len(names) - MAX_LISTED_FILES:,} more" if len(names) > MAX_LISTED_FILES else ""
    return ", ".join(names[:MAX_LISTED_FILES]) + more
