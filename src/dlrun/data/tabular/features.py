"""Features made by name from the columns of a table: `area_log: {log: area}`, `age_group: {bins: [age, 5]}`, …"""

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
    """One made feature: what it is called, how it is made, from which columns. count: the number of bins."""

    name: str
    transform: str
    columns: tuple[str, ...]
    num_bins: int = 0


def parse_features(specs: Mapping[str, Any] | None, cells: CsvTable) -> tuple[Feature, ...]:
    """The features that a mapping name → spec describes. Raises UserError for a spec that makes no sense."""
    features = tuple(_parse_feature(name, spec) for name, spec in (specs or {}).items())
    for feature in features:
        cells.require_columns(feature.columns, f"feature '{feature.name}':")
        if feature.name in cells.columns:
            raise UserError(
                f"feature '{feature.name}' is called like a column of {cells.source}; give it another name"
            )
    return features


def compute_feature(
    feature: Feature, cells: CsvTable, dates: DateOrder = "each"
) -> dict[str, np.ndarray]:
    """The number columns (N,) of a feature, by name; NaN where a cell it is made from is missing.

    log: natural logarithm. ratio: first / second, missing where the second is 0. hour (of the day), weekday and day
    (of the year): two columns, sine and cosine, so that 23 h and 0 h are neighbours. bins: the column as it is, for
    the edges are learnt later, on training rows. dates: how those of its column are written. Raises UserError for a
    logarithm of a number not above 0.
    """
    if feature.transform in TIME_FEATURES:
        angle = (
            2
            * math.pi
            * np.array([_cycle_position(feature, cells, row, dates) for row in range(len(cells))])
        )
        return {f"{feature.name}_sin": np.sin(angle), f"{feature.name}_cos": np.cos(angle)}
    first, *rest = (cells.to_numbers(column) for column in feature.columns)
    if feature.transform == "log":
        if (first <= 0).any():
            where = cells.describe_rows(first <= 0)
            raise UserError(
                f"feature '{feature.name}': no logarithm of {feature.columns[0]} ≤ 0 in {where} of {cells.source}"
            )
        return {feature.name: np.log(first)}
    if feature.transform == "ratio":
        return {
            feature.name: cells.mask_out_of_range(
                feature.name, first / np.where(rest[0] == 0, np.nan, rest[0])
            )
        }
    return {feature.name: first}


def _parse_feature(name: str, spec: Any) -> Feature:
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in FEATURE_FORMS:
        raise UserError(f"feature '{name}': {spec} is none of {', '.join(FEATURE_FORMS.values())}")
    how, given = next(iter(spec.items()))
    parts = (
        [given]
        if isinstance(given, str)
        else list(given)
        if isinstance(given, list | tuple)
        else []
    )
    count: Any = parts.pop() if how == "bins" and len(parts) == 2 else 0
    wanted = 2 if how == "ratio" else 1
    whole = isinstance(count, int) and not isinstance(count, bool) and count >= 2
    if (
        len(parts) != wanted
        or not all(isinstance(part, str) for part in parts)
        or (how == "bins" and not whole)
    ):
        more = ", at least 2 bins" if how == "bins" else ""
        raise UserError(
            f"feature '{name}': {how} is written {FEATURE_FORMS[how]}{more}; got {given}"
        )
    return Feature(name, how, tuple(parts), count)


def _cycle_position(feature: Feature, cells: CsvTable, row: int, dates: DateOrder) -> float:
    """How much of a day, week or year has gone, 0 to 1."""
    cell = cells.columns[feature.columns[0]][row]
    if cell.lower() in MISSING_WORDS:
        return math.nan
    time = parse_datetime(cell, dates)
    if time is None:
        where = f"{cells.source}, line {cells.lines[row]}"
        raise UserError(
            f"feature '{feature.name}': {where}: '{cell}' in {feature.columns[0]} is no time such as 2024-05-31 14:30"
        )
    day = (time.hour + time.minute / 60 + time.second / 3600) / 24
    if feature.transform == "hour":
        return day
    return (
        (time.weekday() + day) / 7
        if feature.transform == "weekday"
        else (time.timetuple().tm_yday - 1 + day) / 366
    )
