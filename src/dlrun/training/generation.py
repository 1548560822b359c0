"""Asks an objective for what it makes, and leaves no trace: its own random numbers, averaged weights, no gradient.

An objective that makes something has `makes` (kind → a function with plain keyword arguments that yields artifacts),
`shown` (the kinds that are shown after an epoch, with the arguments' defaults) and may have `judge` (batches → scores
of a whole split, taken when a fit is scored).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dlrun.core import device
from dlrun.core.artifacts import Artifact, SampleGenerator
from dlrun.core.dataset import Source
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Score
from dlrun.training.trainer import Trainer


def find_generator(objective: nn.Module, kind: str) -> SampleGenerator:
    """What makes this kind. Raises UserError, naming the kinds that there are."""
    makes: Any = getattr(objective, "generators", {})
    if kind not in makes:
        name = type(objective).__name__
        there = f"there are: {format_names(makes)}" if makes else f"{name} makes nothing"
        raise UserError(f"no kind '{kind}' to make; {there}")
    return makes[kind]  # type: ignore[no-any-return]


def generate_artifacts(
    trainer: Trainer, kind: str, seed: int, **arguments: Any
) -> Iterator[Artifact]:
    """What the objective makes of this kind: a function of its weights, the arguments and the seed."""
    with evaluation_mode(trainer, seed):
        yield from find_generator(trainer.objective, kind)(**arguments)


def compute_objective_scores(trainer: Trainer, source: Source, seed: int) -> dict[str, Score]:
    """The objective's own scores of a whole split, where it has some."""
    judge: Any = getattr(trainer.objective, "split_scores", None)
    if judge is None:
        return {}
    with evaluation_mode(trainer, seed):
        return judge(source.batches(trainer.settings.get_inference_batch_size(trainer.data.spec)))  # type: ignore[no-any-return]


@contextmanager
def evaluation_mode(trainer: Trainer, seed: int) -> Iterator[None]:
    """Inside, the objective is in evaluation with its averaged weights, and random numbers come from this seed."""
    cuda = [trainer.device] if trainer.device.type == "cuda" else []
    precise = device.autocast(trainer.device, trainer.settings.precision)
    with (
        torch.random.fork_rng(devices=cuda),
        torch.no_grad(),
        trainer.optimization.ema_weights(),
        precise,
    ):
        torch.manual_seed(seed)
        trainer.objective.eval()
        yield
