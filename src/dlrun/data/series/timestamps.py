"""The time column and the readings of a series: what its cells say, and whether they are even."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np

from dlrun.core.errors import UserError
from dlrun.core.types import ForecastHorizon
from dlrun.data.tabular import csv_file
from dlrun.data.tabular.dates import DateOrder, parse_datetime, resolve_date_order
from dlrun.data.tabular.number_format import NumberFormat


@dataclass(frozen=True)
class TimeSeries:
    """A series.

    Attributes:
        source: The file, for messages.
        time_column: The name of its time column.
        times: Seconds since 1970 (T,) if `has_dates`, else the numbers of that column.
        has_dates: Whether the times are dates.
        names: Number columns (F).
        values: Their numbers (T, F), NaN where one is missing.
        lines: The line in the file of each row (T,).
        number_formats: How the numbers of each column are written, by the whole file.
        date_format: How dates are written, likewise.
    """

    source: str
    time_column: str
    times: np.ndarray
    has_dates: bool
    names: tuple[str, ...]
    values: np.ndarray
    lines: np.ndarray
    number_formats: Mapping[str, NumberFormat | None] = field(default_factory=dict)
    date_format: DateOrder = "each"

    def __len__(self) -> int:
        return len(self.times)

    def describe_rows(self, mask: np.ndarray) -> str:
        """'3 rows (lines 5, 9, 12)' for a mask of rows."""
        return csv_file.describe_row_lines(self.lines, mask)


log = logging.getLogger("dlrun")

Gaps = Literal["refuse", "split", "ignore"]
DAY_FIRST_LENGTH = 19  # characters of 31.12.2009 23:50:00
WIDE, NARROW = 1.5, 0.5  # median steps: further apart is a gap, nearer is uneven


def parse_timestamps(
    texts: np.ndarray,
    layout: str | None,
    source: str,
    name: str,
    lines: np.ndarray,
    dates: DateOrder = "each",
) -> tuple[np.ndarray, bool, DateOrder]:
    """Parse a time column.

    Args:
        texts: Its cells (T,).
        layout: How times are written, as strptime has it; None infers that.
        source: The file, for messages.
        name: The column's name, for messages.
        lines: The line of each cell.
        dates: The order of day and month.

    Returns:
        Seconds since 1970 (T,) and True, or the numbers of the cells and False; and the order of
        day and month.

    Raises:
        UserError: A cell is no time; its line is named.
    """
    if not len(texts):
        raise UserError(f"{source} has a header but no rows")
    if layout is None:
        # Whole columns at once, where numpy can read them: a loop over cells is slow.
        for parse in (_parse_numbers, _parse_datetime64):
            if (times := parse(texts)) is not None:
                return times, parse is not _parse_numbers, dates
        dates = resolve_date_order(texts.tolist(), dates, name, source, lines.tolist())
        if dates in ("each", "day_first") and (times := _parse_day_first(texts)) is not None:
            return times, True, dates
    epoch = datetime(1970, 1, 1)
    seconds = np.empty(len(texts))
    for row, text in enumerate(texts.tolist()):
        time = parse_datetime(text, dates) if layout is None else _parse_with_layout(text, layout)
        if time is None:
            hint = "say how it is written, such as data.time_format=%d/%m/%y"
            if layout:
                hint = f"data.time_format={layout}"
            raise UserError(
                f"{source}, line {lines[row]}: '{text}' in '{name}' is no time that can be read: "
                f"{hint}"
            )
        seconds[row] = (time - epoch).total_seconds()
    return seconds, True, dates


def _parse_with_layout(text: str, layout: str) -> datetime | None:
    try:
        return datetime.strptime(text, layout).replace(tzinfo=None)
    except ValueError:
        return None


def _parse_numbers(texts: np.ndarray) -> np.ndarray | None:
    try:
        numbers = texts.astype(np.float64)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _parse_datetime64(texts: np.ndarray) -> np.ndarray | None:
    try:
        times = texts.astype("datetime64[ms]")
    except ValueError:
        return None
    return None if np.isnat(times).any() else times.astype(np.int64) / 1000


def _parse_day_first(texts: np.ndarray) -> np.ndarray | None:
    """31.12.2009 23:50:00, all at once; None unless every cell is written so."""
    if texts.dtype.itemsize != 4 * DAY_FIRST_LENGTH:  # numpy has 4 bytes a character
        return None
    characters = np.ascontiguousarray(texts).view("U1").reshape(len(texts), DAY_FIRST_LENGTH)
    if not (characters[:, [2, 5]] == ".").all() or not (characters[:, [13, 16]] == ":").all():
        return None
    year_month_day = [6, 7, 8, 9, 2, 3, 4, 5, 0, 1]
    iso = characters[:, [*year_month_day, *range(10, DAY_FIRST_LENGTH)]]
    iso[:, [4, 7]] = "-"
    return _parse_datetime64(np.ascontiguousarray(iso).view(f"U{DAY_FIRST_LENGTH}").reshape(-1))


def median_step(times: np.ndarray) -> float:
    """The median of the steps that go forward; 0 without any."""
    steps = np.diff(times)
    # The median, for a few gaps must not make the usual step longer.
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0


def split_at_gap(readings: TimeSeries, gaps: Gaps) -> np.ndarray:
    """The index (T,) of the evenly spaced segment of each row; no window crosses a border.

    Args:
        readings: The series.
        gaps: "refuse" names what is uneven, "split" begins a new segment there, "ignore" makes one
            segment of all, as the book does.

    Raises:
        UserError: Rows are uneven, or go back in time where that is not ignored.
    """
    steps, usual = np.diff(readings.times), median_step(readings.times)
    kinds = {
        "goes back": steps < 0,
        "stands still": steps == 0,
        "is uneven": (steps > 0) & (steps < NARROW * usual),
        "leaves a gap": steps > WIDE * usual,
    }
    begins_segment = np.zeros(len(readings), bool)
    begins_segment[1:] = np.any(list(kinds.values()), axis=0)
    if not begins_segment.any():
        return np.zeros(len(readings), np.int64)
    message = _describe_gap(readings, kinds, usual)
    # Splitting cannot repair rows out of order; only ignoring can.
    goes_back = bool(kinds["goes back"].any())
    if gaps == "refuse" or (gaps == "split" and goes_back):
        raise UserError(message + _gap_hint(goes_back))
    log.warning("%s; data.gaps=%s", message, gaps)
    return np.cumsum(begins_segment) if gaps == "split" else np.zeros(len(readings), np.int64)


def _describe_gap(readings: TimeSeries, kinds: dict[str, np.ndarray], usual: float) -> str:
    descriptions = [
        f"{kind} at {readings.describe_rows(np.concatenate([[False], mask]))}"
        for kind, mask in kinds.items()
        if mask.any()
    ]
    step = f"{usual:g}"
    if readings.has_dates:  # in hours or days rather than seconds
        step = ForecastHorizon("", (1,), 1, 1, usual, True).rows_to_time(1)
    return (
        f"{readings.source}: the time column '{readings.time_column}' {', '.join(descriptions)}; "
        f"the usual step is {step}"
    )


def _gap_hint(goes_back: bool) -> str:
    ignore = "data.gaps=ignore takes the rows as they lie"
    if goes_back:
        return f". Sort the rows, or {ignore}"
    return f". data.gaps=split lets no window cross such a place, and {ignore}"
