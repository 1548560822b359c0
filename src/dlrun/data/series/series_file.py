"""Reads a series from a CSV file: a time column, and every column of numbers beside it; 420,000 × 14 in two seconds."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.core.errors import UserError, format_names
from dlrun.data.series.readings import TimeSeries
from dlrun.data.series.timestamps import parse_timestamps
from dlrun.data.tabular import csv_file
from dlrun.data.tabular.csv_file import SEPARATORS, CsvTable
from dlrun.data.tabular.dates import DateOrder
from dlrun.data.tabular.number_format import (
    FLOAT32_MAX,
    MISSING_WORDS,
    DecimalStyle,
    NumberFormat,
    is_number,
)
from dlrun.data.tabular.text_encoding import read_encoded_text

NUM_SAMPLE_LINES = 50  # rows that say which columns hold numbers


@dataclass(frozen=True)
class SeriesReadOptions:
    """How a file is to be read: see `cells.read_series`. layout: of times, as strptime writes it; None finds out."""

    separator: str | None = None
    header: list[str] | None = None
    encoding: str = "utf-8"
    numbers: DecimalStyle = "plain"
    missing: tuple[str, ...] = ()
    dates: DateOrder = "each"
    layout: str | None = None
    written: Mapping[str, NumberFormat | None] | None = None


DEFAULT_OPTIONS = SeriesReadOptions()


def read_series(
    path: str, clock: str | None, asked: tuple[str, ...], how: SeriesReadOptions = DEFAULT_OPTIONS
) -> TimeSeries:
    """The series in a CSV file, or in a zip archive of one.

    clock: its time column. asked: columns that must hold numbers. Raises UserError, naming column and line, for whatever
    is wrong.
    """
    text = _read_text(path, how)
    if not text.strip():
        raise UserError(f"{path} is empty")
    names, separator = _parse_header(text, how)
    if clock is None:
        raise UserError(
            f"say which column of {path} holds the time: data.time=COLUMN. There are: {format_names(names)}"
        )
    there = CsvTable(path, {name: [] for name in names}, [])
    there.require_columns([clock], "data.time:")
    there.require_columns(asked, "column")
    body = text if how.header else text.partition("\n")[2]
    found = _parse_fast(names, clock, body.splitlines(), replace(how, separator=separator))
    if found is None or not set(asked) <= set(found[1]):
        found = _parse_cells(path, text, clock, asked, replace(how, separator=separator))
    times, columns, values, numbers, written = found
    order, dated, dates = parse_timestamps(times, how.layout, path, clock, numbers, how.dates)
    return TimeSeries(path, clock, order, dated, columns, values, numbers, written, dates)


def read_header(path: str, how: SeriesReadOptions) -> list[str]:
    """The names of a file's columns."""
    return _parse_header(_read_text(path, how), how)[0]


def _parse_header(text: str, how: SeriesReadOptions) -> tuple[list[str], str]:
    """The names of the columns, and what separates them."""
    first = text.partition("\n")[0]
    separator = how.separator or max(SEPARATORS, key=first.count)
    names = how.header or [
        name.strip() for name in next(csv.reader([first], delimiter=separator), [])
    ]
    return names, separator


def check_series_columns(readings: TimeSeries, columns: tuple[str, ...]) -> None:
    """Raise UserError, with the nearest name, unless all these columns are there."""
    CsvTable(readings.source, {name: [] for name in readings.names}, []).require_columns(
        columns, "column"
    )


# times as texts, columns, their values, lines, how their numbers are written
ParsedSeries = tuple[
    np.ndarray, tuple[str, ...], np.ndarray, np.ndarray, Mapping[str, NumberFormat | None]
]


def _parse_fast(
    names: list[str], clock: str, lines: list[str], how: SeriesReadOptions
) -> ParsedSeries | None:
    """The whole file by numpy; None where it is not as plain as that needs."""
    separator = how.separator or ","
    while lines and not lines[-1].strip():
        lines.pop()
    if '"' in "".join(lines[:NUM_SAMPLE_LINES]) or {line.count(separator) for line in lines} != {
        len(names) - 1
    }:
        return None
    some = [line.split(separator) for line in lines[:NUM_SAMPLE_LINES]]
    meant = [place for place, name in enumerate(names) if name not in ("", clock)]
    usable = [place for place in meant if _is_numeric_column(some, place)]
    if how.numbers in ("point", "comma") or (
        how.numbers == "auto" and _has_formatted_numbers(some, {*meant} - {*usable})
    ):
        return None
    plain: dict[str, Any] = {"delimiter": separator, "comments": None, "ndmin": 2}
    try:
        values = (
            np.loadtxt(lines, np.float64, usecols=usable, **plain)
            if usable
            else np.empty((len(lines), 0))
        )
        times = np.loadtxt(lines, np.str_, usecols=[names.index(clock)], **plain)[:, 0]
    except ValueError:
        return None
    if (np.abs(values) > FLOAT32_MAX).any():  # told with its line, cell by cell
        return None
    numbers = np.arange(len(lines)) + (1 if how.header else 2)
    return times, tuple(names[place] for place in usable), values, numbers, {}


def _has_formatted_numbers(some: list[list[str]], places: set[int]) -> bool:
    """Whether a column of no plain numbers may be one of numbers that are written otherwise."""
    return any(is_number(row[place].strip()) for row in some for place in places)


def _is_numeric_column(some: list[list[str]], place: int) -> bool:
    present = [
        row[place].strip() for row in some if row[place].strip().lower() not in MISSING_WORDS
    ]
    try:
        return bool(present) and all(np.isfinite(float(cell)) for cell in present)
    except ValueError:
        return False


def _parse_cells(
    path: str, text: str, clock: str, asked: tuple[str, ...], how: SeriesReadOptions
) -> ParsedSeries:
    """Cell by cell, with gaps, and a message for what cannot be read."""
    reading = {
        name: getattr(how, name)
        for name in ("separator", "header", "numbers", "missing", "written")
    }
    whole = csv_file.parse_csv(path, text, **reading)
    missing = whole.missing_mask(clock)
    if missing.any():
        raise UserError(
            f"the time column '{clock}' is empty in {whole.describe_rows(missing)} of {path}"
        )
    names = [
        name
        for name in whole.columns
        if name != clock and (name in asked or whole.is_numeric(name))
    ]
    values = np.empty((len(whole), len(names)))
    for place, name in enumerate(names):
        values[:, place] = whole.to_numbers(name)
    written = {name: whole.number_formats.get(name) for name in names}
    return (
        np.array(whole.columns[clock], np.str_),
        tuple(names),
        values,
        np.array(whole.lines),
        written,
    )


def _read_text(path: str, how: SeriesReadOptions) -> str:
    return read_encoded_text(path, how.encoding).replace("\r\n", "\n").replace("\r", "\n")
