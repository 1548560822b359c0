"""The readings of a series file as they stand in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dlrun.data.tabular import csv_file
from dlrun.data.tabular.dates import DateOrder
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
