"""Optimizers as torch has them, stepped without detours; and schedules: functions of what has happened so far."""

from __future__ import annotations

import fractions
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from dlrun.config.constraints import Count, Fraction, NonNegative, Positive, Probability
from dlrun.core.types import History
from dlrun.fused import fusable, laid_as, take


def spare_compiler() -> None:
    """Keep torch.optim from importing torch's compiler (2 s of CPU) for decorators that matter only under it."""
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        inner = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            setattr(inner, "__dynamo_disable", inner)  # noqa: B010  (the attribute that the decorator looks up)


def quick_step(optimizer: Optimizer) -> Callable[[], Any]:
    """The optimizer's own step, without the profiler's and the compiler's wrappers around it. Call under no_grad."""
    step = inspect.unwrap(type(optimizer).step)
    return lambda: step(optimizer)


TINY = 1e-12


class Normalised(Optimizer):
    """Gradient descent whose step on each row of a parameter has the length `lr`, whatever the gradient's (book §5.4).

    Each row's gradient is divided by its root mean square. A row moves among others as it would alone, though the loss
    is a mean over them all. What the book adds so as not to divide by 0, 1e-5, is as large as many a gradient here.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in (each for each in group["params"] if each.grad is not None):
                own = parameter.grad * len(parameter)
                length = own.square().mean(tuple(range(1, own.dim())), keepdim=True).sqrt()
                parameter.sub_(group["lr"] * own / (length + TINY))


class MeanNormalised(Optimizer):
    """Gradient descent by the gradient over the mean of its absolute values, or over `eps` where that is larger.

    A step so moves the numbers of a parameter by `lr` on average, whatever the gradient's scale (book §8.2).
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: Positive, eps: Positive) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in (each for each in group["params"] if each.grad is not None):
                parameter.sub_(group["lr"] * parameter.grad / parameter.grad.abs().mean().clamp(min=group["eps"]))


class RMSprop(torch.optim.RMSprop):
    """torch's RMSprop. fused: on the CPU, and without momentum, all weights are updated in one call.

    That rounds otherwise than torch does, in the last digit. Its state is torch's own.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__(params, lr, alpha, eps, weight_decay, momentum, centered, foreach=True)
        for group in (self.defaults, *self.param_groups):
            group["fused"] = fused

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """Take one step with the gradients that are there."""
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if closure or not fusable(group, parameters):
                return inspect.unwrap(torch.optim.RMSprop.step)(self, closure)
        for group in self.param_groups:
            self._step(group, [each for each in group["params"] if each.grad is not None])
        return None

    def _step(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state.update(step=torch.tensor(0.0), square_avg=torch.zeros_like(parameter))
            state["step"] += 1
        laid = [laid_as(each.grad, each) for each in parameters]  # type: ignore[arg-type]
        squares = [self.state[each]["square_avg"] for each in parameters]
        take(torch._fused_adam_, group, 0, parameters, laid, {"square_avg": squares})


@dataclass(frozen=True)
class Moment:
    """When a learning rate is asked for: optimizer steps taken, steps planned, and what has been written down."""

    step: int
    total: int
    history: History


Schedule = Callable[[Moment], float]  # → factor on the optimizer's own learning rate


def warm(schedule: Schedule, warmup: float) -> Schedule:
    """A linear rise from 0 over the first `warmup` share of the steps, then the schedule."""
    if not warmup:
        return schedule

    def factor(moment: Moment) -> float:
        rise = warmup * moment.total
        return schedule(moment) * min(1.0, (moment.step + 1) / max(1.0, rise))

    return factor


def constant(*, warmup: Probability) -> Schedule | None:
    """The optimizer's own learning rate throughout; None (nothing to do) without warm-up."""
    return warm(lambda moment: 1.0, warmup) if warmup else None


def step(*, every: Fraction, factor: Positive, warmup: Probability) -> Schedule:
    """Times `factor` after each `every` share of the steps."""
    if not every:
        raise ValueError("every=0: say after which share of the steps the rate drops, such as 0.33")
    share = fractions.Fraction(repr(every))  # a tenth is a tenth: in floats the third of ten steps comes before 3 × 0.1
    drops = lambda moment: moment.step * share.denominator // (max(1, moment.total) * share.numerator)  # noqa: E731
    return warm(lambda moment: float(factor ** drops(moment)), warmup)


def cosine(*, floor: Fraction, warmup: Probability) -> Schedule:
    """Half a cosine from 1 down to `floor` (Loshchilov & Hutter 2017, without restarts)."""

    def factor(moment: Moment) -> float:
        begin = warmup * moment.total
        share = (moment.step - begin) / max(1.0, moment.total - begin)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))

    return warm(factor, warmup)


def onecycle(*, peak: Positive, rise: Probability, floor: NonNegative) -> Schedule:
    """Up to `peak` times the rate over the first `rise` share of the steps, then down to `floor` (Smith 2018)."""

    def factor(moment: Moment) -> float:
        share = moment.step / max(1, moment.total)
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

    def __call__(self, moment: Moment) -> float:
        drops = wait = 0
        best: float | None = None
        for value in monitored(moment.history, self.monitor):
            if best is None or better(value, best, self.goal):
                best, wait = value, 0
            elif best == best:
                wait += 1
                if wait >= self.patience:
                    drops, wait = drops + 1, 0
        return float(self.factor**drops)


def plateau(*, monitor: str, patience: Count, factor: Positive) -> Plateau:
    """A schedule that waits for the monitored measure ('val/loss') to stop becoming better."""
    return Plateau(monitor, patience, factor)


def monitored(history: History, monitor: str) -> list[float]:
    """The values of one measure, 'split/name', epoch by epoch."""
    split, _, name = monitor.partition("/")
    return [row.values[name] for row in history if row.split == split]


def better(value: float, best: float, goal: str, least: float = 0.0) -> bool:
    """Whether a value beats the best so far by more than `least`. nan never does, and any number beats nan."""
    if best != best:
        return value == value
    return value < best - least if goal == "min" else value > best + least


def set_rate(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times the one it began with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "initial_lr" not in group:
                group["initial_lr"] = float(group["lr"])
            group["lr"] = group["initial_lr"] * factor


def retune(optimizer: Optimizer, wanted: list[dict[str, Any]]) -> None:
    """Give an optimizer that goes on from a state the learning rate and the weight decay that it is to have now.

    wanted: its groups as it was made. Where the state was made with the same, nothing is changed here.
    """
    for group, now in zip(optimizer.param_groups, wanted, strict=True):
        if group.get("initial_lr", group["lr"]) != now["lr"]:
            group["lr"] = now["lr"]
            if "initial_lr" in group:
                group["initial_lr"] = float(now["lr"])
        if "weight_decay" in now:
            group["weight_decay"] = now["weight_decay"]


def rehearse(make: Callable[[list[torch.Tensor]], Optimizer]) -> None:
    """Build the optimizer once over a number, so that settings it refuses are refused before any data are read."""
    make([torch.zeros(1, requires_grad=True)])
