"""Raw columns whose rows are no array's: lists of different lengths, and windows onto one series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: np.ndarray) -> Ragged:
        """The rows of these indices, in this order."""
        import numpy as np

        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(self.offsets[:-1][rows], lengths) + within], offsets)


@dataclass(frozen=True)
class Windowed:
    """Windows onto one series (T, columns), or onto the tokens of one text (T,): row i is values[first[i] + offsets].

    Steps change `values` for all rows.
    """

    values: np.ndarray
    first: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: np.ndarray) -> Windowed:
        """The windows of these indices, in this order."""
        return Windowed(self.values, self.first[rows], self.offsets)

    def seen(self) -> np.ndarray:
        """The part of the series (t, columns) that lies within these windows, each row of it once."""
        import numpy as np

        length = len(self.values) + 1
        begun = np.bincount(self.first + self.offsets[0], minlength=length)
        ended = np.bincount(self.first + self.offsets[-1] + 1, minlength=length)
        return self.values[np.cumsum(begun - ended)[:-1] > 0]
