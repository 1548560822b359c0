"""Damage that an autoencoder has to undo: gaussian noise, or values that are masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NoiseKind = Literal["none", "gaussian", "mask"]


@dataclass(frozen=True)
class Noise:
    """amount: the standard deviation of gaussian noise, or the share that is masked: set to 0, which is black, or the
    mean of a standardised column. patch: side of the squares of a picture that are masked whole, all channels at once.

    ValueError for a share of 1 or more.
    """

    kind: NoiseKind
    amount: float
    patch: int = 1

    def __post_init__(self) -> None:
        if self.kind == "mask" and self.amount >= 1:
            raise ValueError(f"amount={self.amount:g}: with noise=mask it is a share below 1")

    def __call__(self, rows: Tensor) -> Tensor:
        """Damaged copies of rows: numbers (B, F), or pictures (B, C, H, W), whose pixels stay in [0, 1]."""
        if self.kind == "gaussian":
            noisy = rows + self.amount * torch.randn_like(rows)
            return noisy.clamp(0, 1) if rows.dim() == 4 else noisy
        return rows * self.keep_mask(rows) if self.kind == "mask" else rows

    def keep_mask(self, rows: Tensor) -> Tensor:
        """1 for values that stay, 0 for those that are masked."""
        if rows.dim() != 4:
            return (torch.rand_like(rows) >= self.amount).to(rows.dtype)
        *_, height, width = rows.shape
        cells = (-(-side // self.patch) for side in (height, width))
        draws = torch.rand(len(rows), 1, *cells, device=rows.device)
        keeps = (draws >= self.amount).to(rows.dtype)
        mask = keeps.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return mask[:, :, :height, :width]
