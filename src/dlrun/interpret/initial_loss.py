"""The first loss, before training: what a model that knows nothing gets, and what this one gets."""

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

MAX_CLASS_RATIO = 2  # times more or less than expected is too far: over all tasks and models, random weights came to at most 1.7,
MAX_NUMBER_RATIO = 4  # but for a linear model with Keras' larger ones on few columns; a number's scale is arbitrary


@dataclass(frozen=True)
class InitialLoss:
    """The mean loss of one target on real rows: of raw answers of 0, of the constant answer, and of the new model."""

    zero: float
    constant: float
    measured: float

    def is_expected(self, kind: str) -> bool:
        """Whether the model begins about where one begins that knows nothing, or better: between 0 and the constant."""
        apart = MAX_NUMBER_RATIO if kind == "number" else MAX_CLASS_RATIO
        low, high = sorted((self.zero, self.constant))
        return low / apart <= self.measured <= high * apart


def compute_initial_losses(
    trainer: Trainer, baseline: Trainer, batches: list[Batch]
) -> dict[str, InitialLoss]:
    """Target → its first losses on these rows, without weights and penalties; both objectives are Supervised."""
    fields = trainer.data.spec.targets
    shapes = {name: field.output_shape for name, field in fields.items()}

    def zeros(batch: Batch) -> dict[str, Tensor]:
        return {
            name: torch.zeros(count_batch_rows(batch), *shape, device=trainer.device)
            for name, shape in shapes.items()
        }

    answers: tuple[Any, ...] = (zeros, baseline.objective.model, trainer.objective.model)
    each = [compute_mean_losses(trainer, answer, batches) for answer in answers]
    return {name: InitialLoss(*(losses[name] for losses in each)) for name in fields}


def compute_mean_losses(
    trainer: Trainer, answer: Callable[[Batch], dict[str, Tensor]], batches: list[Batch]
) -> dict[str, float]:
    """Target → the mean loss over these rows of what `answer` says, computed as in training, but nothing is learnt."""
    objective: Any = trainer.objective.eval()
    totals = dict.fromkeys(objective.losses, 0.0)
    with torch.no_grad(), autocast(trainer.device, trainer.settings.precision):
        for batch in batches:
            said = answer(batch)
            for name, loss in objective.losses.items():
                totals[name] += float(loss(said[name], batch[name])) * count_batch_rows(batch)
    rows = sum(map(count_batch_rows, batches))
    return {name: total / rows for name, total in totals.items()}


def find_largest_input(batches: list[Batch], inputs: list[str]) -> tuple[str, float]:
    """The input column with the largest number by size, and that number; category numbers do not count."""
    found = [("", 0.0)]
    for batch in batches:
        for name in inputs:
            numbers = (
                batch[name].values() if batch[name].layout == torch.sparse_csr else batch[name]
            )
            if numbers.is_floating_point() and numbers.numel():
                found.append((name, float(numbers.abs().max())))
    return max(found, key=lambda pair: pair[1])
