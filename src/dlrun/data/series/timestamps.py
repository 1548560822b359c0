"""The time column of a series: what its cells say, and whether its rows follow each other evenly."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from dlrun.core.errors import UserError
from dlrun.core.types import ForecastHorizon
from dlrun.data.tabular.dates import DateOrder, parse_datetime, resolve_date_order

if TYPE_CHECKING:
    from dlrun.data.series.readings import TimeSeries


log = logging.getLogger("dlrun")

Gaps = Literal["refuse", "split", "ignore"]
DAY_FIRST_LENGTH = 19  # letters of 31.12.2009 23:50:00
WIDE, NARROW = 1.5, 0.5  # usual steps: further apart is a gap, nearer is uneven


def parse_timestamps(
    texts: np.ndarray,
    layout: str | None,
    place: str,
    name: str,
    lines: np.ndarray,
    dates: DateOrder = "each",
) -> tuple[np.ndarray, bool, DateOrder]:
    """(T,) seconds since 1970 and True, or the numbers that the cells hold and False; and how dates are written.

    layout: as strptime writes it. Raises UserError with the line.
    """
    if not len(texts):
        raise UserError(f"{place} has a header but no rows")
    if layout is None:
        for way in (_parse_numbers, _parse_datetime64):
            if (found := way(texts)) is not None:
                return found, way is not _parse_numbers, dates
        dates = resolve_date_order(texts.tolist(), dates, name, place, lines.tolist())
        if dates in ("each", "day_first") and (found := _parse_day_first(texts)) is not None:
            return found, True, dates
    epoch = datetime(1970, 1, 1)
    found = np.empty(len(texts))
    for row, text in enumerate(texts.tolist()):
        when = parse_datetime(text, dates) if layout is None else _parse_with_layout(text, layout)
        if when is None:
            hint = (
                f"data.time_format={layout}"
                if layout
                else "say how it is written, such as data.time_format=%d/%m/%y"
            )
            raise UserError(
                f"{place}, line {lines[row]}: '{text}' in '{name}' is no time that can be read: {hint}"
            )
        found[row] = (when - epoch).total_seconds()
    return found, True, dates


def _parse_with_layout(text: str, layout: str) -> datetime | None:
    try:
        return datetime.strptime(text, layout).replace(tzinfo=None)
    except ValueError:
        return None


def _parse_numbers(texts: np.ndarray) -> np.ndarray | None:
    try:
        found = texts.astype(np.float64)
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _parse_datetime64(texts: np.ndarray) -> np.ndarray | None:
    try:
        found = texts.astype("datetime64[ms]")
    except ValueError:
        return None
    return None if np.isnat(found).any() else found.astype(np.int64) / 1000


def _parse_day_first(texts: np.ndarray) -> np.ndarray | None:
    """31.12.2009 23:50:00, all at once."""
    if texts.dtype.itemsize != 4 * DAY_FIRST_LENGTH:
        return None
    letters = np.ascontiguousarray(texts).view("U1").reshape(len(texts), DAY_FIRST_LENGTH)
    if not (letters[:, [2, 5]] == ".").all() or not (letters[:, [13, 16]] == ":").all():
        return None
    turned = letters[
        :, [6, 7, 8, 9, 2, 3, 4, 5, 0, 1, *range(10, DAY_FIRST_LENGTH)]
    ]  # year . month . day
    turned[:, [4, 7]] = "-"
    return _parse_datetime64(np.ascontiguousarray(turned).view(f"U{DAY_FIRST_LENGTH}").reshape(-1))


def median_step(times: np.ndarray) -> float:
    """The median of the steps that go forward; 0 where there is none."""
    steps = np.diff(times)
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0


def split_at_gap(readings: TimeSeries, gaps: Gaps) -> np.ndarray:
    """(T,) the number of the even part that each row belongs to: windows lie within one part.

    gaps: refuse says what is uneven, split begins a new part there, ignore makes one part of all, as the book does.
    Raises UserError where the clock goes back, unless that is ignored.
    """
    steps, usual = np.diff(readings.times), median_step(readings.times)
    kinds = {
        "goes back": steps < 0,
        "stands still": steps == 0,
        "is uneven": (steps > 0) & (steps < NARROW * usual),
        "leaves a gap": steps > WIDE * usual,
    }
    after = np.zeros(len(readings), bool)  # rows that do not follow the one before evenly
    after[1:] = np.any(list(kinds.values()), axis=0)
    if not after.any():
        return np.zeros(len(readings), np.int64)
    told = _describe_gap(readings, kinds, usual)
    if gaps == "refuse" or (gaps == "split" and kinds["goes back"].any()):
        raise UserError(told + _gap_hint(bool(kinds["goes back"].any())))
    log.warning("%s; data.gaps=%s", told, gaps)
    return np.cumsum(after) if gaps == "split" else np.zeros(len(readings), np.int64)


def _describe_gap(readings: TimeSeries, kinds: dict[str, np.ndarray], usual: float) -> str:
    found = [
        f"{name} at {readings.describe_rows(np.concatenate([[False], mask]))}"
        for name, mask in kinds.items()
        if mask.any()
    ]
    step = (
        ForecastHorizon("", (1,), 1, 1, usual, readings.has_dates).rows_to_time(1)
        if readings.has_dates
        else f"{usual:g}"
    )
    return f"{readings.source}: the time column '{readings.time_column}' {', '.join(found)}; the usual step is {step}"


def _gap_hint(back: bool) -> str:
    lie = "data.gaps=ignore takes the rows as they lie"
    return (
        f". Sort the rows, or {lie}"
        if back
        else f". data.gaps=split lets no window cross such a place, and {lie}"
    )
