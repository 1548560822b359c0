"""What the builder hands to an objective: model, data, losses and augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from dlrun.core.dataset import Dataset, PreparedData
from dlrun.core.objective import Loss
from dlrun.core.process_group import ONE_PROCESS, ProcessGroup
from dlrun.core.types import Batch


@dataclass(frozen=True)
class ObjectiveContext:
    """What the builder hands to the target of group `objective`.

    Attributes:
        model: The one that the config names, built for data.spec.
        data: As prepared for this fit, on the device.
        dataset: The raw one, which knows what words and labels are called. Its test rows are
            sealed.
        losses: Target → its loss.
        weights: Target → its weight in the sum of losses; None: all 1.
        augment: What is done to training batches; None: nothing.
        device: Where model and data are.
        processes: That share the fit: what is drawn for a batch is drawn for all of them.
    """

    model: nn.Module
    data: PreparedData
    dataset: Dataset
    losses: dict[str, Loss] = field(default_factory=dict)
    weights: dict[str, float] | None = None
    augment: Callable[[Batch], Batch] | None = None
    device: torch.device = torch.device("cpu")
    processes: ProcessGroup = ONE_PROCESS
