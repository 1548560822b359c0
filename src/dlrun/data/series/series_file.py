"""Reads a series from a CSV file: a time column, and every column of numbers beside it; 420,000 × 14 in two seconds."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.core.errors import Refused, in_short
from dlrun.data.series.readings import Readings
from dlrun.data.series.timestamps import moments
from dlrun.data.tabular import csv_file
from dlrun.data.tabular.csv_file import SEPARATORS, Cells
from dlrun.data.tabular.dates import Dates
from dlrun.data.tabular.number_format import LARGEST, MISSING, Numbers, Numerals, is_number
from dlrun.data.tabular.text_encoding import text_of

LOOKED_AT = 50  # rows that say which columns hold numbers


@dataclass(frozen=True)
class How:
    """How a file is to be read: see `cells.read`. layout: of times, as strptime writes it; None finds out."""

    separator: str | None = None
    header: list[str] | None = None
    encoding: str = "utf-8"
    numbers: Numbers = "plain"
    missing: tuple[str, ...] = ()
    dates: Dates = "each"
    layout: str | None = None
    written: Mapping[str, Numerals | None] | None = None


PLAIN = How()


def read(path: str, clock: str | None, asked: tuple[str, ...], how: How = PLAIN) -> Readings:
    """The series in a CSV file, or in a zip archive of one.

    clock: its time column. asked: columns that must hold numbers. Raises Refused, naming column and line, for whatever
    is wrong.
    """
    text = _text(path, how)
    if not text.strip():
        raise Refused(f"{path} is empty")
    names, separator = _head(text, how)
    if clock is None:
        raise Refused(f"say which column of {path} holds the time: data.time=COLUMN. There are: {in_short(names)}")
    there = Cells(path, {name: [] for name in names}, [])
    there.need([clock], "data.time:")
    there.need(asked, "column")
    body = text if how.header else text.partition("\n")[2]
    found = _quick(names, clock, body.splitlines(), replace(how, separator=separator))
    if found is None or not set(asked) <= set(found[1]):
        found = _careful(path, text, clock, asked, replace(how, separator=separator))
    times, columns, values, numbers, written = found
    order, dated, dates = moments(times, how.layout, path, clock, numbers, how.dates)
    return Readings(path, clock, order, dated, columns, values, numbers, written, dates)


def header(path: str, how: How) -> list[str]:
    """The names of a file's columns."""
    return _head(_text(path, how), how)[0]


def _head(text: str, how: How) -> tuple[list[str], str]:
    """The names of the columns, and what separates them."""
    first = text.partition("\n")[0]
    separator = how.separator or max(SEPARATORS, key=first.count)
    names = how.header or [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
    return names, separator


def need(readings: Readings, columns: tuple[str, ...]) -> None:
    """Raise Refused, with the nearest name, unless all these columns are there."""
    Cells(readings.place, {name: [] for name in readings.names}, []).need(columns, "column")


# times as texts, columns, their values, lines, how their numbers are written
Found = tuple[np.ndarray, tuple[str, ...], np.ndarray, np.ndarray, Mapping[str, Numerals | None]]


def _quick(names: list[str], clock: str, lines: list[str], how: How) -> Found | None:
    """The whole file by numpy; None where it is not as plain as that needs."""
    separator = how.separator or ","
    while lines and not lines[-1].strip():
        lines.pop()
    if '"' in "".join(lines[:LOOKED_AT]) or {line.count(separator) for line in lines} != {len(names) - 1}:
        return None
    some = [line.split(separator) for line in lines[:LOOKED_AT]]
    meant = [place for place, name in enumerate(names) if name not in ("", clock)]
    usable = [place for place in meant if _numbers(some, place)]
    if how.numbers in ("point", "comma") or (how.numbers == "auto" and _otherwise(some, {*meant} - {*usable})):
        return None
    plain: dict[str, Any] = {"delimiter": separator, "comments": None, "ndmin": 2}
    try:
        values = np.loadtxt(lines, np.float64, usecols=usable, **plain) if usable else np.empty((len(lines), 0))
        times = np.loadtxt(lines, np.str_, usecols=[names.index(clock)], **plain)[:, 0]
    except ValueError:
        return None
    if (np.abs(values) > LARGEST).any():  # told with its line, cell by cell
        return None
    numbers = np.arange(len(lines)) + (1 if how.header else 2)
    return times, tuple(names[place] for place in usable), values, numbers, {}


def _otherwise(some: list[list[str]], places: set[int]) -> bool:
    """Whether a column of no plain numbers may be one of numbers that are written otherwise."""
    return any(is_number(row[place].strip()) for row in some for place in places)


def _numbers(some: list[list[str]], place: int) -> bool:
    present = [row[place].strip() for row in some if row[place].strip().lower() not in MISSING]
    try:
        return bool(present) and all(np.isfinite(float(cell)) for cell in present)
    except ValueError:
        return False


def _careful(path: str, text: str, clock: str, asked: tuple[str, ...], how: How) -> Found:
    """Cell by cell, with gaps, and a message for what cannot be read."""
    reading = {name: getattr(how, name) for name in ("separator", "header", "numbers", "missing", "written")}
    whole = csv_file.parse(path, text, **reading)
    missing = whole.missing(clock)
    if missing.any():
        raise Refused(f"the time column '{clock}' is empty in {whole.where(missing)} of {path}")
    names = [name for name in whole.columns if name != clock and (name in asked or whole.numeric(name))]
    values = np.empty((len(whole), len(names)))
    for place, name in enumerate(names):
        values[:, place] = whole.numbers(name)
    written = {name: whole.written.get(name) for name in names}
    return np.array(whole.columns[clock], np.str_), tuple(names), values, np.array(whole.lines), written


def _text(path: str, how: How) -> str:
    return text_of(path, how.encoding).replace("\r\n", "\n").replace("\r", "\n")
