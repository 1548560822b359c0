"""Rows that do not fit in memory: columns read file by file, a few files at a time, in an order that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dlrun.core.errors import UserError
from dlrun.core.random import derive_seed
from dlrun.core.types import Batch, Kind
from dlrun.data.loading.images import transfer_to_device
from dlrun.data.loading.partition import partition_batch
from dlrun.data.loading.table import Table

Made = TypeVar("Made")
FileRows = tuple[int, np.ndarray]  # a file's number, and row numbers within it
STORED_DTYPES = {
    "category": np.int64,
    "image": np.uint8,
}  # what values are kept as; float32 otherwise


class ShardReader(Protocol):
    """A column that lies in several files, prepared as it is read."""

    @property
    def name(self) -> str: ...

    @property
    def file_offsets(self) -> np.ndarray:
        """The number of each file's first row, and of the row behind the last one."""
        ...

    @property
    def window(self) -> int:
        """How many files are in memory at once."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row, once it is prepared."""
        ...

    def read_rows(self, file: int, rows: np.ndarray) -> np.ndarray:
        """These rows of one file, prepared."""
        ...


@dataclass(frozen=True)
class ShardedColumn:
    """One column of a Stream. rows: which rows of all files these are (int64), in order."""

    shard_reader: ShardReader
    rows: np.ndarray
    kind: Kind
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.shard_reader.row_shape
        return shape if shape or self.kind == "category" else (1,)

    @property
    def values(self) -> NoReturn:
        """There is no tensor of all rows. Raises UserError."""
        raise UserError(
            f"'{self.shard_reader.name}' is read file by file, and this part of dlrun asks for all rows at once: "
            "use a model that learns batch by batch, such as model=dense"
        )

    def materialize(self) -> NoReturn:
        """There is no such tensor. Raises UserError."""
        raise AssertionError(self.values)

    def to(self, device: torch.device) -> ShardedColumn:
        return replace(self, device=device)

    def read_files(self, runs: list[FileRows]) -> Tensor:
        """The rows of these runs, one after the other, on the CPU."""
        dtype = STORED_DTYPES.get(self.kind, np.float32)
        found, first = np.empty((sum(len(rows) for _, rows in runs), *self.shape), dtype), 0
        for file, rows in runs:
            found[first : first + len(rows)] = self.shard_reader.read_rows(file, rows).reshape(
                len(rows), *self.shape
            )
            first += len(rows)
        return torch.from_numpy(found)

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These few of the rows, `size` at a time; all of them are in memory together."""
        picked = self.rows[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        order = np.argsort(picked, kind="stable")
        found = self.read_files(split_by_file(picked[order], self.shard_reader.file_offsets))
        return map(self.to_batch, found[torch.from_numpy(np.argsort(order))].split(size))

    def to_batch(self, part: Tensor) -> Tensor:
        """Rows as a model has them, on the device: pixels as floats from 0 to 1."""
        found = transfer_to_device(part, self.device)
        return found.to(torch.float32).div_(255) if self.kind == "image" else found


class StreamingTable:
    """A source of batches over columns in files. Memory holds the rows of `window` files, however many there are, and
    of as many more, which a thread reads meanwhile.

    A shuffled epoch takes the files in an order, and the rows of each `window` files mixed in an order, that are
    functions of (seed, epoch); files before batch number `start` are counted and not read.
    """

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
        """Batches of `size` rows (the last one may be smaller), from batch number `start` on."""
        for rows in self._iter_batches(size, seed, epoch, start):
            mine = partition_batch(len(next(iter(rows.values()))), rank, world)
            held = slice(mine.first, mine.first + mine.local_rows)
            yield {name: column.to_batch(rows[name][held]) for name, column in self.columns.items()}

    def _iter_batches(
        self, size: int, seed: int | None, epoch: int, start: int
    ) -> Iterator[dict[str, Tensor]]:
        """The rows of each batch, as they are kept; a batch may take its rows from two windows."""
        rest = dict[str, Tensor]()
        for order, window in prefetch(
            self._read_window, self._iter_windows(seed, epoch, start * size)
        ):
            for rows in split_into_batches(order, size, len(next(iter(rest.values()), ())) % size):
                found = {name: values.index_select(0, rows) for name, values in window.items()}
                found = (
                    {name: torch.cat([rest[name], part]) for name, part in found.items()}
                    if rest
                    else found
                )
                rest = found if len(next(iter(found.values()))) < size else {}
                if not rest:
                    yield found
            del window
        if rest:
            yield rest

    def _iter_windows(
        self, seed: int | None, epoch: int, skip: int
    ) -> Iterator[tuple[Tensor, list[FileRows]]]:
        """The order of the rows of each window, and where they are, without the first `skip` rows of all."""
        for number, runs in enumerate(self._iter_file_groups(seed, epoch)):
            count = sum(len(rows) for _, rows in runs)
            if skip < count:
                order = (
                    torch.arange(count)
                    if seed is None
                    else random_permutation(count, derive_seed(seed, epoch, number + 1))
                )
                yield order[skip:], runs
            skip = max(0, skip - count)

    def _read_window(self, order: Tensor, runs: list[FileRows]) -> tuple[Tensor, dict[str, Tensor]]:
        return order, {name: column.read_files(runs) for name, column in self.columns.items()}

    def _iter_file_groups(self, seed: int | None, epoch: int) -> Iterator[list[FileRows]]:
        """The runs that are in memory together: in the rows' own order one by one, else `window` of them, shuffled."""
        if seed is None:
            yield from (
                [run]
                for run in split_by_file(self.first.rows, self.first.shard_reader.file_offsets)
            )
            return
        order = random_permutation(len(self._file_rows), derive_seed(seed, epoch)).tolist()
        step = self.first.shard_reader.window
        yield from (
            [self._file_rows[place] for place in order[low : low + step]]
            for low in range(0, len(order), step)
        )

    @cached_property
    def _file_rows(self) -> list[FileRows]:
        """One run for each file that has rows here."""
        return split_by_file(np.sort(self.first.rows), self.first.shard_reader.file_offsets)


def prefetch(make: Callable[..., Made], items: Iterator[tuple[Any, ...]]) -> Iterator[Made]:
    """What is made of each item, the next one by a thread while one is used. No more than these two are there."""
    with ThreadPoolExecutor(1, "dlrun-reader") as reader:
        waiting: list[Future[Made]] = []
        for item in items:
            waiting.append(reader.submit(make, *item))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        if waiting:
            yield waiting.pop().result()


def split_by_file(rows: np.ndarray, edges: np.ndarray) -> list[FileRows]:
    """Row numbers, in their order, as runs of rows of one file each."""
    files = np.searchsorted(edges, rows, side="right") - 1
    bounds = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(rows)]
    pairs = zip(bounds, bounds[1:], strict=False)
    return [
        (int(files[low]), rows[low:high] - edges[files[low]]) for low, high in pairs if high > low
    ]


def random_permutation(count: int, seed: int) -> Tensor:
    """0 … count - 1 in an order that is a function of the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def split_into_batches(order: Tensor, size: int, there: int) -> Iterator[Tensor]:
    """`order` in pieces of `size`, the first of which makes up for `there` rows that wait already."""
    first = size - there if there else 0
    yield from (piece for piece in (order[:first], *order[first:].split(size)) if len(piece))


def make_source(columns: dict[str, Any]) -> Table | StreamingTable:
    """The source of these columns: a Stream where they are read file by file, which all of them are then."""
    paged = [isinstance(column, ShardedColumn) for column in columns.values()]
    return StreamingTable(columns) if paged and all(paged) else Table(columns)
