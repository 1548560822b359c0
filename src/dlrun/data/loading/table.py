"""Batches of rows that fit in memory: index selects on the device, shared among processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dlrun.core.dataset import Source, StoredColumn
from dlrun.core.device import derive_seed
from dlrun.core.types import Batch


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


warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
# Rows are gathered for many small batches at once and then cut, which costs a microsecond a batch.
CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class SparseCounts(StoredColumn):
    """Counts of words: row i holds words columns[starts[i]:starts[i + 1]].

    A batch is a sparse CSR tensor (B, width).

    Attributes:
        starts: Row offsets (N + 1,), int32.
        columns: The words of all rows, end to end, int32.
        values: How often each of them stands in its row.
        width: The number of words in the vocabulary.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def num_ids(self) -> int:
        return self.width

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
        """The same rows as a scipy matrix, without a copy; on the CPU only."""
        from scipy.sparse import csr_array

        arrays = (self.values.numpy(), self.columns.numpy(), self.starts.numpy())
        return csr_array(arrays, shape=(len(self), self.width))

    def select(self, rows: Tensor | slice) -> SparseCounts:
        """The counts of these rows."""
        device = self.starts.device
        if isinstance(rows, slice):
            rows = torch.arange(len(self), device=device)[rows]
        if device.type == "cpu":  # scipy copies row by row, torch word by word (10x slower)
            selected = self.matrix[rows.numpy()]
            starts, columns, values = map(
                torch.from_numpy, (selected.indptr, selected.indices, selected.data)
            )
            return SparseCounts(starts, columns, values, self.width)
        first, lengths = self.starts[rows], self.starts.diff()[rows]
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)])
        index = torch.arange(int(starts[-1]), device=starts.device)
        index += torch.repeat_interleave(first - starts[:-1], lengths)
        return SparseCounts(starts, self.columns[index], self.values[index], self.width)

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """Sparse CSR tensors of these rows, `size` rows each."""
        selected = self.select(rows)
        # One transfer to Python for all batches.
        edges = [*selected.starts[:-1:size].tolist(), len(selected.columns)]
        for number, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
            starts = selected.starts[number * size : (number + 1) * size + 1] - low
            yield torch.sparse_csr_tensor(
                starts,
                selected.columns[low:high],
                selected.values[low:high],
                (len(starts) - 1, self.width),
                check_invariants=False,  # they hold by construction, and cost a pass over the batch
            )


@dataclass(frozen=True)
class DenseColumn(StoredColumn):
    """A tensor with one row for each index of its first axis.

    Attributes:
        values: The rows (N, …).
    """

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

    def materialize(self) -> Tensor:
        return self.values

    def to(self, device: torch.device) -> DenseColumn:
        return DenseColumn(self.values.to(device))

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These rows, `size` at a time."""
        return iter(index_rows(self.values, rows).split(size))


def index_rows(values: Tensor, rows: Tensor | slice) -> Tensor:
    """These rows of a tensor."""
    if isinstance(rows, slice):
        return values[rows]
    return values.index_select(0, rows.to(values.device))


def transfer_to_device(values: Tensor, device: torch.device | None) -> Tensor:
    """A copy on a device; toward CUDA without waiting for it."""
    if device is None or device == values.device:
        return values
    if device.type == "cuda":  # only pinned memory is copied asynchronously
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class Table(Source):
    """A source of batches over columns in memory.

    The order of a shuffled epoch is a function of (seed, epoch).

    Attributes:
        columns: The stored columns, all of the same length.
    """

    def __init__(self, columns: Mapping[str, StoredColumn]) -> None:
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
        """Batches of rows; see `Source.batches`.

        Args:
            size: The number of rows of a batch; the last one may be smaller.
            seed: Of the shuffled order; None for the rows' own order.
            epoch: The epoch, which changes the shuffled order.
            start: The first batch to yield.
            rank: The process whose share is yielded.
            world: The number of processes.
        """
        order, chunk = self._epoch_order(seed, epoch, size), self._batches_per_chunk(size)
        # Chunks begin where they do in a whole epoch: where a batch begins at another address,
        # the CPU's matrix products round in another way, and a resumed run would differ.
        first = start if self._reads_ahead else start // chunk * chunk
        batches = self._iter_batches(order, size, first, chunk, rank, world)
        for _ in range(start - first):
            next(batches, None)
        return batches

    def _iter_batches(
        self, order: Tensor | None, size: int, start: int, chunk: int, rank: int, world: int
    ) -> Iterator[Batch]:
        """Batches from number `start` on, gathered `chunk` batches at a time."""
        for low in range(start * size, len(self), chunk * size):
            high = low + chunk * size
            rows = slice(low, high) if order is None else order[low:high]
            shares: Iterable[tuple[Tensor | slice, int]] = [(rows, size)]
            if world > 1:
                shares = partition_batches(self._row_numbers(rows), size, rank, world)
            for local_rows, count in shares:
                columns = [column.batches(local_rows, count) for column in self.columns.values()]
                for batch in zip(*columns, strict=True):
                    # The share of a batch begins at any address: aligned, it rounds like the whole.
                    values = batch if world == 1 else map(align_memory, batch)
                    yield dict(zip(self.columns, values, strict=True))

    def _row_numbers(self, rows: Tensor | slice) -> Tensor:
        if isinstance(rows, Tensor):
            return rows
        return torch.arange(len(self), device=next(iter(self.columns.values())).device)[rows]

    def _epoch_order(self, seed: int | None, epoch: int, size: int) -> Tensor | None:
        if seed is None:
            return None
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
        first = next(iter(self.columns.values()))
        # On the CPU, whatever the device: the order is the same on each.
        order = torch.randperm(len(self), generator=generator)
        every_length = (column.lengths for column in self.columns.values())
        lengths = [length for length in every_length if length is not None]
        if lengths:  # of several texts in a row, the longest one decides
            from dlrun.data.loading.sequences import bucket_by_length

            order = bucket_by_length(order, torch.stack(lengths).amax(0).cpu(), size, generator)
        return order.to(first.device)

    @property
    def _reads_ahead(self) -> bool:
        return any(column.reads_ahead for column in self.columns.values())

    def _batches_per_chunk(self, size: int) -> int:
        if self._reads_ahead:
            return -(-len(self) // size)  # one chunk: the decoder's workers read ahead in it
        row_bytes = sum(column.row_bytes for column in self.columns.values())
        return max(1, min(256, CHUNK_BYTES // (row_bytes * size)))


@dataclass(frozen=True)
class EmptyBatches(Source):
    """A source of empty batches, for an objective that reads no data.

    Attributes:
        count: The number of rows of nothing.
    """

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
        """Empty batches from number `start` on; see `Source.batches`."""
        return ({} for _ in range(start, -(-self.count // size)))


def align_memory(rows: Tensor) -> Tensor:
    """The same rows at the beginning of their own memory.

    The share of a batch begins at any address, and at another one when a run is resumed within an
    epoch; the CPU's matrix products round in another way where memory is not aligned.
    """
    return rows.clone() if rows.layout is torch.strided and rows.storage_offset() else rows
