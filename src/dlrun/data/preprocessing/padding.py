"""Word ids that a dataset has numbered: as multi-hot rows, or as sequences of one length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from dlrun.core.dataset import Preprocessor, Ragged
from dlrun.data.loading.table import SparseCounts

if TYPE_CHECKING:
    from dlrun.data.loading.sequences import SequenceColumn

# As Keras numbers words: 0 is padding, 1 the start of a text, 2 any other word, then they begin.
START, OUT_OF_WORDS, INDEX_FROM = 1, 2, 3
UNKNOWN_SYMBOL = "▯"  # stands for a token outside the vocabulary
PaddingSide = Literal["front", "back"]


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
    from dlrun.data.loading.sequences import SequenceColumn

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


@dataclass(frozen=True, eq=False)
class MultiHot(Preprocessor):
    """Word lists → the set of words of each row, as sparse counts (book §3.4, §3.5).

    Attributes:
        words: The number of columns.
        chunk: Rows marked at once: a table of chunk × words bytes stays in the processor's cache.
    """

    words: int
    chunk: int = 512

    def fit(self, column: Ragged) -> MultiHot:
        """Nothing to fit: the words are numbered by the dataset."""
        return self

    def __call__(self, column: Ragged) -> SparseCounts:
        marks = np.zeros((min(self.chunk, max(1, len(column))), self.words), np.bool_)
        flat, words_per_chunk, lengths = marks.reshape(-1), [], []
        for first in range(0, len(column), len(marks)):
            offsets = column.offsets[first : first + len(marks) + 1]
            words = column.values[offsets[0] : offsets[-1]]
            rows = np.repeat(np.arange(len(offsets) - 1) * self.words, np.diff(offsets))
            flat[rows + words] = True
            marked = np.flatnonzero(flat)
            flat[marked] = False  # clears only what was set: the table is used again
            words_per_chunk.append(marked % self.words)
            lengths.append(np.bincount(marked // self.words, minlength=len(offsets) - 1))
        starts = np.concatenate([[0], np.cumsum(np.concatenate([*lengths, []]))]).astype(np.int32)
        columns = np.concatenate([*words_per_chunk, np.empty(0, np.int64)]).astype(np.int32)
        return SparseCounts(
            torch.from_numpy(starts),
            torch.from_numpy(columns),
            torch.ones(len(columns)),
            self.words,
        )

    def state(self) -> dict[str, Any]:
        """The number of words."""
        return {"words": self.words}
