"""Several fits trained as one: their weights in one buffer, trained by one trainer."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dlrun.core.dataset import PreparedData
from dlrun.core.device import derive_seed
from dlrun.core.errors import NotStackable, TrainingDiverged
from dlrun.core.types import EpochRecord
from dlrun.experiment.parallel_fits.batches import ParallelBatches, split_into_segments
from dlrun.experiment.parallel_fits.objective import StackedMeter, StackedObjective
from dlrun.training.fast.flat_optimizer import FlatOptimizer, supports_flat_step
from dlrun.training.meter import Meter
from dlrun.training.optimization import Optimization
from dlrun.training.step_runner import WeightUpdate
from dlrun.training.trainer import SPLITS, Trainer

GROUP = "model"
PER_MEMBER_OPTIONS = (
    "lr",
    "initial_lr",
    "weight_decay",
    "momentum",
)  # hyperparameters that each member may have for itself


class StackedTrainer:
    """A trainer over the stacked weights of some members.

    Raises:
        NotStackable: see the message.
    """

    def __init__(
        self,
        members: Sequence[Trainer],
        mean_losses: Sequence[str],
        streams: Sequence[torch.Generator],
    ) -> None:
        first = members[0]
        objectives: list[Any] = [member.objective for member in members]
        self.objective = StackedObjective(objectives, streams, mean_losses)
        self.parameters = self.objective.groups[GROUP]
        optimizers = [member.optimization.optimizers[GROUP] for member in members]
        build_optimizer = lambda parameters: stack_optimizers(optimizers, parameters)  # noqa: E731
        settings = replace(first.settings, save_every=math.inf)  # its members save themselves
        optimization = Optimization(
            self.objective.groups,
            build_optimizer,
            settings,
            first.optimization.schedule,
            first.device,
            partial(WeightUpdate, members=len(members)),
        )
        optimization.total_steps = first.total_steps
        if not supports_flat_step(self.parameters, optimization.optimizers[GROUP], len(members)):
            raise NotStackable(
                f"the optimizer {type(optimizers[0]).__name__} cannot step for several members at "
                "once"
            )
        self.flat = optimization.updates[GROUP].flatten()
        data = PreparedData(first.data.spec, first.data.train)
        self.trainer = Trainer(self.objective, data, settings, optimization, {}, first.folder)

    @property
    def ema_weights(self) -> list[Tensor]:
        """The running averages of the stacked weights, where those are kept."""
        return self.trainer.optimization.ema_parameters.get(GROUP, [])

    def to_member_rows(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors like the stacked weights as (members, P).

        A row as one member has it in its own buffer.
        """
        transposed = self.objective.make.transposed
        pairs = zip(tensors, self.parameters, strict=True)
        flat = [
            tensor.transpose(1, 2) if id(parameter) in transposed else tensor
            for tensor, parameter in pairs
        ]
        return torch.cat([tensor.reshape(len(tensor), -1) for tensor in flat], 1)

    def from_member_rows(self, rows: Tensor) -> list[Tensor]:
        """The other way round: (members, P) as tensors like the stacked weights."""
        transposed = self.objective.make.transposed
        shapes = [(p.transpose(1, 2) if id(p) in transposed else p).shape for p in self.parameters]
        slices = rows.split([shape[1:].numel() for shape in shapes], 1)
        shaped = [piece.reshape(shape) for piece, shape in zip(slices, shapes, strict=True)]
        return [
            tensor.transpose(1, 2) if id(p) in transposed else tensor
            for tensor, p in zip(shaped, self.parameters, strict=True)
        ]

    def become_view_of(self, parent: StackedTrainer, low: int, high: int) -> None:
        """Become a view of members low … high - 1 of a larger stack.

        Both learn the same weights.
        """
        flat, rows = self.flat, slice(low, high)
        flat.weights, flat.state = (
            parent.flat.weights[rows],
            {name: buffer[rows] for name, buffer in parent.flat.state.items()},
        )
        for parameter, view in zip(self.parameters, flat.views(flat.weights), strict=True):
            parameter.data = view
        pairs = zip(self.objective.make.buffers, parent.objective.make.buffers, strict=True)
        for tensor, source in [
            *zip(self.ema_weights, parent.ema_weights, strict=True),
            *((a[0], b[0]) for a, b in pairs),
        ]:
            tensor.data = source[rows]


