"""Batches of rows that do not fit in memory: a few files at a time, in a resumable order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import Source, StoredColumn
from dlrun.core.device import derive_seed
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Kind
from dlrun.data.loading.table import partition_batch, transfer_to_device

Made = TypeVar("Made")
FileRows = tuple[int, np.ndarray]  # the index of a file, and row indices within it
STORED_DTYPES = {"category": np.int64, "image": np.uint8}  # float32 for other kinds


class ShardReader(Protocol):
    """A column that lies in several files, and is prepared when it is read."""

    @property
    def name(self) -> str: ...

    @property
    def file_offsets(self) -> np.ndarray:
        """The index of each file's first row, and of the row after the last one."""
        ...

    @property
    def window(self) -> int:
        """The number of files in memory at once."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a prepared row."""
        ...

    def read_rows(self, file: int, rows: np.ndarray) -> np.ndarray:
        """These rows of one file, prepared."""
        ...


@dataclass(frozen=True)
class ShardedColumn(StoredColumn):
    """One column of a StreamingTable.

    Attributes:
        shard_reader: What reads its files.
        rows: Which rows of all files these are (int64), in order.
        kind: What its values are.
        device: Where batches go.
    """

    shard_reader: ShardReader
    rows: np.ndarray
    kind: Kind
    device: torch.device = torch.device("cpu")

    reads_files = True

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.shard_reader.row_shape
        # As in a DenseColumn: scalars have shape (1,), categories ().
        return shape if shape or self.kind == "category" else (1,)

    def materialize(self) -> NoReturn:
        """There is no tensor of all rows: always raises UserError."""
        raise UserError(
            f"'{self.shard_reader.name}' is read file by file, and this part of dlrun asks for all "
            "rows at once: use a model that learns batch by batch, such as model=dense"
        )

    def to(self, device: torch.device) -> ShardedColumn:
        return replace(self, device=device)

    def read_files(self, files: list[FileRows]) -> Tensor:
        """The rows of these files, one after the other, on the CPU."""
        dtype = STORED_DTYPES.get(self.kind, np.float32)
        values = np.empty((sum(len(rows) for _, rows in files), *self.shape), dtype)
        first = 0
        for file, rows in files:
            read = self.shard_reader.read_rows(file, rows)
            values[first : first + len(rows)] = read.reshape(len(rows), *self.shape)
            first += len(rows)
        return torch.from_numpy(values)

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These rows, `size` at a time; all of them are in memory together."""
        picked = self.rows[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        # Read in the order of the files, each file once; then put back into the order asked for.
        order = np.argsort(picked, kind="stable")
        values = self.read_files(split_by_file(picked[order], self.shard_reader.file_offsets))
        return map(self.to_batch, values[torch.from_numpy(np.argsort(order))].split(size))

    def to_batch(self, values: Tensor) -> Tensor:
        """Stored rows as a model reads them, on the device: pixels as floats from 0 to 1."""
        values = transfer_to_device(values, self.device)
        return values.to(torch.float32).div_(255) if self.kind == "image" else values


class StreamingTable(Source):
    """A source of batches over columns in files.

    Memory holds the rows of `window` files, however many there are, and of as many more, which a
    thread reads meanwhile. The order of the files, and of the rows shuffled within each `window` of
    them, are functions of (seed, epoch); what lies before batch `start` is counted and not read.
    """

    columns: dict[str, ShardedColumn]
    reads_files = True

    def __init__(self, columns: dict[str, ShardedColumn]) -> None:
        self.columns = columns
        self.first = next(iter(columns.values()))

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: torch.device) -> StreamingTable:
        """The same rows, with their batches on a device."""
        return StreamingTable({name: column.to(device) for name, column in self.columns.items()})

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
        """Batches of rows, prepared and on the device; see `Source.batches`.

        Args:
            size: The number of rows of a batch; the last one may be smaller.
            seed: Of the shuffled order; None for the rows' own order.
            epoch: The epoch, which changes the shuffled order.
            start: The first batch to yield.
            rank: The process whose share is yielded.
            world: The number of processes.
        """
        for rows in self._iter_batches(size, seed, epoch, start):
            share = partition_batch(len(next(iter(rows.values()))), rank, world)
            local_rows = slice(share.first, share.first + share.local_rows)
            yield {
                name: column.to_batch(rows[name][local_rows])
                for name, column in self.columns.items()
            }

    def _iter_batches(
        self, size: int, seed: int | None, epoch: int, start: int
    ) -> Iterator[dict[str, Tensor]]:
        """The stored rows of each batch; a batch may take its rows from two windows."""
        remainder = dict[str, Tensor]()  # the rows at the end of a window that fill no batch
        windows = prefetch(self._read_window, self._iter_windows(seed, epoch, start * size))
        for order, window in windows:
            waiting = len(next(iter(remainder.values()), ())) % size
            for rows in split_into_batches(order, size, waiting):
                batch = {name: values.index_select(0, rows) for name, values in window.items()}
                if remainder:
                    batch = {name: torch.cat([remainder[name], batch[name]]) for name in batch}
                remainder = batch if len(next(iter(batch.values()))) < size else {}
                if not remainder:
                    yield batch
            del window  # or it would stay in memory beside the next two
        if remainder:
            yield remainder

    def _iter_windows(
        self, seed: int | None, epoch: int, skip: int
    ) -> Iterator[tuple[Tensor, list[FileRows]]]:
        """The order of the rows of each window, and its files, without the first `skip` rows."""
        for number, files in enumerate(self._iter_file_groups(seed, epoch)):
            count = sum(len(rows) for _, rows in files)
            if skip < count:
                if seed is None:
                    order = torch.arange(count)
                else:
                    order = random_permutation(count, derive_seed(seed, epoch, number + 1))
                yield order[skip:], files
            skip = max(0, skip - count)

    def _read_window(
        self, order: Tensor, files: list[FileRows]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return order, {name: column.read_files(files) for name, column in self.columns.items()}

    def _iter_file_groups(self, seed: int | None, epoch: int) -> Iterator[list[FileRows]]:
        """Files that are in memory together: one by one in order, else `window`, shuffled."""
        reader = self.first.shard_reader
        if seed is None:
            yield from ([file] for file in split_by_file(self.first.rows, reader.file_offsets))
            return
        # (seed, epoch) orders the files; with the window's number it orders the rows.
        order = random_permutation(len(self._file_rows), derive_seed(seed, epoch)).tolist()
        for low in range(0, len(order), reader.window):
            yield [self._file_rows[index] for index in order[low : low + reader.window]]

    @cached_property
    def _file_rows(self) -> list[FileRows]:
        """The rows of each file that has any here."""
        return split_by_file(np.sort(self.first.rows), self.first.shard_reader.file_offsets)


def prefetch(make: Callable[..., Made], items: Iterator[tuple[Any, ...]]) -> Iterator[Made]:
    """Make something of each item, the next one in a thread while the last one is used.

    No more than these two are in memory.

    Args:
        make: What is called with each item's values.
        items: The arguments of each call.
    """
    with ThreadPoolExecutor(1, "dlrun-reader") as reader:
        waiting: list[Future[Made]] = []
        for item in items:
            waiting.append(reader.submit(make, *item))
            # One is used while the next one is read.
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        if waiting:
            yield waiting.pop().result()


def split_by_file(rows: np.ndarray, file_offsets: np.ndarray) -> list[FileRows]:
    """Group row indices by file, keeping their order.

    Args:
        rows: Indices into the rows of all files.
        file_offsets: The index of each file's first row, and of the row after the last one.
    """
    files = np.searchsorted(file_offsets, rows, side="right") - 1
    # A new group begins wherever the file changes.
    bounds = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(rows)]
    pairs = zip(bounds, bounds[1:], strict=False)
    return [
        (int(files[low]), rows[low:high] - file_offsets[files[low]])
        for low, high in pairs
        if high > low
    ]


def random_permutation(count: int, seed: int) -> Tensor:
    """0 … count - 1 in an order that is a function of the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def split_into_batches(order: Tensor, size: int, waiting: int) -> Iterator[Tensor]:
    """`order` in pieces of `size`, the first of which completes `waiting` rows to a batch."""
    first = size - waiting if waiting else 0
    yield from (piece for piece in (order[:first], *order[first:].split(size)) if len(piece))
