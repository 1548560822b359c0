"""How numbers are written in a file: 1234.5, 1.234,5, $1,234 or 12 %; found out once for a whole column."""

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
# Among numbers these can be nothing else; among texts they may be a category.
MISSING_NUMBER_WORDS = frozenset(
    {"unknown", "-", "--", "–", "—", ".", "none", "nil", "missing", "n.a.", "#n/a"}
)
MINUS_SIGN = "\u2212"  # a sign of its own, as word processors and spreadsheets write it
FLOAT32_MAX = 3.4028235e38  # of float32
DECIMAL_STYLES: tuple[Literal["point", "comma"], ...] = ("point", "comma")
GROUP_SEPARATOR = (
    "[ \u00a0\u2009\u202f'’]"  # between groups of three digits, whatever the decimal sign
)
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
    """How the numbers of one column are written. blanks: what means that there is none, in small letters."""

    style: Literal["plain", "point", "comma"] = "plain"
    unit: str = ""
    missing_words: frozenset[str] = MISSING_WORDS

    def parse(self, cell: str) -> float | None:
        """The number that a cell says, infinite ones too; None where it says none."""
        if self.style == "plain":
            return parse_float(cell)
        found = parse_formatted_number(cell, self.style)
        return None if found is None or found[1] not in ("", self.unit) else found[0]


def parse_float(cell: str) -> float | None:
    """A number as programs write it; None for anything else."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if "_" in cell else number


def parse_formatted_number(cell: str, style: Literal["point", "comma"]) -> tuple[float, str] | None:
    """A number with groups of digits, a sign and a unit as people write them, and its unit; None for anything else."""
    parts = _UNIT.fullmatch(cell.replace(MINUS_SIGN, "-"))
    if parts is None:
        return None
    sign, before, inner, digits, after = parts.groups()
    if _DIGIT.search(digits) is None:
        number = parse_float(sign + inner + digits)  # inf, which is refused where it stands
        return None if number is None or before or after else (number, "")
    if (
        (before and after)
        or (sign and inner)
        or (_POINT if style == "point" else _COMMA).fullmatch(digits) is None
    ):
        return None
    grouped = re.sub(GROUP_SEPARATOR, "", digits)
    bare = (
        grouped.replace(",", "") if style == "point" else grouped.replace(".", "").replace(",", ".")
    )
    try:
        return float(sign + inner + bare), before or after
    except ValueError:
        return None


def is_number(cell: str) -> bool:
    """Whether a cell is a number in any of these ways."""
    return parse_float(cell) is not None or any(
        parse_formatted_number(cell, style) is not None for style in DECIMAL_STYLES
    )


def infer_number_formats(
    columns: Mapping[str, Sequence[str]],
    *,
    separator: str,
    numbers: DecimalStyle,
    missing: Iterable[str],
    place: str = "",
) -> dict[str, NumberFormat | None]:
    """How the numbers of each column are written, by all its cells; None for columns that are none of numbers.

    separator: of the file, which decides where 1,234 could be read in two ways. missing: further words that mean that a
    number is missing. What is no plain number is said in the log, with the setting that changes it.
    """
    words = MISSING_WORDS | {word.strip().lower() for word in missing}
    once = {name: list(dict.fromkeys(cells)) for name, cells in columns.items()}
    found = {
        name: _infer_column_format(cells, separator, numbers, words) for name, cells in once.items()
    }
    if numbers == "auto" and any(one and one.style == "comma" for one in found.values()):
        for (
            name,
            one,
        ) in found.items():  # a file has one decimal sign: 1.234 beside 0,5 is more than a thousand
            if (
                one
                and one.style == "plain"
                and _has_only_grouped_digits(once[name], one.missing_words)
            ):
                found[name] = NumberFormat("comma", "", one.missing_words)
    if numbers != "plain":
        _log_formats(columns, found, place)
    return found


def _infer_column_format(
    cells: Sequence[str], separator: str, numbers: DecimalStyle, words: frozenset[str]
) -> NumberFormat | None:
    """How the numbers of one column are written; None where it is none of numbers."""
    if numbers == "plain":
        return (
            NumberFormat(missing_words=words)
            if _matches_format(cells, NumberFormat(missing_words=words))
            else None
        )
    blanks = words | MISSING_NUMBER_WORDS
    if numbers == "auto" and _matches_format(cells, NumberFormat(missing_words=blanks)):
        return NumberFormat(missing_words=blanks)
    styles = DECIMAL_STYLES if numbers == "auto" else (numbers,)
    possible = [
        NumberFormat(style, unit, blanks)
        for style in styles
        if (unit := _common_unit(cells, style, blanks)) is not None
    ]
    if len(possible) == 2:  # 1,234: both ways
        return (
            possible[1]
            if separator == ";" and _changes_with_format(cells, *possible)
            else possible[0]
        )
    return possible[0] if possible else None


def _matches_format(cells: Sequence[str], one: NumberFormat) -> bool:
    """Whether all cells that are not missing are such numbers, and there are any."""
    some = False
    for cell in cells:
        if cell.lower() not in one.missing_words:
            if one.parse(cell) is None:
                return False
            some = True
    return some


def _common_unit(
    cells: Sequence[str], style: Literal["point", "comma"], blanks: frozenset[str]
) -> str | None:
    """The unit that numbers of this style have; None where not all cells are such, or where their units differ."""
    units: dict[str, int] = {}
    for cell in cells:
        if cell.lower() in blanks:
            continue
        found = parse_formatted_number(cell, style)
        if found is None:
            return None
        units[found[1]] = units.get(found[1], 0) + 1
    named = [unit for unit in units if unit]
    if not units or len(named) > 1 or (named == ["%"] and "" in units):
        return None
    return named[0] if named else ""


def _changes_with_format(cells: Sequence[str], first: NumberFormat, second: NumberFormat) -> bool:
    return any(
        cell.lower() not in first.missing_words and first.parse(cell) != second.parse(cell)
        for cell in cells
    )


def _has_only_grouped_digits(cells: Sequence[str], blanks: frozenset[str]) -> bool:
    """Whether all points of these plain numbers stand before three digits, and there is one."""
    known = [cell for cell in cells if cell.lower() not in blanks]
    return any("." in cell for cell in known) and all(_THOUSANDS.fullmatch(cell) for cell in known)


def _log_formats(
    columns: Mapping[str, Sequence[str]], found: Mapping[str, NumberFormat | None], place: str
) -> None:
    """Say which columns hold numbers that are not plain, and which of their cells are taken for missing numbers."""
    ways, blanks = list[str](), list[str]()
    for name, one in found.items():
        if one is None or not name:
            continue
        other = next((cell for cell in columns[name] if _is_formatted(cell, one)), None)
        if other is not None:
            ways.append(f"'{name}' ({other} is {one.parse(other):.15g}: {one.style})")
        words = [cell for cell in columns[name] if cell.lower() in MISSING_NUMBER_WORDS]
        if words:
            blanks.append(f"'{name}' ({', '.join(sorted(set(words)))}: {len(words):,} rows)")
    if ways:
        log.info(
            "%s: numbers written otherwise: %s; data.numbers=… to change it",
            place,
            format_names(ways),
        )
    if blanks:
        log.warning(
            "%s: taken for missing numbers: %s; data.numbers=plain does not",
            place,
            format_names(blanks),
        )


def _is_formatted(cell: str, one: NumberFormat) -> bool:
    """Whether a cell is another number than a program would read, or one where it would read none."""
    return (
        one.style != "plain"
        and cell.lower() not in one.missing_words
        and parse_float(cell) != one.parse(cell)
    )
