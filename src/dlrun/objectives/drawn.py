"""Pictures of codes that no picture has been encoded to: drawn at random, or on a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlrun.config.constraints import Count, Fraction, Positive
from dlrun.core.artifacts import Pictures
from dlrun.core.errors import Refused


@dataclass(frozen=True)
class Drawn:
    """decode: codes (N, latent), on the device `place`, to pictures (N, C, H, W), pixels from 0 to 1."""

    decode: Callable[[Tensor], Tensor]
    latent: int
    place: torch.device

    def samples(self, *, count: Count = 64, columns: Count = 8, spread: Positive = 1.0) -> Iterator[Pictures]:
        """Pictures of codes drawn at random, from a normal distribution of this spread (1 is what was trained for)."""
        codes = spread * torch.randn(count, self.latent)
        about = f"{count} pictures of codes drawn from a normal distribution of spread {spread:g}"
        yield Pictures(self.decode(codes.to(self.place)), columns, about)

    def grid(
        self, *, side: Count = 15, low: Fraction = 0.05, high: Fraction = 0.95, across: Count = 1, down: Count = 2
    ) -> Iterator[Pictures]:
        """Pictures of a grid of codes, at the normal distribution's quantiles from low to high (book §8.4).

        across, down: which numbers of the code change, from 1 on; the others are 0.
        """
        if across == down or max(across, down) > self.latent:
            there = f"two different numbers of the code, from 1 to {self.latent}"
            raise Refused(f"across={across} down={down}: they must be {there}")
        if not 0 < low <= high < 1:
            raise Refused(f"low={low} high={high}: quantiles must lie between 0 and 1, the lower one first")
        at = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(low, high, side))
        codes = torch.zeros(side * side, self.latent)
        codes[:, across - 1], codes[:, down - 1] = at.repeat(side), at.flip(0).repeat_interleave(side)
        about = f"pictures of codes: number {across} grows to the right, {down} upwards, quantiles {low:g} to {high:g}"
        yield Pictures(self.decode(codes.to(self.place)), side, about)
