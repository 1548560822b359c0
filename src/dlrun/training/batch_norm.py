"""Batch normalization and single rows.

A mean over a batch needs two of them, so a last row alone is left out.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlrun.core.dataset import Source
from dlrun.core.errors import UserError
from dlrun.data.loading.table import EmptyBatches


def uses_batch_norm(objective: nn.Module) -> bool:
    """Whether a training step takes statistics over the rows of its batch; frozen layers do not."""
    # A frozen layer puts itself back into evaluation mode when asked to train.
    was_training = objective.training
    objective.train()
    uses_statistics = any(
        isinstance(module, _BatchNorm) and module.training for module in objective.modules()
    )
    objective.train(was_training)
    return uses_statistics


def count_training_rows(source: Source, size: int, paired: bool) -> int:
    """How many rows an epoch learns from: all, or all but one where that would be a batch by
    itself.

    Args:
        paired: Whether a batch needs two rows. An epoch is shuffled, so it is another row each
            time.
    """
    rows = len(source)
    left_out = paired and rows > size and rows % size == 1 and not isinstance(source, EmptyBatches)
    return rows - left_out


def check_batch_norm(objective: nn.Module, train: Source, size: int) -> None:
    """Raise UserError where batch normalization would see no batch of two rows."""
    rows = min(size, len(train))
    if rows > 1 or isinstance(train, EmptyBatches) or not uses_batch_norm(objective):
        return
    reason = "there is one training row" if len(train) == 1 else "engine.batch_size is 1"
    raise UserError(
        f"batch normalization needs two rows in a batch, and {reason}: "
        + (
            "use a model without it, "
            if len(train) == 1
            else "say engine.batch_size=2 or more, or use a model without it, "
        )
        + "such as model.batch_norm=false"
    )
