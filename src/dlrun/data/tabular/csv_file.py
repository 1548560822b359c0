"""Reads a CSV file to named columns of text, and says which line is wrong when it cannot."""

from __future__ import annotations

import csv
import difflib
import io
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from dlrun.core.errors import UserError, format_names
from dlrun.core.formatting import counted
from dlrun.data.tabular import number_format
from dlrun.data.tabular.number_format import (
    FLOAT32_MAX,
    MISSING_WORDS,
    DecimalStyle,
    NumberFormat,
    parse_float,
)
from dlrun.data.tabular.text_encoding import read_encoded_text

log = logging.getLogger("dlrun")

SEPARATORS = ",;\t|"
SAMPLE_LINES = 20


@dataclass(frozen=True)
class CsvTable:
    """A table of text. place: where it came from. lines: the line in the file where each row begins.

    written: how the numbers of each column are written, by all rows of the file; None for columns of texts. A part of
    the rows keeps it, so that all parts agree on what is a number. words: what means that a cell is missing.
    """

    source: str
    columns: dict[str, list[str]]
    lines: list[int]
    number_formats: Mapping[str, NumberFormat | None] = field(default_factory=dict)
    missing_words: frozenset[str] = MISSING_WORDS
    warned_columns: set[str] = field(
        default_factory=set, compare=False
    )  # columns of which it is said that numbers are too large

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, rows: np.ndarray) -> CsvTable:
        """The rows of these indices, in this order."""
        chosen = rows.tolist()
        columns = {name: [cells[row] for row in chosen] for name, cells in self.columns.items()}
        return replace(self, columns=columns, lines=[self.lines[row] for row in chosen])

    def require_columns(self, names: Iterable[str], what: str) -> None:
        """Raise UserError, with the nearest name, unless all these columns are there."""
        for name in names:
            if name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, 1)
                guess = f": did you mean '{near[0]}'?" if near else "."
                there = format_names(self.columns, name)
                raise UserError(
                    f"{what} '{name}' is no column of {self.source}{guess} There are: {there}"
                )

    def describe_rows(self, wrong: np.ndarray) -> str:
        """'3 rows (lines 5, 9, 12)' for a mask of rows."""
        return describe_row_lines(self.lines, wrong)

    def missing_mask(self, name: str) -> np.ndarray:
        """The mask of rows whose cell is empty or says NA, N/A, nan, null or ?, or another word for it."""
        one = self._number_format(name)
        blanks = one.missing_words if one else self.missing_words
        return np.array([cell.lower() in blanks for cell in self.columns[name]], bool)

    def to_numbers(self, name: str) -> np.ndarray:
        """A column as float64, missing cells as NaN. Raises UserError when a cell is no finite number.

        A number that float32 cannot hold is a missing one, which is said.
        """
        one = self._number_format(name) or NumberFormat(missing_words=self.missing_words)
        cells = self.columns[name]
        known: dict[str, float] = {}
        for cell in dict.fromkeys(cells):
            number = float("nan") if cell.lower() in one.missing_words else one.parse(cell)
            if number is None or math.isinf(number):
                line = self.lines[cells.index(cell)]
                way = f" with a decimal {one.style} (data.numbers)" if one.style != "plain" else ""
                raise UserError(
                    f"{self.source}, line {line}: column '{name}' has '{cell}', not a finite number{way}"
                )
            known[cell] = number
        return self.mask_out_of_range(name, np.array([known[cell] for cell in cells], np.float64))

    def mask_out_of_range(self, name: str, values: np.ndarray) -> np.ndarray:
        """The same numbers, those missing that float32 cannot hold, which is said."""
        beyond = np.abs(values) > FLOAT32_MAX
        if beyond.any() and name not in self.warned_columns:
            self.warned_columns.add(name)
            log.warning(
                "%s: '%s' is beyond what float32 holds (%.2g) in %s (%.4g): taken for missing",
                self.source, name, FLOAT32_MAX, self.describe_rows(beyond), values[int(beyond.argmax())],
            )  # fmt: skip
        return np.where(beyond, np.nan, values) if beyond.any() else values

    def is_numeric(self, name: str) -> bool:
        """Whether every cell that is not missing is a number, and there is one; `numbers` refuses infinite ones."""
        return self._number_format(name) is not None

    def non_numeric_mask(self, name: str) -> np.ndarray:
        """The mask of rows whose cell is neither missing nor a number, however that is written."""
        cells = self.columns[name]
        none = {
            cell
            for cell in set(cells)
            if cell.lower() not in self.missing_words and not number_format.is_number(cell)
        }
        return np.array([cell in none for cell in cells], bool)

    def to_texts(self, name: str) -> np.ndarray:
        """A column as an array of texts as they are written, missing cells as ''."""
        return np.array(
            ["" if cell.lower() in self.missing_words else cell for cell in self.columns[name]],
            object,
        )

    def _number_format(self, name: str) -> NumberFormat | None:
        if name in self.number_formats:
            return self.number_formats[name]
        found = number_format.infer_number_formats(
            {name: self.columns[name]}, separator=",", numbers="plain", missing=self.missing_words
        )
        return found[name]


