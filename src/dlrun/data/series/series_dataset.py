"""Your own series: a CSV file with a time column; what one of its columns will be, from windows onto the past."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dlrun.config.constraints import Count, NonNegative
from dlrun.core.dataset import Dataset, Preprocessor, RawColumns, SlidingWindows
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import ForecastHorizon
from dlrun.data.fingerprints import fingerprint
from dlrun.data.preprocessing.series import SeriesScaler, TargetScaler
from dlrun.data.series import series_file
from dlrun.data.series.imputation import MissingValuePolicy, fill_missing
from dlrun.data.series.readings import TimeSeries
from dlrun.data.series.series_file import SeriesReadOptions
from dlrun.data.series.timestamps import Gaps, median_step, split_at_gap
from dlrun.data.tabular.dates import DateOrder
from dlrun.data.tabular.number_format import DecimalStyle

log = logging.getLogger("dlrun")

SERIES_INPUT = "series"
UNIT_SYMBOLS = {"degC": "°C", "degF": "°F", "deg": "°"}


@dataclass(frozen=True)
class SeriesSchema:
    """What is foretold from what. inputs: columns of the windows. targets: name → what it looks ahead to.

    look_ahead: whether a window that ends amid a gap may draw on the value after it, as in dlrun 0.1.0.
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
        return tuple(
            dict.fromkeys((*self.inputs, *(ahead.column for ahead in self.targets.values())))
        )


def series(
    *,
    path: str | None,
    time: str | None,
    target: str | list[str] | None,
    lookback: Count | None,
    delay: Count | list[Count],
    step: Count,
    inputs: list[str] | None,
    test: NonNegative,
    gaps: Gaps,
    impute: MissingValuePolicy,
    scale: Literal["standardise", "none"],
    time_format: str | None,
    separator: str | None,
    encoding: str = "utf-8",
    header: list[str] | None = None,
    numbers: DecimalStyle = "plain",
    missing: list[str] | None = None,
    dates: DateOrder = "each",
    look_ahead: bool = True,
) -> Dataset:
    """Windows onto a series from a CSV file, and what comes after each: see `build_series_windows` for the rows that they hold.

    The defaults are what dlrun 0.1.0 did.

    target: the column, or columns, to foretell. lookback, delay, step: in rows; several delays are several horizons. A
    delay counts from the last row that a window sees: 1 is the next row.
    inputs: columns of the windows; None takes every number column. test: the share, or number, of rows at the end that
    are set aside. encoding, header, numbers, missing, dates: see `table_csv.csv`. look_ahead: see Plan. Raises UserError
    for whatever is wrong with the file or the question.
    """
    how = SeriesReadOptions(
        separator, header, encoding, numbers, tuple(missing or ()), dates, time_format
    )
    if path is None:
        raise UserError(
            "say which series: data.path=FILE.csv data.time=COLUMN data.target=COLUMN data.lookback=ROWS"
        )
    wanted = [target] if isinstance(target, str) else list(target or ())
    if not wanted or lookback is None:
        lacks = (
            "data.target=COLUMN"
            if not wanted
            else "data.lookback=ROWS, how far a window looks back"
        )
        raise UserError(
            f"say {lacks}; {path} has: {format_names(series_file.read_header(path, how))}"
        )
    readings = series_file.read_series(path, time, (*wanted, *(inputs or ())), how)
    ahead = build_target_forecast(
        readings, wanted, tuple(rows - step for rows in parse_delay(delay)), lookback, step
    )
    plan = SeriesSchema(
        tuple(inputs or readings.names), ahead, gaps, impute, scale == "standardise", look_ahead
    )
    again = replace(how, dates=readings.date_format, written=readings.number_formats or None)

    def read(file: str, encoding: str | None) -> TimeSeries:
        return series_file.read_series(
            file, time, plan.inputs, replace(again, encoding=encoding or again.encoding)
        )

    return build_series_dataset(readings, plan, test, read)


def parse_delay(delay: int | list[int]) -> tuple[int, ...]:
    """The horizons in rows. Raises UserError for none, and for one that comes twice."""
    found = (delay,) if isinstance(delay, int) else tuple(delay)
    if not found or len(set(found)) < len(found):
        raise UserError(
            f"data.delay={delay!r}: it must be a number of rows, or several different ones"
        )
    return found


