"""A metric of the user's own: its contract.

A metric of one's own is a function `(prediction, target)` of all rows of a split, as tensors on the
CPU, that returns one number, or one for each row, of which the mean is taken. `prediction` holds
probabilities (rows, classes), or numbers in the target's unit (rows, 1); `target` likewise, classes
as (rows,). Further arguments are settings; a class is made with its settings and then called. A
function with an argument `field` returns a `dlrun.evaluation.metrics.Metric` instead. In the
config, `goal: min` says that less is better ('max' by default).

Example:
    def within(prediction, target, tolerance=1.0):
        return (prediction - target).abs() <= tolerance
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.config.custom_contract import describe_custom_error
from dlrun.core.errors import UserError


def make_custom_metric(
    function: Any, node: Mapping[str, Any], name: str, tell: Callable[[str], None]
) -> CustomMetric:
    """Check a function of the user's own, and warn where its better direction is not given.

    Args:
        function: What the part was built to.
        node: The part.
        name: Its name in the config.
        tell: Receives the warning.

    Raises:
        UserError: The target of the node makes no metric.
    """
    if not callable(function):
        raise UserError(
            f"metric {node['_target_']} returns a {type(function).__name__}; expected a function "
            "(prediction, target), or a dlrun.evaluation.metrics.Metric"
        )
    # A guess must be seen: a wrong direction would rank the worst run first.
    if "goal" not in node:
        tell(
            f"metric '{name}': larger is taken as better; if smaller is, say metric.{name}.goal=min"
        )
    return CustomMetric(function, node["_target_"])


@dataclass(frozen=True)
class CustomMetric:
    """A metric of the user's own over all rows of a split.

    Attributes:
        function: (prediction, target) → one number, or one for each row.
        name: Its full name, for messages.
    """

    function: Callable[[Tensor, Tensor], Any]
    name: str

    def __call__(self, answers: np.ndarray, targets: np.ndarray) -> float:
        """The metric of these rows; raises UserError for a failure in it or a wrong shape."""
        # Views, no copies.
        prediction, target = torch.from_numpy(answers), torch.from_numpy(targets)
        try:
            values = torch.as_tensor(self.function(prediction, target)).double()
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise UserError(
                format_custom_error(f"metric {self.name}", error, prediction, target)
            ) from error
        if values.ndim and len(values) != len(target):
            raise UserError(
                f"metric {self.name} returns {tuple(values.shape)} numbers for {len(target)} "
                "rows; expected one number, or one for each row"
            )
        return float(values.mean())


def format_custom_error(name: str, error: Exception, prediction: Tensor, target: Tensor) -> str:
    """What failed in a function of the user's own, and the tensors that it received."""
    received = (
        f"prediction {tuple(prediction.shape)} {prediction.dtype}, target {tuple(target.shape)} "
        f"{target.dtype}"
    )
    return f"{describe_custom_error(name, error)}; it was given {received}".replace("torch.", "")
