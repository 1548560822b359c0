"""Convolutions over the steps of a sequence (book §6.4)."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.models.layers import ACTIVATIONS
from dlrun.models.sequence.masking import SequenceBody, pool_steps
from dlrun.models.sequence.recurrent import Recurrent


class ConvLayers(nn.Module):
    """Convolutions without padding, each with its activation and max-pooling.

    Attributes:
        layers: The modules.
        kernel: Steps of each kernel.
        pool: Steps that are pooled after each convolution; 1 for none.
        width: Of the output.
        least: How many steps it takes for one to be left.
    """

    def __init__(
        self, width: int, filters: list[int], kernel: int, pool: list[int], activation: str
    ) -> None:
        super().__init__()
        if len(pool) != len(filters):
            raise UserError(
                f"pool={pool} must have a number for each of filters={filters}, "
                "1 where nothing is pooled"
            )
        layers: list[nn.Module] = []
        for channels, count, span in zip([width, *filters], filters, pool, strict=False):
            layers += [nn.Conv1d(channels, count, kernel), ACTIVATIONS[activation]()]
            layers += [nn.MaxPool1d(span)] if span > 1 else []
        self.layers = nn.Sequential(*layers)
        self.kernel, self.pool, self.width = kernel, pool, filters[-1]
        # backwards: pooling needs `span` steps for one, a convolution `kernel - 1` more
        self.least = 1
        for span in reversed(pool):
            self.least = self.least * span + kernel - 1

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Convolve steps.

        Args:
            x: (B, T, D).
            lengths: How many steps of each row count (B,); None for all.

        Returns:
            (B, fewer, filters), and how many of them depend on steps that count alone.
        """
        outputs = self.layers(x.transpose(1, 2)).transpose(1, 2)
        return outputs, None if lengths is None else self.output_steps(lengths)

    def output_steps(self, steps: Any) -> Any:
        """Return how many steps are left, of a number of steps or of each of a tensor."""
        for span in self.pool:
            steps = (steps - (self.kernel - 1)) // span
        return steps

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Check that sequences of a shape are long enough.

        Raises:
            UserError: Nothing would be left of them.
        """
        if shape and shape[0] < self.least:
            raise UserError(
                f"{shape[0]} steps are too few for kernel={self.kernel} and pool={self.pool}: "
                f"nothing is left of them; {self.least} steps, a smaller kernel, or less pooling "
                "would do"
            )


class ConvEncoder(SequenceBody):
    """Convolutions, then the maximum, the mean, or all of the steps that are left.

    Attributes:
        front: The convolutions.
        ends: max, average or flatten.
        least: How many steps it takes for one to be left.
        width: Of the output.
    """

    def __init__(self, front: ConvLayers, ends: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        front.check_shape(shape)
        # bucketed batches have another length each
        if ends == "flatten" and not shape:
            raise UserError(
                "ends=flatten needs sequences of one length: say data.bucket=false, or ends=max"
            )
        self.front, self.ends, self.least = front, ends, front.least
        self.width = front.width * (front.output_steps(shape[0]) if ends == "flatten" else 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        outputs, lengths = self.front(x, lengths)
        return pool_steps(outputs, lengths, self.ends)


class ConvRecurrentEncoder(SequenceBody):
    """Convolutions that shorten a sequence, and a recurrent net over the rest.

    Attributes:
        front: The convolutions.
        then: The recurrent net.
        least: How many steps it takes for one to be left.
        groups: Into how many groups of like length a batch is cut.
        width: Of the output.
    """

    def __init__(self, front: ConvLayers, recurrent: Recurrent, shape: tuple[int, ...]) -> None:
        super().__init__()
        front.check_shape(shape)
        self.front, self.then = front, recurrent
        self.least, self.groups, self.width = front.least, recurrent.groups, recurrent.width

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.then(*self.front(x, lengths)))
