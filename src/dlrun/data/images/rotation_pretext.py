"""The rotation pretext task (Gidaris et al. 2018): images turned, and the question by how much."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.config.constraints import DataPart
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError
from dlrun.data.images.image_column import ImageFileColumn
from dlrun.data.tabular import holdout

NUM_ROTATIONS = 4


@dataclass(frozen=True, eq=False)
class RotatedImages:
    """Rows of a column of square pictures, each with a turn, as uint8 (N, C, H, W); indexed like that column.

    rows: QUARTERS · row of the column + quarters, to the left (N,).
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
        return next(self.batches(self.rows[index : index + 1 or None], 1))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it in memory."""
        return np.concatenate(list(self.batches(self.rows, max(1, len(self))))).astype(
            dtype or np.uint8, copy=False
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.column.shape[1:])

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """The pictures of these of the numbers `rotate_rows`, uint8 (B, C, H, W), `size` at a time."""
        which, quarters = np.divmod(rows, NUM_ROTATIONS)
        for number, found in enumerate(self.column.batches(self.column.rows[which], size)):
            yield rotate_images(found, quarters[number * size : (number + 1) * size])

    def name(self, index: int) -> str:
        """The file of a row."""
        return self.column.name(int(self.rows[index]) // NUM_ROTATIONS)

    @property
    def digest(self) -> str:
        """The sha256 of the pictures and their turns, see Pictures."""
        return hashlib.sha256(
            self.column.digest.encode() + self.rows.astype(np.int64).tobytes()
        ).hexdigest()

    @property
    def pixel_hashes(self) -> np.ndarray:
        """A digest of each row (N, 16), uint8: of equal pictures, equally turned, equal ones."""
        which, quarters = np.divmod(self.rows, NUM_ROTATIONS)
        marks = np.concatenate(
            [self.column.pixel_hashes[which], quarters.astype(np.uint8)[:, None]], 1
        )
        digests = [hashlib.blake2b(mark.tobytes(), digest_size=16).digest() for mark in marks]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def rotate_images(pictures: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    """Square pictures (N, C, H, H), each turned to the left by so many quarters (N,)."""
    found = np.array(pictures)
    for count in range(1, NUM_ROTATIONS):
        rows = quarters == count
        found[rows] = np.rot90(pictures[rows], count, axes=(2, 3))
    return found


def rotate_image_column(column: Any, which: np.ndarray, quarters: np.ndarray) -> Any:
    """These rows of a column of pictures, turned: an array of an array; a view that reads nothing yet of Pictures."""
    if isinstance(column, ImageFileColumn):
        return RotatedImages(column, NUM_ROTATIONS * which + quarters)
    return rotate_images(column[which], quarters)


ROTATION_LABELS = tuple(f"{90 * quarters}°" for quarters in range(NUM_ROTATIONS))
SOURCE_COLUMN = "original"
DATASET_HINT = "choose a dataset of pictures, such as data@data.of=mnist"


def rotations(*, of: DataPart, turns: Literal["one", "all"]) -> Dataset:
    """The pictures of `of`, turned to the left by 0°, 90°, 180° or 270° (Gidaris, Singh & Komodakis 2018).

    turns: one, drawn for each picture, always the same; or all, of which a split by group, as by=auto makes it, has
    every picture on one side only. The input keeps its name; target `rotation_matrix`. What the pictures were labelled with is
    not there. Raises UserError where the input of `of` is not one column of square pictures.
    """
    if not isinstance(of, Dataset):
        raise UserError(f"data.of={of!r} is no dataset: {DATASET_HINT}")
    if list(of.inputs.values()) != ["image"]:
        found = ", ".join(f"{kind} '{name}'" for name, kind in of.inputs.items())
        raise UserError(f"data.of gives {found}, and only pictures can be turned: {DATASET_HINT}")
    (name,), every = of.inputs, turns == "all"
    check_square(*of.dev[name].shape[2:])
    sealed = of.test
    return Dataset(
        dev=rotate_rows(of, of.dev, name, every, holdout.SPLIT_SEED),
        test=None
        if sealed is None
        else lambda: rotate_rows(of, sealed(), name, every, holdout.SPLIT_SEED + 1),
        inputs={name: "image"},
        targets={"rotation": "category"},
        preprocessors={},
        group=of.group or (SOURCE_COLUMN if every else None),
        labels={"rotation": ROTATION_LABELS},
        note=of.note,
    )


def rotate_rows(of: Dataset, found: RawColumns, name: str, every: bool, seed: int) -> RawColumns:
    """The rows of a split, turned: each once, as the seed has it, as often by every turn; or each by all turns."""
    count = len(found[name])
    drawn = np.random.RandomState(seed).permutation(np.arange(count) % NUM_ROTATIONS)
    which = np.repeat(np.arange(count), NUM_ROTATIONS) if every else np.arange(count)
    quarters = np.tile(np.arange(NUM_ROTATIONS), count) if every else drawn
    columns: RawColumns = {
        name: rotate_image_column(found[name], which, quarters),
        "rotation": quarters,
    }
    if every or of.group:
        columns[of.group or SOURCE_COLUMN] = found[of.group][which] if of.group in found else which
    return columns


def check_square(height: int, width: int) -> None:
    """Raise UserError for pictures that a quarter's turn would give another shape."""
    if height != width:
        side = min(height, width)
        raise UserError(
            f"pictures of {height} × {width} have another shape after a quarter's turn: make them square, "
            f"data.of.size=[{side},{side}] where the data have such a setting"
        )
