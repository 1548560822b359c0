"""Try something on a trainer without a trace: batches in hand, and a state that is restored."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dlrun.core.dataset import Source
from dlrun.core.types import Batch
from dlrun.training.trainer import Trainer


@dataclass(frozen=True)
class FixedBatches(Source):
    """A few batches as a source, the same ones in the same order each time.

    Attributes:
        batch_list: The batches.
    """

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
        """Return the batches as they were cut, from number `start` on; the rest is ignored."""
        return iter(self.batch_list[start:])


def count_batch_rows(batch: Batch) -> int:
    """Return the number of rows of a batch."""
    return len(next(iter(batch.values())))


@contextmanager
def restore_trainer_state(trainer: Trainer) -> Iterator[None]:
    """Restore weights, optimizer, epoch and random generators bit for bit when the block ends."""
    # copied, as training changes the tensors of a state in place
    state, training = copy.deepcopy(trainer.state()), trainer.objective.training
    replaced = trainer.settings, trainer.metrics, trainer.optimization.schedule
    try:
        yield
    finally:
        trainer.settings, trainer.metrics, trainer.optimization.schedule = replaced
        # it has counted what was tried
        trainer.meter = None
        trainer.restore(state)
        trainer.objective.train(training)
