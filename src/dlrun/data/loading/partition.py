"""Whose rows are whose, where several processes share every batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Share:
    """One process's part of a batch of `whole` rows: it holds `held` of them from number `first` on, and `rows` count.

    A process that no row is left for holds all that there are, and none of them counts: so it takes the same steps.
    """

    first: int
    held: int
    rows: int
    whole: int


def share(whole: int, rank: int, size: int) -> Share:
    """The part of process number `rank` of `size`: contiguous, and none has more than one row more than another."""
    first, end = whole * rank // size, whole * (rank + 1) // size
    return Share(first, end - first, end - first, whole) if end > first else Share(0, whole, 0, whole)


def pieces(rows: Tensor, batch: int, rank: int, size: int) -> Iterator[tuple[Tensor, int]]:
    """The rows that a process holds of many batches in turn, and how many of them are its part of one batch.

    rows: (n,) row numbers, each `batch` of them a batch; a last one that is smaller comes by itself.
    """
    whole = len(rows) // batch * batch
    for several in (rows[:whole].view(-1, batch), rows[whole:].view(1, -1)):
        if several.numel():
            mine = share(several.shape[1], rank, size)
            yield several[:, mine.first : mine.first + mine.held].reshape(-1), mine.held
