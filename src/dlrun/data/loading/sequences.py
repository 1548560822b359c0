"""Columns whose rows are sequences: texts of different lengths, and windows onto one series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

PaddingSide = Literal["front", "back"]
BATCHES_PER_POOL = 64  # batches whose rows are sorted by length together: few enough to stay random, many enough to fit


@dataclass(frozen=True)
class SequenceColumn:
    """Word numbers: row i is values[starts[i]:starts[i + 1]], int32, none of them 0, which stands for padding.

    size: how many different numbers there are, 0 among them. length: no row is longer. pad: the side on which short
    rows are filled up with 0. fixed: up to `length`; otherwise up to the longest row of a batch, and rows of about one
    length make a batch. A batch is int64 (B, width).
    """

    values: Tensor
    starts: Tensor
    size: int
    length: int
    pad: PaddingSide
    fixed: bool

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(length,) where every batch has it, else ()."""
        return (self.length,) if self.fixed else ()

    @property
    def lengths(self) -> Tensor | None:
        """How long each row is, where that decides which rows make a batch."""
        return None if self.fixed else self.starts.diff()

    @property
    def device(self) -> torch.device:
        return self.starts.device

    @property
    def row_bytes(self) -> int:
        return max(1, 8 * (self.length if self.fixed else len(self.values) // max(1, len(self))))

    def to(self, device: torch.device) -> SequenceColumn:
        return replace(self, values=self.values.to(device), starts=self.starts.to(device))

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These rows, filled up with 0, `size` at a time."""
        first = self.starts[:-1][rows]
        lengths = self.starts.diff()[rows]
        for begin, long in zip(first.split(size), lengths.split(size), strict=True):
            width = self.length if self.fixed else max(1, int(long.max()))
            place = torch.arange(width, device=self.device) - (
                (width - long)[:, None] if self.pad == "front" else 0
            )
            there = (place >= 0) & (place < long[:, None])
            where = (begin[:, None] + place).clamp_(0, max(0, len(self.values) - 1))
            found = self.values[where] if len(self.values) else where
            yield (found * there).to(torch.int64)


@dataclass(frozen=True)
class WindowColumn:
    """Windows onto one series: row i is values[first[i] + offsets], float (steps, columns). None of them is copied.

    values: the whole series (T, columns); or the tokens of one text, int32 (T,). A batch is (B, steps, columns), or of
    tokens int64 (B, steps).
    """

    values: Tensor
    first: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.first)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.offsets), *self.values.shape[1:])

    @property
    def counts(self) -> Tensor:
        """In how many of the windows each row of the series lies: (T,)."""
        places = self.first[:, None] + self.offsets[[0, -1]]
        ends = self.first.new_zeros(len(self.values) + 1)
        ones = torch.ones_like(self.first)
        return (ends.index_add(0, places[:, 0], ones).index_add(0, places[:, 1] + 1, -ones)).cumsum(
            0
        )[:-1]

    @property
    def device(self) -> torch.device:
        return self.first.device

    @property
    def row_bytes(self) -> int:
        return max(1, len(self.offsets) * self.values[:1].numel() * self.values.element_size())

    def materialize(self) -> Tensor:
        """All of them, copied: (N, steps, columns)."""
        return next(self.batches(slice(None), len(self)))

    def to(self, device: torch.device) -> WindowColumn:
        return WindowColumn(self.values.to(device), self.first.to(device), self.offsets.to(device))

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These windows, `size` at a time."""
        for begin in self.first[rows].split(size):
            where = (begin[:, None] + self.offsets).reshape(-1)
            found = self.values.index_select(0, where).reshape(len(begin), *self.shape)
            yield found if found.is_floating_point() else found.long()


def bucket_by_length(
    order: Tensor, lengths: Tensor, size: int, generator: torch.Generator
) -> Tensor:
    """A random order of rows so changed that each `size` rows in turn are of about one length.

    Rows are sorted by length among a few thousand neighbours of the random order; then the batches are shuffled. A last
    one that is smaller stays the last.
    """
    pools = [
        pool[lengths[pool].argsort(stable=True)] for pool in order.split(size * BATCHES_PER_POOL)
    ]
    batches = torch.cat(pools).split(size)
    whole = [batch for batch in batches if len(batch) == size]
    shuffled = [whole[place] for place in torch.randperm(len(whole), generator=generator).tolist()]
    return torch.cat([*shuffled, *(batch for batch in batches if len(batch) < size)])
