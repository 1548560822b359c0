"""Datasets read once for all runs of one process, such as the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlrun.core import json_text
from dlrun.core.dataset import Dataset
from dlrun.data.fingerprints import fingerprint

MAX_DATASETS = 2  # held at a time: they stay in memory
_held_datasets: dict[str, tuple[Dataset, str]] | None = None


def open_cache() -> None:
    """From here on hold what is read: the same data config is not read again."""
    global _held_datasets
    _held_datasets = {} if _held_datasets is None else _held_datasets


def close_cache() -> None:
    """Hold nothing any more."""
    global _held_datasets
    _held_datasets = None


def load_cached_dataset(
    node: Mapping[str, Any], load: Callable[[], Dataset]
) -> tuple[Dataset, str]:
    """The dataset of a data config, and its fingerprint.

    Args:
        node: The data config, which is the key, value for value.
        load: Reads the dataset.
    """
    if _held_datasets is None:
        dataset = load()
        return dataset, fingerprint(dataset.dev)
    key = json_text.to_canonical_json(node)
    entry = _held_datasets.pop(key, None)
    if entry is None:
        dataset = load()
        # A run that wrote to its rows would change those of the runs after it.
        for column in dataset.dev.values():
            if isinstance(column, np.ndarray):
                column.flags.writeable = False
        entry = dataset, fingerprint(dataset.dev)
    while len(_held_datasets) >= MAX_DATASETS:
        del _held_datasets[next(iter(_held_datasets))]
    _held_datasets[key] = entry  # the last one used is the last one to go
    return entry
