"""skorch as a peer of scripts/bench --peers.

As its documentation has it: NeuralNetRegressor, NeuralNetClassifier or NeuralNetBinaryClassifier around the network,
and `partial_fit(X, y)`, which is `fit` without new weights. All rows train: `train_split=None`, nothing is validated.
`EpochScoring(…, on_train=True)` is its way to a measure over training rows: it takes the answers that training has
given anyway. Rows are shuffled; `verbose=0`.
"""

from __future__ import annotations

from typing import Any

import torch
from bench_peer import EPS, LR, RHO, Fit, Given
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EpochScoring

NETS = {
    "number": (NeuralNetRegressor, "neg_mean_absolute_error"),
    "category": (NeuralNetClassifier, "accuracy"),
    "binary": (NeuralNetBinaryClassifier, "accuracy"),
}


def read(given: Given) -> Any:
    """The tensors; of a binary target (N,), as skorch wants it."""
    x, y = given.tensors()
    return x, y[:, 0] if given.kind == "binary" else y


def peer(given: Given, tensors: Any, variant: str) -> tuple[Fit, int]:
    """What trains, and how many parameters the network has."""
    del variant
    kind, score = NETS[given.kind]
    classes = {"classes": range(int(tensors[1].max()) + 1)} if given.kind == "category" else {}
    net = kind(
        given.network(),
        criterion=type(given.criterion()),
        optimizer=torch.optim.RMSprop,
        optimizer__alpha=RHO,
        optimizer__eps=EPS,
        lr=LR,
        batch_size=given.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[("measure", EpochScoring(score, name="measure", on_train=True))],
        verbose=0,
        **classes,
    )
    net.initialize()

    def fit(epochs: int, rows: int | None) -> None:
        net.max_epochs = epochs
        net.partial_fit(tensors[0][:rows], tensors[1][:rows])

    return fit, sum(parameter.numel() for parameter in net.module_.parameters())
