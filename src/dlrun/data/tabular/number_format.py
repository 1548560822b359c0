"""How numbers are written in a file: 1234.5, 1.234,5, $1,234 or 12 %; found out once for a whole column."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dlrun.core.errors import in_short

log = logging.getLogger("dlrun")

Numbers = Literal["auto", "plain", "point", "comma"]
MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
# Among numbers these can be nothing else; among texts they may be a category.
UNKNOWN = frozenset({"unknown", "-", "--", "–", "—", ".", "none", "nil", "missing", "n.a.", "#n/a"})
MINUS = "\u2212"  # a sign of its own, as word processors and spreadsheets write it
LARGEST = 3.4028235e38  # of float32
STYLES: tuple[Literal["point", "comma"], ...] = ("point", "comma")
SPACE = "[ \u00a0\u2009\u202f'’]"  # between groups of three digits, whatever the decimal sign
SIGNS = "$€£¥₹"

_DIGIT = re.compile(r"\d")
_UNIT = re.compile(rf"([-+]?)([{SIGNS}]?)\s*([-+]?)(.*?)\s*([{SIGNS}%]?)", re.DOTALL)
_POINT = re.compile(rf"(\d{{1,3}}((,|{SPACE})\d{{3}})+|\d*)(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)
_COMMA = re.compile(rf"(\d{{1,3}}((\.|{SPACE})\d{{3}})+|\d*)(,\d*)?(e[-+]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(\.\d{3})+|[-+]?\d+")


@dataclass(frozen=True)
class Numerals:
    """How the numbers of one column are written. blanks: what means that there is none, in small letters."""

    style: Literal["plain", "point", "comma"] = "plain"
    unit: str = ""
    blanks: frozenset[str] = MISSING

    def number(self, cell: str) -> float | None:
        """The number that a cell says, infinite ones too; None where it says none."""
        if self.style == "plain":
            return plain(cell)
        found = written(cell, self.style)
        return None if found is None or found[1] not in ("", self.unit) else found[0]


def plain(cell: str) -> float | None:
    """A number as programs write it; None for anything else."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if "_" in cell else number


def written(cell: str, style: Literal["point", "comma"]) -> tuple[float, str] | None:
    """A number with groups of digits, a sign and a unit as people write them, and its unit; None for anything else."""
    parts = _UNIT.fullmatch(cell.replace(MINUS, "-"))
    if parts is None:
        return None
    sign, before, inner, digits, after = parts.groups()
    if _DIGIT.search(digits) is None:
        number = plain(sign + inner + digits)  # inf, which is refused where it stands
        return None if number is None or before or after else (number, "")
    if (before and after) or (sign and inner) or (_POINT if style == "point" else _COMMA).fullmatch(digits) is None:
        return None
    grouped = re.sub(SPACE, "", digits)
    bare = grouped.replace(",", "") if style == "point" else grouped.replace(".", "").replace(",", ".")
    try:
        return float(sign + inner + bare), before or after
    except ValueError:
        return None


def is_number(cell: str) -> bool:
    """Whether a cell is a number in any of these ways."""
    return plain(cell) is not None or any(written(cell, style) is not None for style in STYLES)


def decided(
    columns: Mapping[str, Sequence[str]], *, separator: str, numbers: Numbers, missing: Iterable[str], place: str = ""
) -> dict[str, Numerals | None]:
    """How the numbers of each column are written, by all its cells; None for columns that are none of numbers.

    separator: of the file, which decides where 1,234 could be read in two ways. missing: further words that mean that a
    number is missing. What is no plain number is said in the log, with the setting that changes it.
    """
    words = MISSING | {word.strip().lower() for word in missing}
    once = {name: list(dict.fromkeys(cells)) for name, cells in columns.items()}
    found = {name: _one(cells, separator, numbers, words) for name, cells in once.items()}
    if numbers == "auto" and any(one and one.style == "comma" for one in found.values()):
        for name, one in found.items():  # a file has one decimal sign: 1.234 beside 0,5 is more than a thousand
            if one and one.style == "plain" and _thousands(once[name], one.blanks):
                found[name] = Numerals("comma", "", one.blanks)
    if numbers != "plain":
        _tell(columns, found, place)
    return found


def _one(cells: Sequence[str], separator: str, numbers: Numbers, words: frozenset[str]) -> Numerals | None:
    """How the numbers of one column are written; None where it is none of numbers."""
    if numbers == "plain":
        return Numerals(blanks=words) if _all(cells, Numerals(blanks=words)) else None
    blanks = words | UNKNOWN
    if numbers == "auto" and _all(cells, Numerals(blanks=blanks)):
        return Numerals(blanks=blanks)
    styles = STYLES if numbers == "auto" else (numbers,)
    possible = [Numerals(style, unit, blanks) for style in styles if (unit := _unit(cells, style, blanks)) is not None]
    if len(possible) == 2:  # 1,234: both ways
        return possible[1] if separator == ";" and _differ(cells, *possible) else possible[0]
    return possible[0] if possible else None


def _all(cells: Sequence[str], one: Numerals) -> bool:
    """Whether all cells that are not missing are such numbers, and there are any."""
    some = False
    for cell in cells:
        if cell.lower() not in one.blanks:
            if one.number(cell) is None:
                return False
            some = True
    return some


def _unit(cells: Sequence[str], style: Literal["point", "comma"], blanks: frozenset[str]) -> str | None:
    """The unit that numbers of this style have; None where not all cells are such, or where their units differ."""
    units: dict[str, int] = {}
    for cell in cells:
        if cell.lower() in blanks:
            continue
        found = written(cell, style)
        if found is None:
            return None
        units[found[1]] = units.get(found[1], 0) + 1
    named = [unit for unit in units if unit]
    if not units or len(named) > 1 or (named == ["%"] and "" in units):
        return None
    return named[0] if named else ""


def _differ(cells: Sequence[str], first: Numerals, second: Numerals) -> bool:
    return any(cell.lower() not in first.blanks and first.number(cell) != second.number(cell) for cell in cells)


def _thousands(cells: Sequence[str], blanks: frozenset[str]) -> bool:
    """Whether all points of these plain numbers stand before three digits, and there is one."""
    known = [cell for cell in cells if cell.lower() not in blanks]
    return any("." in cell for cell in known) and all(_THOUSANDS.fullmatch(cell) for cell in known)


def _tell(columns: Mapping[str, Sequence[str]], found: Mapping[str, Numerals | None], place: str) -> None:
    """Say which columns hold numbers that are not plain, and which of their cells are taken for missing numbers."""
    ways, blanks = list[str](), list[str]()
    for name, one in found.items():
        if one is None or not name:
            continue
        other = next((cell for cell in columns[name] if _otherwise(cell, one)), None)
        if other is not None:
            ways.append(f"'{name}' ({other} is {one.number(other):.15g}: {one.style})")
        words = [cell for cell in columns[name] if cell.lower() in UNKNOWN]
        if words:
            blanks.append(f"'{name}' ({', '.join(sorted(set(words)))}: {len(words):,} rows)")
    if ways:
        log.info("%s: numbers written otherwise: %s; data.numbers=… to change it", place, in_short(ways))
    if blanks:
        log.warning("%s: taken for missing numbers: %s; data.numbers=plain does not", place, in_short(blanks))


def _otherwise(cell: str, one: Numerals) -> bool:
    """Whether a cell is another number than a program would read, or one where it would read none."""
    return one.style != "plain" and cell.lower() not in one.blanks and plain(cell) != one.number(cell)
