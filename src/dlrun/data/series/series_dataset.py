"""Your own series: a CSV file with a time column, as windows that forecast some of its columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from dlrun.config.annotations import Count, NonNegative
from dlrun.core.dataset import Dataset, Preprocessor, RawColumns
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import ForecastHorizon
from dlrun.data.preprocessing.series import SeriesScaler, TargetScaler
from dlrun.data.series import series_file
from dlrun.data.series.series_file import SeriesReadOptions
from dlrun.data.series.series_windows import (
    SERIES_INPUT,
    MissingValuePolicy,
    SeriesSchema,
    build_series_windows,
    fingerprint_series,
    get_last_window,
)
from dlrun.data.series.timestamps import Gaps, TimeSeries, median_step, split_at_gap
from dlrun.data.tabular.dates import DateOrder
from dlrun.data.tabular.number_format import DecimalStyle

UNIT_SYMBOLS = {"degC": "°C", "degF": "°F", "deg": "°"}


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
    scale: Literal["standardize", "none"],
    time_format: str | None,
    separator: str | None,
    encoding: str = "utf-8",
    header: list[str] | None = None,
    numbers: DecimalStyle = "plain",
    missing: list[str] | None = None,
    dates: DateOrder = "each",
    look_ahead: bool = True,
) -> Dataset:
    """Windows onto a series from a CSV file, and what comes after each. Defaults are dlrun 0.1.0's.

    Args:
        path: The file.
        time: The column of times.
        target: The column, or columns, to forecast.
        lookback: How far a window looks back, in rows.
        delay: How far ahead the target lies, in rows from the last one of the window: 1 is the
            next row. Several delays are several horizons.
        step: The distance between two rows of a window.
        inputs: The columns of the windows; None takes every number column.
        test: The share, or number, of rows at the end that are held out.
        gaps: What becomes of uneven rows, see `split_at_gap`.
        impute: What becomes of missing numbers, see `fill_missing`.
        scale: Whether inputs and targets are standardized.
        time_format: How times are written, as strptime has it; None infers that.
        separator: See `read_csv`.
        encoding: The file's encoding.
        header: See `read_csv`.
        numbers: How numbers are written, see `infer_number_formats`.
        missing: Further words that mean a missing number.
        dates: The order of day and month, see `resolve_date_order`.
        look_ahead: See `SeriesSchema`.

    Raises:
        UserError: The file or the question cannot be used.
    """
    options = SeriesReadOptions(
        separator, header, encoding, numbers, tuple(missing or ()), dates, time_format
    )
    if path is None:
        raise UserError(
            "say which series: data.path=FILE.csv data.time=COLUMN data.target=COLUMN "
            "data.lookback=ROWS"
        )
    targets = [target] if isinstance(target, str) else list(target or ())
    if not targets or lookback is None:
        absent = "data.lookback=ROWS, how far a window looks back"
        if not targets:
            absent = "data.target=COLUMN"
        columns = format_names(series_file.read_header(path, options))
        raise UserError(f"say {absent}; {path} has: {columns}")
    readings = series_file.read_series(path, time, (*targets, *(inputs or ())), options)
    # A delay counts from the window's last row, a horizon from the row after the window.
    rows = tuple(ahead - step for ahead in parse_delay(delay))
    horizons = build_target_forecast(readings, targets, rows, lookback, step)
    window_columns = tuple(inputs or readings.names)
    schema = SeriesSchema(
        window_columns, horizons, gaps, impute, scale == "standardize", look_ahead
    )
    # New rows are few: they cannot decide how dates and numbers are written.
    same_format = replace(
        options, dates=readings.date_format, number_formats=readings.number_formats or None
    )

    def read(file: str, encoding: str | None) -> TimeSeries:
        new_options = replace(same_format, encoding=encoding or same_format.encoding)
        return series_file.read_series(file, time, schema.inputs, new_options)

    return build_series_dataset(readings, schema, test, read)


def parse_delay(delay: int | list[int]) -> tuple[int, ...]:
    """The delays in rows.

    Raises:
        UserError: There is none, or one comes twice.
    """
    delays = (delay,) if isinstance(delay, int) else tuple(delay)
    if not delays or len(set(delays)) < len(delays):
        raise UserError(
            f"data.delay={delay!r}: it must be a number of rows, or several different ones"
        )
    return delays


def build_target_forecast(
    readings: TimeSeries, targets: list[str], rows: tuple[int, ...], lookback: int, step: int
) -> dict[str, ForecastHorizon]:
    """Target name → its forecast horizon.

    Args:
        readings: The series.
        targets: The columns to forecast.
        rows: How far ahead, in rows from the row after the window.
        lookback: How far a window looks back, in rows.
        step: The distance between two rows of a window.

    Raises:
        UserError: A window is no whole number of steps.
    """
    if lookback % step:
        raise UserError(
            f"data.lookback={lookback} is no multiple of data.step={step}: "
            f"say {lookback // step * step or step}"
        )
    taken = {SERIES_INPUT, readings.time_column}
    every = median_step(readings.times)
    horizons: dict[str, ForecastHorizon] = {}
    for column in targets:
        unit = parse_unit(column)
        name = strip_unit(column)
        # A target may be an input, too, but one name stands for one column of rows.
        name = name if name not in taken else f"{name}_ahead"
        if name in horizons:  # T (degC) and T (K): the units tell them apart
            name = re.sub(r"\W+", "_", column).strip("_")
        horizons[name] = ForecastHorizon(
            column, rows, lookback, step, every, readings.has_dates, unit
        )
    return horizons


def strip_unit(column: str) -> str:
    """'T (degC)' → 'T': the column without its unit, in letters, digits and underscores."""
    without_unit = re.sub(r"\s*[(\[][^()\[\]]*[)\]]\s*$", "", column)
    names = (re.sub(r"\W+", "_", text).strip("_") for text in (without_unit, column))
    return next(filter(None, names), "target")


def parse_unit(column: str) -> str:
    """'T (degC)' → '°C', 'p [mbar]' → 'mbar'; '' where the column names no unit."""
    match = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", column)
    unit = match[1].strip() if match else ""
    return UNIT_SYMBOLS.get(unit, unit)


def build_series_dataset(
    readings: TimeSeries,
    schema: SeriesSchema,
    test: float,
    read: Callable[[str, str | None], TimeSeries],
    note: str = "",
) -> Dataset:
    """The dataset of a series: its end is held out, and no window reaches across that border.

    Args:
        readings: The series.
        schema: What is forecast from what.
        test: The share, or number, of rows at the end that are held out.
        read: Reads a new file of such a series: path and encoding.
        note: A line beside every result.

    Raises:
        UserError: There is no window to train on.
    """
    num_test = _count_test_rows(readings, test)
    # Of the whole series: the border between the parts is no gap.
    segments = split_at_gap(readings, schema.gaps)
    border = len(readings) - num_test
    dev_rows, test_rows = slice(0, border), slice(border, None)
    title = "the development rows" if num_test else "the series"
    dev = build_series_windows(readings, schema, segments, dev_rows, title)
    test_windows: RawColumns | None = None
    if num_test:
        title = f"the test rows (data.test={test:g})"
        test_windows = build_series_windows(readings, schema, segments, test_rows, title)
    return Dataset(
        dev=dev,
        test=None if test_windows is None else lambda: test_windows,
        inputs={SERIES_INPUT: "series"},
        targets=dict.fromkeys(schema.targets, "number"),
        preprocessors=_build_preprocessing(schema),
        order=readings.time_column,
        labels={SERIES_INPUT: schema.inputs} | _label_horizons(schema),
        note=note,
        read_new_rows=lambda path, encoding=None: get_last_window(read(path, encoding), schema),
        forecast=schema.targets,
        # By targets alone: a change of inputs does not make other test rows.
        row_fingerprints=(
            fingerprint_series(readings, schema, dev_rows),
            fingerprint_series(readings, schema, test_rows),
        ),
    )


def _label_horizons(schema: SeriesSchema) -> dict[str, tuple[str, ...]]:
    """Target → the names of its horizons, where it has several."""
    horizons = schema.targets.items()
    return {name: horizon.horizon_labels for name, horizon in horizons if len(horizon.rows) > 1}


def _count_test_rows(readings: TimeSeries, test: float) -> int:
    count = round(test * len(readings)) if test < 1 else int(test)
    if count >= len(readings):
        raise UserError(
            f"data.test={test:g} sets all {len(readings):,} rows of {readings.source} aside"
        )
    return count


def _build_preprocessing(schema: SeriesSchema) -> dict[str, tuple[Preprocessor, ...]]:
    if not schema.standardize:
        return {}
    # A target that is an input, too, has the same unit in both.
    index = {name: position for position, name in enumerate(schema.inputs)}
    steps: dict[str, tuple[Preprocessor, ...]] = {SERIES_INPUT: (SeriesScaler(),)}
    for name, horizon in schema.targets.items():
        steps[name] = (TargetScaler(SERIES_INPUT, index.get(horizon.column)),)
    return steps
