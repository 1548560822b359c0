"""Features computed by name from the columns of a table.

Written as `area_log: {log: area}`, `age_group: {bins: [age, 5]}`, …
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlrun.core.errors import UserError
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.dates import DateOrder, parse_datetime
from dlrun.data.tabular.number_format import MISSING_WORDS

FEATURE_FORMS = {
    "log": "{log: column}",
    "ratio": "{ratio: [column, column]}",
    "bins": "{bins: [column, how many]}",
    "hour": "{hour: time column}",
    "weekday": "{weekday: time column}",
    "day": "{day: time column}",
}
TIME_FEATURES = ("hour", "weekday", "day")


@dataclass(frozen=True)
class Feature:
    """One computed feature.

    Attributes:
        name: The name of its input, or of the columns that come of it.
        transform: A key of FEATURE_FORMS.
        columns: The columns that it is computed from.
        num_bins: The number of bins, for "bins".
    """

    name: str
    transform: str
    columns: tuple[str, ...]
    num_bins: int = 0


def parse_features(specs: Mapping[str, Any] | None, table: CsvTable) -> tuple[Feature, ...]:
    """The features that a mapping describes.

    Args:
        specs: Feature name → one of the forms in FEATURE_FORMS.
        table: The table, for its column names.

    Raises:
        UserError: A spec is not one of the forms, or a name is taken.
    """
    features = tuple(_parse_feature(name, spec) for name, spec in (specs or {}).items())
    for feature in features:
        table.require_columns(feature.columns, f"feature '{feature.name}':")
        # Or one of the two would silently replace the other.
        if feature.name in table.columns:
            raise UserError(
                f"feature '{feature.name}' is called like a column of {table.source}; "
                "give it another name"
            )
    return features


def compute_feature(
    feature: Feature, table: CsvTable, dates: DateOrder = "each"
) -> dict[str, np.ndarray]:
    """The number columns (N,) of a feature, NaN where a cell that it is computed from is missing.

    `log` is the natural logarithm. `ratio` is first / second, missing where the second is 0.
    `hour` (of the day), `weekday` and `day` (of the year) are two columns, sine and cosine, so
    that 23 h and 0 h are neighbors. `bins` is the column itself: its edges are fitted later, on
    training rows.

    Args:
        feature: What to compute.
        table: The rows.
        dates: How the dates of its column are written.

    Returns:
        Column name → values.

    Raises:
        UserError: A logarithm is taken of a number not above 0, or a time cannot be read.
    """
    if feature.transform in TIME_FEATURES:
        positions = [_cycle_position(feature, table, row, dates) for row in range(len(table))]
        angle = 2 * math.pi * np.array(positions)
        # On a circle the end of a day lies beside its beginning, as on no line.
        return {f"{feature.name}_sin": np.sin(angle), f"{feature.name}_cos": np.cos(angle)}
    values = [table.to_numbers(column) for column in feature.columns]
    if feature.transform == "log":
        not_positive = values[0] <= 0
        if not_positive.any():
            raise UserError(
                f"feature '{feature.name}': no logarithm of {feature.columns[0]} ≤ 0 in "
                f"{table.describe_rows(not_positive)} of {table.source}"
            )
        return {feature.name: np.log(values[0])}
    if feature.transform == "ratio":
        numerator, denominator = values
        ratio = numerator / np.where(denominator == 0, np.nan, denominator)
        return {feature.name: table.mask_out_of_range(feature.name, ratio)}
    return {feature.name: values[0]}


def _parse_feature(name: str, spec: Any) -> Feature:
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in FEATURE_FORMS:
        raise UserError(f"feature '{name}': {spec} is none of {', '.join(FEATURE_FORMS.values())}")
    transform, value = next(iter(spec.items()))
    arguments: list[Any] = []
    if isinstance(value, str):
        arguments = [value]
    elif isinstance(value, list | tuple):
        arguments = list(value)
    is_bins = transform == "bins"
    num_bins: Any = arguments.pop() if is_bins and len(arguments) == 2 else 0
    # bool is an int in Python: {bins: [age, true]} is not one bin.
    is_count = isinstance(num_bins, int) and not isinstance(num_bins, bool) and num_bins >= 2
    num_columns = 2 if transform == "ratio" else 1
    are_columns = len(arguments) == num_columns and all(isinstance(c, str) for c in arguments)
    if not are_columns or (is_bins and not is_count):
        more = ", at least 2 bins" if is_bins else ""
        raise UserError(
            f"feature '{name}': {transform} is written {FEATURE_FORMS[transform]}{more}; "
            f"got {value}"
        )
    return Feature(name, transform, tuple(arguments), num_bins)


def _cycle_position(feature: Feature, table: CsvTable, row: int, dates: DateOrder) -> float:
    """The share of a day, week or year that has passed, 0 to 1."""
    cell = table.columns[feature.columns[0]][row]
    # NaN is imputed later, as in other number columns.
    if cell.lower() in MISSING_WORDS:
        return math.nan
    time = parse_datetime(cell, dates)
    if time is None:
        raise UserError(
            f"feature '{feature.name}': {table.source}, line {table.lines[row]}: '{cell}' in "
            f"{feature.columns[0]} is no time such as 2024-05-31 14:30"
        )
    day = (time.hour + time.minute / 60 + time.second / 3600) / 24
    if feature.transform == "hour":
        return day
    if feature.transform == "weekday":
        return (time.weekday() + day) / 7
    return (time.timetuple().tm_yday - 1 + day) / 366  # leap years have 366 days
