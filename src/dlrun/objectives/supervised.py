"""Predict targets from inputs: the loss of each target, weighted, plus what the model asks for its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from dlrun.losses import Loss
from dlrun.types import Batch, Step


class Supervised(nn.Module):
    """One step a batch. losses: target name → loss; weights: target name → its share in the sum (1 unless given).

    augment: what is done to a batch before it is learnt from. `steps` touches no optimizer, gradient or device.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: dict[str, Loss],
        weights: dict[str, float] | None = None,
        augment: Callable[[Batch], Batch] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self.weights = weights or {}
        self.augment = augment
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.groups = {"model": learning} if learning else {}
        self.penalty = getattr(model, "penalty", lambda: None)

    def steps(self, batch: Batch) -> Iterator[Step]:
        if self.augment is not None and self.training:
            batch = self.augment(batch)
        outputs = self.model(batch)
        total, extra = self.total(outputs, batch), self.penalty()
        yield Step("model", total if extra is None else total + extra, outputs)

    def total(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """The losses of these answers together, each with its weight."""
        total = None
        for name, loss in self.losses.items():
            part = loss(outputs[name], batch[name])
            if name in self.weights:
                part = part * self.weights[name]
            total = part if total is None else total + part
        assert total is not None
        return total
