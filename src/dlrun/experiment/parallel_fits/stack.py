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

from dlrun.core.dataset import Data
from dlrun.core.errors import Diverged, Unstackable
from dlrun.core.random import mix
from dlrun.core.types import Row
from dlrun.experiment.parallel_fits.batches import Abreast, stretches
from dlrun.experiment.parallel_fits.meters import Meters
from dlrun.experiment.parallel_fits.objective import Stacked
from dlrun.training.fast.flat_optimizer import Flat, fits
from dlrun.training.meter import Meter
from dlrun.training.optimization import Learner
from dlrun.training.trainer import SPLITS, Trainer

GROUP = "model"
OWN = ("lr", "initial_lr", "weight_decay", "momentum")  # hyperparameters that each member may have for itself


class Lead:
    """A trainer over the stacked weights of some members. Raises Unstackable."""

    def __init__(self, members: Sequence[Trainer], means: Sequence[str], streams: Sequence[torch.Generator]) -> None:
        first = members[0]
        objectives: list[Any] = [member.objective for member in members]
        self.objective = Stacked(objectives, streams, means)
        self.parameters = self.objective.groups[GROUP]
        optimizers = [member.learner.optimizers[GROUP] for member in members]
        make = lambda parameters: joined(optimizers, parameters)  # noqa: E731
        settings = replace(first.settings, save_every=math.inf)  # its members save themselves
        learner = Learner(self.objective.groups, make, settings, first.learner.schedule, first.device)
        learner.members, learner.total = len(members), first.steps_planned
        if not fits(self.parameters, learner.optimizers[GROUP], len(members)):
            raise Unstackable(f"the optimizer {type(optimizers[0]).__name__} cannot step for several members at once")
        self.flat = learner.faster[GROUP] = Flat(self.parameters, learner.optimizers[GROUP], len(members))
        data = Data(first.data.spec, first.data.train)
        self.trainer = Trainer(self.objective, data, settings, learner, {}, first.folder)

    @property
    def averages(self) -> list[Tensor]:
        """The running averages of the stacked weights, where those are kept."""
        return self.trainer.learner.average.get(GROUP, [])

    def as_members(self, parts: Sequence[Tensor]) -> Tensor:
        """Tensors like the stacked weights as (members, P): a row as one member has it in its own buffer."""
        turned = self.objective.make.turned
        pairs = zip(parts, self.parameters, strict=True)
        own = [part.transpose(1, 2) if id(parameter) in turned else part for part, parameter in pairs]
        return torch.cat([part.reshape(len(part), -1) for part in own], 1)

    def from_members(self, rows: Tensor) -> list[Tensor]:
        """The other way round: (members, P) as tensors like the stacked weights."""
        turned = self.objective.make.turned
        shapes = [(p.transpose(1, 2) if id(p) in turned else p).shape for p in self.parameters]
        parts = rows.split([shape[1:].numel() for shape in shapes], 1)
        own = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return [o.transpose(1, 2) if id(p) in turned else o for o, p in zip(own, self.parameters, strict=True)]

    def share(self, whole: Lead, low: int, high: int) -> None:
        """Be a view of members low … high - 1 of a larger one: what is learnt here, is learnt there."""
        flat, rows = self.flat, slice(low, high)
        flat.weights, flat.state = whole.flat.weights[rows], {n: each[rows] for n, each in whole.flat.state.items()}
        for parameter, view in zip(self.parameters, flat.views(flat.weights), strict=True):
            parameter.data = view
        pairs = zip(self.objective.make.seen, whole.objective.make.seen, strict=True)
        for mine, others in [*zip(self.averages, whole.averages, strict=True), *((a[0], b[0]) for a, b in pairs)]:
            mine.data = others[rows]


