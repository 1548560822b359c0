"""Rows of several tables side by side.

Batches in which each member has rows of its own, in an order of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlrun.core.dataset import Source
from dlrun.core.types import Batch
from dlrun.data.loading.images import ImageColumn
from dlrun.data.loading.sequences import WindowColumn
from dlrun.data.loading.table import CHUNK_BYTES, DenseColumn, SparseCounts, Table

SUPPORTED_COLUMNS = (DenseColumn, ImageColumn, WindowColumn, SparseCounts)


class Segment(NamedTuple):
    """Batches in which members low … high - 1 each have equally many rows.

    So many rows each from row `first` on.
    """

    low: int
    high: int
    first: int
    rows: int


def split_into_segments(counts: Sequence[int], size: int) -> list[Segment]:
    """The batches of a sweep in which member i has counts[i] rows, `size` a batch.

    Neighbors with equally many rows in a batch are together. For k-fold's nearly equal folds that
    is one stretch for all, and one or two for last batches. A member's own batches come in their
    order.
    """
    segments: list[Segment] = []
    open_segments: dict[
        tuple[int, int], int
    ] = {}  # members → the stretch of whole batches that may go on
    for first in range(0, max(counts), size):
        rows_per_member = [min(size, count - first) if count > first else 0 for count in counts]
        for low, high in iter_equal_runs(rows_per_member):
            index = open_segments.get((low, high))
            if index is not None and segments[index].first + segments[index].rows == first:
                previous = segments[index]
                segments[index] = previous._replace(rows=previous.rows + rows_per_member[low])
            else:
                open_segments[low, high] = len(segments)
                segments.append(Segment(low, high, first, rows_per_member[low]))
    return segments


def iter_equal_runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where neighbors are equal and not 0: (first place, place after the last)."""
    low = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[low]:
            if numbers[low]:
                yield low, index
            low = index


class ParallelBatches(Source):
    """A source over several tables. A column of a batch is (B, members, …); of bags one matrix,
    with a block a member.

    Args:
        seeds: Of each member's order in training.
        first: Which part of each member's order it hands out; first is at the beginning of a batch.
        rows: Which part of each member's order it hands out; first is at the beginning of a batch.
    """

    def __init__(
        self, tables: Sequence[Table], seeds: Sequence[int], first: int, rows: int
    ) -> None:
        self.tables, self.seeds, self.first, self.rows = tables, seeds, first, rows

    def __len__(self) -> int:
        return self.rows

    def batches(
        self,
        size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """Batches of `size` rows of each member.

        Without a seed in the rows' own order, else in each member's.
        """
        first = self.first + start * size
        # Whole chunks are gathered at once, then cut: one index select for many batches.
        step = (
            size if first else size * self._batches_per_chunk(size)
        )  # a later start counts in its own batches
        seeds = self.seeds if seed is not None else [None] * len(self.seeds)
        iterators = [
            table.batches(step, seed=member_seed, epoch=epoch, start=first // size)
            for table, member_seed in zip(self.tables, seeds, strict=True)
        ]
        rows_left = self.rows - start * size
        while rows_left > 0:
            chunks = [next(iterator) for iterator in iterators]
            yield from stack_batches(chunks, min(step, rows_left), size)
            rows_left -= step

    def _batches_per_chunk(self, size: int) -> int:
        row = sum(column.row_bytes for table in self.tables for column in table.columns.values())
        return max(1, min(256, CHUNK_BYTES // (row * size)))


def stack_batches(chunks: Sequence[Batch], rows: int, size: int) -> Iterator[Batch]:
    """The first so many rows of each chunk, `size` a batch. Dense columns come first, for their
    length is a batch's.
    """
    dense = [name for name, column in chunks[0].items() if column.layout == torch.strided]
    bags = [name for name in chunks[0] if name not in dense]
    pieces = [
        torch.stack([chunk[name][:rows] for chunk in chunks], 1).split(size) for name in dense
    ]
    pieces += [block_diagonal([chunk[name] for chunk in chunks], rows, size) for name in bags]  # type: ignore[misc]
    for columns in zip(*pieces, strict=True):
        yield dict(zip([*dense, *bags], columns, strict=True))


def block_diagonal(chunks: Sequence[Tensor], rows: int, size: int) -> Iterator[Tensor]:
    """Sparse CSR matrices (members · B, members · width).

    A member's rows stand together, in columns of its own.
    """
    width = chunks[0].shape[1]
    starts = [chunk.crow_indices() for chunk in chunks]
    columns = [chunk.col_indices() + member * width for member, chunk in enumerate(chunks)]
    values = [chunk.values() for chunk in chunks]
    lows = list(range(0, rows, size))
    edges = [[int(edge) for edge in start[[*lows, rows]].tolist()] for start in starts]
    for number, low in enumerate(lows):
        high, row_starts, offset = min(low + size, rows), [starts[0].new_zeros(1)], 0
        for member, start in enumerate(starts):
            # Row pointers go on where the previous member's values end.
            row_starts.append(start[low + 1 : high + 1] + (offset - edges[member][number]))
            offset += edges[member][number + 1] - edges[member][number]
        spans = [slice(edge[number], edge[number + 1]) for edge in edges]
        joined: Any = [
            torch.cat([chunk[span] for chunk, span in zip(chunk_tensors, spans, strict=True)])
            for chunk_tensors in (columns, values)
        ]
        shape = (len(chunks) * (high - low), len(chunks) * width)
        yield torch.sparse_csr_tensor(
            torch.cat(row_starts), joined[0], joined[1], shape, check_invariants=False
        )
