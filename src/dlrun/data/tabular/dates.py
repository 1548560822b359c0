"""What times the cells of a column say, and whether its dates have the day first or the month: decided once for all."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from dlrun.core.errors import UserError

log = logging.getLogger("dlrun")

DateOrder = Literal[
    "auto", "day_first", "month_first", "iso", "each"
]  # each: every cell by itself, as in dlrun 0.1.0
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
    cells: Sequence[str], dates: DateOrder, name: str, place: str, lines: Sequence[int]
) -> DateOrder:
    """In which order day and month stand in all dates of a column; `dates` itself unless that is auto.

    A day above 12 anywhere decides it for all, which is said. Raises UserError where both orders are possible, or none.
    """
    if dates != "auto":
        return dates
    found = {cell: match for cell in dict.fromkeys(cells) if (match := _DATE.fullmatch(cell))}
    days = next((cell for cell, match in found.items() if int(match[1]) > 12), None)
    months = next((cell for cell, match in found.items() if int(match[3]) > 12), None)
    line = lambda cell: lines[list(cells).index(cell)]  # noqa: E731
    if days is not None and months is not None:
        raise UserError(
            f"{place}: '{name}' has the day first in line {line(days)} ({days}), and the month in line {line(months)} "
            f"({months}): write all its dates in one way"
        )
    slashed = next(
        (cell for cell, match in found.items() if match[2] != "." and match[1] != match[3]), None
    )
    if days is None and months is None and slashed is not None:
        raise UserError(
            f"{place}: the dates of '{name}' can be read in two ways, as '{slashed}' in line {line(slashed)}: "
            "say data.dates=day_first or data.dates=month_first"
        )
    order: DateOrder = "day_first" if months is None else "month_first"
    if (deciding := days or months) is not None and slashed is not None:
        log.info(
            "%s: the dates of '%s' are %s, by line %d (%s)",
            place,
            name,
            DATE_ORDER_NAMES[order],
            line(deciding),
            deciding,
        )
    return order


def parse_datetime(cell: str, dates: DateOrder) -> datetime | None:
    """The time that a cell says, ISO 8601 or with the day or the month first; None when it says none."""
    try:
        return datetime.fromisoformat(cell).replace(tzinfo=None)
    except ValueError:
        return _parse_any_layout(cell) if dates == "each" else _parse_in_order(cell, dates)


def _parse_in_order(cell: str, dates: DateOrder) -> datetime | None:
    if match := _YEAR_FIRST.fullmatch(cell):
        year, month, day = int(match[1]), int(match[3]), int(match[4])
    elif dates != "iso" and (match := _DATE.fullmatch(cell)):
        day, month, year = int(match[1]), int(match[3]), int(match[4])
        if dates == "month_first":
            day, month = month, day
    else:
        return None
    since = _parse_time(match[5] or "0:00")
    try:
        return None if since is None else datetime(year, month, day) + since
    except ValueError:
        return None


def _parse_time(text: str) -> timedelta | None:
    """The time of day: 9:05, 14:30:00.5, 2:30 PM."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2]), float(match[3] or 0)
    if match[4]:
        hour = hour % 12 + 12 * (match[4].lower() == "pm")
    return (
        timedelta(hours=hour, minutes=minute, seconds=second)
        if hour < 24 and minute < 60 and second < 60
        else None
    )


def _parse_any_layout(cell: str) -> datetime | None:
    for layout in DATE_LAYOUTS:
        try:
            return datetime.strptime(cell, layout)
        except ValueError:
            continue
    return None
