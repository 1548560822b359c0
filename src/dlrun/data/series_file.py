"""Reads a series from a CSV file: a time column, and every column of numbers beside it; 420,000 × 14 in two seconds."""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.data import cells
from dlrun.data.cells import MISSING, SEPARATORS, Cells
from dlrun.data.series_clock import moments
from dlrun.errors import Refused

LOOKED_AT = 50  # rows that say which columns hold numbers


@dataclass(frozen=True)
class Readings:
    """A series. place: where it came from. clock: the name of its time column. moments (T,): seconds since 1970 where
    they are `dated`, else the numbers of that column. names, values (T, F): number columns, NaN where one is missing.
    lines (T,): the line in the file of each row.
    """

    place: str
    clock: str
    moments: np.ndarray
    dated: bool
    names: tuple[str, ...]
    values: np.ndarray
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.moments)

    def where(self, wrong: np.ndarray) -> str:
        """'3 rows (lines 5, 9, 12)' for a mask of rows."""
        return cells.where(self.lines, wrong)


def read(
    path: str, clock: str | None, asked: tuple[str, ...], *, layout: str | None = None, separator: str | None = None
) -> Readings:
    """The series in a CSV file in UTF-8, or in a zip archive of one.

    clock: its time column. asked: columns that must hold numbers. layout: of times, as strptime writes it; None finds
    out. Raises Refused, naming column and line, for whatever is wrong.
    """
    text = _text(Path(path).expanduser(), path)
    first, _, body = text.partition("\n")
    separator = separator or max(SEPARATORS, key=first.count)
    names = _names(first, separator)
    if clock is None:
        raise Refused(f"say which column of {path} holds the time: data.time=COLUMN. There are: {', '.join(names)}")
    there = Cells(path, {name: [] for name in names}, [])
    there.need([clock], "data.time:")
    there.need(asked, "column")
    found = _quick(names, clock, body.splitlines(), separator)
    if found is None or not set(asked) <= set(found[1]):
        found = _careful(path, text, clock, asked, separator)
    times, columns, values, numbers = found
    order, dated = moments(times, layout, path, clock, numbers)
    return Readings(path, clock, order, dated, columns, values, numbers)


def header(path: str, separator: str | None) -> list[str]:
    """The names of a file's columns."""
    first = _text(Path(path).expanduser(), path).partition("\n")[0]
    return _names(first, separator or max(SEPARATORS, key=first.count))


def _names(first: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]


def need(readings: Readings, columns: tuple[str, ...]) -> None:
    """Raise Refused, with the nearest name, unless all these columns are there."""
    Cells(readings.place, {name: [] for name in readings.names}, []).need(columns, "column")


Found = tuple[np.ndarray, tuple[str, ...], np.ndarray, np.ndarray]  # times as texts, columns, their values, lines


def _quick(names: list[str], clock: str, lines: list[str], separator: str) -> Found | None:
    """The whole file by numpy; None where it is not as plain as that needs."""
    while lines and not lines[-1].strip():
        lines.pop()
    if '"' in "".join(lines[:LOOKED_AT]) or {line.count(separator) for line in lines} != {len(names) - 1}:
        return None
    some = [line.split(separator) for line in lines[:LOOKED_AT]]
    usable = [place for place, name in enumerate(names) if name not in ("", clock) and _numbers(some, place)]
    plain: dict[str, Any] = {"delimiter": separator, "comments": None, "ndmin": 2}
    try:
        values = np.loadtxt(lines, np.float64, usecols=usable, **plain) if usable else np.empty((len(lines), 0))
        times = np.loadtxt(lines, np.str_, usecols=[names.index(clock)], **plain)[:, 0]
    except ValueError:
        return None
    if np.isinf(values).any():
        return None
    return times, tuple(names[place] for place in usable), values, np.arange(2, len(lines) + 2)


def _numbers(some: list[list[str]], place: int) -> bool:
    present = [row[place].strip() for row in some if row[place].strip().lower() not in MISSING]
    try:
        return bool(present) and all(np.isfinite(float(cell)) for cell in present)
    except ValueError:
        return False


def _careful(path: str, text: str, clock: str, asked: tuple[str, ...], separator: str) -> Found:
    """Cell by cell, with gaps, and a message for what cannot be read."""
    whole = cells.parse(path, text, separator=separator, header=None)
    missing = whole.missing(clock)
    if missing.any():
        raise Refused(f"the time column '{clock}' is empty in {whole.where(missing)} of {path}")
    names = [name for name in whole.columns if name != clock and (name in asked or whole.numeric(name))]
    values = np.empty((len(whole), len(names)))
    for place, name in enumerate(names):
        values[:, place] = whole.numbers(name)
    return np.array(whole.columns[clock], np.str_), tuple(names), values, np.array(whole.lines)


def _text(place: Path, path: str) -> str:
    if not place.is_file():
        kind = "is a folder" if place.is_dir() else "does not exist"
        raise Refused(f"{path} {kind} (looked at {place.absolute()}); give the path of a CSV file, or of a zip of one")
    try:
        content = _unpacked(place) if zipfile.is_zipfile(place) else place.read_bytes()
        return io.StringIO(content.decode("utf-8-sig"), newline=None).read()
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error


def _unpacked(place: Path) -> bytes:
    with zipfile.ZipFile(place) as archive:
        files = [name for name in archive.namelist() if name.lower().endswith(".csv") and "__MACOSX" not in name]
        if len(files) != 1:
            raise Refused(f"{place} must hold one CSV file, and holds {len(files)}")
        return archive.read(files[0])
