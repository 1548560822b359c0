"""What an objective is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from dlrun.core.dataset import Dataset, PreparedData
from dlrun.core.objective import Loss
from dlrun.core.types import Batch


@dataclass(frozen=True)
class ObjectiveContext:
    """What `build` hands to the target of group `objective`.

    model: the one that the config names, built for data.spec. data: as prepared for this fit, on the device. raw: the
    dataset as found (what words and labels are called); its test rows are nobody's here. losses: target → its loss;
    weights: target → its share. augment: what is done to training batches.
    """

    model: nn.Module
    data: PreparedData
    dataset: Dataset
    losses: dict[str, Loss] = field(default_factory=dict)
    weights: dict[str, float] | None = None
    augment: Callable[[Batch], Batch] | None = None
    device: torch.device = torch.device("cpu")
