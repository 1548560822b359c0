"""What looks on after each epoch. A callback is a function of what has been written down, and keeps no state."""

from __future__ import annotations

from dataclasses import dataclass

from dlrun.engine import Trainer
from dlrun.optim import better, monitored
from dlrun.ranges import Count, NonNegative


@dataclass(frozen=True)
class KeepBest:
    """Keeps the weights of the best epoch so far by `monitor` in checkpoints/<job>/best.pt."""

    monitor: str
    goal: str = "min"

    def __call__(self, trainer: Trainer) -> None:
        values = monitored(trainer.history, self.monitor)
        if best_epoch(values, self.goal) == len(values):
            trainer.keep("best")


@dataclass(frozen=True)
class EarlyStopping:
    """Stops when `monitor` has not become better by more than `least` for `patience` epochs in a row."""

    monitor: str
    patience: int
    least: float
    goal: str = "min"

    def __call__(self, trainer: Trainer) -> None:
        best: float | None = None
        wait = 0
        for value in monitored(trainer.history, self.monitor):
            if best is None or better(value, best, self.goal, self.least):
                best, wait = value, 0
            else:
                wait += 1
        if wait >= self.patience:
            trainer.stop = f"{self.monitor} has not become better for {wait} epochs"


@dataclass(frozen=True)
class TensorBoard:
    """Adds the epoch's rows to the run's TensorBoard event files."""

    def __call__(self, trainer: Trainer) -> None:
        from dlrun import events

        rows = [row for row in trainer.history if row.epoch == trainer.epoch]
        events.append(trainer.folder.parent.parent, rows, trainer.folder.name)


def best_epoch(values: list[float], goal: str) -> int:
    """The first epoch (from 1) with the best value; 0 for no values. nan is best only where nothing else is there."""
    best = 0
    for number, value in enumerate(values, 1):
        if best == 0 or values[best - 1] != values[best - 1] or better(value, values[best - 1], goal):
            best = number
    return best


def keep_best(*, monitor: str) -> KeepBest:
    """Keep the best epoch's weights; they are the ones that are evaluated in the end."""
    return KeepBest(monitor)


def early_stopping(*, monitor: str, patience: Count, least: NonNegative) -> EarlyStopping:
    """Stop when nothing has become better for a while (book §7.2)."""
    return EarlyStopping(monitor, patience, least)


def tensorboard() -> TensorBoard:
    """Write TensorBoard event files."""
    return TensorBoard()
