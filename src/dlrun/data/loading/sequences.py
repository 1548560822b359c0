"""Columns whose rows are sequences: texts of different lengths, and windows onto one series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dlrun.core.dataset import StoredColumn

# Batches whose rows are sorted by length together: few enough that the order stays random, many
# enough that rows of a batch are of similar length.
BATCHES_PER_POOL = 64


@dataclass(frozen=True)
class SequenceColumn(StoredColumn):
    """Token ids: row i is values[starts[i]:starts[i + 1]]; a batch is int64 (B, width).

    Attributes:
        values: The ids of all rows, end to end, int32; none of them is 0, which is padding.
        starts: Row offsets (N + 1,).
        size: The number of distinct ids, padding included.
        length: The longest row.
        pad: The side of shorter rows that is filled with 0.
        fixed: Whether every batch is `length` wide; else it is as wide as its longest row, and rows
            of similar length make a batch.
    """

    values: Tensor
    starts: Tensor
    size: int
    length: int
    pad: Literal["front", "back"]
    fixed: bool

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(length,) where every batch has it, else ()."""
        return (self.length,) if self.fixed else ()

    @property
    def num_ids(self) -> int:
        return self.size

    @property
    def lengths(self) -> Tensor | None:
        """The length of each row (N,), if rows are batched by length."""
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
        """These rows, padded with 0, `size` at a time."""
        first = self.starts[:-1][rows]
        lengths = self.starts.diff()[rows]
        for starts, widths in zip(first.split(size), lengths.split(size), strict=True):
            width = self.length if self.fixed else max(1, int(widths.max()))
            position = torch.arange(width, device=self.device)
            if self.pad == "front":
                position = position - (width - widths)[:, None]
            is_token = (position >= 0) & (position < widths[:, None])
            # Padding reads any valid index, and is set to 0 by the mask.
            index = (starts[:, None] + position).clamp_(0, max(0, len(self.values) - 1))
            tokens = self.values[index] if len(self.values) else index
            yield (tokens * is_token).to(torch.int64)


@dataclass(frozen=True)
class WindowColumn(StoredColumn):
    """Windows onto one series: row i is values[first[i] + offsets]. None of them is copied.

    Attributes:
        values: The series (T, columns), float; or the tokens of one text (T,), int32.
        first: The index of each window's first row (N,).
        offsets: The rows of a window, counted from its first one (steps,).
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
        """The number of windows that each row of the series lies in (T,)."""
        # A window adds 1 where it begins and takes it away behind its end; the sum up to a row is
        # the number of windows that have begun and not ended.
        first, last = (self.first + self.offsets[[0, -1]][:, None]).unbind()
        changes = self.first.new_zeros(len(self.values) + 1)
        ones = torch.ones_like(self.first)
        changes.index_add_(0, first, ones).index_add_(0, last + 1, -ones)
        return changes.cumsum(0)[:-1]

    @property
    def device(self) -> torch.device:
        return self.first.device

    @property
    def row_bytes(self) -> int:
        return max(1, len(self.offsets) * self.values[:1].numel() * self.values.element_size())

    def materialize(self) -> Tensor:
        """All windows, copied: (N, steps, columns)."""
        return next(self.batches(slice(None), len(self)))

    def count_tokens(self, size: int) -> Tensor:
        """How often each token stands in all windows together (size,)."""
        return torch.bincount(self.values, self.counts.double(), size)

    def to(self, device: torch.device) -> WindowColumn:
        return WindowColumn(self.values.to(device), self.first.to(device), self.offsets.to(device))

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """These windows, float (B, steps, columns) or int64 (B, steps), `size` at a time."""
        for first in self.first[rows].split(size):
            index = (first[:, None] + self.offsets).reshape(-1)
            windows = self.values.index_select(0, index).reshape(len(first), *self.shape)
            yield windows if windows.is_floating_point() else windows.long()


def bucket_by_length(
    order: Tensor, lengths: Tensor, size: int, generator: torch.Generator
) -> Tensor:
    """Change a random order of rows so that each batch has rows of similar length.

    Rows are sorted by length among a few thousand neighbors of the random order, then the batches
    are shuffled.

    Args:
        order: Row indices in a random order (n,).
        lengths: The length of each row (N,).
        size: The number of rows of a batch; a smaller last batch stays the last.
        generator: What shuffles the batches.
    """
    pools = order.split(size * BATCHES_PER_POOL)
    by_length = [pool[lengths[pool].argsort(stable=True)] for pool in pools]
    batches = torch.cat(by_length).split(size)
    full = [batch for batch in batches if len(batch) == size]
    shuffled = [full[index] for index in torch.randperm(len(full), generator=generator).tolist()]
    return torch.cat([*shuffled, *(batch for batch in batches if len(batch) < size)])
