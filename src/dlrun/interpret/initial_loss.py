"""The loss before training, beside what a model that knows nothing would get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlrun.core.device import autocast
from dlrun.core.types import Batch
from dlrun.interpret.sandbox import count_batch_rows
from dlrun.training.trainer import Trainer

# A loss that is more than so many times larger or smaller than expected is unusual. Over all tasks
# and models, random weights came to at most 1.7, but for a linear model with Keras' larger weights
# on few columns.
MAX_CLASS_RATIO = 2
MAX_NUMBER_RATIO = 4  # the scale of a number is arbitrary


@dataclass(frozen=True)
class InitialLoss:
    """The mean loss of one target on real rows.

    Attributes:
        zero: Of raw outputs of 0.
        constant: Of the best constant prediction.
        measured: Of the new model.
    """

    zero: float
    constant: float
    measured: float

    def is_expected(self, kind: str) -> bool:
        """Return whether the model starts about where one starts that knows nothing, or better.

        Args:
            kind: The kind of the target, as in `Field`.
        """
        max_ratio = MAX_NUMBER_RATIO if kind == "number" else MAX_CLASS_RATIO
        low, high = sorted((self.zero, self.constant))
        return low / max_ratio <= self.measured <= high * max_ratio


def compute_initial_losses(
    trainer: Trainer, baseline: Trainer, batches: list[Batch]
) -> dict[str, InitialLoss]:
    """Return the first losses of each target, without loss weights and penalties.

    Args:
        trainer: A new fit; its objective is `Supervised`.
        baseline: The fit of its baseline, `Supervised` too.
        batches: The rows.
    """
    fields = trainer.data.spec.targets
    shapes = {name: field.output_shape for name, field in fields.items()}

    def zeros(batch: Batch) -> dict[str, Tensor]:
        return {
            name: torch.zeros(count_batch_rows(batch), *shape, device=trainer.device)
            for name, shape in shapes.items()
        }

    predictors: tuple[Any, ...] = (zeros, baseline.objective.model, trainer.objective.model)
    losses_by_predictor = [
        compute_mean_losses(trainer, predictor, batches) for predictor in predictors
    ]
    return {name: InitialLoss(*(losses[name] for losses in losses_by_predictor)) for name in fields}


def compute_mean_losses(
    trainer: Trainer, predictor: Callable[[Batch], dict[str, Tensor]], batches: list[Batch]
) -> dict[str, float]:
    """Return the mean loss of each target over these rows, computed as in training.

    Args:
        trainer: Has the losses, the device and the precision. Its weights do not change.
        predictor: Batch → target → raw output.
        batches: The rows.
    """
    objective: Any = trainer.objective.eval()
    totals = dict.fromkeys(objective.losses, 0.0)
    with torch.no_grad(), autocast(trainer.device, trainer.settings.precision):
        for batch in batches:
            outputs = predictor(batch)
            for name, loss in objective.losses.items():
                totals[name] += float(loss(outputs[name], batch[name])) * count_batch_rows(batch)
    rows = sum(map(count_batch_rows, batches))
    return {name: total / rows for name, total in totals.items()}


def find_largest_input(batches: list[Batch], inputs: list[str]) -> tuple[str, float]:
    """Return the input with the largest absolute value, and that value.

    Args:
        batches: The rows.
        inputs: Names of the inputs; class numbers and words do not count.

    Returns:
        ('', 0.0) where no input is a number.
    """
    largest = [("", 0.0)]
    for batch in batches:
        for name in inputs:
            numbers = (
                # only the stored counts of a bag
                batch[name].values() if batch[name].layout == torch.sparse_csr else batch[name]
            )
            if numbers.is_floating_point() and numbers.numel():
                largest.append((name, float(numbers.abs().max())))
    return max(largest, key=lambda pair: pair[1])
