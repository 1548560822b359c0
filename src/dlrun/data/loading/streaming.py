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

from dlrun.core.errors import Refused
from dlrun.core.random import mix
from dlrun.core.types import Batch, Kind
from dlrun.data.loading.images import moved
from dlrun.data.loading.partition import share
from dlrun.data.loading.table import Table

Made = TypeVar("Made")
Run = tuple[int, np.ndarray]  # a file's number, and row numbers within it
KEPT = {"category": np.int64, "image": np.uint8}  # what values are kept as; float32 otherwise


class Pages(Protocol):
    """A column that lies in several files, prepared as it is read."""

    @property
    def name(self) -> str: ...

    @property
    def edges(self) -> np.ndarray:
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

    def part(self, file: int, rows: np.ndarray) -> np.ndarray:
        """These rows of one file, prepared."""
        ...


@dataclass(frozen=True)
class Paged:
    """One column of a Stream. rows: which rows of all files these are (int64), in order."""

    pages: Pages
    rows: np.ndarray
    kind: Kind
    place: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.pages.row_shape
        return shape if shape or self.kind == "category" else (1,)

    @property
    def values(self) -> NoReturn:
        """There is no tensor of all rows. Raises Refused."""
        raise Refused(
            f"'{self.pages.name}' is read file by file, and this part of dlrun asks for all rows at once: "
            "use a model that learns batch by batch, such as model=dense"
        )

    def whole(self) -> NoReturn:
        """There is no such tensor. Raises Refused."""
        raise AssertionError(self.values)

    def to(self, device: torch.device) -> Paged:
        return replace(self, place=device)

    def read(self, runs: list[Run]) -> Tensor:
        """The rows of these runs, one after the other, on the CPU."""
        dtype = KEPT.get(self.kind, np.float32)
        found, first = np.empty((sum(len(rows) for _, rows in runs), *self.shape), dtype), 0
        for file, rows in runs:
            found[first : first + len(rows)] = self.pages.part(file, rows).reshape(len(rows), *self.shape)
            first += len(rows)
        return torch.from_numpy(found)

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These few of the rows, `size` at a time; all of them are in memory together."""
        picked = self.rows[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        order = np.argsort(picked, kind="stable")
        found = self.read(runs_of(picked[order], self.pages.edges))
        return map(self.batch, found[torch.from_numpy(np.argsort(order))].split(size))

    def batch(self, part: Tensor) -> Tensor:
        """Rows as a model has them, on the device: pixels as floats from 0 to 1."""
        found = moved(part, self.place)
        return found.to(torch.float32).div_(255) if self.kind == "image" else found


class Stream:
    """A source of batches over columns in files. Memory holds the rows of `window` files, however many there are, and
    of as many more, which a thread reads meanwhile.

    A shuffled epoch takes the files in an order, and the rows of each `window` files mixed in an order, that are
    functions of (seed, epoch); files before batch number `start` are counted and not read.
    """

    def __init__(self, columns: dict[str, Paged]) -> None:
        self.columns = columns
        self.first = next(iter(columns.values()))

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: torch.device) -> Stream:
        """The same rows, with their batches on a device."""
        return Stream({name: column.to(device) for name, column in self.columns.items()})

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Batches of `size` rows (the last one may be smaller), from batch number `start` on."""
        for rows in self._cut(size, seed, epoch, start):
            mine = share(len(next(iter(rows.values()))), rank, world)
            held = slice(mine.first, mine.first + mine.held)
            yield {name: column.batch(rows[name][held]) for name, column in self.columns.items()}

    def _cut(self, size: int, seed: int | None, epoch: int, start: int) -> Iterator[dict[str, Tensor]]:
        """The rows of each batch, as they are kept; a batch may take its rows from two windows."""
        rest = dict[str, Tensor]()
        for order, window in ahead(self._read, self._orders(seed, epoch, start * size)):
            for rows in cuts(order, size, len(next(iter(rest.values()), ())) % size):
                found = {name: values.index_select(0, rows) for name, values in window.items()}
                found = {name: torch.cat([rest[name], part]) for name, part in found.items()} if rest else found
                rest = found if len(next(iter(found.values()))) < size else {}
                if not rest:
                    yield found
            del window
        if rest:
            yield rest

    def _orders(self, seed: int | None, epoch: int, skip: int) -> Iterator[tuple[Tensor, list[Run]]]:
        """The order of the rows of each window, and where they are, without the first `skip` rows of all."""
        for number, runs in enumerate(self._windows(seed, epoch)):
            count = sum(len(rows) for _, rows in runs)
            if skip < count:
                order = torch.arange(count) if seed is None else permuted(count, mix(seed, epoch, number + 1))
                yield order[skip:], runs
            skip = max(0, skip - count)

    def _read(self, order: Tensor, runs: list[Run]) -> tuple[Tensor, dict[str, Tensor]]:
        return order, {name: column.read(runs) for name, column in self.columns.items()}

    def _windows(self, seed: int | None, epoch: int) -> Iterator[list[Run]]:
        """The runs that are in memory together: in the rows' own order one by one, else `window` of them, shuffled."""
        if seed is None:
            yield from ([run] for run in runs_of(self.first.rows, self.first.pages.edges))
            return
        order = permuted(len(self._files), mix(seed, epoch)).tolist()
        step = self.first.pages.window
        yield from ([self._files[place] for place in order[low : low + step]] for low in range(0, len(order), step))

    @cached_property
    def _files(self) -> list[Run]:
        """One run for each file that has rows here."""
        return runs_of(np.sort(self.first.rows), self.first.pages.edges)


def ahead(make: Callable[..., Made], items: Iterator[tuple[Any, ...]]) -> Iterator[Made]:
    """What is made of each item, the next one by a thread while one is used. No more than these two are there."""
    with ThreadPoolExecutor(1, "dlrun-reader") as reader:
        waiting: list[Future[Made]] = []
        for item in items:
            waiting.append(reader.submit(make, *item))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        if waiting:
            yield waiting.pop().result()


def runs_of(rows: np.ndarray, edges: np.ndarray) -> list[Run]:
    """Row numbers, in their order, as runs of rows of one file each."""
    files = np.searchsorted(edges, rows, side="right") - 1
    bounds = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(rows)]
    pairs = zip(bounds, bounds[1:], strict=False)
    return [(int(files[low]), rows[low:high] - edges[files[low]]) for low, high in pairs if high > low]


def permuted(count: int, seed: int) -> Tensor:
    """0 … count - 1 in an order that is a function of the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def cuts(order: Tensor, size: int, there: int) -> Iterator[Tensor]:
    """`order` in pieces of `size`, the first of which makes up for `there` rows that wait already."""
    first = size - there if there else 0
    yield from (piece for piece in (order[:first], *order[first:].split(size)) if len(piece))


def source_of(columns: dict[str, Any]) -> Table | Stream:
    """The source of these columns: a Stream where they are read file by file, which all of them are then."""
    paged = [isinstance(column, Paged) for column in columns.values()]
    return Stream(columns) if paged and all(paged) else Table(columns)
