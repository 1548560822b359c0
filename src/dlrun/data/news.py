"""What held-out rows bring that no training row has: told and counted, never a reason to stop."""

from __future__ import annotations

import logging

import numpy as np

from dlrun.data.pictures import listed
from dlrun.types import Raw

log = logging.getLogger("dlrun")

CLASSES = ("binary", "category", "multilabel")


def tell_unlearnable(raw: Raw, train: np.ndarray, val: np.ndarray | None) -> None:
    """Warn of classes, or labels, that no training row is of; held-out rows of them count as wrong."""
    for name, kind in raw.targets.items():
        names = raw.labels.get(name, ())
        column = raw.dev[name]
        if kind not in CLASSES or not names or not isinstance(column, np.ndarray) or not len(train):
            continue
        trained = _counts(column[train], names)
        absent = [names[place] for place in np.flatnonzero(trained == 0)]
        if absent:
            held_out = 0 if val is None else int(_counts(column[val], names)[trained == 0].sum())
            rows = f"; {held_out:,} validation rows of it count as wrong" if held_out else ""
            log.warning("%s: no training row is of class %s: no model can learn it%s", name, listed(absent), rows)


def _counts(column: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """How many rows are of each class, or have each label."""
    if column.ndim > 1:
        return np.asarray(column).sum(axis=0)
    if column.dtype.kind in "OU":
        place = {name: number for number, name in enumerate(names)}
        column = np.array([place.get(str(value), len(names)) for value in column], np.int64)
    return np.bincount(column.astype(np.int64), minlength=len(names))[: len(names)]
