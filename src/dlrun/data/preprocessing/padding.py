"""Truncates rows of word ids to a length, to be padded up to it in batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dlrun.core.dataset import Preprocessor, Ragged
from dlrun.data.loading.sequences import PaddingSide, SequenceColumn


def pad_sequences(
    rows: Ragged, size: int, length: int, pad: PaddingSide, cut: PaddingSide, *, bucket: bool
) -> SequenceColumn:
    """Sequences of at most `length` from rows of ids.

    Args:
        rows: Ids from 1 to size - 1.
        size: The number of distinct ids, padding included.
        length: The longest sequence.
        pad: The side of shorter rows that is filled with 0.
        cut: The side of longer rows that is cut off, as `truncating` of Keras' pad_sequences:
            front, its default and the book's, keeps the last ids.
        bucket: Whether batches are made of rows of similar length, and as wide as the longest.
    """
    lengths = np.diff(rows.offsets)
    new_lengths = np.minimum(lengths, length)
    # The end of a review says most about it: cutting the front keeps it.
    first = rows.offsets[:-1] + (lengths - new_lengths if cut == "front" else 0)
    starts = np.concatenate([[0], np.cumsum(new_lengths)])
    # The position of every value that stays, for all rows at once.
    positions = np.arange(starts[-1]) + np.repeat(first - starts[:-1], new_lengths)
    values = torch.from_numpy(rows.values[positions].astype(np.int32))
    return SequenceColumn(values, torch.from_numpy(starts), size, length, pad, not bucket)


@dataclass(frozen=True, eq=False)
class PaddedSequence(Preprocessor):
    """Word ids of the dataset (1 to words - 1) → sequences, see `pad_sequences`.

    Attributes:
        words: The number of distinct ids, padding included.
        length: The longest sequence; None until the dataset states it.
        pad: The side of shorter rows that is filled with 0.
        cut: The side of longer rows that is cut off.
        bucket: Whether batches are made of rows of similar length.
        names: Reads the word of each id, only when it is needed.
    """

    words: int
    length: int | None
    pad: PaddingSide
    cut: PaddingSide
    bucket: bool
    names: Callable[[], tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names()

    def fit(self, column: Ragged) -> PaddedSequence:
        """Nothing to fit: the words are numbered by the dataset."""
        return self

    def __call__(self, column: Ragged) -> SequenceColumn:
        return pad_sequences(
            column, self.words, self.length or 1, self.pad, self.cut, bucket=self.bucket
        )

    def state(self) -> dict[str, Any]:
        """The number of words, the length, and the sides that are padded and cut."""
        return {"words": self.words, "length": self.length, "pad": self.pad, "cut": self.cut}
