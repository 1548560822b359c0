"""Several fits trained as one: their weights side by side in one buffer, which one trainer sweeps for all of them."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dlrun.core.dataset import PreparedData
from dlrun.core.errors import NotStackable, TrainingDiverged
from dlrun.core.random import derive_seed
from dlrun.core.types import EpochRecord
from dlrun.experiment.parallel_fits.batches import ParallelBatches, split_into_segments
from dlrun.experiment.parallel_fits.meters import StackedMeter
from dlrun.experiment.parallel_fits.objective import StackedObjective
from dlrun.training.fast.flat_optimizer import FlatOptimizer, supports_flat_step
from dlrun.training.meter import Meter
from dlrun.training.optimization import Optimization
from dlrun.training.trainer import SPLITS, Trainer

GROUP = "model"
PER_MEMBER_OPTIONS = (
    "lr",
    "initial_lr",
    "weight_decay",
    "momentum",
)  # hyperparameters that each member may have for itself


class StackedTrainer:
    """A trainer over the stacked weights of some members. Raises Unstackable."""

    def __init__(
        self, members: Sequence[Trainer], means: Sequence[str], streams: Sequence[torch.Generator]
    ) -> None:
        first = members[0]
        objectives: list[Any] = [member.objective for member in members]
        self.objective = StackedObjective(objectives, streams, means)
        self.parameters = self.objective.groups[GROUP]
        optimizers = [member.optimization.optimizers[GROUP] for member in members]
        make = lambda parameters: stack_optimizers(optimizers, parameters)  # noqa: E731
        settings = replace(first.settings, save_every=math.inf)  # its members save themselves
        learner = Optimization(
            self.objective.groups, make, settings, first.optimization.schedule, first.device
        )
        learner.members, learner.total_steps = len(members), first.total_steps
        if not supports_flat_step(self.parameters, learner.optimizers[GROUP], len(members)):
            raise NotStackable(
                f"the optimizer {type(optimizers[0]).__name__} cannot step for several members at once"
            )
        self.flat = learner.fast_steps[GROUP] = FlatOptimizer(
            self.parameters, learner.optimizers[GROUP], len(members)
        )
        data = PreparedData(first.data.spec, first.data.train)
        self.trainer = Trainer(self.objective, data, settings, learner, {}, first.folder)

    @property
    def ema_weights(self) -> list[Tensor]:
        """The running averages of the stacked weights, where those are kept."""
        return self.trainer.optimization.ema_parameters.get(GROUP, [])

    def to_member_rows(self, parts: Sequence[Tensor]) -> Tensor:
        """Tensors like the stacked weights as (members, P): a row as one member has it in its own buffer."""
        turned = self.objective.make.transposed
        pairs = zip(parts, self.parameters, strict=True)
        own = [
            part.transpose(1, 2) if id(parameter) in turned else part for part, parameter in pairs
        ]
        return torch.cat([part.reshape(len(part), -1) for part in own], 1)

    def from_member_rows(self, rows: Tensor) -> list[Tensor]:
        """The other way round: (members, P) as tensors like the stacked weights."""
        turned = self.objective.make.transposed
        shapes = [(p.transpose(1, 2) if id(p) in turned else p).shape for p in self.parameters]
        parts = rows.split([shape[1:].numel() for shape in shapes], 1)
        own = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return [
            o.transpose(1, 2) if id(p) in turned else o
            for o, p in zip(own, self.parameters, strict=True)
        ]

    def become_view_of(self, whole: StackedTrainer, low: int, high: int) -> None:
        """Be a view of members low … high - 1 of a larger one: what is learnt here, is learnt there."""
        flat, rows = self.flat, slice(low, high)
        flat.weights, flat.state = (
            whole.flat.weights[rows],
            {n: each[rows] for n, each in whole.flat.state.items()},
        )
        for parameter, view in zip(self.parameters, flat.views(flat.weights), strict=True):
            parameter.data = view
        pairs = zip(self.objective.make.buffers, whole.objective.make.buffers, strict=True)
        for mine, others in [
            *zip(self.ema_weights, whole.ema_weights, strict=True),
            *((a[0], b[0]) for a, b in pairs),
        ]:
            mine.data = others[rows]


class FitStack:
    """Fits of one architecture that are at the same epoch, none of them amid one. Raises Unstackable.

    trainers: of the members; those with most training rows come first here. means: see `StackedObjective`. The members hold
    what was so at the end of the last epoch: an epoch that is cut is as if it had not begun.
    """

    def __init__(self, trainers: Sequence[Trainer], means: Sequence[str]) -> None:
        self.members = sorted(trainers, key=lambda trainer: -len(trainer.data.train))
        self.mean_losses = means
        self.streams = [torch.Generator(member.device) for member in self.members]
        self.full_trainer = StackedTrainer(self.members, means, self.streams)
        self.trainers = {(0, len(self.members)): self.full_trainer}
        self.segments = {
            split: self._build_segments(split)
            for split in ("train", "val")
            if get_split_source(self.members[0], split)
        }
        self.steps_taken = [member.optimization.steps_taken[GROUP] for member in self.members]
        self.active_trainer = (
            self.full_trainer.trainer
        )  # the one that sweeps now: a signal is told to it
        for member in self.members:
            member.optimization.total_steps = member.total_steps
        self._load_member_states()

    def _build_segments(self, split: str) -> list[tuple[int, int, ParallelBatches]]:
        """What is swept one after the other: all members abreast, then the ends of those that have more rows."""
        settings, sources = (
            self.members[0].settings,
            [get_split_source(member, split) for member in self.members],
        )
        learn, first = split == "train", self.members[0]
        size = settings.batch_rows if learn else settings.get_inference_batch_size(first.data.spec)
        most = settings.epoch_batches if learn else None
        rows = [first.count_training_rows(source) if learn else len(source) for source in sources]
        counts = [min(count, (most or count) * size) for count in rows]
        seeds = [member.seed for member in self.members]
        return [
            (low, high, ParallelBatches(sources[low:high], seeds[low:high], first, rows))
            for low, high, first, rows in split_into_segments(counts, size)
        ]

    def _get_trainer(self, low: int, high: int) -> StackedTrainer:
        if (low, high) not in self.trainers:
            self.trainers[low, high] = lead = StackedTrainer(
                self.members[low:high], self.mean_losses, self.streams[low:high]
            )
            lead.become_view_of(self.full_trainer, low, high)
        return self.trainers[low, high]

    def run_epoch(self) -> list[TrainingDiverged | None]:
        """Train and validate all members once over; answers with where each diverged, in the order of `members`.

        Those that did not have their rows and weights then, and their callbacks are the caller's. Raises TrainingInterrupted.
        """
        began, number = time.monotonic(), self.members[0].epoch
        for stream, member in zip(self.streams, self.members, strict=True):
            stream.manual_seed(derive_seed(member.seed, number, SPLITS.index("train")))
        failed: list[TrainingDiverged | None] = [None] * len(self.members)
        rows: list[list[EpochRecord]] = [[] for _ in self.members]
        for split in self.segments:
            meters = self._run_split(split, failed)
            for mine, meter, fault in zip(rows, meters, failed, strict=True):
                values = (
                    {} if fault else {name: score.value for name, score in meter.scores().items()}
                )
                mine.append(EpochRecord(number + 1, split, values))
        self._store_member_states([fault is None for fault in failed])
        for member, mine, fault in zip(self.members, rows, failed, strict=True):
            if fault is None:
                rates = {
                    "train": member.optimization.rates
                }  # before the rows of this epoch are there, as alone
                member.history.extend(replace(row, rates=rates.get(row.split, {})) for row in mine)
                member.epoch, member.began_at = number + 1, time.monotonic()
                member.earlier_seconds += (member.began_at - began) / len(self.members)
        return failed

    def _run_split(self, split: str, failed: list[TrainingDiverged | None]) -> list[Meter]:
        """Sweep a split for all members; marks those that diverge."""
        where = f"epoch {self.members[0].epoch + 1}, {split}, "
        made = [
            Meter(each.metrics, each.data.spec.targets, each.device, where) for each in self.members
        ]
        steps = [0] * len(made)
        for low, high, source in self.segments[split]:
            lead, some = self._get_trainer(low, high), slice(low, high)
            trainer, meters = (
                lead.trainer,
                StackedMeter(
                    made[some], lead.objective.get_member_losses, failed[some], steps[some]
                ),
            )
            trainer.epoch, trainer.interrupted = (
                self.members[0].epoch,
                self.active_trainer.interrupted,
            )
            trainer.meter, self.active_trainer = meters, trainer  # type: ignore[assignment]
            before = trainer.optimization.steps_taken[GROUP] = lead.flat.state_view.steps_taken = (
                self.steps_taken[low]
            )
            if split == "train" and trainer.out_of_steps:
                continue
            trainer.run_epoch(split, source, learn=split == "train")
            self.steps_taken[some] = [
                count + lead.flat.state_view.steps_taken - before
                for count in self.steps_taken[some]
            ]
            steps[some], failed[some] = meters.steps, meters.failed
        return made

    @torch.no_grad()
    def _load_member_states(self) -> None:
        """Take over the state of the members' optimizers, and running averages; their weights are here already."""
        flats, whole = [get_member_optimizer(member) for member in self.members], self.full_trainer
        for name, buffer in whole.flat.state.items():
            rows = torch.cat(
                [flat.state.get(name, torch.zeros_like(flat.weights)) for flat in flats]
            )
            for view, part in zip(
                whole.flat.views(buffer), whole.from_member_rows(rows), strict=True
            ):
                view.copy_(part)
        if whole.ema_weights:
            rows = torch.stack(
                [
                    torch.cat([part.flatten() for part in get_ema_weights(each)])
                    for each in self.members
                ]
            )
            for average, part in zip(whole.ema_weights, whole.from_member_rows(rows), strict=True):
                average.copy_(part)

    @torch.no_grad()
    def _store_member_states(self, well: Sequence[bool]) -> None:
        """Give the members what they have learnt, besides those that diverged."""
        whole = self.full_trainer
        weights = whole.to_member_rows(self.full_trainer.parameters)
        state = {
            name: whole.to_member_rows(whole.flat.views(buffer))
            for name, buffer in whole.flat.state.items()
        }
        averages = whole.to_member_rows(whole.ema_weights) if whole.ema_weights else None
        for row, member in enumerate(self.members):
            if not well[row]:
                continue
            flat = get_member_optimizer(member)
            flat.weights.copy_(weights[row : row + 1])
            for name, buffer in flat.state.items():
                buffer.copy_(state[name][row : row + 1])
            flat.state_view.expose()
            flat.state_view.steps_taken = member.optimization.steps_taken[GROUP] = self.steps_taken[
                row
            ]
            if averages is not None:
                own = get_ema_weights(member)
                for mine, part in zip(
                    own, averages[row].split([each.numel() for each in own]), strict=True
                ):
                    mine.copy_(part.view_as(mine))
            for buffer, seen in whole.objective.make.buffers:
                seen[row].copy_(buffer[row])


