"""Which learning rate to use: a few steps with a rising rate on a copy, and what their losses say."""

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
DIVERGENCE_FACTOR = 4  # times the lowest loss so far: the rest of the curve says nothing more
MIN_DROP_IN_DEVIATIONS = 5  # standard errors by which the loss must fall before it counts as a fall
BELOW_LOWEST = 10
DROP_START_SHARE = 0.1  # of the whole fall: less of it may be chance


@dataclass(frozen=True)
class LRCurve:
    """Each step's rate, its loss, and the losses smoothed. stopped: why it ended before the last rate, if it did."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    stopped: str = ""


@dataclass(frozen=True)
class LRChoice:
    """What a curve says. All rates are None where no rate lowers the loss."""

    rate: float | None
    why: str
    steepest: float | None = None
    lowest: float | None = None


def run_range_test(trainer: Trainer, low: float, high: float, steps: int) -> LRCurve:
    """Train `steps` optimizer steps on the training rows, the rate rising by the same factor from `low` to `high`.

    Ends early when the smoothed loss passes 4 times its lowest, or is no number any more. The trainer is left as it
    was. Source: Smith 2017, Cyclical learning rates, §3.3. Raises UserError where there is nothing to learn.
    """
    if not trainer.optimization.groups:
        raise UserError("this model has nothing to learn, so there is no learning rate to look for")
    rates, losses, stopped = np.geomspace(low, high, steps), list[float](), ""
    with restore_trainer_state(trainer):
        trainer.settings = replace(trainer.settings, max_steps=None, save_every=math.inf)
        trainer.metrics, trainer.optimization.schedule = {}, None
        for rate, window in zip(rates, iter_step_batches(trainer), strict=False):
            try:
                losses.append(train_one_step(trainer, float(rate), window))
            except TrainingDiverged:
                stopped = f"at {rate:.2g} the loss is no number any more"
                break
            if is_loss_too_high(smooth_losses(losses)):
                stopped = f"at {rate:.2g} the smoothed loss is more than {DIVERGENCE_FACTOR} times its lowest"
                break
    return LRCurve(rates[: len(losses)], np.array(losses), smooth_losses(losses), stopped)


def train_one_step(trainer: Trainer, rate: float, window: FixedBatches) -> float:
    """Take one optimizer step with this rate; answers with the loss before it. Raises TrainingDiverged."""
    for optimizer in trainer.optimization.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate
    scores = trainer.run_epoch("train", window, learn=True).scores()
    trainer.epoch += 1  # so that the next step draws other noise
    return sum(score.value for score in scores.values())


def iter_step_batches(trainer: Trainer) -> Iterator[FixedBatches]:
    """The training batches of one optimizer step after the other, epoch after epoch without end."""
    settings = trainer.settings
    for epoch in count():
        found = trainer.data.train.batches(settings.batch_rows, seed=trainer.seed, epoch=epoch)
        batches = islice(found, trainer.num_batches)
        while held := list(islice(batches, settings.accumulate)):
            yield FixedBatches(held)


def smooth_losses(losses: list[float]) -> np.ndarray:
    """The running mean that forgets, divided by the weight that it has so far, so that it does not begin at 0."""
    found, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return np.array(found)


def is_loss_too_high(smoothed: np.ndarray) -> bool:
    """Whether the last loss is more than 4 times the lowest, or as far above it where that one is negative."""
    lowest = smoothed.min()
    return bool(smoothed[-1] > lowest + (DIVERGENCE_FACTOR - 1) * abs(lowest))


def choose_lr(curve: LRCurve) -> LRChoice:
    """A tenth of the rate where the smoothed loss is lowest, or the rate where it falls fastest if that is smaller.

    At its lowest the loss already rises with the next larger rate, and the optimizer has had a few steps only: a whole
    fit needs a margin. No rate where the fall is within the noise of the batches.
    """
    if not has_loss_drop(curve):
        return LRChoice(None, "no rate lowers the loss by more than its noise from batch to batch")
    place = int(curve.smoothed.argmin())
    slopes = np.gradient(curve.smoothed, np.log(curve.rates))
    begun = find_drop_start(curve, place)
    steepest = float(curve.rates[begun + int(slopes[begun : place + 1].argmin())])
    lowest = float(curve.rates[place])
    rate = min(steepest, lowest / BELOW_LOWEST)
    if rate == steepest:
        why = "the loss falls fastest there, far below the rate at which it is lowest"
    elif place < len(curve.rates) - 1:
        why = "a tenth of the rate at which the loss is lowest, since beyond that one it rises"
    else:
        why = "a tenth of the last rate, at which the loss still falls: try a larger high="
    if rate < curve.rates[0]:
        why = f"{why} (it is below the rates tried here)"
    return LRChoice(rate, why, steepest, lowest)


def find_drop_start(curve: LRCurve, lowest: int) -> int:
    """From which place on the smoothed loss has fallen by a tenth of its whole fall, down to its lowest.

    Before that it goes up and down by chance, where batches are small as steeply as anywhere.
    """
    start = curve.losses[: max(3, len(curve.losses) // 5)].mean()
    high = curve.smoothed[: lowest + 1] >= start - DROP_START_SHARE * (
        start - curve.smoothed[lowest]
    )
    settled = round(1 / (1 - SMOOTHING))
    return int(min(lowest, max(settled, np.flatnonzero(high).max(initial=0))))


def has_loss_drop(curve: LRCurve) -> bool:
    """Whether the smoothed loss gets below its start by more than chance.

    The noise is that of neighbouring steps in the first fifth, whose rates change nothing yet.
    """
    first = curve.losses[: max(3, len(curve.losses) // 5)]
    if len(first) < 3:
        return False
    noise = np.diff(first).std() / math.sqrt(2)
    error = noise * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING) + 1 / len(first))
    return bool(first.mean() - curve.smoothed.min() > MIN_DROP_IN_DEVIATIONS * error)
