"""Reads dates and times, with the order of day and month decided once for a whole column."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from dlrun.core.errors import UserError

log = logging.getLogger("dlrun")

# "each" reads every cell by itself, as dlrun 0.1.0 did.
DateOrder = Literal["auto", "day_first", "month_first", "iso", "each"]
DATE_LAYOUTS = (
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
)
DATE_ORDER_NAMES = {"day_first": "day, month, year", "month_first": "month, day, year"}

_DATE = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?:[ T]+(.*))?")
_YEAR_FIRST = re.compile(r"(\d{4})([./-])(\d{1,2})\2(\d{1,2})(?:[ T]+(.*))?")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?\s*([ap]m)?", re.IGNORECASE)


def resolve_date_order(
    cells: Sequence[str], dates: DateOrder, name: str, source: str, lines: Sequence[int]
) -> DateOrder:
    """The order of day and month in all dates of a column; a day above 12 decides it, logged.

    Args:
        cells: The column.
        dates: The order, returned as it is unless it is "auto".
        name: The column's name, for messages.
        source: The file, for messages.
        lines: The line of each cell.

    Raises:
        UserError: Both orders are possible, or none.
    """
    if dates != "auto":
        return dates
    matches = {cell: match for cell in dict.fromkeys(cells) if (match := _DATE.fullmatch(cell))}
    day_first = next((cell for cell, match in matches.items() if int(match[1]) > 12), None)
    month_first = next((cell for cell, match in matches.items() if int(match[3]) > 12), None)

    def line(cell: str) -> int:
        return lines[list(cells).index(cell)]

    if day_first is not None and month_first is not None:
        raise UserError(
            f"{source}: '{name}' has the day first in line {line(day_first)} ({day_first}), and "
            f"the month in line {line(month_first)} ({month_first}): write all its dates in one way"
        )
    ambiguous = _find_ambiguous_date(matches)
    deciding = day_first or month_first
    if deciding is None and ambiguous is not None:
        raise UserError(
            f"{source}: the dates of '{name}' can be read in two ways, as '{ambiguous}' in line "
            f"{line(ambiguous)}: say data.dates=day_first or data.dates=month_first"
        )
    order: DateOrder = "day_first" if month_first is None else "month_first"
    if deciding is not None and ambiguous is not None:
        text = "%s: the dates of '%s' are %s, by line %d (%s)"
        log.info(text, source, name, DATE_ORDER_NAMES[order], line(deciding), deciding)
    return order


def _find_ambiguous_date(matches: dict[str, re.Match[str]]) -> str | None:
    """The first date that has two meanings."""
    # With points, as in 31.12.2009, the day always comes first; 3/3/2009 reads the same both ways.
    return next(
        (cell for cell, match in matches.items() if match[2] != "." and match[1] != match[3]), None
    )


def parse_datetime(cell: str, dates: DateOrder) -> datetime | None:
    """The time in a cell.

    Args:
        cell: ISO 8601, or a date with the day or the month first.
        dates: The order of day and month.

    Returns:
        The time without its time zone; None for anything else.
    """
    try:
        return datetime.fromisoformat(cell).replace(tzinfo=None)
    except ValueError:
        # dlrun 0.1.0 took points for day first, and slashes for month first.
        return _parse_any_layout(cell) if dates == "each" else _parse_in_order(cell, dates)


def _parse_in_order(cell: str, dates: DateOrder) -> datetime | None:
    # With the year first, the month always comes before the day.
    if match := _YEAR_FIRST.fullmatch(cell):
        year, month, day = int(match[1]), int(match[3]), int(match[4])
    elif dates != "iso" and (match := _DATE.fullmatch(cell)):
        day, month, year = int(match[1]), int(match[3]), int(match[4])
        if dates == "month_first":
            day, month = month, day
    else:
        return None
    time = _parse_time(match[5] or "0:00")
    try:
        # 31.02. matches the pattern and is no date.
        return None if time is None else datetime(year, month, day) + time
    except ValueError:
        return None


def _parse_time(text: str) -> timedelta | None:
    """The time of day: 9:05, 14:30:00.5, 2:30 PM."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2]), float(match[3] or 0)
    if match[4]:  # 12 AM is 0 h, 12 PM is 12 h
        hour = hour % 12 + 12 * (match[4].lower() == "pm")
    if hour >= 24 or minute >= 60 or second >= 60:
        return None
    return timedelta(hours=hour, minutes=minute, seconds=second)


def _parse_any_layout(cell: str) -> datetime | None:
    for layout in DATE_LAYOUTS:
        try:
            return datetime.strptime(cell, layout)
        except ValueError:
            continue
    return None
