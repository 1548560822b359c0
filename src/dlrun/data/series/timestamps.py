"""The time column of a series: what its cells say, and whether its rows follow each other evenly."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from dlrun.core.errors import Refused
from dlrun.core.types import Outlook
from dlrun.data.tabular.dates import Dates, decided, moment

if TYPE_CHECKING:
    from dlrun.data.series.readings import Readings


log = logging.getLogger("dlrun")

Gaps = Literal["refuse", "split", "ignore"]
GERMAN = 19  # letters of 31.12.2009 23:50:00
WIDE, NARROW = 1.5, 0.5  # usual steps: further apart is a gap, nearer is uneven


def moments(
    texts: np.ndarray, layout: str | None, place: str, name: str, lines: np.ndarray, dates: Dates = "each"
) -> tuple[np.ndarray, bool, Dates]:
    """(T,) seconds since 1970 and True, or the numbers that the cells hold and False; and how dates are written.

    layout: as strptime writes it. Raises Refused with the line.
    """
    if not len(texts):
        raise Refused(f"{place} has a header but no rows")
    if layout is None:
        for way in (_numbers, _iso):
            if (found := way(texts)) is not None:
                return found, way is not _numbers, dates
        dates = decided(texts.tolist(), dates, name, place, lines.tolist())
        if dates in ("each", "day_first") and (found := _german(texts)) is not None:
            return found, True, dates
    epoch = datetime(1970, 1, 1)
    found = np.empty(len(texts))
    for row, text in enumerate(texts.tolist()):
        when = moment(text, dates) if layout is None else _said(text, layout)
        if when is None:
            hint = (
                f"data.time_format={layout}" if layout else "say how it is written, such as data.time_format=%d/%m/%y"
            )
            raise Refused(f"{place}, line {lines[row]}: '{text}' in '{name}' is no time that can be read: {hint}")
        found[row] = (when - epoch).total_seconds()
    return found, True, dates


def _said(text: str, layout: str) -> datetime | None:
    try:
        return datetime.strptime(text, layout).replace(tzinfo=None)
    except ValueError:
        return None


def _numbers(texts: np.ndarray) -> np.ndarray | None:
    try:
        found = texts.astype(np.float64)
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _iso(texts: np.ndarray) -> np.ndarray | None:
    try:
        found = texts.astype("datetime64[ms]")
    except ValueError:
        return None
    return None if np.isnat(found).any() else found.astype(np.int64) / 1000


def _german(texts: np.ndarray) -> np.ndarray | None:
    """31.12.2009 23:50:00, all at once."""
    if texts.dtype.itemsize != 4 * GERMAN:
        return None
    letters = np.ascontiguousarray(texts).view("U1").reshape(len(texts), GERMAN)
    if not (letters[:, [2, 5]] == ".").all() or not (letters[:, [13, 16]] == ":").all():
        return None
    turned = letters[:, [6, 7, 8, 9, 2, 3, 4, 5, 0, 1, *range(10, GERMAN)]]  # year . month . day
    turned[:, [4, 7]] = "-"
    return _iso(np.ascontiguousarray(turned).view(f"U{GERMAN}").reshape(-1))


def usual_step(times: np.ndarray) -> float:
    """The median of the steps that go forward; 0 where there is none."""
    steps = np.diff(times)
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0


def parts(readings: Readings, gaps: Gaps) -> np.ndarray:
    """(T,) the number of the even part that each row belongs to: windows lie within one part.

    gaps: refuse says what is uneven, split begins a new part there, ignore makes one part of all, as the book does.
    Raises Refused where the clock goes back, unless that is ignored.
    """
    steps, usual = np.diff(readings.moments), usual_step(readings.moments)
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
    told = _told(readings, kinds, usual)
    if gaps == "refuse" or (gaps == "split" and kinds["goes back"].any()):
        raise Refused(told + _ways_out(bool(kinds["goes back"].any())))
    log.warning("%s; data.gaps=%s", told, gaps)
    return np.cumsum(after) if gaps == "split" else np.zeros(len(readings), np.int64)


def _told(readings: Readings, kinds: dict[str, np.ndarray], usual: float) -> str:
    found = [
        f"{name} at {readings.where(np.concatenate([[False], mask]))}" for name, mask in kinds.items() if mask.any()
    ]
    step = Outlook("", (1,), 1, 1, usual, readings.dated).lasting(1) if readings.dated else f"{usual:g}"
    return f"{readings.place}: the time column '{readings.clock}' {', '.join(found)}; the usual step is {step}"


def _ways_out(back: bool) -> str:
    lie = "data.gaps=ignore takes the rows as they lie"
    return f". Sort the rows, or {lie}" if back else f". data.gaps=split lets no window cross such a place, and {lie}"
