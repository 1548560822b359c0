"""Trains fits epoch by epoch as one; each has its own history, callbacks, checkpoints and end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dlrun.core.errors import TrainingInterrupted
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import EpochRecord, FitJob, Result, Score
from dlrun.experiment.builder import BuiltFit, ExperimentBuilder
from dlrun.experiment.parallel_fits.stack import FitStack
from dlrun.training.trainer import AfterEpoch, Trainer, handle_stop_signal

if TYPE_CHECKING:
    from dlrun.training.trainer import FitWatcher


MAX_MEMBERS = 64  # members of one stack
STEP_COUNTING_OPTIMIZERS = (
    "Adam",
    "AdamW",
)  # optimizers whose steps depend on how many there were before


class FitOwner(Protocol):
    """The experiment that a fit belongs to, and that alone begins, continues and ends it."""

    builder: ExperimentBuilder
    run: RunFolder

    def get_pending_jobs(self) -> list[FitJob]:
        """The jobs that the plan asks for next, whatever comes of them."""

    def add_result(self, fit: BuiltFit, result: Result) -> None:
        """Write down what came of a fit."""

    def restore(self, fit: BuiltFit) -> dict[str, Score]:
        """Begin or restore a fit, and say what its baseline scores."""

    def train_fit(
        self, fit: BuiltFit, baseline: dict[str, Score], watch: FitWatcher | None = None
    ) -> None:
        """Train a fit by itself."""

    def finalize(self, fit: BuiltFit, baseline: dict[str, Score]) -> Result:
        """Score a fit that has ended."""

    def record_failure(self, fit: BuiltFit, error: BaseException) -> None:
        """Leave the best epoch of a fit that failed."""


@dataclass
class Member:
    """One fit among others.

    Attributes:
        experiment: That it belongs to.
        fit: Model, data and trainer.
        baseline: Scores of the baseline.
        mean_losses: Targets whose loss is a plain mean over rows, see `StackedObjective`.
        error: What ended it before its time.
    """

    experiment: FitOwner
    fit: BuiltFit
    baseline: dict[str, Score]
    mean_losses: list[str]
    error: Exception | None = None

    @property
    def trainer(self) -> Trainer:
        return self.fit.trainer

    @property
    def is_done(self) -> bool:
        return self.error is not None or self.trainer.finished

    def end_early(self, error: BaseException) -> None:
        """Take this one out, and leave its best epoch on the disk."""
        self.error = error if isinstance(error, Exception) else None
        self.experiment.record_failure(self.fit, error)


class AggregateTrainer:
    """What looks on, and what a signal reaches, sees of several fits.

    One trainer, whose rows are their mean.
    """

    def __init__(self, stack: FitStack) -> None:
        self.stack, self.stop = stack, ""
        self.epoch = stack.members[0].epoch
        self.history: list[EpochRecord] = []
        self.callbacks: list[AfterEpoch] = []
        first = stack.members[0]  # what is measured, and how, is the same for all
        self.objective, self.data, self.metrics = first.objective, first.data, first.metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stack.active_trainer, name)

    @property
    def interrupted(self) -> int:
        """The signal that asks to stop; 0 while none does."""
        return self.stack.active_trainer.interrupted

    @interrupted.setter
    def interrupted(self, number: int) -> None:
        self.stack.active_trainer.interrupted = number

    @property
    def settings(self) -> Any:
        """Those of every member."""
        return self.stack.members[0].settings

    def add_epoch(self, members: Sequence[Trainer]) -> None:
        """Take in the epoch that these have ended."""
        self.epoch = members[0].epoch
        latest = [
            [row for row in member.history[-2:] if row.epoch == self.epoch] for member in members
        ]
        for rows in zip(*latest, strict=True):
            means = {
                name: statistics.fmean(row.values[name] for row in rows) for name in rows[0].values
            }
            self.history.append(EpochRecord(self.epoch, rows[0].split, means))
        for callback in self.callbacks:
            callback(self)  # type: ignore[arg-type]


def train_members(members: Sequence[Member], watch: FitWatcher | None = None) -> None:
    """Train members to their ends, as stacks of those that can be one.

    Raises:
        TrainingInterrupted: once they are saved.
    """
    groups: dict[Any, list[Member]] = {}
    for number, member in enumerate(members):
        if not member.is_done:
            # Only fits at the same epoch can share a sweep.
            groups.setdefault(get_progress_key(member.trainer, number), []).append(member)
    for group in groups.values():
        for low in range(0, len(group), MAX_MEMBERS):
            subset = group[low : low + MAX_MEMBERS]
            if len(subset) > 1:
                train_stack(subset, watch)
            else:
                subset[0].experiment.train_fit(subset[0].fit, subset[0].baseline, watch)


def get_progress_key(trainer: Trainer, number: int) -> Any:
    """Trainers in step with each other have this in common.

    Args:
        number: Of one that is amid an epoch, and so alone.
    """
    in_epoch = (
        trainer.meter is not None
        or trainer.position
        or any(row.epoch > trainer.epoch for row in trainer.history)
    )
    optimization = trainer.optimization
    counts = optimization.schedule is not None or trainer.settings.max_steps is not None
    counts |= any(
        type(optimizer).__name__ in STEP_COUNTING_OPTIMIZERS
        for optimizer in optimization.optimizers.values()
    )
    return trainer.epoch, number if in_epoch else None, trainer.total_steps if counts else None


def train_stack(members: Sequence[Member], watch: FitWatcher | None) -> None:
    """Train members as one. Who stops early, leaves.

    The others go on as if it had never been there.
    """
    remaining = list(members)
    aggregate = AggregateTrainer(
        FitStack([member.trainer for member in remaining], remaining[0].mean_losses)
    )
    baseline = {
        name: Score(statistics.fmean(m.baseline[name].value for m in remaining), goal=score.goal)
        for name, score in remaining[0].baseline.items()
    }
    display: AbstractContextManager[object] = nullcontext()
    if watch:
        job = FitJob(stage=f"{len(remaining)} fits")
        display = watch(aggregate, job, baseline)  # type: ignore[arg-type]
    with display, handle_stop_signal(aggregate):
        try:
            while remaining:
                remaining = train_stack_epoch(remaining, aggregate)
        except TrainingInterrupted:
            for member in remaining:
                member.trainer.save()
            raise
        except BaseException as error:
            for member in remaining:
                member.end_early(error)
            raise


def train_stack_epoch(members: list[Member], aggregate: AggregateTrainer) -> list[Member]:
    """Train members for an epoch; answers with those that are not done.

    Raises:
        TrainingInterrupted: see the message.
    """
    stack, by_trainer = aggregate.stack, {id(member.trainer): member for member in members}
    for trainer, error in zip(stack.members, stack.run_epoch(), strict=True):
        if error is not None:
            by_trainer[id(trainer)].end_early(error)
    for member in members:
        if member.error is None:
            run_member_callbacks(member)
    succeeded = [member for member in members if member.error is None]
    if succeeded:
        aggregate.add_epoch([member.trainer for member in succeeded])
    for member in succeeded:
        # Whoever watches the aggregate, such as a sweep that prunes, stops all members.
        member.trainer.stop = member.trainer.stop or aggregate.stop
        if member.trainer.finished:
            member.trainer.save()
    remaining = [member for member in members if not member.is_done]
    interrupted = aggregate.interrupted
    # Who has ended leaves: a smaller stack goes on.
    if remaining and len(remaining) < len(members):
        aggregate.stack = FitStack(
            [member.trainer for member in remaining], remaining[0].mean_losses
        )
        aggregate.interrupted = interrupted
    if interrupted and remaining:
        for member in remaining:
            member.trainer.save()
        raise TrainingInterrupted(interrupted)
    return remaining


def run_member_callbacks(member: Member) -> None:
    """Call the callbacks of one member after an epoch, and save it when it is time.

    An error is its own.
    """
    trainer = member.trainer
    try:
        for callback in trainer.callbacks:
            callback(trainer)
        if time.monotonic() - trainer.saved_at >= trainer.settings.save_every:
            trainer.save()
    except Exception as error:
        member.end_early(error)
