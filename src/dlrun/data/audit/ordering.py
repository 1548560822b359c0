"""The audit of order: validation on the past, groups on both sides, irregular series."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Dataset, SlidingWindows
from dlrun.data.audit.finding import (
    Finding,
    classify_effect,
    describe_effect,
    format_row_share,
    list_names,
)

GROUP_EFFECT = "scores hold for later rows of known owners, not for new owners"
GAP_STEPS = 10  # usual steps without a row make a gap


def iter_order_findings(
    raw: Dataset, train: np.ndarray, val: np.ndarray | None
) -> Iterator[Finding]:
    """Validation on the past, owners on both sides, and what is irregular in time."""
    if raw.group and val is not None:
        yield from _find_shared_groups(raw, np.asarray(raw.dev[raw.group]).astype(str), train, val)
    if not raw.order:
        return
    times = np.asarray(raw.dev[raw.order])
    if val is not None:
        yield from _find_past_validation(raw.order, times, train, val)
    owners = (
        np.asarray(raw.dev[raw.group]).astype(str) if raw.group else np.zeros(len(times), np.int64)
    )
    yield from _check_time_steps(
        raw.order, times, np.unique(owners, return_inverse=True)[1].reshape(-1)
    )


def _find_shared_groups(
    raw: Dataset, owners: np.ndarray, train: np.ndarray, val: np.ndarray
) -> Iterator[Finding]:
    """Owners whose rows training has seen; where it has seen their past alone, that is what is known of them later."""
    name, shared = str(raw.group), np.isin(owners[val], owners[train])
    count, both = int(shared.sum()), len(np.unique(owners[val][shared]))
    if not count:
        return
    text = f"{both:,} of the owners in '{name}' have rows on both sides: {format_row_share(count, len(val), 'validation rows')} "
    text += "are of owners that training has seen"
    past = (
        bool(raw.order)
        and not _is_before_training(np.asarray(raw.dev[str(raw.order)]), train, val).any()
    )
    severity = "note" if past else classify_effect(count / len(val), len(val))
    effect = GROUP_EFFECT if past else describe_effect(count / len(val), len(val))
    effect += "" if severity == "note" else "; say protocol.by=group"
    yield Finding(severity, "owners on both sides", text, (name,), count, effect)


def _is_before_training(times: np.ndarray, train: np.ndarray, val: np.ndarray) -> np.ndarray:
    """The mask of validation rows that are earlier than the last training row."""
    return np.asarray(times[val] < times[train].max())


def _find_past_validation(
    name: str, times: np.ndarray, train: np.ndarray, val: np.ndarray
) -> Iterator[Finding]:
    count = int(_is_before_training(times, train, val).sum())
    if count:
        text = f"{format_row_share(count, len(val), 'validation rows')} {'is' if count == 1 else 'are'} earlier in '{name}' than the "
        text += "last training row; say protocol.by=time"
        effect = (
            f"the past is predicted from its future: {describe_effect(count / len(val), len(val))}"
        )
        yield Finding(
            classify_effect(count / len(val), len(val)),
            "validation before training",
            text,
            (name,),
            count,
            effect,
        )


def _check_time_steps(name: str, times: np.ndarray, owners: np.ndarray) -> Iterator[Finding]:
    """Rows that lie unsorted, rows of one moment, and gaps; where rows have owners, within the rows of each."""
    order = np.lexsort((times, owners))
    neighbours = np.diff(owners[order]) == 0
    steps = np.diff(times[order])[neighbours]
    back = 0 if owners.any() else int((np.diff(times) < 0).sum())
    if back:
        text = f"the rows do not lie in the order of '{name}': it goes back {_format_times(back)}"
        yield Finding("note", "rows not in time order", text, (name,), back)
    same = int((steps == 0).sum())
    if same:
        text = f"{format_row_share(same, len(times), 'rows')} have the same '{name}' as another row"
        yield Finding(
            "note", "repeated times", text, (name,), same
        )  # a split in time keeps one moment together
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    gaps = steps[steps > GAP_STEPS * usual] if usual else steps[:0]
    if len(gaps):
        text = f"'{name}' goes on for more than {GAP_STEPS} usual steps without a row, {_format_times(len(gaps))}; the usual step is "
        yield Finding(
            "note",
            "gaps in time",
            f"{text}{usual:g}, the longest {gaps.max():g}",
            (name,),
            len(gaps),
        )


def _format_times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


MISSING_MARKERS = (
    -9999.0,
    -999.0,
    -99.0,
    9999.0,
    999.9,
    99999.0,
)  # what loggers write when a sensor is silent
OUTLIER_SPREADS = 8  # times the spread of the other values: a mark that lies within them is a value


def iter_series_findings(raw: Dataset, train: np.ndarray) -> Iterator[Finding]:
    """What is wrong with single columns of series, as far as the development windows see them."""
    for name, kind in raw.inputs.items():
        column = raw.dev[name]
        if kind == "series" and isinstance(column, SlidingWindows):
            yield from _find_series_columns(
                raw.labels.get(name, ()), column.unique_rows(), column[train].unique_rows()
            )


def _find_series_columns(
    names: tuple[str, ...], seen: np.ndarray, trained: np.ndarray
) -> Iterator[Finding]:
    constant = [
        name for name, values in zip(names, trained.T, strict=True) if (values == values[0]).all()
    ]
    if constant:
        text = f"columns of the series that are constant in the training windows: {list_names(constant)}"
        told = f"{text}; nothing can be learned from them"
        yield Finding("note", "constant columns", told, tuple(constant), len(constant))
    for name, values in zip(names, seen.T, strict=True):
        for mark in MISSING_MARKERS:
            there = values == mark
            if there.any() and _is_outlier(mark, values[~there]):
                text = f"{format_row_share(int(there.sum()), len(values), 'rows')} of the series have {name} = {mark:g}, which looks "
                text += "like a mark for a missing value"
                effect = (
                    "it stretches the column's statistics, and every window over such a row is off"
                )
                yield Finding(
                    "warning", "marks for missing", text, (name,), int(there.sum()), effect
                )


def _is_outlier(mark: float, others: np.ndarray) -> bool:
    if not len(others):
        return False
    low, high = np.percentile(others, [1, 99])
    spread = max(float(high - low), np.finfo(float).tiny)
    return bool(mark < low - OUTLIER_SPREADS * spread or mark > high + OUTLIER_SPREADS * spread)
