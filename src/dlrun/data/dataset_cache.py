"""Data read once for all runs of a process that has many of the same, where that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlrun.core import json_text
from dlrun.core.dataset import Dataset
from dlrun.data.fingerprints import fingerprint

MAX_DATASETS = 2  # data sets that are held at a time
_held: dict[str, tuple[Dataset, str]] | None = None


def open_cache() -> None:
    """From here on, hold what is read: the same data part, value for value, is not read again."""
    global _held
    _held = {} if _held is None else _held


def close_cache() -> None:
    """Hold nothing any more."""
    global _held
    _held = None


def load_cached_dataset(
    node: Mapping[str, Any], load: Callable[[], Dataset]
) -> tuple[Dataset, str]:
    """The data of this part with their fingerprint, as `load` reads them, or as they are held.

    What is held cannot be written to: a run that tried to would change the rows of those after it.
    """
    if _held is None:
        raw = load()
        return raw, fingerprint(raw.dev)
    key = json_text.to_canonical_json(node)
    found = _held.pop(key, None)
    if found is None:
        raw = load()
        for column in raw.dev.values():
            if isinstance(column, np.ndarray):
                column.flags.writeable = False
        found = raw, fingerprint(raw.dev)
    while len(_held) >= MAX_DATASETS:
        del _held[next(iter(_held))]
    _held[key] = found
    return found
