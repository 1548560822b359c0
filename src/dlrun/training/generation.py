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
from dlrun.core.artifacts import Artifact, Maker
from dlrun.core.dataset import Source
from dlrun.core.errors import Refused, in_short
from dlrun.core.types import Score
from dlrun.training.trainer import Trainer


def maker(objective: nn.Module, kind: str) -> Maker:
    """What makes this kind. Raises Refused, naming the kinds that there are."""
    makes: Any = getattr(objective, "makes", {})
    if kind not in makes:
        name = type(objective).__name__
        there = f"there are: {in_short(makes)}" if makes else f"{name} makes nothing"
        raise Refused(f"no kind '{kind}' to make; {there}")
    return makes[kind]  # type: ignore[no-any-return]


def made(trainer: Trainer, kind: str, seed: int, **arguments: Any) -> Iterator[Artifact]:
    """What the objective makes of this kind: a function of its weights, the arguments and the seed."""
    with aside(trainer, seed):
        yield from maker(trainer.objective, kind)(**arguments)


def judged(trainer: Trainer, source: Source, seed: int) -> dict[str, Score]:
    """The objective's own scores of a whole split, where it has some."""
    judge: Any = getattr(trainer.objective, "judge", None)
    if judge is None:
        return {}
    with aside(trainer, seed):
        return judge(source.batches(trainer.settings.rows_at_once(trainer.data.spec)))  # type: ignore[no-any-return]


@contextmanager
def aside(trainer: Trainer, seed: int) -> Iterator[None]:
    """Inside, the objective is in evaluation with its averaged weights, and random numbers come from this seed."""
    cuda = [trainer.device] if trainer.device.type == "cuda" else []
    precise = device.autocast(trainer.device, trainer.settings.precision)
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), trainer.learner.averaged(), precise:
        torch.manual_seed(seed)
        trainer.objective.eval()
        yield
