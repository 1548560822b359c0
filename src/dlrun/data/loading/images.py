"""Columns of images: kept as bytes, in memory, on a device or on the disk, or decoded for each batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageColumn:
    """Images kept as uint8 (N, C, H, W), in memory or mapped from the disk; a batch is float, value / 255.

    rows: which of them these are (int64), in order; None for all. device: where batches go, when that is not where the
    images are.
    """

    values: Tensor
    rows: Tensor | None = None
    batch_device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.values if self.rows is None else self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.batch_device or self.values.device

    @property
    def row_bytes(self) -> int:
        return max(1, self.values[:1].numel())

    def materialize(self) -> Tensor:
        """All of them, uint8 (N, C, H, W), where they are kept."""
        return self.values if self.rows is None else self.values.index_select(0, self.rows)

    def to(self, device: torch.device) -> ImageColumn:
        """On a device where they fit beside a model; else they stay, and each batch is moved."""
        if device == self.values.device:
            return replace(self, batch_device=None)
        if not has_device_memory(device, len(self) * self.row_bytes):
            return replace(self, batch_device=device)
        return ImageColumn(self.materialize().to(device))

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """Float images of these rows, made `size` at a time: few enough to stay in the cache."""
        if self.rows is not None:
            rows = index_rows(self.rows, rows)
        found = transfer_to_device(index_rows(self.values, rows), self.batch_device)
        return (part.to(torch.float32).div_(255) for part in found.split(size))


class ImageDecoder(Protocol):
    """What decodes images as they are asked for, reading ahead."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """The images of these rows, uint8 (B, C, H, W), `size` at a time."""
        ...


@dataclass(frozen=True)
class LazyImageColumn:
    """Images that are decoded for each batch. rows: which of the reader's these are, in order."""

    decoder: ImageDecoder
    rows: Tensor
    device: torch.device = torch.device("cpu")

    row_bytes = 0  # nothing of them is gathered beforehand

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.decoder.shape[1:])

    def materialize(self) -> Tensor:
        """All of them, uint8 (N, C, H, W), in memory."""
        return torch.from_numpy(next(self.decoder.batches(self.rows.numpy(), len(self))))

    def to(self, device: torch.device) -> LazyImageColumn:
        return replace(self, device=device)

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """Float images of these rows, `size` at a time."""
        for part in self.decoder.batches(index_rows(self.rows, rows).numpy(), size):
            yield (
                transfer_to_device(torch.from_numpy(part), self.device).to(torch.float32).div_(255)
            )


def index_rows(values: Tensor, rows: Tensor | slice) -> Tensor:
    """These rows of a tensor."""
    return (
        values[rows] if isinstance(rows, slice) else values.index_select(0, rows.to(values.device))
    )


def transfer_to_device(values: Tensor, device: torch.device | None) -> Tensor:
    """The same on a device; towards CUDA without waiting for it."""
    if device is None or device == values.device:
        return values
    return (
        values.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else values.to(device)
    )


def has_device_memory(device: torch.device, size: int) -> bool:
    """Whether so many bytes leave at least half of a device's free memory to others."""
    return device.type != "cuda" or 2 * size <= torch.cuda.mem_get_info(device)[0]
