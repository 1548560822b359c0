"""fastai as a peer of scripts/bench --peers.

As its tutorial "Migrating from pure PyTorch" has it: torch's DataLoaders put into `DataLoaders`, and a `Learner` with
the network, the loss and the measure; the same RMSprop through `OptimWrapper`, its way to an optimizer of torch's (its
own RMSProp steps parameter by parameter in Python). fastai measures on validation rows unless its Recorder is told to
measure training rows: it is, and the validation is called off, since nobody else validates here. Weight decay is off.
No bar, no log.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from bench_peer import EPS, LR, RHO, Fit, Given
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch.utils.data import DataLoader, TensorDataset


class NoValidation(Callback):
    """Calls off the validation of each epoch."""

    def before_validate(self) -> None:
        raise CancelValidException


def read(given: Given) -> Any:
    """The tensors."""
    return given.tensors()


def peer(given: Given, tensors: Any, variant: str) -> tuple[Fit, int]:
    """What trains, and how many parameters the network has."""
    del variant
    optimizer = partial(OptimWrapper, opt=torch.optim.RMSprop, alpha=RHO, eps=EPS)
    network = given.network()

    def learner(rows: int | None) -> Learner:
        dataset = TensorDataset(*(tensor[:rows] for tensor in tensors))
        loader = DataLoader(dataset, batch_size=given.batch_size, shuffle=True)
        found = Learner(
            DataLoaders(loader, loader),
            network,
            loss_func=given.criterion(),
            opt_func=optimizer,
            lr=LR,
            wd=0.0,
            metrics=given.measure,
            cbs=[NoValidation()],
        )
        found.recorder.train_metrics, found.recorder.valid_metrics = True, False
        return found

    learners = {None: learner(None), given.batch_size: learner(given.batch_size)}

    def fit(epochs: int, rows: int | None) -> None:
        with learners[rows].no_bar(), learners[rows].no_logging():
            learners[rows].fit(epochs)

    assert ProgressCallback is not None  # registers `no_bar`
    return fit, sum(parameter.numel() for parameter in network.parameters())
