"""Windows onto a series: which there are, what each forecasts, and how gaps are filled."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dlrun.core.dataset import RawColumns, SlidingWindows
from dlrun.core.errors import UserError
from dlrun.core.types import ForecastHorizon
from dlrun.data.cache import fingerprint
from dlrun.data.series.timestamps import Gaps, TimeSeries, split_at_gap

log = logging.getLogger("dlrun")

MissingValuePolicy = Literal["refuse", "interpolate", "forward"]


def fill_missing(
    readings: TimeSeries, columns: tuple[str, ...], rows: slice, policy: MissingValuePolicy
) -> np.ndarray:
    """Some rows of the series (t, columns) without a missing number.

    Args:
        readings: The series.
        columns: The columns to take.
        rows: The rows to take.
        policy: "forward" takes the last number before, which may lie before these rows;
            "interpolate" draws a line to the next number of these rows, which a window that ends
            between could not know yet.

    Raises:
        UserError: Nothing may be filled, or nothing comes before; columns and lines are named.
    """
    indices = [readings.names.index(name) for name in columns]
    values = readings.values[rows]
    if indices != list(range(len(readings.names))):  # a view, without a copy, where it can be
        values = values[:, indices]
    missing = np.isnan(values)
    if policy == "forward" and rows.start and missing[:1].any():
        # What came before these rows is known: fill from the start of the series.
        return fill_missing(readings, columns, slice(0, rows.stop), policy)[rows.start :]
    if not missing.any():
        return values
    described = _describe_missing(readings, columns, missing, rows)
    if policy == "refuse":
        raise UserError(
            f"{readings.source} misses numbers in {described}: data.impute=forward carries the "
            "last one forward, data.impute=interpolate draws a line to the next, or take the "
            "column out (data.inputs=[…])"
        )
    if missing[0].any():
        empty = ", ".join(name for name, lacks in zip(columns, missing[0], strict=True) if lacks)
        line = readings.lines[rows][0]
        raise UserError(
            f"{readings.source}: nothing comes before line {line} that could stand for the missing "
            f"{empty}"
        )
    log.warning("%s: %s filled in (%s)", readings.source, described, policy)
    return _forward_fill(values, missing) if policy == "forward" else _interpolate(values, missing)


def _describe_missing(
    readings: TimeSeries, columns: tuple[str, ...], missing: np.ndarray, rows: slice
) -> str:
    descriptions = []
    for index, name in enumerate(columns):
        if missing[:, index].any():
            mask = np.zeros(len(readings), bool)
            mask[rows] = missing[:, index]
            descriptions.append(f"'{name}' at {readings.describe_rows(mask)}")
    return ", ".join(descriptions)


def _forward_fill(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    # The running maximum of the rows that have a number is the last such row.
    last_row = np.where(missing, 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(last_row, axis=0), axis=0)


def _interpolate(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    filled, rows = values.copy(), np.arange(len(values))
    for column in np.flatnonzero(missing.any(axis=0)):
        gaps = missing[:, column]
        filled[gaps, column] = np.interp(rows[gaps], rows[~gaps], values[~gaps, column])
    return filled


SERIES_INPUT = "series"


@dataclass(frozen=True)
class SeriesSchema:
    """What is forecast from what.

    Attributes:
        inputs: The columns of the windows.
        targets: Target name → its forecast horizon.
        gaps: What becomes of uneven rows, see `split_at_gap`.
        impute: What becomes of missing numbers, see `fill_missing`.
        standardize: Whether inputs and targets are standardized.
        look_ahead: Whether a window that ends amid a gap may draw on the value after it, as in
            dlrun 0.1.0.
    """

    inputs: tuple[str, ...]
    targets: dict[str, ForecastHorizon]
    gaps: Gaps
    impute: MissingValuePolicy
    standardize: bool
    look_ahead: bool = True

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that rows must have."""
        targets = (horizon.column for horizon in self.targets.values())
        return tuple(dict.fromkeys((*self.inputs, *targets)))


def fingerprint_series(readings: TimeSeries, schema: SeriesSchema, rows: slice) -> str:
    """A fingerprint of rows of a series and their targets, whatever the windows are."""
    columns = sorted({horizon.column for horizon in schema.targets.values()})
    values = {name: readings.values[rows, readings.names.index(name)] for name in columns}
    return fingerprint({**values, "moments": readings.times[rows]})


