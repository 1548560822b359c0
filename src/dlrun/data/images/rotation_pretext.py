"""The rotation pretext task (Gidaris et al. 2018): images turned, and the question by how much."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.config.constraints import DataPart
from dlrun.core.dataset import Raw, Rows
from dlrun.core.errors import Refused
from dlrun.data.images.image_column import Pictures
from dlrun.data.tabular import holdout

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


TURNS = tuple(f"{90 * quarters}°" for quarters in range(QUARTERS))
OWNER = "original"
CHOOSE = "choose a dataset of pictures, such as data@data.of=mnist"


def rotations(*, of: DataPart, turns: Literal["one", "all"]) -> Raw:
    """The pictures of `of`, turned to the left by 0°, 90°, 180° or 270° (Gidaris, Singh & Komodakis 2018).

    turns: one, drawn for each picture, always the same; or all, of which a split by group, as by=auto makes it, has
    every picture on one side only. The input keeps its name; target `rotation`. What the pictures were labelled with is
    not there. Raises Refused where the input of `of` is not one column of square pictures.
    """
    if not isinstance(of, Raw):
        raise Refused(f"data.of={of!r} is no dataset: {CHOOSE}")
    if list(of.inputs.values()) != ["image"]:
        found = ", ".join(f"{kind} '{name}'" for name, kind in of.inputs.items())
        raise Refused(f"data.of gives {found}, and only pictures can be turned: {CHOOSE}")
    (name,), every = of.inputs, turns == "all"
    refuse_oblong(*of.dev[name].shape[2:])
    sealed = of.test
    return Raw(
        dev=rows(of, of.dev, name, every, holdout.SEED),
        test=None if sealed is None else lambda: rows(of, sealed(), name, every, holdout.SEED + 1),
        inputs={name: "image"},
        targets={"rotation": "category"},
        learn={},
        group=of.group or (OWNER if every else None),
        labels={"rotation": TURNS},
        note=of.note,
    )


def rows(of: Raw, found: Rows, name: str, every: bool, seed: int) -> Rows:
    """The rows of a split, turned: each once, as the seed has it, as often by every turn; or each by all turns."""
    count = len(found[name])
    drawn = np.random.RandomState(seed).permutation(np.arange(count) % QUARTERS)
    which = np.repeat(np.arange(count), QUARTERS) if every else np.arange(count)
    quarters = np.tile(np.arange(QUARTERS), count) if every else drawn
    columns: Rows = {name: turned_column(found[name], which, quarters), "rotation": quarters}
    if every or of.group:
        columns[of.group or OWNER] = found[of.group][which] if of.group in found else which
    return columns


def refuse_oblong(height: int, width: int) -> None:
    """Raise Refused for pictures that a quarter's turn would give another shape."""
    if height != width:
        side = min(height, width)
        raise Refused(
            f"pictures of {height} × {width} have another shape after a quarter's turn: make them square, "
            f"data.of.size=[{side},{side}] where the data have such a setting"
        )
