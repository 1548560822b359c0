"""What a target of a series looks ahead to: which column, how far, in which unit. Needs nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dlrun.figures import counted

DAY = 86400.0
LENGTHS = ((DAY, "d"), (3600.0, "h"), (60.0, "min"))


@dataclass(frozen=True)
class Outlook:
    """A target of a series: the values of `column` that come `rows` rows after now.

    The window that a model sees begins `lookback` rows before now and ends `step` rows before it, one row in `step`
    (book §6.3). every: from one row to the next; in seconds where the time column holds dates (`dated`). unit: of the
    column, '' where it names none.
    """

    column: str
    rows: tuple[int, ...]
    lookback: int
    step: int
    every: float
    dated: bool
    unit: str = ""

    @property
    def span(self) -> int:
        """Rows from the first that a window sees to the last that is foretold: windows nearer than that share some."""
        return self.lookback + max(self.rows)

    @property
    def ahead(self) -> tuple[int, ...]:
        """How many rows after the last one that a window sees each answer is for."""
        return tuple(rows + self.step for rows in self.rows)

    @property
    def steps(self) -> int:
        """How many rows of the series a window sees."""
        return self.lookback // self.step

    @property
    def day(self) -> int | None:
        """How many rows make a day; None where that is no whole number, or not known."""
        count = DAY / self.every if self.dated and self.every > 0 else 0
        return round(count) if count >= 1 and abs(count - round(count)) < 1e-6 else None

    @property
    def horizons(self) -> tuple[str, ...]:
        """How far each answer looks ahead of the last row seen, in words."""
        return tuple(f"in {self.lasting(rows)}" for rows in self.ahead)

    def lasting(self, rows: int) -> str:
        """So many rows as a time: '24 h', '10 min', '3 d'; as rows where the time column holds no dates."""
        if not self.dated:
            return counted(rows, "row")
        seconds = rows * self.every
        if 1.5 * DAY >= seconds >= 3600:
            return f"{seconds / 3600:.4g} h"
        return next((f"{seconds / long:.4g} {name}" for long, name in LENGTHS if seconds >= long), f"{seconds:.4g} s")

    def clock(self, moment: float) -> str:
        """A moment as text: a date and time, or the number."""
        if not self.dated:
            return f"{moment:.10g}"
        found = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=round(moment, 3))
        return found.replace(tzinfo=None).isoformat(" ")

    def plain(self) -> dict[str, Any]:
        """As fields.json holds it."""
        return asdict(self)


def outlook(plain: dict[str, Any] | None) -> Outlook | None:
    """From what fields.json holds."""
    return None if plain is None else Outlook(**{**plain, "rows": tuple(plain["rows"])})