def build_series_windows(
    readings: TimeSeries, schema: SeriesSchema, segments: np.ndarray, rows: slice, title: str
) -> RawColumns:
    """The windows that lie, with what they forecast, wholly within some rows of the series.

    The window of row `now` holds rows now - lookback, now - lookback + step, …, now - step, and
    its target lies ahead of now, as in the book's generator (§6.3), whose last observation is thus
    one step before now.

    Args:
        readings: The series.
        schema: What is forecast from what.
        segments: The evenly spaced segment of each row (T,), which no window leaves.
        rows: The rows of the series to take.
        title: What they are called in messages.

    Raises:
        UserError: There is no such window.
    """
    horizon = next(iter(schema.targets.values()))
    times, segments = readings.times[rows], segments[rows]
    values = fill_missing(readings, schema.inputs, rows, schema.impute)
    now = _find_whole_windows(readings, horizon, segments, title)
    targets = {
        name: _target_values(readings, horizon, rows, now)
        for name, horizon in schema.targets.items()
    }
    usable = _is_target_known(readings, targets, title)
    # A value that was interpolated toward the future would leak it.
    usable &= _is_window_known(readings, schema, rows, now - horizon.step)
    if not usable.any():
        raise UserError(
            f"every window of {title} ends amid missing numbers: say data.impute=forward"
        )
    now = now[usable]
    offsets = np.arange(0, horizon.lookback, horizon.step)
    if (np.diff(times) < 0).any():  # the order is that of the file, as if its clock were even
        times = times[0] + horizon.every * np.arange(len(times))
    windows: RawColumns = {
        SERIES_INPUT: SlidingWindows(values, now - horizon.lookback, offsets),
        readings.time_column: times[now],
    }
    return windows | {name: target[usable] for name, target in targets.items()}


def _find_whole_windows(
    readings: TimeSeries, horizon: ForecastHorizon, segments: np.ndarray, title: str
) -> np.ndarray:
    """The first row after each window that lies, with its target, within one segment."""
    now = np.arange(horizon.lookback, len(segments) - max(0, *horizon.rows))
    if not len(now):
        raise UserError(
            f"{title} of {readings.source} are {len(segments):,} rows, and a window needs "
            f"{horizon.span + 1:,} (data.lookback) with what comes after it (data.delay)"
        )
    # Both ends of a window, target included, in one evenly spaced segment.
    now = now[segments[now - horizon.lookback] == segments[now + max(horizon.rows)]]
    if not len(now):
        raise UserError(
            f"no window of {horizon.span + 1:,} rows lies within {title} without crossing a gap "
            "(data.gaps)"
        )
    return now


def _is_target_known(readings: TimeSeries, targets: RawColumns, title: str) -> np.ndarray:
    """The mask of windows whose targets are all present; logs how many are not."""
    known = np.all([np.isfinite(target).all(axis=1) for target in targets.values()], axis=0)
    if not known.all():
        log.warning(
            "%s windows are left out: the value that they would foretell is missing",
            f"{(~known).sum():,}",
        )
    if not known.any():
        raise UserError(
            f"{title} of {readings.source}: the value to foretell is missing for every window"
        )
    return known


def _is_window_known(
    readings: TimeSeries, schema: SeriesSchema, rows: slice, last: np.ndarray
) -> np.ndarray:
    """The mask of windows in which nothing depends on a later value; logs how many are not.

    Args:
        readings: The series.
        schema: What is forecast from what.
        rows: The rows of the series that the windows lie in.
        last: The last row of each window.
    """
    if schema.impute != "interpolate" or schema.look_ahead:
        return np.ones(len(last), bool)
    indices = [readings.names.index(name) for name in schema.inputs]
    is_known = ~np.isnan(readings.values[rows][last][:, indices]).any(axis=1)
    if not is_known.all():
        log.warning(
            "%s windows are left out: they end amid missing numbers, and a line to the next one "
            "would tell them of it",
            f"{(~is_known).sum():,}",
        )
    return is_known


def _target_values(
    readings: TimeSeries, horizon: ForecastHorizon, rows: slice, now: np.ndarray
) -> np.ndarray:
    column = readings.values[rows, readings.names.index(horizon.column)]
    return column[now[:, None] + np.array(horizon.rows)]


def get_last_window(readings: TimeSeries, schema: SeriesSchema) -> tuple[RawColumns, list[int]]:
    """The window that ends with the last row, and its line.

    What it forecasts comes step + delay rows after that row.
    """
    horizon = next(iter(schema.targets.values()))
    # From the window's first row to its last one, which lies `step` before now.
    length = horizon.lookback - horizon.step + 1
    if length > len(readings):
        raise UserError(
            f"{readings.source} has {len(readings):,} rows, and a window needs {length:,}"
        )
    rows = slice(len(readings) - length, None)
    segments = split_at_gap(slice_series(readings, rows), schema.gaps)
    if segments[0] != segments[-1]:
        raise UserError(
            f"{readings.source}: its last {len(segments):,} rows are not even, "
            "and the window would cross a gap"
        )
    values = fill_missing(readings, schema.inputs, rows, schema.impute)
    offsets = np.arange(0, horizon.lookback, horizon.step)
    window = SlidingWindows(values, np.zeros(1, np.int64), offsets)
    columns = {SERIES_INPUT: window, readings.time_column: readings.times[-1:]}
    return columns, [int(readings.lines[-1])]


def slice_series(readings: TimeSeries, rows: slice) -> TimeSeries:
    """Some rows of a series."""
    return replace(
        readings,
        times=readings.times[rows],
        values=readings.values[rows],
        lines=readings.lines[rows],
    )