class Stack:
    """Fits of one architecture that are at the same epoch, none of them amid one. Raises Unstackable.

    trainers: of the members; those with most training rows come first here. means: see `Stacked`. The members hold
    what was so at the end of the last epoch: an epoch that is cut is as if it had not begun.
    """

    def __init__(self, trainers: Sequence[Trainer], means: Sequence[str]) -> None:
        self.members = sorted(trainers, key=lambda trainer: -len(trainer.data.train))
        self.means = means
        self.streams = [torch.Generator(member.device) for member in self.members]
        self.whole = Lead(self.members, means, self.streams)
        self.leads = {(0, len(self.members)): self.whole}
        self.sweeps = {split: self._stretches(split) for split in ("train", "val") if source_of(self.members[0], split)}
        self.taken = [member.learner.taken[GROUP] for member in self.members]
        self.running = self.whole.trainer  # the one that sweeps now: a signal is told to it
        for member in self.members:
            member.learner.total = member.steps_planned
        self._take_up()

    def _stretches(self, split: str) -> list[tuple[int, int, Abreast]]:
        """What is swept one after the other: all members abreast, then the ends of those that have more rows."""
        settings, sources = self.members[0].settings, [source_of(member, split) for member in self.members]
        learn, first = split == "train", self.members[0]
        size = settings.batch_rows if learn else settings.rows_at_once(first.data.spec)
        most = settings.epoch_batches if learn else None
        rows = [first.rows_learned(source) if learn else len(source) for source in sources]
        counts = [min(count, (most or count) * size) for count in rows]
        seeds = [member.seed for member in self.members]
        return [
            (low, high, Abreast(sources[low:high], seeds[low:high], first, rows))
            for low, high, first, rows in stretches(counts, size)
        ]

    def _lead(self, low: int, high: int) -> Lead:
        if (low, high) not in self.leads:
            self.leads[low, high] = lead = Lead(self.members[low:high], self.means, self.streams[low:high])
            lead.share(self.whole, low, high)
        return self.leads[low, high]

    def epoch(self) -> list[Diverged | None]:
        """Train and validate all members once over; answers with where each diverged, in the order of `members`.

        Those that did not have their rows and weights then, and their callbacks are the caller's. Raises Interrupted.
        """
        began, number = time.monotonic(), self.members[0].epoch
        for stream, member in zip(self.streams, self.members, strict=True):
            stream.manual_seed(mix(member.seed, number, SPLITS.index("train")))
        failed: list[Diverged | None] = [None] * len(self.members)
        rows: list[list[Row]] = [[] for _ in self.members]
        for split in self.sweeps:
            meters = self._sweep(split, failed)
            for mine, meter, fault in zip(rows, meters, failed, strict=True):
                values = {} if fault else {name: score.value for name, score in meter.scores().items()}
                mine.append(Row(number + 1, split, values))
        self._hand_down([fault is None for fault in failed])
        for member, mine, fault in zip(self.members, rows, failed, strict=True):
            if fault is None:
                rates = {"train": member.learner.rates}  # before the rows of this epoch are there, as alone
                member.history.extend(replace(row, rates=rates.get(row.split, {})) for row in mine)
                member.epoch, member.began_at = number + 1, time.monotonic()
                member.spent += (member.began_at - began) / len(self.members)
        return failed

    def _sweep(self, split: str, failed: list[Diverged | None]) -> list[Meter]:
        """Sweep a split for all members; marks those that diverge."""
        where = f"epoch {self.members[0].epoch + 1}, {split}, "
        made = [Meter(each.measures, each.data.spec.targets, each.device, where) for each in self.members]
        steps = [0] * len(made)
        for low, high, source in self.sweeps[split]:
            lead, some = self._lead(low, high), slice(low, high)
            trainer, meters = lead.trainer, Meters(made[some], lead.objective.losses_of, failed[some], steps[some])
            trainer.epoch, trainer.interrupted = self.members[0].epoch, self.running.interrupted
            trainer.meter, self.running = meters, trainer  # type: ignore[assignment]
            before = trainer.learner.taken[GROUP] = lead.flat.kept.taken = self.taken[low]
            if split == "train" and trainer.out_of_steps:
                continue
            trainer.sweep(split, source, learn=split == "train")
            self.taken[some] = [count + lead.flat.kept.taken - before for count in self.taken[some]]
            steps[some], failed[some] = meters.steps, meters.failed
        return made

    @torch.no_grad()
    def _take_up(self) -> None:
        """Take over the state of the members' optimizers, and running averages; their weights are here already."""
        flats, whole = [own_flat(member) for member in self.members], self.whole
        for name, buffer in whole.flat.state.items():
            rows = torch.cat([flat.state.get(name, torch.zeros_like(flat.weights)) for flat in flats])
            for view, part in zip(whole.flat.views(buffer), whole.from_members(rows), strict=True):
                view.copy_(part)
        if whole.averages:
            rows = torch.stack([torch.cat([part.flatten() for part in averages_of(each)]) for each in self.members])
            for average, part in zip(whole.averages, whole.from_members(rows), strict=True):
                average.copy_(part)

    @torch.no_grad()
    def _hand_down(self, well: Sequence[bool]) -> None:
        """Give the members what they have learnt, besides those that diverged."""
        whole = self.whole
        weights = whole.as_members(self.whole.parameters)
        state = {name: whole.as_members(whole.flat.views(buffer)) for name, buffer in whole.flat.state.items()}
        averages = whole.as_members(whole.averages) if whole.averages else None
        for row, member in enumerate(self.members):
            if not well[row]:
                continue
            flat = own_flat(member)
            flat.weights.copy_(weights[row : row + 1])
            for name, buffer in flat.state.items():
                buffer.copy_(state[name][row : row + 1])
            flat.kept.show()
            flat.kept.taken = member.learner.taken[GROUP] = self.taken[row]
            if averages is not None:
                own = averages_of(member)
                for mine, part in zip(own, averages[row].split([each.numel() for each in own]), strict=True):
                    mine.copy_(part.view_as(mine))
            for buffer, seen in whole.objective.make.seen:
                seen[row].copy_(buffer[row])


