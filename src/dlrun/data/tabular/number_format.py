"""How numbers are written in a file, 1234.5, 1.234,5, $1,234 or 12 %: inferred once a column."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dlrun.core.errors import format_names

log = logging.getLogger("dlrun")

DecimalStyle = Literal["auto", "plain", "point", "comma"]
MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "?"})
# Among numbers these mean a missing one; among texts they may be a category.
MISSING_NUMBER_WORDS = frozenset(
    {"unknown", "-", "--", "–", "—", ".", "none", "nil", "missing", "n.a.", "#n/a"}
)
MINUS_SIGN = "\u2212"  # not a hyphen: word processors and spreadsheets write it
FLOAT32_MAX = 3.4028235e38
DECIMAL_STYLES: tuple[Literal["point", "comma"], ...] = ("point", "comma")
# Between groups of three digits, whatever the decimal sign.
GROUP_SEPARATOR = "[ \u00a0\u2009\u202f'’]"
CURRENCY_SIGNS = "$€£¥₹"

_DIGIT = re.compile(r"\d")
_UNIT = re.compile(
    rf"([-+]?)([{CURRENCY_SIGNS}]?)\s*([-+]?)(.*?)\s*([{CURRENCY_SIGNS}%]?)", re.DOTALL
)
_POINT = re.compile(
    rf"(\d{{1,3}}((,|{GROUP_SEPARATOR})\d{{3}})+|\d*)(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE
)
_COMMA = re.compile(
    rf"(\d{{1,3}}((\.|{GROUP_SEPARATOR})\d{{3}})+|\d*)(,\d*)?(e[-+]?\d+)?", re.IGNORECASE
)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(\.\d{3})+|[-+]?\d+")


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of one column are written.

    Attributes:
        style: "plain" as programs write them, or with a decimal "point" or "comma" and groups.
        unit: A currency sign or %, '' without one.
        missing_words: Lowercase cells that mean a missing number.
    """

    style: Literal["plain", "point", "comma"] = "plain"
    unit: str = ""
    missing_words: frozenset[str] = MISSING_WORDS

    def parse(self, cell: str) -> float | None:
        """The number in a cell, infinite ones too; None for anything else."""
        if self.style == "plain":
            return parse_float(cell)
        parsed = parse_formatted_number(cell, self.style)
        if parsed is None:
            return None
        number, unit = parsed
        return number if unit in ("", self.unit) else None


