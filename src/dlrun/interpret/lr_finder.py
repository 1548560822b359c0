"""Which learning rate to use: a few steps with a rising rate on a copy, and their losses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np

from dlrun.core.errors import TrainingDiverged, UserError
from dlrun.interpret.sandbox import FixedBatches, restore_trainer_state
from dlrun.training.trainer import Trainer

SMOOTHING = 0.8  # of the running mean: a fifth of each new loss comes in
DIVERGENCE_FACTOR = 4  # times the lowest loss so far: the curve beyond it is not informative
MIN_DROP_IN_DEVIATIONS = 5  # standard errors by which the loss must fall to count as a drop
BELOW_LOWEST = 10  # the rate is chosen this factor below the one of the lowest loss
DROP_START_SHARE = 0.1  # of the whole drop: less of it may be chance


@dataclass(frozen=True)
class LRCurve:
    """The losses of a range test.

    Attributes:
        rates: Learning rate of each step (steps,).
        losses: Loss before each step (steps,).
        smoothed: Their running mean (steps,).
        stopped: Why it ended before the last rate; '' where it did not.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    stopped: str = ""


@dataclass(frozen=True)
class LRChoice:
    """The learning rate that a curve suggests.

    Attributes:
        rate: The rate; None where no rate lowers the loss.
        why: The reason, in words.
        steepest: The rate at which the loss falls fastest.
        lowest: The rate at which the loss is lowest.
    """

    rate: float | None
    why: str
    steepest: float | None = None
    lowest: float | None = None


def run_range_test(trainer: Trainer, low: float, high: float, steps: int) -> LRCurve:
    """Train with a learning rate that rises by the same factor at each step.

    The test ends early when the smoothed loss passes 4 times its lowest value, or is not finite.
    The trainer is left as it was. Source: Smith 2017, Cyclical learning rates, §3.3.

    Args:
        trainer: A fit.
        low: The first rate.
        high: The last rate.
        steps: Number of optimizer steps.

    Raises:
        UserError: The model has no trainable weights.
    """
    if not trainer.optimization.groups:
        raise UserError("this model has nothing to learn, so there is no learning rate to look for")
    rates, losses, stopped = np.geomspace(low, high, steps), list[float](), ""
    with restore_trainer_state(trainer):
        trainer.settings = replace(trainer.settings, max_steps=None, save_every=math.inf)
        # a schedule would change the rates that are tried
        trainer.metrics, trainer.optimization.schedule = {}, None
        for rate, window in zip(rates, iter_step_batches(trainer), strict=False):
            try:
                losses.append(train_one_step(trainer, float(rate), window))
            except TrainingDiverged:
                stopped = f"at {rate:.2g} the loss is no number any more"
                break
            if is_loss_too_high(smooth_losses(losses)):
                stopped = (
                    f"at {rate:.2g} the smoothed loss is more than {DIVERGENCE_FACTOR} times "
                    "its lowest"
                )
                break
    return LRCurve(rates[: len(losses)], np.array(losses), smooth_losses(losses), stopped)


def train_one_step(trainer: Trainer, rate: float, window: FixedBatches) -> float:
    """Take one optimizer step and return the loss before it.

    Args:
        trainer: A fit.
        rate: The learning rate.
        window: The batches of the step.

    Raises:
        TrainingDiverged: The loss is not finite.
    """
    for optimizer in trainer.optimization.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate
    scores = trainer.run_epoch("train", window, train=True).scores()
    trainer.epoch += 1  # so that the next step draws other noise (dropout, augmentation)
    return sum(score.value for score in scores.values())


def iter_step_batches(trainer: Trainer) -> Iterator[FixedBatches]:
    """Yield the training batches of one optimizer step after the other, epoch after epoch."""
    settings = trainer.settings
    for epoch in count():
        source = trainer.data.train.batches(settings.batch_rows, seed=trainer.seed, epoch=epoch)
        batches = islice(source, trainer.num_batches)
        while window := list(islice(batches, settings.accumulate)):
            yield FixedBatches(window)


def smooth_losses(losses: list[float]) -> np.ndarray:
    """Return the exponential running mean of losses."""
    smoothed, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        # divided by the weight so far, so that the mean does not begin at 0
        smoothed.append(mean / (1 - SMOOTHING**number))
    return np.array(smoothed)


def is_loss_too_high(smoothed: np.ndarray) -> bool:
    """Return whether the last loss is over 4 times the lowest, or as far above a negative one."""
    lowest = smoothed.min()
    return bool(smoothed[-1] > lowest + (DIVERGENCE_FACTOR - 1) * abs(lowest))


def choose_lr(curve: LRCurve) -> LRChoice:
    """Return the learning rate that a curve suggests.

    It is a tenth of the rate with the lowest smoothed loss, or that of the steepest drop if
    smaller. At the lowest loss the next larger rate already raises it, and the optimizer has taken
    a few steps only: a whole fit needs a margin. There is none where the drop is within the noise.
    """
    if not has_loss_drop(curve):
        return LRChoice(None, "no rate lowers the loss by more than its noise from batch to batch")
    lowest_index = int(curve.smoothed.argmin())
    # over the logarithm, in which the rates are evenly spaced
    slopes = np.gradient(curve.smoothed, np.log(curve.rates))
    drop_start = find_drop_start(curve, lowest_index)
    steepest = float(curve.rates[drop_start + int(slopes[drop_start : lowest_index + 1].argmin())])
    lowest = float(curve.rates[lowest_index])
    rate = min(steepest, lowest / BELOW_LOWEST)
    if rate == steepest:
        why = "the loss falls fastest there, far below the rate at which it is lowest"
    elif lowest_index < len(curve.rates) - 1:
        why = "a tenth of the rate at which the loss is lowest, since beyond that one it rises"
    else:
        why = "a tenth of the last rate, at which the loss still falls: try a larger high="
    if rate < curve.rates[0]:
        why = f"{why} (it is below the rates tried here)"
    return LRChoice(rate, why, steepest, lowest)


def find_drop_start(curve: LRCurve, lowest: int) -> int:
    """Return the step at which the smoothed loss has made a tenth of its drop.

    Before it the curve goes up and down by chance, with small batches as steeply as anywhere.

    Args:
        curve: A range test.
        lowest: Step of the lowest smoothed loss.
    """
    start = curve.losses[: max(3, len(curve.losses) // 5)].mean()
    drop = start - curve.smoothed[lowest]
    high = curve.smoothed[: lowest + 1] >= start - DROP_START_SHARE * drop
    # the running mean needs about so many steps before it is one
    settled = round(1 / (1 - SMOOTHING))
    return int(min(lowest, max(settled, np.flatnonzero(high).max(initial=0))))


def has_loss_drop(curve: LRCurve) -> bool:
    """Return whether the smoothed loss falls below its start by more than chance.

    The noise is estimated from neighboring steps in the first fifth, whose rates hardly change a
    loss.
    """
    first = curve.losses[: max(3, len(curve.losses) // 5)]
    if len(first) < 3:
        return False
    # the difference of two independent losses has twice their variance
    noise = np.diff(first).std() / math.sqrt(2)
    # variance of the running mean, plus that of the mean at the start
    error = noise * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING) + 1 / len(first))
    return bool(first.mean() - curve.smoothed.min() > MIN_DROP_IN_DEVIATIONS * error)
