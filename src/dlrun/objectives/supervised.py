"""Predict targets from inputs: the loss of each target, weighted, plus what the model asks for its weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dlrun.losses import Loss
from dlrun.types import Batch, Step


class Supervised(nn.Module):
    """One step a batch. losses: target name → loss; weights: target name → its share in the sum (1 unless given).

    `steps` touches no optimizer, gradient or device.
    """

    def __init__(self, model: nn.Module, losses: dict[str, Loss], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self.weights = weights or {}
        self.groups = {"model": parameters} if (parameters := list(model.parameters())) else {}
        self.penalty = getattr(model, "penalty", lambda: None)

    def steps(self, batch: Batch) -> Iterator[Step]:
        outputs = self.model(batch)
        total = None
        for name, loss in self.losses.items():
            part = loss(outputs[name], batch[name])
            if name in self.weights:
                part = part * self.weights[name]
            total = part if total is None else total + part
        extra = self.penalty()
        assert total is not None
        yield Step("model", total if extra is None else total + extra, outputs)
