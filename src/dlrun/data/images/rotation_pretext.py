"""The rotation pretext task (Gidaris et al. 2018): by how much has an image been rotated?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.config.annotations import DataPart
from dlrun.core.dataset import Dataset, RawColumn, RawColumns, StoredColumn
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.images.image_column import ImageFileColumn
from dlrun.data.tabular import holdout

NUM_ROTATIONS = 4


@dataclass(frozen=True, eq=False)
class RotatedImages(RawColumn):
    """Rows of a column of square images, each with a rotation, as uint8 (N, C, H, W).

    It is indexed like that column.

    Attributes:
        column: The images as they are.
        rows: NUM_ROTATIONS · (row of the column) + (quarter turns to the left), (N,).
    """

    column: ImageFileColumn
    rows: np.ndarray

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return replace(self, rows=self.rows[index])
        # `or None`: for index -1 the slice would end at 0, and be empty.
        return next(self.batches(self.rows[index : index + 1 or None], 1))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all images into memory."""
        pixels = np.concatenate(list(self.batches(self.rows, max(1, len(self)))))
        return pixels.astype(dtype or np.uint8, copy=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.column.shape[1:])

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Yield the images of these rows, numbered like `self.rows`.

        Args:
            rows: Rows, each the number of an image and of a rotation, see `rows` of this class.
            size: Images in a batch; the last one may be smaller.

        Yields:
            Batches of pixels, uint8 (B, C, H, W).
        """
        sources, quarters = np.divmod(rows, NUM_ROTATIONS)
        for batch, images in enumerate(self.column.batches(self.column.rows[sources], size)):
            yield rotate_images(images, quarters[batch * size : (batch + 1) * size])

    def file_name(self, index: int) -> str:
        """Return the file name of a row."""
        return self.column.file_name(int(self.rows[index]) // NUM_ROTATIONS)

    @property
    def digest(self) -> str:
        """The sha256 of the images and their rotations, see `ImageFileColumn.digest`."""
        return hashlib.sha256(
            self.column.digest.encode() + self.rows.astype(np.int64).tobytes()
        ).hexdigest()

    @property
    def row_hashes(self) -> np.ndarray:
        """A digest of each row, uint8 (N, 16): equal for equal images with equal rotations."""
        sources, quarters = np.divmod(self.rows, NUM_ROTATIONS)
        turns = quarters.astype(np.uint8)[:, None]
        keys = np.concatenate([self.column.row_hashes[sources], turns], 1)
        digests = [hashlib.blake2b(key.tobytes(), digest_size=16).digest() for key in keys]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)

    def store(self, name: str, kind: Kind) -> StoredColumn:
        """Images that are read, and rotated, for each batch."""
        import torch

        from dlrun.data.loading.images import LazyImageColumn

        return LazyImageColumn(self, torch.from_numpy(self.rows))


def rotate_images(images: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    """Rotate square images (N, C, H, H) to the left by so many quarter turns (N,)."""
    rotated = np.array(images)
    for count in range(1, NUM_ROTATIONS):
        rows = quarters == count
        rotated[rows] = np.rot90(images[rows], count, axes=(2, 3))
    return rotated


def rotate_image_column(column: Any, sources: np.ndarray, quarters: np.ndarray) -> Any:
    """Rotate these rows of a column of images.

    Args:
        column: An array (N, C, H, H) or an `ImageFileColumn`.
        sources: Rows of the column (M,).
        quarters: Quarter turns to the left (M,).

    Returns:
        An array for an array; for an `ImageFileColumn` a view that has read nothing yet.
    """
    if isinstance(column, ImageFileColumn):
        return RotatedImages(column, NUM_ROTATIONS * sources + quarters)
    return rotate_images(column[sources], quarters)


ROTATION_LABELS = tuple(f"{90 * quarters}°" for quarters in range(NUM_ROTATIONS))
SOURCE_COLUMN = "original"
DATASET_HINT = "choose a dataset of images, such as data@data.of=mnist"


def rotations(*, of: DataPart, turns: Literal["one", "all"]) -> Dataset:
    """The images of another dataset, rotated to the left by 0°, 90°, 180° or 270°.

    The rotation pretext task of Gidaris, Singh & Komodakis 2018. The input keeps its name; the
    target is `rotation`. The dataset's own targets are left out.

    Args:
        of: A dataset whose input is one column of square images.
        turns: `one` rotation for each image, drawn once and for all; or `all` of them, where a
            split by group, as by=auto makes it, has all rotations of an image on one side.

    Raises:
        UserError: The input of `of` is not one column of square images.
    """
    if not isinstance(of, Dataset):
        raise UserError(f"data.of={of!r} is no dataset: {DATASET_HINT}")
    if list(of.inputs.values()) != ["image"]:
        inputs = ", ".join(f"{kind} '{name}'" for name, kind in of.inputs.items())
        raise UserError(f"data.of gives {inputs}, and only images can be turned: {DATASET_HINT}")
    (name,) = of.inputs
    all_turns = turns == "all"
    check_square(*of.dev[name].shape[2:])
    read_test = of.test

    def rotate_test() -> RawColumns:
        assert read_test is not None
        return rotate_rows(of, read_test(), name, all_turns, holdout.SPLIT_SEED + 1)

    return Dataset(
        dev=rotate_rows(of, of.dev, name, all_turns, holdout.SPLIT_SEED),
        test=None if read_test is None else rotate_test,
        inputs={name: "image"},
        targets={"rotation": "category"},
        preprocessors={},
        group=of.group or (SOURCE_COLUMN if all_turns else None),
        labels={"rotation": ROTATION_LABELS},
        note=of.note,
        synthetic=of.synthetic,
    )


def rotate_rows(
    dataset: Dataset, rows: RawColumns, name: str, all_turns: bool, seed: int
) -> RawColumns:
    """Rotate the rows of a split.

    Args:
        dataset: The dataset that the rows are of.
        rows: Its columns in this split.
        name: The column of images.
        all_turns: Every row by all rotations, instead of by one each, equally often all of them.
        seed: Which rotation each row has.
    """
    count = len(rows[name])
    # Each rotation equally often: chance is one in NUM_ROTATIONS.
    drawn = np.random.RandomState(seed).permutation(np.arange(count) % NUM_ROTATIONS)
    sources = np.repeat(np.arange(count), NUM_ROTATIONS) if all_turns else np.arange(count)
    quarters = np.tile(np.arange(NUM_ROTATIONS), count) if all_turns else drawn
    columns: RawColumns = {
        name: rotate_image_column(rows[name], sources, quarters),
        "rotation": quarters,
    }
    # An image and its rotations belong together, or the answer would leak across a split.
    if all_turns or dataset.group:
        columns[dataset.group or SOURCE_COLUMN] = (
            rows[dataset.group][sources] if dataset.group in rows else sources
        )
    return columns


def check_square(height: int, width: int) -> None:
    """Raise UserError for images that a quarter turn would give another shape."""
    if height != width:
        side = min(height, width)
        raise UserError(
            f"images of {height} × {width} have another shape after a quarter's turn: "
            f"make them square, data.of.size=[{side},{side}] where the data have such a setting"
        )