class FitStack:
    """Fits of one architecture that are at the same epoch, none of them amid one.

    The members hold the state of the last complete epoch: one that is cut is as if it had not
    begun.

    Args:
        trainers: Of the members; those with most training rows come first here.
        mean_losses: Targets whose loss is a plain mean over rows, see `StackedObjective`.

    Raises:
        NotStackable: if they cannot be one.
    """

    def __init__(self, trainers: Sequence[Trainer], mean_losses: Sequence[str]) -> None:
        # Members with most rows first: those that still have batches are then neighbors.
        self.members = sorted(trainers, key=lambda trainer: -len(trainer.data.train))
        self.mean_losses = mean_losses
        self.streams = [torch.Generator(member.device) for member in self.members]
        self.full_trainer = StackedTrainer(self.members, mean_losses, self.streams)
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
        """What is swept one after the other.

        All members abreast, then the ends of those that have more rows.
        """
        settings, sources = (
            self.members[0].settings,
            [get_split_source(member, split) for member in self.members],
        )
        learn, first = split == "train", self.members[0]
        size = settings.batch_rows if learn else settings.get_inference_batch_size(first.data.spec)
        max_batches = settings.epoch_batches if learn else None
        rows = [first.count_training_rows(source) if learn else len(source) for source in sources]
        counts = [min(count, (max_batches or count) * size) for count in rows]
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
        """Train and validate all members once over; answers with where each diverged, in the order
        of `members`.

        Those that did not have their rows and weights then, and their callbacks are the caller's.

        Raises:
            TrainingInterrupted: see the message.
        """
        began, number = time.monotonic(), self.members[0].epoch
        for stream, member in zip(self.streams, self.members, strict=True):
            stream.manual_seed(derive_seed(member.seed, number, SPLITS.index("train")))
        errors: list[TrainingDiverged | None] = [None] * len(self.members)
        rows: list[list[EpochRecord]] = [[] for _ in self.members]
        for split in self.segments:
            meters = self._run_split(split, errors)
            for records, meter, error in zip(rows, meters, errors, strict=True):
                values = (
                    {} if error else {name: score.value for name, score in meter.scores().items()}
                )
                records.append(EpochRecord(number + 1, split, values))
        self._store_member_states([error is None for error in errors])
        for member, records, error in zip(self.members, rows, errors, strict=True):
            if error is None:
                rates = {
                    "train": member.optimization.rates
                }  # before the rows of this epoch are there, as alone
                member.history.extend(
                    replace(row, rates=rates.get(row.split, {})) for row in records
                )
                member.epoch, member.began_at = number + 1, time.monotonic()
                member.earlier_seconds += (member.began_at - began) / len(self.members)
        return errors

    def _run_split(self, split: str, errors: list[TrainingDiverged | None]) -> list[Meter]:
        """Sweep a split for all members; marks those that diverge."""
        where = f"epoch {self.members[0].epoch + 1}, {split}, "
        member_meters = [
            Meter(member.metrics, member.data.spec.targets, member.device, where)
            for member in self.members
        ]
        steps = [0] * len(member_meters)
        for low, high, source in self.segments[split]:
            stacked, members_slice = self._get_trainer(low, high), slice(low, high)
            trainer, meters = (
                stacked.trainer,
                StackedMeter(
                    member_meters[members_slice],
                    stacked.objective.get_member_losses,
                    errors[members_slice],
                    steps[members_slice],
                ),
            )
            trainer.epoch, trainer.interrupted = (
                self.members[0].epoch,
                self.active_trainer.interrupted,
            )
            trainer.meter, self.active_trainer = meters, trainer  # type: ignore[assignment]
            steps_before = trainer.optimization.steps_taken[GROUP] = (
                stacked.flat.state_view.steps_taken
            ) = self.steps_taken[low]
            if split == "train" and trainer.out_of_steps:
                continue
            trainer.run_epoch(split, source, train=split == "train")
            self.steps_taken[members_slice] = [
                count + stacked.flat.state_view.steps_taken - steps_before
                for count in self.steps_taken[members_slice]
            ]
            steps[members_slice], errors[members_slice] = meters.steps, meters.failed
        return member_meters

    @torch.no_grad()
    def _load_member_states(self) -> None:
        """Take over the state of the members' optimizers, and running averages.

        Their weights are here already.
        """
        optimizers, stacked = (
            [get_member_optimizer(member) for member in self.members],
            self.full_trainer,
        )
        for name, buffer in stacked.flat.state.items():
            rows = torch.cat(
                [flat.state.get(name, torch.zeros_like(flat.weights)) for flat in optimizers]
            )
            for view, value in zip(
                stacked.flat.views(buffer), stacked.from_member_rows(rows), strict=True
            ):
                view.copy_(value)
        if stacked.ema_weights:
            rows = torch.stack(
                [
                    torch.cat([value.flatten() for value in get_ema_weights(member)])
                    for member in self.members
                ]
            )
            for average, value in zip(
                stacked.ema_weights, stacked.from_member_rows(rows), strict=True
            ):
                average.copy_(value)

    @torch.no_grad()
    def _store_member_states(self, succeeded: Sequence[bool]) -> None:
        """Give the members what they have learned, besides those that diverged."""
        stacked = self.full_trainer
        weights = stacked.to_member_rows(self.full_trainer.parameters)
        state = {
            name: stacked.to_member_rows(stacked.flat.views(buffer))
            for name, buffer in stacked.flat.state.items()
        }
        averages = stacked.to_member_rows(stacked.ema_weights) if stacked.ema_weights else None
        for row, member in enumerate(self.members):
            if not succeeded[row]:
                continue
            flat = get_member_optimizer(member)
            flat.weights.copy_(weights[row : row + 1])
            for name, buffer in flat.state.items():
                buffer.copy_(state[name][row : row + 1])
            flat.state_view.expose()
            count = self.steps_taken[row]
            flat.state_view.steps_taken = member.optimization.steps_taken[GROUP] = count
            if averages is not None:
                member_averages = get_ema_weights(member)
                sizes = [average.numel() for average in member_averages]
                values = averages[row].split(sizes)
                for average, value in zip(member_averages, values, strict=True):
                    average.copy_(value.view_as(average))
            for buffer, member_buffers in stacked.objective.make.buffers:
                # Running statistics of batch norm.
                member_buffers[row].copy_(buffer[row])


