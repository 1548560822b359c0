"""Several supervised objectives of one architecture as one, each with its own meter.

Each has its own meter, fed for many steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dlrun.core.errors import NotStackable, TrainingDiverged
from dlrun.core.objective import Objective
from dlrun.core.types import Batch, Step
from dlrun.experiment.parallel_fits.stack_modules import ModuleStack, StackedDense
from dlrun.objectives.supervised import Supervised
from dlrun.training.meter import PENDING_NUMBERS, PENDING_STEPS, Meter

MemberLosses = Callable[[int, dict[str, Tensor], Batch], dict[str, Tensor]]


class StackedMeter:
    """Takes the place of a meter in a sweep whose outputs are (members, B, …) and whose columns are
    (B, members, …).

    Args:
        losses: (member, its outputs, its targets) → what each target adds to its loss over these
            rows, where the steps do not say so themselves: their parts are (members,).
        failed: Member → where its loss was no number any more; it gets no further rows.
        steps: How many each has been fed with.
    """

    def __init__(
        self,
        members: Sequence[Meter],
        losses: MemberLosses,
        failed: Sequence[TrainingDiverged | None],
        steps: Sequence[int],
    ) -> None:
        self.members, self.losses, self.failed, self.steps = (
            members,
            losses,
            list(failed),
            list(steps),
        )
        self.pending_steps: list[tuple[Step, Batch, int]] = []
        self.num_pending = self.width = 0  # of the outputs that wait; of those of one row

    @property
    def pending(self) -> list[tuple[Any, ...]]:
        """The latest step as a meter has it, its loss the mean over members; for displays."""
        return [
            (step.group, step.loss / len(self.members)) for step, _, _ in self.pending_steps[-1:]
        ]

    def add(self, step: Step, batch: Batch, rows: int) -> None:
        """Remember one step over a batch of so many rows of each member."""
        self.pending_steps.append((step, batch, rows))
        # The same for every step: it is computed once.
        self.width = self.width or sum(map(torch.numel, step.outputs.values())) // rows
        self.num_pending += rows * self.width
        if len(self.pending_steps) >= PENDING_STEPS or self.num_pending >= PENDING_NUMBERS:
            self.flush()

    @torch.no_grad()
    def flush(self) -> None:
        """Hand to each member's meter what was its own in all remembered steps."""
        if not self.pending_steps:
            return
        steps = [step for step, _, _ in self.pending_steps]
        rows = [count for _, _, count in self.pending_steps]
        outputs = {
            name: torch.cat([step.outputs[name].detach() for step in steps], 1)
            for name in steps[0].outputs
        }
        targets = {
            name: torch.cat([batch[name] for _, batch, _ in self.pending_steps]) for name in outputs
        }
        shares = torch.tensor(rows, device=steps[0].loss.device)[:, None] / sum(rows)
        means = {
            name: (torch.stack([step.parts[name].detach() for step in steps]) * shares).sum(0)
            for name in steps[0].parts
        }
        for member in range(len(self.members)):
            if self.failed[member] is None:
                self._update_member(
                    member,
                    {name: raw_output[member] for name, raw_output in outputs.items()},
                    {name: target[:, member] for name, target in targets.items()},
                    {name: mean[member] for name, mean in means.items()},
                    rows,
                )
        self.pending_steps, self.num_pending = [], 0

    def check(self) -> None:
        """Nothing: a member that diverges is found when its rows are handed over, and the others go
        on.
        """

    def _update_member(
        self,
        member: int,
        outputs: dict[str, Tensor],
        targets: Batch,
        means: dict[str, Tensor],
        rows: list[int],
    ) -> None:
        meter = self.members[member]
        losses = self.losses(member, outputs, targets) | means
        loss = sum(losses.values(), torch.zeros((), device=meter.device))
        # The other members go on.
        if not bool(loss.isfinite()):
            self.failed[member] = self._find_divergence(member, outputs, targets, rows)
            return
        # A single target's loss is the loss: one alone would not record it twice.
        target_losses = {name: losses[name] for name in outputs} if len(outputs) > 1 else {}
        meter.add(Step("model", loss, outputs, target_losses), targets, sum(rows))
        meter.flush()
        self.steps[member] += len(rows)

    def _find_divergence(
        self, member: int, outputs: dict[str, Tensor], targets: Batch, rows: list[int]
    ) -> TrainingDiverged:
        """A member's first step whose loss is not finite, as its own meter would report it."""
        outputs_by_step, targets_by_step = (
            {name: values.split(rows) for name, values in columns.items()}
            for columns in (outputs, targets)
        )
        for number, (step, _, _) in enumerate(self.pending_steps):
            losses = self.losses(
                member,
                {name: pieces[number] for name, pieces in outputs_by_step.items()},
                {name: pieces[number] for name, pieces in targets_by_step.items()},
            )
            losses |= {name: loss[member] for name, loss in step.parts.items()}
            loss = float(sum(losses.values(), torch.zeros(())))
            # Not finite: inf - inf and nan - nan are nan.
            if loss - loss != 0:
                break
        where = self.members[member].where
        return TrainingDiverged(
            f"{where}step {self.steps[member] + number + 1}: the loss is {loss}"
        )


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
