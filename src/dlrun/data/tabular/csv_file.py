"""Reads a CSV file into named columns of text, and names the line that is wrong when it cannot."""

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
    """A table of text.

    Attributes:
        source: The file, for messages.
        columns: Column name → cells.
        lines: The line of the file where each row begins.
        number_formats: How the numbers of each column are written, by all rows of the file; None
            for columns of texts. Subsets of the rows keep it, so as to agree on what is a number.
        missing_words: Lowercase cells that mean a missing value.
        warned_columns: Columns whose numbers beyond float32 were warned of.
    """

    source: str
    columns: dict[str, list[str]]
    lines: list[int]
    number_formats: Mapping[str, NumberFormat | None] = field(default_factory=dict)
    missing_words: frozenset[str] = MISSING_WORDS
    warned_columns: set[str] = field(default_factory=set, compare=False)

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, indices: np.ndarray) -> CsvTable:
        """The rows of these indices, in this order."""
        rows = indices.tolist()
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return replace(self, columns=columns, lines=[self.lines[row] for row in rows])

    def require_columns(self, names: Iterable[str], title: str) -> None:
        """Raise UserError, with the nearest name, unless the table has all these columns.

        Args:
            names: The columns.
            title: What they are called in the message.
        """
        for name in names:
            if name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, 1)
                # A typo in a column's name is the usual reason.
                guess = f": did you mean '{near[0]}'?" if near else "."
                raise UserError(
                    f"{title} '{name}' is no column of {self.source}{guess} "
                    f"There are: {format_names(self.columns, name)}"
                )

    def describe_rows(self, mask: np.ndarray) -> str:
        """'3 rows (lines 5, 9, 12)' for a mask of rows."""
        return describe_row_lines(self.lines, mask)

    def missing_mask(self, name: str) -> np.ndarray:
        """The mask of rows whose cell is empty or a word for a missing value, such as NA."""
        form = self._number_format(name)
        missing_words = form.missing_words if form else self.missing_words
        return np.array([cell.lower() in missing_words for cell in self.columns[name]], bool)

    def to_numbers(self, name: str) -> np.ndarray:
        """A column as float64, missing cells and numbers beyond float32 as NaN.

        Raises:
            UserError: A cell is no finite number.
        """
        # A column of texts is read as plain numbers, so that the message names its first text.
        form = self._number_format(name) or NumberFormat(missing_words=self.missing_words)
        cells = self.columns[name]
        numbers: dict[str, float] = {}
        for cell in dict.fromkeys(cells):  # columns repeat their cells: each is parsed once
            number = float("nan") if cell.lower() in form.missing_words else form.parse(cell)
            if number is None or math.isinf(number):
                line = self.lines[cells.index(cell)]
                style = (
                    f" with a decimal {form.style} (data.numbers)" if form.style != "plain" else ""
                )
                raise UserError(
                    f"{self.source}, line {line}: column '{name}' has '{cell}', "
                    f"not a finite number{style}"
                )
            numbers[cell] = number
        return self.mask_out_of_range(name, np.array([numbers[cell] for cell in cells], np.float64))

    def mask_out_of_range(self, name: str, values: np.ndarray) -> np.ndarray:
        """The same numbers, NaN where float32 cannot hold them, with one warning a column."""
        too_large = np.abs(values) > FLOAT32_MAX
        if not too_large.any():
            return values
        if name not in self.warned_columns:
            self.warned_columns.add(name)
            log.warning(
                "%s: '%s' is beyond what float32 holds (%.2g) in %s (%.4g): taken for missing",
                self.source,
                name,
                FLOAT32_MAX,
                self.describe_rows(too_large),
                values[int(too_large.argmax())],
            )
        return np.where(too_large, np.nan, values)

    def is_numeric(self, name: str) -> bool:
        """Whether every cell that is not missing is a number, and there is one."""
        return self._number_format(name) is not None

    def non_numeric_mask(self, name: str) -> np.ndarray:
        """The mask of rows whose cell is neither missing nor a number in any style."""
        cells = self.columns[name]
        present = {cell for cell in cells if cell.lower() not in self.missing_words}
        texts = {cell for cell in present if not number_format.is_number(cell)}
        return np.array([cell in texts for cell in cells], bool)

    def to_texts(self, name: str) -> np.ndarray:
        """A column as an array of texts, as they are written, missing cells as ''."""
        cells = self.columns[name]
        texts = ["" if cell.lower() in self.missing_words else cell for cell in cells]
        return np.array(texts, object)

    def _number_format(self, name: str) -> NumberFormat | None:
        # All rows of the file have decided; a table without a file decides by its own rows.
        if name in self.number_formats:
            return self.number_formats[name]
        formats = number_format.infer_number_formats(
            {name: self.columns[name]}, separator=",", numbers="plain", missing=self.missing_words
        )
        return formats[name]