def parse_float(cell: str) -> float | None:
    """A number as programs write it; None for anything else."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if "_" in cell else number  # Python alone reads 1_000


def parse_formatted_number(cell: str, style: Literal["point", "comma"]) -> tuple[float, str] | None:
    """A number as people write it, with groups of digits, a sign and a unit.

    Returns:
        The number and its unit; None for anything else.
    """
    # The unit stands before or after the number, and a sign on either side of it.
    match = _UNIT.fullmatch(cell.replace(MINUS_SIGN, "-"))
    if match is None:
        return None
    sign, prefix, inner_sign, digits, suffix = match.groups()
    if _DIGIT.search(digits) is None:
        number = parse_float(sign + inner_sign + digits)  # inf, which is rejected with its line
        return None if number is None or prefix or suffix else (number, "")
    if (prefix and suffix) or (sign and inner_sign):
        return None
    if (_POINT if style == "point" else _COMMA).fullmatch(digits) is None:
        return None
    plain = re.sub(GROUP_SEPARATOR, "", digits)
    if style == "point":
        plain = plain.replace(",", "")
    else:
        plain = plain.replace(".", "").replace(",", ".")
    try:
        return float(sign + inner_sign + plain), prefix or suffix
    except ValueError:
        return None


def is_number(cell: str) -> bool:
    """Whether a cell is a number in any of these styles."""
    return parse_float(cell) is not None or any(
        parse_formatted_number(cell, style) is not None for style in DECIMAL_STYLES
    )


def infer_number_formats(
    columns: Mapping[str, Sequence[str]],
    *,
    separator: str,
    numbers: DecimalStyle,
    missing: Iterable[str],
    source: str = "",
) -> dict[str, NumberFormat | None]:
    """How the numbers of each column are written, by all its cells.

    Formats other than plain are logged, with the setting that changes them.

    Args:
        columns: Column name → cells.
        separator: Of the file; it decides where 1,234 could be read in two ways.
        numbers: The style, or "auto".
        missing: Further words that mean a missing number.
        source: The file, for messages.

    Returns:
        Column name → format; None for columns of texts.
    """
    words = MISSING_WORDS | {word.strip().lower() for word in missing}
    unique_cells = {name: list(dict.fromkeys(cells)) for name, cells in columns.items()}
    formats = {
        name: _infer_column_format(cells, separator, numbers, words)
        for name, cells in unique_cells.items()
    }
    if numbers == "auto" and any(form and form.style == "comma" for form in formats.values()):
        # A file has one decimal sign: beside 0,5 in another column, 1.234 is above a thousand.
        for name, form in formats.items():
            if form is None or form.style != "plain":
                continue
            if _has_only_grouped_digits(unique_cells[name], form.missing_words):
                formats[name] = NumberFormat("comma", "", form.missing_words)
    if numbers != "plain":
        _log_formats(columns, formats, source)
    return formats


def _infer_column_format(
    cells: Sequence[str], separator: str, numbers: DecimalStyle, words: frozenset[str]
) -> NumberFormat | None:
    """How the numbers of one column are written; None for a column of texts."""
    if numbers == "plain":
        plain = NumberFormat(missing_words=words)
        return plain if _matches_format(cells, plain) else None
    missing = words | MISSING_NUMBER_WORDS
    plain = NumberFormat(missing_words=missing)
    # Plain numbers come first: they need no guess.
    if numbers == "auto" and _matches_format(cells, plain):
        return plain
    styles = DECIMAL_STYLES if numbers == "auto" else (numbers,)
    units = {style: _common_unit(cells, style, missing) for style in styles}
    possible = [
        NumberFormat(style, unit, missing) for style, unit in units.items() if unit is not None
    ]
    # 1,234 is both; where commas are decimal signs, files are separated by semicolons.
    if len(possible) == 2 and separator == ";" and _changes_with_format(cells, *possible):
        return possible[1]
    return possible[0] if possible else None


def _matches_format(cells: Sequence[str], form: NumberFormat) -> bool:
    """Whether all cells that are not missing are such numbers, and there are any."""
    present = [cell for cell in cells if cell.lower() not in form.missing_words]
    return bool(present) and all(form.parse(cell) is not None for cell in present)


def _common_unit(
    cells: Sequence[str], style: Literal["point", "comma"], missing: frozenset[str]
) -> str | None:
    """The unit of all numbers of a column; None where a cell is no number, or units differ."""
    units = set[str]()
    for cell in cells:
        if cell.lower() in missing:
            continue
        parsed = parse_formatted_number(cell, style)
        if parsed is None:
            return None
        units.add(parsed[1])
    named = units - {""}
    if not units or len(named) > 1:
        return None
    if named == {"%"} and "" in units:  # 5 and 5 % do not mean the same
        return None
    return min(named, default="")


def _changes_with_format(cells: Sequence[str], first: NumberFormat, second: NumberFormat) -> bool:
    return any(
        cell.lower() not in first.missing_words and first.parse(cell) != second.parse(cell)
        for cell in cells
    )


def _has_only_grouped_digits(cells: Sequence[str], missing: frozenset[str]) -> bool:
    """Whether all points of these plain numbers stand before three digits, and there is one."""
    present = [cell for cell in cells if cell.lower() not in missing]
    return any("." in cell for cell in present) and all(
        _THOUSANDS.fullmatch(cell) for cell in present
    )


def _log_formats(
    columns: Mapping[str, Sequence[str]], formats: Mapping[str, NumberFormat | None], source: str
) -> None:
    """Log which columns hold formatted numbers, and which cells are taken for missing ones."""
    formatted, missing = list[str](), list[str]()
    for name, form in formats.items():
        if form is None or not name:
            continue
        example = next((cell for cell in columns[name] if _is_formatted(cell, form)), None)
        if example is not None:
            formatted.append(f"'{name}' ({example} is {form.parse(example):.15g}: {form.style})")
        words = [cell for cell in columns[name] if cell.lower() in MISSING_NUMBER_WORDS]
        if words:
            missing.append(f"'{name}' ({', '.join(sorted(set(words)))}: {len(words):,} rows)")
    if formatted:
        log.info(
            "%s: numbers written otherwise: %s; data.numbers=… to change it",
            source,
            format_names(formatted),
        )
    if missing:
        log.warning(
            "%s: taken for missing numbers: %s; data.numbers=plain does not",
            source,
            format_names(missing),
        )


def _is_formatted(cell: str, form: NumberFormat) -> bool:
    """Whether a program would read another number in this cell, or none."""
    return (
        form.style != "plain"
        and cell.lower() not in form.missing_words
        and parse_float(cell) != form.parse(cell)
    )
