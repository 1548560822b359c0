"""A raw column of images that stay on the disk until they are looked at."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.core.dataset import RawColumn, StoredColumn
from dlrun.core.errors import UserError
from dlrun.core.formatting import format_file_list
from dlrun.core.types import Kind
from dlrun.data.images import decoded_cache
from dlrun.data.images.archives import FileList, decode_name
from dlrun.data.images.decode import Reading
from dlrun.data.images.decoded_cache import ImageStore

log = logging.getLogger("dlrun")


@dataclass(frozen=True, eq=False)
class ImageFileColumn(RawColumn):
    """Rows of an image store, as a column of uint8 (N, C, H, W).

    `column[3]` is one image; any other index gives a column, without reading anything.

    Attributes:
        image_store: The images of all files.
        rows: Indices into the store (N,).
    """

    image_store: ImageStore
    rows: np.ndarray

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return replace(self, rows=self.rows[index])
        if self.image_store.pixels is not None:
            return np.array(self.image_store.pixels[self.rows[index]])
        # `or None`: for index -1 the slice would end at 0, and be empty.
        return next(self.batches(self.rows[index : index + 1 or None], 1))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all images into memory."""
        pixels = np.concatenate(list(self.batches(self.rows, max(1, len(self)))))
        return pixels.astype(dtype or np.uint8, copy=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), self.image_store.reading.channels, *self.image_store.reading.size)

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Yield the images of these rows of the store, decoded on access where they are not kept.

        Args:
            rows: Indices into the store, not into this column.
            size: Images in a batch; the last one may be smaller.

        Yields:
            Batches of pixels, uint8 (B, C, H, W).
        """
        if self.image_store.pixels is None:
            yield from decoded_cache.iter_image_batches(self.image_store, rows, size)
        else:
            yield from (
                self.image_store.pixels[rows[low : low + size]] for low in range(0, len(rows), size)
            )

    def file_name(self, index: int) -> str:
        """Return the file name of a row."""
        return decode_name(self.image_store.files.names[int(self.rows[index])])

    @property
    def digest(self) -> str:
        """The sha256 of the files' contents and the decoding options, wherever the files lie."""
        content = (
            f"{decoded_cache.CACHE_VERSION} {self.image_store.reading} {len(self)};".encode()
            + self.image_store.file_hashes[self.rows].tobytes()
        )
        return hashlib.sha256(content).hexdigest()

    @property
    def row_hashes(self) -> np.ndarray:
        """A digest of each image's pixels, uint8 (N, 16): equal for equal images of any format."""
        return self.image_store.summary.pixel_hashes[self.rows]

    def store(self, name: str, kind: Kind) -> StoredColumn:
        """The pixels as they lie on the disk; without a cache, images decoded for each batch."""
        import torch

        from dlrun.data.loading.images import ImageColumn, LazyImageColumn

        rows = torch.from_numpy(np.ascontiguousarray(self.rows))
        if self.image_store.pixels is None:
            return LazyImageColumn(self, rows)
        return ImageColumn(torch.from_numpy(self.image_store.pixels), rows)

    @property
    def skipped_files(self) -> dict[str, str]:
        """The files that were left out, and why."""
        return {
            decode_name(self.image_store.files.names[row]): reason
            for row, reason in self.image_store.summary.errors.items()
        }


def load_image_column(
    files: FileList, reading: Reading, *, keep: bool, skip: bool, advice: str = ""
) -> ImageFileColumn:
    """Return the column of these files.

    Args:
        files: The image files.
        reading: How they are decoded.
        keep: Decode once and store the pixels on the disk, instead of decoding on access.
        skip: Leave out files that give no image (`rows` says which remain), instead of raising.
        advice: What to add to the error message.

    Raises:
        UserError: A file gives no image and `skip` is false, or none gives one.
    """
    store = decoded_cache.open_image_store(files, reading, keep=keep)
    # Known from decoding all images once, before any of them is used.
    errors = store.summary.errors
    if not errors:
        return ImageFileColumn(store, np.arange(len(files)))
    listed = format_file_list(
        [f"'{decode_name(files.names[row])}' ({reason})" for row, reason in errors.items()]
    )
    verb = "gives" if len(errors) == 1 else "give"
    count = f"{len(errors):,} of {len(files):,} files in {files.root} {verb}"
    if not skip or len(errors) == len(files):
        raise UserError(f"{count} no image: {listed}{advice}")
    log.warning(
        "%s no image and %s left out: %s", count, "is" if len(errors) == 1 else "are", listed
    )
    rows = [row for row in range(len(files)) if row not in errors]
    return ImageFileColumn(store, np.array(rows))
