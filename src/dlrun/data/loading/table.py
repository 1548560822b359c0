"""Rows that fit in memory: columns on the device, handed out as batches without a copy of anything twice."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dlrun.core.random import derive_seed
from dlrun.core.types import Batch
from dlrun.data.loading.images import ImageColumn, LazyImageColumn, index_rows
from dlrun.data.loading.partition import partition_batches
from dlrun.data.loading.sequences import SequenceColumn, WindowColumn, bucket_by_length

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
CHUNK_BYTES = (
    1 << 22
)  # rows are gathered for many small batches at once, then cut: a cut costs a microsecond


@dataclass(frozen=True)
class SparseCounts:
    """Counts of words: row i holds words columns[starts[i]:starts[i + 1]], each as often as `values` says.

    Indices are int32. A batch is a sparse CSR tensor of shape (B, width).
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def device(self) -> torch.device:
        return self.starts.device

    @property
    def row_bytes(self) -> int:
        return max(1, 8 * len(self.columns) // max(1, len(self)))

    def to(self, device: torch.device) -> SparseCounts:
        return SparseCounts(
            self.starts.to(device), self.columns.to(device), self.values.to(device), self.width
        )

    @cached_property
    def matrix(self) -> Any:
        """The same rows as scipy sees them, without a copy; on the CPU only."""
        from scipy.sparse import csr_array

        parts = (self.values.numpy(), self.columns.numpy(), self.starts.numpy())
        return csr_array(parts, shape=(len(self), self.width))

    def select(self, rows: Tensor | slice) -> SparseCounts:
        """The bag of these rows."""
        rows = (
            torch.arange(len(self), device=self.starts.device)[rows]
            if isinstance(rows, slice)
            else rows
        )
        if (
            self.starts.device.type == "cpu"
        ):  # scipy copies row by row, torch word by word (10x slower)
            taken = self.matrix[rows.numpy()]
            starts, columns, values = map(
                torch.from_numpy, (taken.indptr, taken.indices, taken.data)
            )
            return SparseCounts(starts, columns, values, self.width)
        first, lengths = self.starts[rows], self.starts.diff()[rows]
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)])
        where = torch.arange(int(starts[-1]), device=starts.device)
        where += torch.repeat_interleave(first - starts[:-1], lengths)
        return SparseCounts(starts, self.columns[where], self.values[where], self.width)

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """Sparse CSR tensors of these rows, `size` rows each."""
        taken = self.select(rows)
        edges = [*taken.starts[:-1:size].tolist(), len(taken.columns)]
        for number, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
            starts = taken.starts[number * size : (number + 1) * size + 1] - low
            parts = (starts, taken.columns[low:high], taken.values[low:high])
            yield torch.sparse_csr_tensor(
                *parts, (len(starts) - 1, self.width), check_invariants=False
            )


@dataclass(frozen=True)
class DenseColumn:
    """Any tensor, one row a place on its first axis."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def row_bytes(self) -> int:
        return max(1, self.values[:1].numel() * self.values.element_size())

    def to(self, device: torch.device) -> DenseColumn:
        return DenseColumn(self.values.to(device))

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These rows, `size` at a time."""
        return iter(index_rows(self.values, rows).split(size))


StoredColumn = (
    DenseColumn | ImageColumn | LazyImageColumn | SparseCounts | SequenceColumn | WindowColumn
)


class Table:
    """A source of batches over columns in memory. The order of a shuffled epoch is a function of (seed, epoch)."""

    def __init__(self, columns: dict[str, StoredColumn]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def to(self, device: torch.device) -> Table:
        """The same table on a device."""
        return Table({name: column.to(device) for name, column in self.columns.items()})

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
        """Batches of `size` rows (the last one may be smaller), from batch number `start` on.

        They lie in memory as if all from the first one on were asked for: where a batch begins at another address, the
        CPU's matrix products round in another way.
        """
        order, chunk = self._epoch_order(seed, epoch, size), self._batches_per_chunk(size)
        begun = start if self._has_lazy_column else start // chunk * chunk
        found = self._iter_batches(order, size, begun, chunk, rank, world)
        for _ in range(start - begun):
            next(found, None)
        return found

    def _iter_batches(
        self, order: Tensor | None, size: int, start: int, chunk: int, rank: int, world: int
    ) -> Iterator[Batch]:
        """Batches from number `start` on, gathered `chunk` batches at a time."""
        for low in range(start * size, len(self), chunk * size):
            rows = (
                slice(low, low + chunk * size) if order is None else order[low : low + chunk * size]
            )
            for some, count in (
                [(rows, size)]
                if world == 1
                else partition_batches(self._row_numbers(rows), size, rank, world)
            ):
                cuts = [column.batches(some, count) for column in self.columns.values()]
                for parts in zip(*cuts, strict=True):
                    found = parts if world == 1 else map(align_memory, parts)
                    yield dict(zip(self.columns, found, strict=True))

    def _row_numbers(self, rows: Tensor | slice) -> Tensor:
        if isinstance(rows, Tensor):
            return rows
        return torch.arange(len(self), device=next(iter(self.columns.values())).device)[rows]

    def _epoch_order(self, seed: int | None, epoch: int, size: int) -> Tensor | None:
        if seed is None:
            return None
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
        first = next(iter(self.columns.values()))
        order = torch.randperm(len(self), generator=generator)
        found = [
            lengths
            for column in self.columns.values()
            if (lengths := getattr(column, "lengths", None)) is not None
        ]
        if found:  # of several texts, that which takes longest decides
            order = bucket_by_length(order, torch.stack(found).amax(0).cpu(), size, generator)
        return order.to(first.device)

    @property
    def _has_lazy_column(self) -> bool:
        return any(isinstance(column, LazyImageColumn) for column in self.columns.values())

    def _batches_per_chunk(self, size: int) -> int:
        if self._has_lazy_column:
            return -(-len(self) // size)  # all at once: its workers read ahead
        row = sum(column.row_bytes for column in self.columns.values())
        return max(1, min(256, CHUNK_BYTES // (row * size)))


@dataclass(frozen=True)
class EmptyBatches:
    """A source of empty batches, for an objective that reads no data: as if there were `count` rows of nothing."""

    count: int

    def __len__(self) -> int:
        return self.count

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
        """Empty batches from number `start` on, one for each `size` ticks."""
        return ({} for _ in range(start, -(-self.count // size)))


def align_memory(part: Tensor) -> Tensor:
    """The same rows at the beginning of memory of their own.

    The part of a batch may begin at any address, and at another one when a run goes on in the middle of an epoch; the
    CPU's matrix products round in another way where memory is not aligned.
    """
    return part.clone() if part.layout is torch.strided and part.storage_offset() else part
