"""The corruption that a denoising autoencoder has to undo: Gaussian noise, or masked values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NoiseKind = Literal["none", "gaussian", "mask"]


@dataclass(frozen=True)
class Noise:
    """Corrupts rows at random.

    Attributes:
        kind: 'gaussian', 'mask', or 'none' for rows as they are.
        amount: The standard deviation of the noise, or the share of values that are masked: set to
            0, which is black, or the mean of a standardized column.
        patch: Side of the squares of an image that are masked as a whole, all channels at once.

    Raises:
        ValueError: if a share is 1 or more.
    """

    kind: NoiseKind
    amount: float
    patch: int = 1

    def __post_init__(self) -> None:
        if self.kind == "mask" and self.amount >= 1:
            raise ValueError(f"amount={self.amount:g}: with noise=mask it is a share below 1")

    def __call__(self, rows: Tensor) -> Tensor:
        """Corrupted rows: numbers (B, F), or images (B, C, H, W), whose pixels stay in [0, 1]."""
        if self.kind == "gaussian":
            noisy = rows + self.amount * torch.randn_like(rows)
            # Pixels outside [0, 1] would have no cross-entropy.
            return noisy.clamp(0, 1) if rows.dim() == 4 else noisy
        return rows * self.keep_mask(rows) if self.kind == "mask" else rows

    def keep_mask(self, rows: Tensor) -> Tensor:
        """1 for values that stay, 0 for those that are masked."""
        if rows.dim() != 4:
            return (torch.rand_like(rows) >= self.amount).to(rows.dtype)
        *_, height, width = rows.shape
        # One draw for each patch, of all channels at once; patches at the edge may be cut.
        cells = (-(-side // self.patch) for side in (height, width))
        draws = torch.rand(len(rows), 1, *cells, device=rows.device)
        keeps = (draws >= self.amount).to(rows.dtype)
        mask = keeps.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return mask[:, :, :height, :width]
