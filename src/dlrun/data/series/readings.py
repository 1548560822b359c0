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
    """A series. place: where it came from. clock: the name of its time column. moments (T,): seconds since 1970 where
    they are `dated`, else the numbers of that column. names, values (T, F): number columns, NaN where one is missing.
    lines (T,): the line in the file of each row. written, dates: how numbers and dates are written, by the whole file.
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

    def describe_rows(self, wrong: np.ndarray) -> str:
        """'3 rows (lines 5, 9, 12)' for a mask of rows."""
        return csv_file.describe_row_lines(self.lines, wrong)
