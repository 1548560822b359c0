"""The audit of order: validation on the past, groups on both sides, irregular series."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Raw, Windowed
from dlrun.data.audit.finding import Finding, alarm, listed, of, reach

KNOWN = "scores hold for later rows of known owners, not for new owners"
LONG = 10  # usual steps without a row make a gap


def findings(raw: Raw, train: np.ndarray, val: np.ndarray | None) -> Iterator[Finding]:
    """Validation on the past, owners on both sides, and what is irregular in time."""
    if raw.group and val is not None:
        yield from _shared(raw, np.asarray(raw.dev[raw.group]).astype(str), train, val)
    if not raw.order:
        return
    times = np.asarray(raw.dev[raw.order])
    if val is not None:
        yield from _past(raw.order, times, train, val)
    owners = np.asarray(raw.dev[raw.group]).astype(str) if raw.group else np.zeros(len(times), np.int64)
    yield from _irregular(raw.order, times, np.unique(owners, return_inverse=True)[1].reshape(-1))


def _shared(raw: Raw, owners: np.ndarray, train: np.ndarray, val: np.ndarray) -> Iterator[Finding]:
    """Owners whose rows training has seen; where it has seen their past alone, that is what is known of them later."""
    name, shared = str(raw.group), np.isin(owners[val], owners[train])
    count, both = int(shared.sum()), len(np.unique(owners[val][shared]))
    if not count:
        return
    text = f"{both:,} of the owners in '{name}' have rows on both sides: {of(count, len(val), 'validation rows')} "
    text += "are of owners that training has seen"
    past = bool(raw.order) and not _before(np.asarray(raw.dev[str(raw.order)]), train, val).any()
    severity = "note" if past else alarm(count / len(val), len(val))
    effect = KNOWN if past else reach(count / len(val), len(val))
    effect += "" if severity == "note" else "; say protocol.by=group"
    yield Finding(severity, "owners on both sides", text, (name,), count, effect)


def _before(times: np.ndarray, train: np.ndarray, val: np.ndarray) -> np.ndarray:
    """The mask of validation rows that are earlier than the last training row."""
    return np.asarray(times[val] < times[train].max())


def _past(name: str, times: np.ndarray, train: np.ndarray, val: np.ndarray) -> Iterator[Finding]:
    count = int(_before(times, train, val).sum())
    if count:
        text = f"{of(count, len(val), 'validation rows')} {'is' if count == 1 else 'are'} earlier in '{name}' than the "
        text += "last training row; say protocol.by=time"
        effect = f"the past is predicted from its future: {reach(count / len(val), len(val))}"
        yield Finding(alarm(count / len(val), len(val)), "validation before training", text, (name,), count, effect)


def _irregular(name: str, times: np.ndarray, owners: np.ndarray) -> Iterator[Finding]:
    """Rows that lie unsorted, rows of one moment, and gaps; where rows have owners, within the rows of each."""
    order = np.lexsort((times, owners))
    neighbours = np.diff(owners[order]) == 0
    steps = np.diff(times[order])[neighbours]
    back = 0 if owners.any() else int((np.diff(times) < 0).sum())
    if back:
        text = f"the rows do not lie in the order of '{name}': it goes back {_times(back)}"
        yield Finding("note", "rows not in time order", text, (name,), back)
    same = int((steps == 0).sum())
    if same:
        text = f"{of(same, len(times), 'rows')} have the same '{name}' as another row"
        yield Finding("note", "repeated times", text, (name,), same)  # a split in time keeps one moment together
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    gaps = steps[steps > LONG * usual] if usual else steps[:0]
    if len(gaps):
        text = (
            f"'{name}' goes on for more than {LONG} usual steps without a row, {_times(len(gaps))}; the usual step is "
        )
        yield Finding("note", "gaps in time", f"{text}{usual:g}, the longest {gaps.max():g}", (name,), len(gaps))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


MARKS = (-9999.0, -999.0, -99.0, 9999.0, 999.9, 99999.0)  # what loggers write when a sensor is silent
FAR = 8  # times the spread of the other values: a mark that lies within them is a value


def series_findings(raw: Raw, train: np.ndarray) -> Iterator[Finding]:
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
