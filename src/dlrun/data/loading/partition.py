"""Which rows of a batch belong to which process of a distributed run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BatchPartition:
    """The share of one process in a batch.

    A process that no row is left for holds the whole batch and counts none of it, so that it takes
    the same steps as the others.

    Attributes:
        first: The index of its first row.
        local_rows: The number of rows that it holds.
        counted_rows: The number of them that count in sums over processes.
        batch_rows: The number of rows of the whole batch.
    """

    first: int
    local_rows: int
    counted_rows: int
    batch_rows: int


def partition_batch(batch_rows: int, rank: int, size: int) -> BatchPartition:
    """The contiguous share of one process; shares differ by one row at most.

    Args:
        batch_rows: The number of rows of the batch.
        rank: The process, from 0.
        size: The number of processes.
    """
    first, end = batch_rows * rank // size, batch_rows * (rank + 1) // size
    # Collective operations wait for every process: none may leave a step out.
    if end == first:
        return BatchPartition(0, batch_rows, 0, batch_rows)
    return BatchPartition(first, end - first, end - first, batch_rows)


def partition_batches(
    rows: Tensor, batch: int, rank: int, size: int
) -> Iterator[tuple[Tensor, int]]:
    """The rows of one process in several batches at once.

    Args:
        rows: Row indices (n,), each `batch` of them one batch.
        batch: The number of rows of a batch; the last one may be smaller.
        rank: The process, from 0.
        size: The number of processes.

    Yields:
        Row indices, and how many of them are the share of one batch: first for all full batches,
        then for a smaller last one.
    """
    # All full batches are one reshape, without a Python loop.
    full_rows = len(rows) // batch * batch
    for batches in (rows[:full_rows].view(-1, batch), rows[full_rows:].view(1, -1)):
        if batches.numel():
            share = partition_batch(batches.shape[1], rank, size)
            end = share.first + share.local_rows
            yield batches[:, share.first : end].reshape(-1), share.local_rows