def get_ema_weights(member: Trainer) -> list[Tensor]:
    """The running averages of a member's weights, where those are kept."""
    return member.optimization.ema_parameters.get(GROUP, [])


def get_member_optimizer(member: Trainer) -> FlatOptimizer:
    """A member's own weights and optimizer's state in one buffer each."""
    learner = member.optimization
    found = learner.fast_steps.get(GROUP)
    if not isinstance(found, FlatOptimizer):
        if found is not None:
            found.state_view.write_step_counts()
        found = learner.fast_steps[GROUP] = FlatOptimizer(
            learner.groups[GROUP], learner.optimizers[GROUP]
        )
    return found


def get_split_source(trainer: Trainer, split: str) -> Any:
    """The rows of a split, None where there are none."""
    return trainer.data.train if split == "train" else trainer.data.val


def stack_optimizers(optimizers: Sequence[Optimizer], parameters: list[nn.Parameter]) -> Optimizer:
    """An optimizer over stacked weights, with each member's own hyperparameters. Raises Unstackable."""
    first = optimizers[0]
    if {type(each) for each in optimizers} != {type(first)} or any(
        len(each.param_groups) > 1 for each in optimizers
    ):
        raise NotStackable(
            "their optimizers are of different kinds, or have different rates for parts of a model"
        )
    known = inspect.signature(type(first)).parameters
    found = type(first)(
        parameters, **{name: value for name, value in first.defaults.items() if name in known}
    )  # type: ignore[call-arg]
    groups, mine = [each.param_groups[0] for each in optimizers], found.param_groups[0]
    for name in groups[0].keys() - {"params"}:
        values = [group.get(name, group["lr"]) for group in groups]
        if all(value == values[0] for value in values):
            mine[name] = values[0]
        elif name in PER_MEMBER_OPTIONS:
            mine[name] = torch.tensor(values, device=parameters[0].device)[:, None]
        else:
            raise NotStackable(
                f"optimizer.{name} differs: {', '.join(map(str, dict.fromkeys(values)))}"
            )
    mine.setdefault("initial_lr", mine["lr"])
    return found
