"""Asks an objective for samples, and leaves no trace in the fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dlrun.core.errors import UserError, format_names
from dlrun.core.objective import Artifact, Objective, SampleGenerator
from dlrun.training.trainer import Trainer, evaluation_mode


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
