"""Reads a CSV file to named columns of text, and says which line is wrong when it cannot."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from dlrun.data.encodings import decoded
from dlrun.errors import Refused

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
SEPARATORS = ",;\t|"
SAMPLE_LINES = 20


@dataclass(frozen=True)
class Cells:
    """A table of text. place: where it came from. lines: the line in the file of each row."""

    place: str
    columns: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, rows: np.ndarray) -> Cells:
        """The rows of these indices, in this order."""
        chosen = rows.tolist()
        columns = {name: [cells[row] for row in chosen] for name, cells in self.columns.items()}
        return Cells(self.place, columns, [self.lines[row] for row in chosen])

    def need(self, names: Iterable[str], what: str) -> None:
        """Raise Refused, with the nearest name, unless all these columns are there."""
        for name in names:
            if name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, 1)
                guess = f": did you mean '{near[0]}'?" if near else "."
                there = ", ".join(self.columns)
                raise Refused(f"{what} '{name}' is no column of {self.place}{guess} There are: {there}")

    def where(self, wrong: np.ndarray) -> str:
        """'3 rows (lines 5, 9, 12)' for a mask of rows."""
        return where(self.lines, wrong)

    def missing(self, name: str) -> np.ndarray:
        """The mask of rows whose cell is empty or says NA, N/A, nan, null or ?."""
        return np.array([cell.lower() in MISSING for cell in self.columns[name]], bool)

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, missing cells as NaN. Raises Refused when a cell is no finite number."""
        values = np.empty(len(self))
        for row, cell in enumerate(self.columns[name]):
            number = float("nan") if cell.lower() in MISSING else _number(cell)
            if number is None or math.isinf(number):
                raise Refused(
                    f"{self.place}, line {self.lines[row]}: column '{name}' has '{cell}', not a finite number"
                )
            values[row] = number
        return values

    def numeric(self, name: str) -> bool:
        """Whether every cell that is not missing is a number, and there is one; `numbers` refuses infinite ones."""
        return not self.no_numbers(name).any() and not self.missing(name).all()

    def no_numbers(self, name: str) -> np.ndarray:
        """The mask of rows whose cell is neither missing nor a number."""
        return np.array([cell.lower() not in MISSING and _number(cell) is None for cell in self.columns[name]], bool)

    def texts(self, name: str) -> np.ndarray:
        """A column as an array of texts, missing cells as ''."""
        return np.array(["" if cell.lower() in MISSING else cell for cell in self.columns[name]], object)


def where(lines: Sequence[int] | np.ndarray, wrong: np.ndarray) -> str:
    """'3 rows (lines 5, 9, 12)' for a mask of rows. lines: that of each row in its file."""
    rows = np.flatnonzero(wrong)
    some = ", ".join(str(lines[row]) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
    return f"1 row (line {some})" if len(rows) == 1 else f"{len(rows):,} rows (lines {some})"


def read(path: str, *, separator: str | None, header: list[str] | None, encoding: str = "utf-8") -> Cells:
    """The columns of a CSV file, cells stripped of blanks around them, empty lines left out.

    separator: one character, or None to find it among , ; tab |. header: the columns' names, for a file whose first
    line has none. A column without a name is left out. Raises Refused, naming the line, for whatever is wrong.
    """
    return parse(path, _text(path, encoding), separator=separator, header=header)


def parse(path: str, text: str, *, separator: str | None, header: list[str] | None) -> Cells:
    """The columns of a CSV file's text, see `read`."""
    separator = separator or _separator(text)
    if len(separator) != 1:
        raise Refused(f"separator must be one character, not '{separator}'")
    lines, rows = _rows(path, text, separator)
    if not rows:
        raise Refused(f"{path} is empty")
    names = list(header) if header else rows.pop(0)
    lines = lines if header else lines[1:]
    _check(path, names, lines, rows, has_header=header is None)
    columns = {name: list(cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True) if name}
    return Cells(path, columns, lines)


def peek(path: str, *, separator: str | None, encoding: str = "utf-8") -> Cells:
    """The columns of a CSV file without any row: what can be checked of test rows before they may be read."""
    text = _text(path, encoding)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator or _separator(text), skipinitialspace=True)
    names = [cell.strip() for cell in next(reader, [])]
    return Cells(path, {name: [] for name in names}, [])


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if "_" in cell else number


def _text(path: str, encoding: str) -> str:
    place = Path(path).expanduser()
    if not place.is_file():
        kind = "is a folder" if place.is_dir() else "does not exist"
        raise Refused(f"{path} {kind} (looked at {place.absolute()}); give the path of a CSV file")
    try:
        return decoded(place.read_bytes(), encoding, path)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error}") from error


def _separator(text: str) -> str:
    """The character that cuts the first lines into the most columns, the same number in each of them."""

    def columns(separator: str) -> tuple[bool, int]:
        try:
            rows = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=separator), SAMPLE_LINES))
        except csv.Error:
            return False, 0
        counts = {len(row) for row in rows if row}
        return len(counts) == 1 and max(counts) > 1, max(counts, default=0)

    return max(SEPARATORS, key=columns)


def _rows(path: str, text: str, separator: str) -> tuple[list[int], list[list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines, rows = [], []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) or len(cells) > 1:
                lines.append(reader.line_num)
                rows.append(cells)
    except csv.Error as error:
        raise Refused(f"{path}, line {reader.line_num}: {error}") from error
    return lines, rows


def _check(path: str, names: list[str], lines: list[int], rows: list[list[str]], *, has_header: bool) -> None:
    if has_header and all(_number(name) is not None for name in names):
        raise Refused(f"{path}: the first line is numbers only; if it has no header, say data.header=[name, name, …]")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise Refused(f"{path}: more than one column is called {', '.join(twice)}; column names must differ")
    if not rows:
        raise Refused(f"{path} has a header but no rows")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            what = "header" if has_header else "data.header"
            raise Refused(
                f"{path}, line {line}: {len(row)} cells where the {what} has {len(names)} ({', '.join(names)})"
            )