def describe_row_lines(lines: Sequence[int] | np.ndarray, mask: np.ndarray) -> str:
    """'3 rows (lines 5, 9, 12)'.

    Args:
        lines: The line of each row in its file.
        mask: Which rows to describe.
    """
    rows = np.flatnonzero(mask)
    first_lines = ", ".join(str(lines[row]) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
    return f"{counted(len(rows), 'row')} (line{'s' * (len(rows) != 1)} {first_lines})"


def read_csv(
    path: str,
    *,
    separator: str | None,
    header: list[str] | None,
    encoding: str = "utf-8",
    numbers: DecimalStyle = "plain",
    missing: Iterable[str] = (),
    number_formats: Mapping[str, NumberFormat | None] | None = None,
) -> CsvTable:
    """The columns of a CSV file, cells stripped of blanks, empty lines left out.

    Args:
        path: The file, or a zip archive of one.
        separator: One character; None infers it among , ; tab |.
        header: The columns' names, for a file whose first line has none; a column named '' is left
            out.
        encoding: The file's encoding.
        numbers: How numbers are written, see `infer_number_formats`.
        missing: Further words that mean a missing cell.
        number_formats: How the numbers of each column are written, if another file tells that.

    Raises:
        UserError: The file cannot be read; the message names the line.
    """
    text = read_encoded_text(path, encoding)
    return parse_csv(
        path,
        text,
        separator=separator,
        header=header,
        numbers=numbers,
        missing=missing,
        number_formats=number_formats,
    )


def parse_csv(
    path: str,
    text: str,
    *,
    separator: str | None,
    header: list[str] | None,
    numbers: DecimalStyle = "plain",
    missing: Iterable[str] = (),
    number_formats: Mapping[str, NumberFormat | None] | None = None,
) -> CsvTable:
    """The columns of a CSV file's text, see `read_csv`."""
    separator = separator or _detect_separator(text)
    if len(separator) != 1:
        raise UserError(f"separator must be one character, not '{separator}'")
    lines, rows = _split_rows(path, text, separator)
    if not rows:
        raise UserError(f"{path} is empty")
    # Without data.header the first row names the columns.
    names = list(header) if header else rows.pop(0)
    lines = lines if header else lines[1:]
    _check_rows(path, names, lines, rows, has_header=header is None)
    columns = {
        name: list(cells)
        for name, cells in zip(names, zip(*rows, strict=True), strict=True)
        if name
    }
    # Cells are compared in lowercase, so missing words are, too.
    words = MISSING_WORDS | {word.strip().lower() for word in missing}
    if number_formats is None:
        number_formats = number_format.infer_number_formats(
            columns, separator=separator, numbers=numbers, missing=words, source=path
        )
    return CsvTable(path, columns, lines, number_formats, words)


def _detect_separator(text: str) -> str:
    """The separator that gives the first lines the most columns, the same number in each."""

    def rank(separator: str) -> tuple[bool, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            widths = {len(row) for row in islice(reader, SAMPLE_LINES) if row}
        except csv.Error:
            return False, 0
        # The same number of columns in every line counts more than many columns.
        return len(widths) == 1 and max(widths) > 1, max(widths, default=0)

    return max(SEPARATORS, key=rank)


def _split_rows(path: str, text: str, separator: str) -> tuple[list[int], list[list[str]]]:
    """The line where each row begins, and its cells; a quoted cell may span several lines."""
    last_line = ""

    def read_lines() -> Iterator[str]:
        nonlocal last_line
        for last_line in io.StringIO(text, newline=""):  # noqa: B007, UP028
            yield last_line

    reader = csv.reader(read_lines(), delimiter=separator, skipinitialspace=True, strict=True)
    lines, rows, first_line = list[int](), list[list[str]](), 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            # An empty line is no row, but "" in quotes is one with an empty cell.
            is_quoted = bool(cells) and '"' in last_line
            if any(cells) or len(cells) > 1 or is_quoted:
                lines.append(first_line)
                rows.append(cells)
            # A quoted cell may have line breaks: the reader counts lines, not rows.
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {first_line}: {error}") from error
    return lines, rows


def _check_rows(
    path: str, names: list[str], lines: list[int], rows: list[list[str]], *, has_header: bool
) -> None:
    # Or the first row of data would silently become the column names.
    if has_header and all(parse_float(name) is not None for name in names):
        raise UserError(
            f"{path}: the first line is numbers only; "
            "if it has no header, say data.header=[name, name, …]"
        )
    duplicates = sorted({name for name in names if name and names.count(name) > 1})
    if duplicates:
        raise UserError(
            f"{path}: more than one column is called {', '.join(duplicates)}; "
            "column names must differ"
        )
    if not rows:
        raise UserError(f"{path} has a header but no rows")
    # A short or long row is mostly a separator within an unquoted cell.
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            header = "header" if has_header else "data.header"
            raise UserError(
                f"{path}, line {line}: {len(row)} cells where the {header} has {len(names)} "
                f"({format_names(names)})"
            )
