"""Columns of images: kept as bytes in memory, on a device or on disk, or decoded for each batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import StoredColumn
from dlrun.data.loading.table import index_rows, transfer_to_device


@dataclass(frozen=True)
class ImageColumn(StoredColumn):
    """Images kept as uint8; a batch is float32 (B, C, H, W), value / 255.

    Attributes:
        values: Images (N, C, H, W), in memory or mapped from the disk.
        rows: Which of them are the rows of this column (int64), in order; None for all.
        batch_device: Where batches go, if that is not where the images are.
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
        """All images, uint8 (N, C, H, W), where they are kept."""
        return self.values if self.rows is None else self.values.index_select(0, self.rows)

    def to(self, device: torch.device) -> ImageColumn:
        """A copy on a device if they fit beside a model; else each batch is moved."""
        if device == self.values.device:
            return replace(self, batch_device=None)
        if not has_device_memory(device, len(self) * self.row_bytes):
            return replace(self, batch_device=device)
        return ImageColumn(self.materialize().to(device))

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """Float images of these rows, `size` at a time."""
        if self.rows is not None:
            rows = index_rows(self.rows, rows)
        images = transfer_to_device(index_rows(self.values, rows), self.batch_device)
        # Converted batch by batch: few enough images to stay in the processor's cache.
        return (batch.to(torch.float32).div_(255) for batch in images.split(size))


class ImageDecoder(Protocol):
    """Decodes images when they are needed, reading ahead."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """The images of these rows, uint8 (B, C, H, W), `size` at a time."""
        ...


@dataclass(frozen=True)
class LazyImageColumn(StoredColumn):
    """Images that are decoded for each batch.

    Attributes:
        decoder: What decodes them.
        rows: Which of the decoder's images are the rows of this column (int64), in order.
        device: Where batches go.
    """

    decoder: ImageDecoder
    rows: Tensor
    device: torch.device = torch.device("cpu")

    reads_ahead = True

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.decoder.shape[1:])

    def materialize(self) -> Tensor:
        """All images, uint8 (N, C, H, W), in memory."""
        return torch.from_numpy(next(self.decoder.batches(self.rows.numpy(), len(self))))

    def to(self, device: torch.device) -> LazyImageColumn:
        return replace(self, device=device)

    def batches(self, rows: Tensor | slice, size: int) -> Iterator[Tensor]:
        """Float images of these rows, `size` at a time."""
        for decoded in self.decoder.batches(index_rows(self.rows, rows).numpy(), size):
            # Bytes are moved and then converted: floats would be four times as many.
            images = transfer_to_device(torch.from_numpy(decoded), self.device)
            yield images.to(torch.float32).div_(255)


def has_device_memory(device: torch.device, size: int) -> bool:
    """Whether `size` bytes leave at least half of a device's free memory to others."""
    return device.type != "cuda" or 2 * size <= torch.cuda.mem_get_info(device)[0]