def build_target_forecast(
    readings: TimeSeries, targets: list[str], rows: tuple[int, ...], lookback: int, step: int
) -> dict[str, ForecastHorizon]:
    """Target name → what it looks ahead to. Raises UserError for a window that is no whole number of steps."""
    if lookback % step:
        raise UserError(
            f"data.lookback={lookback} is no multiple of data.step={step}: say {lookback // step * step or step}"
        )
    taken = {SERIES_INPUT, readings.time_column}
    found: dict[str, ForecastHorizon] = {}
    for column in targets:
        every = median_step(readings.times)
        ahead = ForecastHorizon(
            column, rows, lookback, step, every, readings.has_dates, parse_unit(column)
        )
        name = strip_unit(column)
        name = name if name not in taken else f"{name}_ahead"
        if name in found:
            name = re.sub(r"\W+", "_", column).strip("_")
        found[name] = ahead
    return found


def strip_unit(column: str) -> str:
    """'T (degC)' → 'T': the column without its unit, in letters, digits and underscores."""
    bare = re.sub(r"\s*[(\[][^()\[\]]*[)\]]\s*$", "", column)
    return (
        re.sub(r"\W+", "_", bare).strip("_") or re.sub(r"\W+", "_", column).strip("_") or "target"
    )


def parse_unit(column: str) -> str:
    """'T (degC)' → '°C', 'p [mbar]' → 'mbar'; '' where the column names no unit."""
    found = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", column)
    unit = found[1].strip() if found else ""
    return UNIT_SYMBOLS.get(unit, unit)


def build_series_dataset(
    readings: TimeSeries,
    plan: SeriesSchema,
    test: float,
    read: Callable[[str, str | None], TimeSeries],
    note: str = "",
) -> Dataset:
    """The dataset of a series: the last rows are set aside, and no window of either part reaches into the other."""
    count = round(test * len(readings)) if test < 1 else int(test)
    if count >= len(readings):
        raise UserError(
            f"data.test={test:g} sets all {len(readings):,} rows of {readings.source} aside"
        )
    part = split_at_gap(readings, plan.gaps)
    cut = len(readings) - count
    dev = build_series_windows(
        readings, plan, part, slice(0, cut), "the development rows" if count else "the series"
    )
    sealed = (
        build_series_windows(
            readings, plan, part, slice(cut, None), f"the test rows (data.test={test:g})"
        )
        if count
        else None
    )
    learn: dict[str, tuple[Preprocessor, ...]] = {}
    if plan.standardize:
        place = {name: plan.inputs.index(name) for name in plan.inputs}
        learn = {SERIES_INPUT: (SeriesScaler(),)}
        learn |= {
            t: (TargetScaler(SERIES_INPUT, place.get(a.column)),) for t, a in plan.targets.items()
        }
    return Dataset(
        dev=dev,
        test=None if sealed is None else lambda: sealed,
        inputs={SERIES_INPUT: "series"},
        targets=dict.fromkeys(plan.targets, "number"),
        preprocessors=learn,
        order=readings.time_column,
        labels={SERIES_INPUT: plan.inputs}
        | {t: a.horizon_labels for t, a in plan.targets.items() if len(a.rows) > 1},
        note=note,
        read_new_rows=lambda path, encoding=None: get_last_window(read(path, encoding), plan),
        forecast=plan.targets,
        row_fingerprints=(
            fingerprint_series(readings, plan, slice(0, cut)),
            fingerprint_series(readings, plan, slice(cut, None)),
        ),
    )


def fingerprint_series(readings: TimeSeries, plan: SeriesSchema, rows: slice) -> str:
    """What rows of a series and their targets are known by, whatever is looked back at."""
    columns = sorted({ahead.column for ahead in plan.targets.values()})
    known = {name: readings.values[rows, readings.names.index(name)] for name in columns}
    return fingerprint({**known, "moments": readings.times[rows]})


