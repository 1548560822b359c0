"""Asks an objective for samples and scores, and leaves no trace in the fit.

Own random numbers, no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from dlrun.core import device
from dlrun.core.dataset import Source
from dlrun.core.errors import UserError, format_names
from dlrun.core.objective import Objective
from dlrun.core.types import Score
from dlrun.training.trainer import Trainer

if TYPE_CHECKING:
    from dlrun.core.artifacts import Artifact, SampleGenerator


def find_generator(objective: Objective, kind: str) -> SampleGenerator:
    """The generator of one kind of samples.

    Raises:
        UserError: if the objective has none of this kind; it names those that it has.
    """
    generators = objective.generators
    if kind not in generators:
        available = (
            f"there are: {format_names(generators)}"
            if generators
            else f"{type(objective).__name__} makes nothing"
        )
        raise UserError(f"no kind '{kind}' to make; {available}")
    return generators[kind]


def generate_artifacts(
    trainer: Trainer, kind: str, seed: int, **arguments: Any
) -> Iterator[Artifact]:
    """Samples of one kind: a function of the weights, the arguments and the seed alone.

    Args:
        trainer: Whose objective generates them.
        kind: A key of `Objective.generators`.
        seed: Of torch's generators while it runs.
        **arguments: Those of the generator.

    Yields:
        Text, images or points, piece by piece.

    Raises:
        UserError: if there is no such kind.
    """
    with evaluation_mode(trainer, seed):
        yield from find_generator(trainer.objective, kind)(**arguments)


def compute_objective_scores(trainer: Trainer, source: Source, seed: int) -> dict[str, Score]:
    """The objective's own scores of a whole split, drawn with the random numbers of this seed."""
    batch_rows = trainer.settings.get_inference_batch_size(trainer.data.spec)
    with evaluation_mode(trainer, seed):
        return trainer.objective.split_scores(source.batches(batch_rows))


@contextmanager
def evaluation_mode(trainer: Trainer, seed: int) -> Iterator[None]:
    """Inside, the objective is in evaluation with its averaged weights, and random numbers come
    from this seed.
    """
    cuda_devices = [trainer.device] if trainer.device.type == "cuda" else []
    with (
        # Afterwards the fit's random numbers go on as if nothing had been drawn.
        torch.random.fork_rng(devices=cuda_devices),
        torch.no_grad(),
        trainer.optimization.ema_weights(),
        device.autocast(trainer.device, trainer.settings.precision),
    ):
        torch.manual_seed(seed)
        trainer.objective.eval()
        yield
