"""Losses of the user's own: their contract.

A loss of one's own is a function `(prediction, target)` that returns one number, the mean over the
rows of the batch, as a tensor with a gradient. `prediction` is the model's raw output (rows,
outputs): logits, or standardized numbers; `target` is (rows,) class numbers, else (rows, outputs).
Further arguments are settings. A class is built with its settings and then called, such as
torch.nn.HuberLoss; a function with an argument `field` builds the loss for that target.

Example:
    def squared(prediction, target, weight=1.0):
        return weight * (prediction - target).square().mean()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dlrun.core.errors import UserError
from dlrun.evaluation.custom_metric import format_custom_error


@dataclass(frozen=True)
class CustomLoss:
    """A loss of the user's own, checked to return one number.

    Attributes:
        function: (raw output, target) → a tensor of one number.
        name: As the config names it.
    """

    function: Callable[[Tensor, Tensor], Any]
    name: str
    # It may make other torch calls for each batch, so its steps are not recorded.
    steady = False

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean loss of these rows."""
        try:
            loss = self.function(outputs, target)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise UserError(
                format_custom_error(f"loss {self.name}", error, outputs, target)
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            returned = f"a {type(loss).__name__}"
            if isinstance(loss, Tensor):
                returned = f"{tuple(loss.shape)} numbers"
            raise UserError(
                f"loss {self.name} returns {returned}; "
                "expected a tensor of one number, such as loss.mean()"
            )
        return loss.reshape(())