def build_series_windows(
    readings: TimeSeries, plan: SeriesSchema, part: np.ndarray, rows: slice, what: str
) -> RawColumns:
    """The windows that lie, with what they foretell, wholly within some rows of the series.

    Of the window of row `now` the input holds rows now - lookback, now - lookback + step, …, now - step, and a target
    rows now + delay: as in the book's generator (§6.3), whose last observation is thus one step before now.
    """
    some = next(iter(plan.targets.values()))
    moments, part = readings.times[rows], part[rows]
    values = fill_missing(readings, plan.inputs, rows, plan.impute)
    now = np.arange(some.lookback, len(values) - max(0, *some.rows))
    if not len(now):
        raise UserError(
            f"{what} of {readings.source} are {len(values):,} rows, and a window needs {some.span + 1:,} "
            "(data.lookback) with what comes after it (data.delay)"
        )
    now = now[part[now - some.lookback] == part[now + max(some.rows)]]
    if not len(now):
        raise UserError(
            f"no window of {some.span + 1:,} rows lies within {what} without crossing a gap (data.gaps)"
        )
    answers = {
        name: _target_values(readings, ahead, rows, now) for name, ahead in plan.targets.items()
    }
    there = np.all([np.isfinite(answer).all(axis=1) for answer in answers.values()], axis=0)
    if not there.all():
        log.warning(
            "%s windows are left out: the value that they would foretell is missing",
            f"{(~there).sum():,}",
        )
    if not there.any():
        raise UserError(
            f"{what} of {readings.source}: the value to foretell is missing for every window"
        )
    there &= _is_window_known(readings, plan, rows, now - some.step)
    if not there.any():
        raise UserError(
            f"every window of {what} ends amid missing numbers: say data.impute=forward"
        )
    now = now[there]
    first = now - some.lookback
    offsets = np.arange(0, some.lookback, some.step)
    if (np.diff(moments) < 0).any():  # the order is that of the file, as if its clock were even
        moments = moments[0] + some.every * np.arange(len(moments))
    found: RawColumns = {
        SERIES_INPUT: SlidingWindows(values, first, offsets),
        readings.time_column: moments[now],
    }
    return found | {name: answer[there] for name, answer in answers.items()}


def _is_window_known(
    readings: TimeSeries, plan: SeriesSchema, rows: slice, last: np.ndarray
) -> np.ndarray:
    """The mask of windows, by their last rows, in which nothing depends on a later value; says how many are not."""
    if plan.impute != "interpolate" or plan.look_ahead:
        return np.ones(len(last), bool)
    places = [readings.names.index(name) for name in plan.inputs]
    known = ~np.isnan(readings.values[rows][last][:, places]).any(axis=1)
    if not known.all():
        log.warning(
            "%s windows are left out: they end amid missing numbers, and a line to the next one would tell them of it",
            f"{(~known).sum():,}",
        )
    return known


def _target_values(
    readings: TimeSeries, ahead: ForecastHorizon, rows: slice, now: np.ndarray
) -> np.ndarray:
    column = readings.values[rows, readings.names.index(ahead.column)]
    return column[now[:, None] + np.array(ahead.rows)]


def get_last_window(readings: TimeSeries, plan: SeriesSchema) -> tuple[RawColumns, list[int]]:
    """The window that ends with the last row: what it foretells comes step + delay rows after that row."""
    some = next(iter(plan.targets.values()))
    first = len(readings) - some.lookback + some.step - 1
    if first < 0:
        raise UserError(
            f"{readings.source} has {len(readings):,} rows, and a window needs {some.lookback - some.step + 1:,}"
        )
    rows = slice(first, None)
    part = split_at_gap(slice_series(readings, rows), plan.gaps)
    if part[0] != part[-1]:
        raise UserError(
            f"{readings.source}: its last {len(part):,} rows are not even, and the window would cross a gap"
        )
    values = fill_missing(readings, plan.inputs, rows, plan.impute)
    window = SlidingWindows(values, np.zeros(1, np.int64), np.arange(0, some.lookback, some.step))
    return {SERIES_INPUT: window, readings.time_column: readings.times[-1:]}, [
        int(readings.lines[-1])
    ]


def slice_series(readings: TimeSeries, rows: slice) -> TimeSeries:
    """Some rows of a series."""
    some = {name: getattr(readings, name)[rows] for name in ("times", "values", "lines")}
    return replace(readings, **some)