def get_ema_weights(member: Trainer) -> list[Tensor]:
    """The running averages of a member's weights, where those are kept."""
    return member.optimization.ema_parameters.get(GROUP, [])


def get_member_optimizer(member: Trainer) -> FlatOptimizer:
    """A member's own weights and optimizer's state in one buffer each."""
    return member.optimization.updates[GROUP].flatten()


def get_split_source(trainer: Trainer, split: str) -> Any:
    """The rows of a split, None where there are none."""
    return trainer.data.train if split == "train" else trainer.data.val


def stack_optimizers(optimizers: Sequence[Optimizer], parameters: list[nn.Parameter]) -> Optimizer:
    """An optimizer over stacked weights, with each member's own hyperparameters.

    Raises:
        NotStackable: see the message.
    """
    first = optimizers[0]
    if {type(optimizer) for optimizer in optimizers} != {type(first)} or any(
        len(optimizer.param_groups) > 1 for optimizer in optimizers
    ):
        raise NotStackable(
            "their optimizers are of different kinds, or have different rates for parts of a model"
        )
    accepted = inspect.signature(type(first)).parameters
    stacked = type(first)(
        parameters, **{name: value for name, value in first.defaults.items() if name in accepted}
    )  # type: ignore[call-arg]
    groups, stacked_group = (
        [optimizer.param_groups[0] for optimizer in optimizers],
        stacked.param_groups[0],
    )
    for name in groups[0].keys() - {"params"}:
        # initial_lr is missing until a schedule has scaled the rate: then it is lr.
        values = [group.get(name, group["lr"]) for group in groups]
        if all(value == values[0] for value in values):
            stacked_group[name] = values[0]
        elif name in PER_MEMBER_OPTIONS:
            stacked_group[name] = torch.tensor(values, device=parameters[0].device)[:, None]
        else:
            raise NotStackable(
                f"optimizer.{name} differs: {', '.join(map(str, dict.fromkeys(values)))}"
            )
    stacked_group.setdefault("initial_lr", stacked_group["lr"])
    return stacked