def averages_of(member: Trainer) -> list[Tensor]:
    """The running averages of a member's weights, where those are kept."""
    return member.learner.average.get(GROUP, [])


def own_flat(member: Trainer) -> Flat:
    """A member's own weights and optimizer's state in one buffer each."""
    learner = member.learner
    found = learner.faster.get(GROUP)
    if not isinstance(found, Flat):
        if found is not None:
            found.kept.settle()
        found = learner.faster[GROUP] = Flat(learner.groups[GROUP], learner.optimizers[GROUP])
    return found


def source_of(trainer: Trainer, split: str) -> Any:
    """The rows of a split, None where there are none."""
    return trainer.data.train if split == "train" else trainer.data.val


def joined(optimizers: Sequence[Optimizer], parameters: list[nn.Parameter]) -> Optimizer:
    """An optimizer over stacked weights, with each member's own hyperparameters. Raises Unstackable."""
    first = optimizers[0]
    if {type(each) for each in optimizers} != {type(first)} or any(len(each.param_groups) > 1 for each in optimizers):
        raise Unstackable("their optimizers are of different kinds, or have different rates for parts of a model")
    known = inspect.signature(type(first)).parameters
    found = type(first)(parameters, **{name: value for name, value in first.defaults.items() if name in known})  # type: ignore[call-arg]
    groups, mine = [each.param_groups[0] for each in optimizers], found.param_groups[0]
    for name in groups[0].keys() - {"params"}:
        values = [group.get(name, group["lr"]) for group in groups]
        if all(value == values[0] for value in values):
            mine[name] = values[0]
        elif name in OWN:
            mine[name] = torch.tensor(values, device=parameters[0].device)[:, None]
        else:
            raise Unstackable(f"optimizer.{name} differs: {', '.join(map(str, dict.fromkeys(values)))}")
    mine.setdefault("initial_lr", mine["lr"])
    return found
