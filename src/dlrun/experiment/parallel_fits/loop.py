"""Trains fits epoch by epoch as one, each of which has its own history, callbacks, checkpoints and end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dlrun.core.errors import Interrupted
from dlrun.core.run_folder import RunDir
from dlrun.core.types import Job, Result, Row, Score
from dlrun.experiment.builder import Assembly, Fit
from dlrun.experiment.parallel_fits.stack import Stack
from dlrun.training.signals import signals
from dlrun.training.trainer import Callback, Trainer

if TYPE_CHECKING:
    from dlrun.training.trainer import Watch


MOST = 64  # members of one stack
COUNTING = ("Adam", "AdamW")  # optimizers whose steps depend on how many there were before


class FitOwner(Protocol):
    """The experiment that a fit belongs to, and that alone begins, continues and ends it."""

    assembly: Assembly
    run: RunDir
    latest: Fit | None
    alone: list[Fit] | None

    def fitted(self) -> list[Result]:
        """The results of fits so far."""

    def begin(self, fit: Fit) -> dict[str, Score]:
        """Begin or restore a fit, and say what its baseline scores."""

    def carry_on(self, fit: Fit, baseline: dict[str, Score], watch: Watch | None = None) -> None:
        """Train a fit by itself."""

    def conclude(self, fit: Fit, baseline: dict[str, Score]) -> Result:
        """Score a fit that has ended."""

    def ended_early(self, fit: Fit, error: BaseException) -> None:
        """Leave the best epoch of a fit that failed."""


@dataclass
class Member:
    """One fit among others. means: see `Stacked`. error: what ended it before its time."""

    experiment: FitOwner
    fit: Fit
    baseline: dict[str, Score]
    means: list[str]
    error: Exception | None = None

    @property
    def trainer(self) -> Trainer:
        return self.fit.trainer

    @property
    def done(self) -> bool:
        return self.error is not None or self.trainer.finished

    def end_early(self, error: BaseException) -> None:
        """Take this one out, and leave its best epoch on the disk."""
        self.error = error if isinstance(error, Exception) else None
        self.experiment.ended_early(self.fit, error)


class Face:
    """What looks on, and what a signal reaches, sees of several fits: one trainer, whose rows are their mean."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.stop = stack, ""
        self.epoch = stack.members[0].epoch
        self.history: list[Row] = []
        self.callbacks: list[Callback] = []
        first = stack.members[0]  # what is measured, and how, is the same for all
        self.objective, self.data, self.measures = first.objective, first.data, first.measures

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stack.running, name)

    @property
    def interrupted(self) -> int:
        """The signal that asks to stop; 0 while none does."""
        return self.stack.running.interrupted

    @interrupted.setter
    def interrupted(self, number: int) -> None:
        self.stack.running.interrupted = number

    @property
    def settings(self) -> Any:
        """Those of every member."""
        return self.stack.members[0].settings

    def tick(self, members: Sequence[Trainer]) -> None:
        """Take in the epoch that these have ended."""
        self.epoch = members[0].epoch
        latest = [[row for row in member.history[-2:] if row.epoch == self.epoch] for member in members]
        for rows in zip(*latest, strict=True):
            means = {name: statistics.fmean(row.values[name] for row in rows) for name in rows[0].values}
            self.history.append(Row(self.epoch, rows[0].split, means))
        for callback in self.callbacks:
            callback(self)  # type: ignore[arg-type]


def train(members: Sequence[Member], watch: Watch | None = None) -> None:
    """Train members to their ends, as stacks of those that can be one. Raises Interrupted, once they are saved."""
    groups: dict[Any, list[Member]] = {}
    for number, member in enumerate(members):
        if not member.done:
            groups.setdefault(pace(member.trainer, number), []).append(member)
    for group in groups.values():
        for low in range(0, len(group), MOST):
            some = group[low : low + MOST]
            if len(some) > 1:
                train_stack(some, watch)
            else:
                some[0].experiment.carry_on(some[0].fit, some[0].baseline, watch)


def pace(trainer: Trainer, number: int) -> Any:
    """Trainers in step with each other have this in common. number: of one that is amid an epoch, and so alone."""
    amid = trainer.meter is not None or trainer.position or any(row.epoch > trainer.epoch for row in trainer.history)
    learner = trainer.learner
    counts = learner.schedule is not None or trainer.settings.max_steps is not None
    counts |= any(type(optimizer).__name__ in COUNTING for optimizer in learner.optimizers.values())
    return trainer.epoch, number if amid else None, trainer.steps_planned if counts else None


def train_stack(members: Sequence[Member], watch: Watch | None) -> None:
    """Train members as one. Who stops early, leaves; the others go on as if it had never been there."""
    left = list(members)
    face = Face(Stack([member.trainer for member in left], left[0].means))
    baseline = {
        name: Score(statistics.fmean(m.baseline[name].value for m in left), goal=score.goal)
        for name, score in left[0].baseline.items()
    }
    looking = watch(face, Job(stage=f"{len(left)} fits"), baseline) if watch else nullcontext()  # type: ignore[arg-type]
    with looking, signals(face):
        try:
            while left:
                left = one_epoch(left, face)
        except Interrupted:
            for member in left:
                member.trainer.save()
            raise
        except BaseException as error:
            for member in left:
                member.end_early(error)
            raise


def one_epoch(members: list[Member], face: Face) -> list[Member]:
    """Train members for an epoch; answers with those that are not done. Raises Interrupted."""
    stack, by_trainer = face.stack, {id(member.trainer): member for member in members}
    for trainer, fault in zip(stack.members, stack.epoch(), strict=True):
        if fault is not None:
            by_trainer[id(trainer)].end_early(fault)
    for member in members:
        if member.error is None:
            look_on(member)
    well = [member for member in members if member.error is None]
    if well:
        face.tick([member.trainer for member in well])
    for member in well:
        member.trainer.stop = member.trainer.stop or face.stop
        if member.trainer.finished:
            member.trainer.save()
    left = [member for member in members if not member.done]
    interrupted = face.interrupted
    if left and len(left) < len(members):
        face.stack = Stack([member.trainer for member in left], left[0].means)
        face.interrupted = interrupted
    if interrupted and left:
        for member in left:
            member.trainer.save()
        raise Interrupted(interrupted)
    return left


def look_on(member: Member) -> None:
    """Call the callbacks of one member after an epoch, and save it when it is time; an error is its own."""
    trainer = member.trainer
    try:
        for callback in trainer.callbacks:
            callback(trainer)
        if time.monotonic() - trainer.saved_at >= trainer.settings.save_every:
            trainer.save()
    except Exception as error:
        member.end_early(error)
