"""The audit's look at series: columns that are constant, and values that stand for 'missing'."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Raw, Windowed
from dlrun.data.audit_finding import Finding, listed, of

MARKS = (-9999.0, -999.0, -99.0, 9999.0, 999.9, 99999.0)  # what loggers write when a sensor is silent
FAR = 8  # times the spread of the other values: a mark that lies within them is a value


def findings(raw: Raw, train: np.ndarray) -> Iterator[Finding]:
    """What is wrong with single columns of series, as far as the development windows see them."""
    for name, kind in raw.inputs.items():
        column = raw.dev[name]
        if kind == "series" and isinstance(column, Windowed):
            yield from _columns(raw.labels.get(name, ()), column.seen(), column[train].seen())


def _columns(names: tuple[str, ...], seen: np.ndarray, trained: np.ndarray) -> Iterator[Finding]:
    constant = [name for name, values in zip(names, trained.T, strict=True) if (values == values[0]).all()]
    if constant:
        text = f"columns of the series that are constant in the training windows: {listed(constant)}"
        told = f"{text}; nothing can be learned from them"
        yield Finding("note", "constant columns", told, tuple(constant), len(constant))
    for name, values in zip(names, seen.T, strict=True):
        for mark in MARKS:
            there = values == mark
            if there.any() and _apart(mark, values[~there]):
                text = f"{of(int(there.sum()), len(values), 'rows')} of the series have {name} = {mark:g}, which looks "
                text += "like a mark for a missing value"
                effect = "it stretches the column's statistics, and every window over such a row is off"
                yield Finding("warning", "marks for missing", text, (name,), int(there.sum()), effect)


def _apart(mark: float, others: np.ndarray) -> bool:
    if not len(others):
        return False
    low, high = np.percentile(others, [1, 99])
    spread = max(float(high - low), np.finfo(float).tiny)
    return bool(mark < low - FAR * spread or mark > high + FAR * spread)
