"""Rows of word numbers cut to a length, and to be filled up to it in batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dlrun.core.dataset import Ragged
from dlrun.data.loading.sequences import PaddingSide, SequenceColumn


def pad_sequences(
    rows: Ragged, size: int, length: int, pad: PaddingSide, cut: PaddingSide, *, bucket: bool
) -> SequenceColumn:
    """Rows of numbers from 1 to size - 1 as sequences of at most `length`.

    pad: the side that is filled up with 0 where a row is shorter. cut: the side from which is taken away where it is
    longer, as `truncating` of Keras' pad_sequences: front keeps the last ones, which is its default, and the book's.
    bucket: rows of about one length make a batch, which is as wide as the longest of them.
    """
    lengths = np.diff(rows.offsets)
    kept = np.minimum(lengths, length)
    first = rows.offsets[:-1] + (lengths - kept if cut == "front" else 0)
    starts = np.concatenate([[0], np.cumsum(kept)])
    values = rows.values[np.arange(starts[-1]) + np.repeat(first - starts[:-1], kept)].astype(
        np.int32
    )
    return SequenceColumn(
        torch.from_numpy(values), torch.from_numpy(starts), size, length, pad, not bucket
    )


@dataclass(frozen=True, eq=False)
class PaddedSequence:
    """Word numbers that a dataset has given (1 to words - 1) → sequences, see `pad_sequences`. names: word of each number."""

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
        """Nothing to learn: the words are numbered by the dataset."""
        return self

    def __call__(self, column: Ragged) -> SequenceColumn:
        return pad_sequences(
            column, self.words, self.length or 1, self.pad, self.cut, bucket=self.bucket
        )

    def state(self) -> dict[str, Any]:
        """How long, and on which side rows are filled up and cut."""
        return {"words": self.words, "length": self.length, "pad": self.pad, "cut": self.cut}
