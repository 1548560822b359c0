"""Whose rows are whose, where several processes share every batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BatchPartition:
    """One process's part of a batch of `whole` rows: it holds `held` of them from number `first` on, and `rows` count.

    A process that no row is left for holds all that there are, and none of them counts: so it takes the same steps.
    """

    first: int
    local_rows: int
    counted_rows: int
    batch_rows: int


def partition_batch(whole: int, rank: int, size: int) -> BatchPartition:
    """The part of process number `rank` of `size`: contiguous, and none has more than one row more than another."""
    first, end = whole * rank // size, whole * (rank + 1) // size
    return (
        BatchPartition(first, end - first, end - first, whole)
        if end > first
        else BatchPartition(0, whole, 0, whole)
    )


def partition_batches(
    rows: Tensor, batch: int, rank: int, size: int
) -> Iterator[tuple[Tensor, int]]:
    """The rows that a process holds of many batches in turn, and how many of them are its part of one batch.

    rows: (n,) row numbers, each `batch` of them a batch; a last one that is smaller comes by itself.
    """
    whole = len(rows) // batch * batch
    for several in (rows[:whole].view(-1, batch), rows[whole:].view(1, -1)):
        if several.numel():
            mine = partition_batch(several.shape[1], rank, size)
            yield several[:, mine.first : mine.first + mine.local_rows].reshape(-1), mine.local_rows
