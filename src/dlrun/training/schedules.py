"""Learning-rate schedules: the rate of the next step or epoch, from what has been done so far."""

from __future__ import annotations

import fractions
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch.optim import Optimizer

from dlrun.config.annotations import Count, Fraction, NonNegative, Positive, Probability
from dlrun.core.types import History


@dataclass(frozen=True)
class ScheduleState:
    """When a learning rate is asked for: optimizer steps taken, steps planned, and what has been
    written down.
    """

    step: int
    total: int
    history: History


Schedule = Callable[[ScheduleState], float]  # → factor on the optimizer's own learning rate


def with_warmup(schedule: Schedule, warmup: float) -> Schedule:
    """A linear rise from 0 over the first `warmup` share of the steps, then the schedule."""
    if not warmup:
        return schedule

    def factor(state: ScheduleState) -> float:
        rise = warmup * state.total
        # (step + 1): the first step already learns something.
        return schedule(state) * min(1.0, (state.step + 1) / max(1.0, rise))

    return factor


def constant(*, warmup: Probability) -> Schedule | None:
    """The optimizer's own learning rate throughout; None (nothing to do) without warm-up."""
    return with_warmup(lambda state: 1.0, warmup) if warmup else None


def step(*, every: Fraction, factor: Positive, warmup: Probability) -> Schedule:
    """Times `factor` after each `every` share of the steps."""
    if not every:
        raise ValueError("every=0: say after which share of the steps the rate drops, such as 0.33")
    share = fractions.Fraction(
        repr(every)
    )  # a tenth is a tenth: in floats the third of ten steps comes before 3 × 0.1
    drops = lambda state: (  # noqa: E731
        state.step * share.denominator // (max(1, state.total) * share.numerator)
    )
    return with_warmup(lambda state: float(factor ** drops(state)), warmup)


def cosine(*, floor: Fraction, warmup: Probability) -> Schedule:
    """Half a cosine from 1 down to `floor` (Loshchilov & Hutter 2017, without restarts)."""

    def factor(state: ScheduleState) -> float:
        begin = warmup * state.total
        share = (state.step - begin) / max(1.0, state.total - begin)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))

    return with_warmup(factor, warmup)


def onecycle(*, peak: Positive, rise: Probability, floor: NonNegative) -> Schedule:
    """Up to `peak` times the rate over the first `rise` share of the steps, then down to `floor`
    (Smith 2018).
    """

    def factor(state: ScheduleState) -> float:
        share = state.step / max(1, state.total)
        if share < rise:
            low, high, along = peak / 25, peak, share / rise
        else:
            low, high, along = peak, floor, (share - rise) / (1 - rise)
        return low + (high - low) * 0.5 * (1 - math.cos(math.pi * along))

    return factor


@dataclass(frozen=True)
class Plateau:
    """Times `factor` whenever `monitor` has not become better for `patience` epochs in a row."""

    monitor: str
    patience: int
    factor: float
    goal: str = "min"

    def __call__(self, state: ScheduleState) -> float:
        drops = wait = 0
        best: float | None = None
        for value in get_monitored_values(state.history, self.monitor):
            if best is None or is_better(value, best, self.goal):
                best, wait = value, 0
            elif best == best:
                wait += 1
                if wait >= self.patience:
                    drops, wait = drops + 1, 0
        return float(self.factor**drops)


def plateau(*, monitor: str, patience: Count, factor: Positive) -> Plateau:
    """A schedule that waits for the monitored measure ('val/loss') to stop becoming better."""
    return Plateau(monitor, patience, factor)


def get_monitored_values(history: History, monitor: str) -> list[float]:
    """The values of one measure, 'split/name', epoch by epoch."""
    split, _, name = monitor.partition("/")
    return [row.values[name] for row in history if row.split == split]


def is_better(value: float, best: float, goal: str, least: float = 0.0) -> bool:
    """Whether a value beats the best so far by more than `least`. nan never does, and any number
    beats nan.
    """
    if best != best:
        return value == value
    return value < best - least if goal == "min" else value > best + least


def scale_learning_rate(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times the one it began with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "initial_lr" not in group:
                group["initial_lr"] = float(group["lr"])
            group["lr"] = group["initial_lr"] * factor
