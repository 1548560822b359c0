"""Several supervised objectives of one architecture as one, without influence on each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from dlrun.core.errors import NotStackable
from dlrun.core.objective import Objective
from dlrun.core.types import Batch, Step
from dlrun.experiment.parallel_fits.layers import StackedDense
from dlrun.experiment.parallel_fits.stack_modules import ModuleStack
from dlrun.objectives.supervised import Supervised

PENALTY_NAME = "penalty"  # the part that is no target's


class StackedObjective(Objective):
    """One step a batch, whose loss is the sum of the members' losses, so that each gets the
    gradient of its own.

    Args:
        means: Targets whose loss is a plain mean over rows. Where members weigh it alike, it is
            taken once for all rows, and what it was for each member is found later, from many steps
            at once (`losses_of`); elsewhere each step says so: part (members,) by target. Columns
            of a batch are (B, members, …), outputs (members, B, …).
    """

    steady = True

    def __init__(
        self,
        members: Sequence[Supervised],
        streams: Sequence[torch.Generator],
        means: Iterable[str],
    ) -> None:
        super().__init__()
        self.streams = streams
        self.make = ModuleStack(streams)
        self.model = self.make([member.model for member in members])
        self.member_losses = [member.losses for member in members]
        weights = [
            [member.weights.get(name, 1.0) for member in members] for name in self.member_losses[0]
        ]
        self.weights = dict(zip(self.member_losses[0], weights, strict=True))
        self.alike = {name for name in means if len(set(self.weights.get(name, ()))) == 1}
        learning = members[0].groups["model"]
        # A weight outside of all stacked layers would be trained for nobody.
        if any(id(parameter) not in self.make.made for parameter in learning):
            raise NotStackable("some of their weights are in no layer that can be stacked")
        self.groups = {"model": [self.make.made[id(parameter)] for parameter in learning]}

    def steps(self, batch: Batch) -> Iterator[Step]:
        outputs = self.model(batch)
        totals: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        for name in self.member_losses[0]:
            if name in self.alike:
                totals.append(self._sum_of_losses(name, outputs[name], batch[name]))
            else:
                losses[name] = self._loss_per_member(name, outputs[name], batch[name])
        if (
            isinstance(self.model, StackedDense)
            and (penalty := self.model.penalty_per_member()) is not None
        ):
            losses[PENALTY_NAME] = penalty
        # The sum: each member's weights get the gradient of their own loss.
        totals += [loss.sum() for loss in losses.values()]
        yield Step(
            "model", totals[0] if len(totals) == 1 else torch.stack(totals).sum(), outputs, losses
        )

    def _sum_of_losses(self, name: str, outputs: Tensor, target: Tensor) -> Tensor:
        """The sum of the members' losses, from one mean over the rows of all."""
        target = target.transpose(0, 1)
        if target.dim() == 2:  # of categories: (members, B), and logits have their classes last
            outputs, target = outputs.flatten(0, 1), target.flatten()
        return self.member_losses[0][name](outputs, target) * (
            len(self.member_losses) * self.weights[name][0]
        )

    def _loss_per_member(self, name: str, outputs: Tensor, target: Tensor) -> Tensor:
        """Each member's loss (members,)."""
        rows = zip(
            outputs.unbind(), target.unbind(1), self.member_losses, self.weights[name], strict=True
        )
        return torch.stack(
            [
                loss_by_target[name](member_outputs, member_targets) * weight
                for member_outputs, member_targets, loss_by_target, weight in rows
            ]
        )

    def get_member_losses(
        self, member: int, outputs: dict[str, Tensor], targets: Batch
    ) -> dict[str, Tensor]:
        """What the targets whose losses are taken once for all add to one member's loss over these
        rows, its own.
        """
        return {
            name: self.member_losses[member][name](outputs[name], targets[name])
            * self.weights[name][member]
            for name in self.member_losses[member]
            if name in self.alike
        }
