"""Convolutions over the steps of a sequence (book §6.4)."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.models.layers import ACTIVATIONS
from dlrun.models.sequence.masking import pool_steps
from dlrun.models.sequence.recurrent import Recurrent


class ConvLayers(nn.Module):
    """Convolutions without padding, each followed by its activation and max-pooling over `pool` steps (1: none).

    least: how many steps it takes for one to be left.
    """

    def __init__(
        self, width: int, filters: list[int], kernel: int, pool: list[int], activation: str
    ) -> None:
        super().__init__()
        if len(pool) != len(filters):
            raise UserError(
                f"pool={pool} must have a number for each of filters={filters}, 1 where nothing is pooled"
            )
        layers: list[nn.Module] = []
        for channels, count, span in zip([width, *filters], filters, pool, strict=False):
            layers += [nn.Conv1d(channels, count, kernel), ACTIVATIONS[activation]()]
            layers += [nn.MaxPool1d(span)] if span > 1 else []
        self.layers = nn.Sequential(*layers)
        self.kernel, self.pool, self.width = kernel, pool, filters[-1]
        self.least = 1
        for span in reversed(pool):
            self.least = self.least * span + kernel - 1

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Steps (B, T, D) → (B, fewer, filters), and how many of them come from `lengths` steps alone."""
        return self.layers(x.transpose(1, 2)).transpose(
            1, 2
        ), None if lengths is None else self.output_steps(lengths)

    def output_steps(self, steps: Any) -> Any:
        """How many of so many steps are left; of a number, or of each of a tensor."""
        for span in self.pool:
            steps = (steps - (self.kernel - 1)) // span
        return steps

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError where sequences of this shape are too short."""
        if shape and shape[0] < self.least:
            raise UserError(
                f"{shape[0]} steps are too few for kernel={self.kernel} and pool={self.pool}: nothing is left of them; "
                f"{self.least} steps, a smaller kernel, or less pooling would do"
            )


class ConvEncoder(nn.Module):
    """Convolutions, then the largest, the average, or all of what is left. shape: of the field that is read."""

    def __init__(self, front: ConvLayers, ends: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        front.check_shape(shape)
        if ends == "flatten" and not shape:
            raise UserError(
                "ends=flatten needs sequences of one length: say data.bucket=false, or ends=max"
            )
        self.front, self.ends, self.least = front, ends, front.least
        self.width = front.width * (front.output_steps(shape[0]) if ends == "flatten" else 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        left, lengths = self.front(x, lengths)
        return pool_steps(left, lengths, self.ends)


class ConvRecurrentEncoder(nn.Module):
    """Convolutions that shorten a sequence, and what reads the rest of it."""

    def __init__(self, front: ConvLayers, then: Recurrent, shape: tuple[int, ...]) -> None:
        super().__init__()
        front.check_shape(shape)
        self.front, self.then = front, then
        self.least, self.groups, self.width = front.least, then.groups, then.width

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.then(*self.front(x, lengths)))