def describe_row_lines(lines: Sequence[int] | np.ndarray, wrong: np.ndarray) -> str:
    """'3 rows (lines 5, 9, 12)' for a mask of rows. lines: that of each row in its file."""
    rows = np.flatnonzero(wrong)
    some = ", ".join(str(lines[row]) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
    return f"{counted(len(rows), 'row')} (line{'s' * (len(rows) != 1)} {some})"


def read_csv(
    path: str,
    *,
    separator: str | None,
    header: list[str] | None,
    encoding: str = "utf-8",
    numbers: DecimalStyle = "plain",
    missing: Iterable[str] = (),
    written: Mapping[str, NumberFormat | None] | None = None,
) -> CsvTable:
    """The columns of a CSV file, cells stripped of blanks around them, empty lines left out.

    separator: one character, or None to find it among , ; tab |. header: the columns' names, for a file whose first
    line has none. A column without a name is left out. numbers: how they are written, see `numerals.decided`. missing:
    further words that mean that a cell is missing. written: how the numbers of each column are written, where that is
    known from another file. Raises UserError, naming the line, for whatever is wrong.
    """
    text = read_encoded_text(path, encoding)
    return parse_csv(
        path,
        text,
        separator=separator,
        header=header,
        numbers=numbers,
        missing=missing,
        written=written,
    )


def parse_csv(
    path: str,
    text: str,
    *,
    separator: str | None,
    header: list[str] | None,
    numbers: DecimalStyle = "plain",
    missing: Iterable[str] = (),
    written: Mapping[str, NumberFormat | None] | None = None,
) -> CsvTable:
    """The columns of a CSV file's text, see `read_csv`."""
    separator = separator or _detect_separator(text)
    if len(separator) != 1:
        raise UserError(f"separator must be one character, not '{separator}'")
    lines, rows = _split_rows(path, text, separator)
    if not rows:
        raise UserError(f"{path} is empty")
    names = list(header) if header else rows.pop(0)
    lines = lines if header else lines[1:]
    _check_rows(path, names, lines, rows, has_header=header is None)
    columns = {
        name: list(cells)
        for name, cells in zip(names, zip(*rows, strict=True), strict=True)
        if name
    }
    words = MISSING_WORDS | {word.strip().lower() for word in missing}
    if written is None:
        written = number_format.infer_number_formats(
            columns, separator=separator, numbers=numbers, missing=words, place=path
        )
    return CsvTable(path, columns, lines, written, words)


def _detect_separator(text: str) -> str:
    """The character that cuts the first lines into the most columns, the same number in each of them."""

    def columns(separator: str) -> tuple[bool, int]:
        try:
            rows = list(
                islice(csv.reader(io.StringIO(text, newline=""), delimiter=separator), SAMPLE_LINES)
            )
        except csv.Error:
            return False, 0
        counts = {len(row) for row in rows if row}
        return len(counts) == 1 and max(counts) > 1, max(counts, default=0)

    return max(SEPARATORS, key=columns)


def _split_rows(path: str, text: str, separator: str) -> tuple[list[int], list[list[str]]]:
    """The rows that are not empty, and the line where each begins; a quoted cell may go over several lines."""
    last = ""

    def fed() -> Iterator[str]:
        nonlocal last
        for last in io.StringIO(text, newline=""):  # noqa: B007, UP028
            yield last

    reader = csv.reader(fed(), delimiter=separator, skipinitialspace=True, strict=True)
    lines, rows, begins = list[int](), list[list[str]](), 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if (
                any(cells) or len(cells) > 1 or (cells and '"' in last)
            ):  # a row of one empty cell is quoted
                lines.append(begins)
                rows.append(cells)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {begins}: {error}") from error
    return lines, rows


def _check_rows(
    path: str, names: list[str], lines: list[int], rows: list[list[str]], *, has_header: bool
) -> None:
    if has_header and all(parse_float(name) is not None for name in names):
        raise UserError(
            f"{path}: the first line is numbers only; if it has no header, say data.header=[name, name, …]"
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UserError(
            f"{path}: more than one column is called {', '.join(twice)}; column names must differ"
        )
    if not rows:
        raise UserError(f"{path} has a header but no rows")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            what = "header" if has_header else "data.header"
            raise UserError(
                f"{path}, line {line}: {len(row)} cells where the {what} has {len(names)} ({format_names(names)})"
            )
