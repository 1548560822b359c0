"""Audit of order: validation on the past, groups on both sides, irregular series."""

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
GAP_STEPS = 10  # so many median steps without a row are a gap
# What data loggers write when a sensor is silent.
MISSING_MARKERS = (-9999.0, -999.0, -99.0, 9999.0, 999.9, 99999.0)
# A marker within so many times the spread of the other values may be a value.
OUTLIER_SPREADS = 8


def iter_order_findings(
    dataset: Dataset, train: np.ndarray, val: np.ndarray | None
) -> Iterator[Finding]:
    """Yield validation on the past, owners on both sides, and what is irregular in time.

    Args:
        dataset: The dataset; only its training + validation rows are read.
        train: Indices of the training rows.
        val: Indices of the validation rows, None without any.
    """
    if dataset.group and val is not None:
        yield from _find_shared_groups(
            dataset, np.asarray(dataset.dev[dataset.group]).astype(str), train, val
        )
    if not dataset.order:
        return
    times = np.asarray(dataset.dev[dataset.order])
    if val is not None:
        yield from _find_past_validation(dataset.order, times, train, val)
    owners = (
        np.asarray(dataset.dev[dataset.group]).astype(str)
        if dataset.group
        else np.zeros(len(times), np.int64)
    )
    yield from _check_time_steps(
        dataset.order, times, np.unique(owners, return_inverse=True)[1].reshape(-1)
    )


def _find_shared_groups(
    dataset: Dataset, owners: np.ndarray, train: np.ndarray, val: np.ndarray
) -> Iterator[Finding]:
    """Yield owners on both sides: a note where training has only their past, as in real use."""
    name = str(dataset.group)
    is_shared = np.isin(owners[val], owners[train])
    count = int(is_shared.sum())
    if not count:
        return
    num_owners = len(np.unique(owners[val][is_shared]))
    share = format_row_share(count, len(val), "validation rows")
    text = f"{num_owners:,} of the owners in '{name}' have rows on both sides: "
    text += f"{share} are of owners that training has seen"
    only_past = False
    if dataset.order:
        times = np.asarray(dataset.dev[dataset.order])
        only_past = not _is_before_training(times, train, val).any()
    severity = "note" if only_past else classify_effect(count / len(val), len(val))
    effect = GROUP_EFFECT if only_past else describe_effect(count / len(val), len(val))
    effect += "" if severity == "note" else "; say protocol.by=group"
    yield Finding(severity, "owners on both sides", text, (name,), count, effect)


def _is_before_training(times: np.ndarray, train: np.ndarray, val: np.ndarray) -> np.ndarray:
    """Return the mask of validation rows that are earlier than the last training row."""
    return np.asarray(times[val] < times[train].max())


def _find_past_validation(
    name: str, times: np.ndarray, train: np.ndarray, val: np.ndarray
) -> Iterator[Finding]:
    count = int(_is_before_training(times, train, val).sum())
    if count:
        share = format_row_share(count, len(val), "validation rows")
        verb = "is" if count == 1 else "are"
        text = f"{share} {verb} earlier in '{name}' than the last training row; "
        text += "say protocol.by=time"
        severity = classify_effect(count / len(val), len(val))
        bound = describe_effect(count / len(val), len(val))
        effect = f"the past is predicted from its future: {bound}"
        yield Finding(severity, "validation before training", text, (name,), count, effect)


def _check_time_steps(name: str, times: np.ndarray, owners: np.ndarray) -> Iterator[Finding]:
    """Yield unsorted rows, repeated times, and gaps; with owners within the rows of each."""
    order = np.lexsort((times, owners))
    same_owner = np.diff(owners[order]) == 0
    steps = np.diff(times[order])[same_owner]
    # Rows of several owners may lie one owner after another.
    num_back = 0 if owners.any() else int((np.diff(times) < 0).sum())
    if num_back:
        text = (
            f"the rows do not lie in the order of '{name}': it goes back {_format_times(num_back)}"
        )
        yield Finding("note", "rows not in time order", text, (name,), num_back)
    num_repeated = int((steps == 0).sum())
    if num_repeated:
        share = format_row_share(num_repeated, len(times), "rows")
        text = f"{share} have the same '{name}' as another row"
        # Only a note: a split by time keeps rows of one moment on one side.
        yield Finding("note", "repeated times", text, (name,), num_repeated)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    gaps = steps[steps > GAP_STEPS * usual] if usual else steps[:0]
    if len(gaps):
        text = (
            f"'{name}' goes on for more than {GAP_STEPS} usual steps without a row, "
            f"{_format_times(len(gaps))}; the usual step is {usual:g}, "
            f"the longest {gaps.max():g}"
        )
        yield Finding("note", "gaps in time", text, (name,), len(gaps))


def _format_times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def iter_series_findings(dataset: Dataset, train: np.ndarray) -> Iterator[Finding]:
    """Yield what is wrong with single columns of series.

    Args:
        dataset: The dataset; only the rows of its training + validation windows are read.
        train: Indices of the training windows.
    """
    for name, kind in dataset.inputs.items():
        column = dataset.dev[name]
        if kind == "series" and isinstance(column, SlidingWindows):
            yield from _find_series_columns(
                dataset.labels.get(name, ()), column.unique_rows(), column[train].unique_rows()
            )


def _find_series_columns(
    names: tuple[str, ...], values: np.ndarray, train_values: np.ndarray
) -> Iterator[Finding]:
    constant = [
        name
        for name, values in zip(names, train_values.T, strict=True)
        if (values == values[0]).all()
    ]
    if constant:
        text = (
            "columns of the series that are constant in the training windows: "
            f"{list_names(constant)}; nothing can be learned from them"
        )
        yield Finding("note", "constant columns", text, tuple(constant), len(constant))
    for name, column in zip(names, values.T, strict=True):
        for marker in MISSING_MARKERS:
            is_marker = column == marker
            count = int(is_marker.sum())
            if count and _is_outlier(marker, column[~is_marker]):
                share = format_row_share(count, len(column), "rows")
                text = f"{share} of the series have {name} = {marker:g}, which looks like a mark "
                text += "for a missing value"
                effect = "it stretches the column's statistics, "
                effect += "and every window over such a row is off"
                yield Finding("warning", "marks for missing", text, (name,), count, effect)


def _is_outlier(marker: float, values: np.ndarray) -> bool:
    if not len(values):
        return False
    # Percentiles: a second kind of marker among the values must not stretch their range.
    low, high = np.percentile(values, [1, 99])
    spread = max(float(high - low), np.finfo(float).tiny)
    return bool(marker < low - OUTLIER_SPREADS * spread or marker > high + OUTLIER_SPREADS * spread)
