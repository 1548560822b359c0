"""Keras as a peer of scripts/bench --peers. variant: its back end, torch or jax; a process has one, in KERAS_BACKEND.

As its documentation has it: a Sequential model, `compile(optimizer, loss, metrics)` with `jit_compile` left at "auto"
(which compiles on JAX and not on torch), and `fit(x, y, batch_size, epochs, verbose=0)` on numpy arrays, which
shuffles; tensors instead of arrays make no difference on torch. The layers are written out, for Keras has no other way
to the same network: the same sizes and, but for the second bias that torch's LSTM has and that adds to its first, the
same parameters. Images lie as (N, H, W, C), which is its default; the loss takes raw answers, so the threshold of the
binary accuracy is 0. Words are whole numbers of 32 bits.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = sys.argv[1].partition(":")[2]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from bench_peer import EPS, LR, RHO, Fit, Given  # noqa: E402
from keras import layers  # noqa: E402

assert importlib.util.find_spec(keras.backend.backend()) is not None


def dense(*units: int) -> list[Any]:
    """Hidden layers of so many units."""
    return [layers.Dense(count, activation="relu") for count in units]


def conv(filters: int) -> Any:
    return layers.Conv2D(filters, 3, activation="relu")


LAYERS = {  # workload → what the hand-written network of scripts/bench has
    "boston_batch_1": lambda: [*dense(64, 64), layers.Dense(1)],
    "boston_batch_16": lambda: [*dense(64, 64), layers.Dense(1)],
    "mnist_dense": lambda: [layers.Flatten(), *dense(512), layers.Dense(10)],
    "imdb_dense": lambda: [*dense(16, 16), layers.Dense(1)],
    "mnist_convnet": lambda: [
        *(conv(32), layers.MaxPooling2D(2), conv(64), layers.MaxPooling2D(2), conv(64)),
        *(layers.Flatten(), *dense(64), layers.Dense(10)),
    ],
    "jena_gru": lambda: [layers.GRU(32), layers.Dense(1)],
    "imdb_lstm": lambda: [layers.Embedding(10000, 32), layers.LSTM(32), layers.Dense(1)],
}
ANSWERED = {
    "number": lambda: ("mean_squared_error", ["mean_absolute_error"]),
    "category": lambda: (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ["accuracy"],
    ),
    "binary": lambda: (
        keras.losses.BinaryCrossentropy(from_logits=True),
        [keras.metrics.BinaryAccuracy(threshold=0.0)],
    ),
}


def read(given: Given) -> Any:
    """The arrays: images with channels last, whole numbers of 32 bits."""
    x, y = (
        array.astype(np.int32) if array.dtype == np.int64 else array for array in given.arrays()
    )
    return (np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x), y


def peer(given: Given, arrays: Any, variant: str) -> tuple[Fit, int]:
    """What trains, and how many parameters the network has."""
    del variant
    x, y = arrays
    model = keras.Sequential(
        [
            keras.Input(tuple(x.shape[1:]), dtype=str(x.dtype).replace("torch.", "")),
            *LAYERS[given.workload](),
        ]
    )
    loss, metrics = ANSWERED[given.kind]()
    optimizer = keras.optimizers.RMSprop(learning_rate=LR, rho=RHO, epsilon=EPS)
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)

    def fit(epochs: int, rows: int | None) -> None:
        model.fit(x[:rows], y[:rows], batch_size=given.batch_size, epochs=epochs, verbose=0)

    return fit, model.count_params()
