"""Trying something on a trainer without a trace: batches in hand, and a state that is put back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dlrun.core.types import Batch
from dlrun.training.trainer import Trainer


@dataclass(frozen=True)
class FixedBatches:
    """A few batches in hand, as a source: each time the same, in the same order."""

    batch_list: list[Batch]

    def __len__(self) -> int:
        return sum(map(count_batch_rows, self.batch_list))

    def batches(
        self,
        size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """The batches as they were cut, from number `start` on."""
        return iter(self.batch_list[start:])


def count_batch_rows(batch: Batch) -> int:
    """How many rows a batch has."""
    return len(next(iter(batch.values())))


@contextmanager
def restore_trainer_state(trainer: Trainer) -> Iterator[None]:
    """Inside, anything may be tried; afterwards weights, optimizer, epoch and torch's generators are the same bits."""
    before, training = copy.deepcopy(trainer.state()), trainer.objective.training
    parts = trainer.settings, trainer.metrics, trainer.optimization.schedule
    try:
        yield
    finally:
        trainer.settings, trainer.metrics, trainer.optimization.schedule = parts
        trainer.meter = None
        trainer.restore(before)
        trainer.objective.train(training)
