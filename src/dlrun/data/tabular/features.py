"""Features made by name from the columns of a table: `area_log: {log: area}`, `age_group: {bins: [age, 5]}`, …"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlrun.core.errors import Refused
from dlrun.data.tabular.csv_file import Cells
from dlrun.data.tabular.dates import Dates, moment
from dlrun.data.tabular.number_format import MISSING

FORMS = {
    "log": "{log: column}",
    "ratio": "{ratio: [column, column]}",
    "bins": "{bins: [column, how many]}",
    "hour": "{hour: time column}",
    "weekday": "{weekday: time column}",
    "day": "{day: time column}",
}
TIMES = ("hour", "weekday", "day")


@dataclass(frozen=True)
class Feature:
    """One made feature: what it is called, how it is made, from which columns. count: the number of bins."""

    name: str
    how: str
    columns: tuple[str, ...]
    count: int = 0


def parse(specs: Mapping[str, Any] | None, cells: Cells) -> tuple[Feature, ...]:
    """The features that a mapping name → spec describes. Raises Refused for a spec that makes no sense."""
    features = tuple(_one(name, spec) for name, spec in (specs or {}).items())
    for feature in features:
        cells.need(feature.columns, f"feature '{feature.name}':")
        if feature.name in cells.columns:
            raise Refused(f"feature '{feature.name}' is called like a column of {cells.place}; give it another name")
    return features


def values(feature: Feature, cells: Cells, dates: Dates = "each") -> dict[str, np.ndarray]:
    """The number columns (N,) of a feature, by name; NaN where a cell it is made from is missing.

    log: natural logarithm. ratio: first / second, missing where the second is 0. hour (of the day), weekday and day
    (of the year): two columns, sine and cosine, so that 23 h and 0 h are neighbours. bins: the column as it is, for
    the edges are learnt later, on training rows. dates: how those of its column are written. Raises Refused for a
    logarithm of a number not above 0.
    """
    if feature.how in TIMES:
        angle = 2 * math.pi * np.array([_turn(feature, cells, row, dates) for row in range(len(cells))])
        return {f"{feature.name}_sin": np.sin(angle), f"{feature.name}_cos": np.cos(angle)}
    first, *rest = (cells.numbers(column) for column in feature.columns)
    if feature.how == "log":
        if (first <= 0).any():
            where = cells.where(first <= 0)
            raise Refused(
                f"feature '{feature.name}': no logarithm of {feature.columns[0]} ≤ 0 in {where} of {cells.place}"
            )
        return {feature.name: np.log(first)}
    if feature.how == "ratio":
        return {feature.name: cells.within_range(feature.name, first / np.where(rest[0] == 0, np.nan, rest[0]))}
    return {feature.name: first}


def _one(name: str, spec: Any) -> Feature:
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in FORMS:
        raise Refused(f"feature '{name}': {spec} is none of {', '.join(FORMS.values())}")
    how, given = next(iter(spec.items()))
    parts = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    count: Any = parts.pop() if how == "bins" and len(parts) == 2 else 0
    wanted = 2 if how == "ratio" else 1
    whole = isinstance(count, int) and not isinstance(count, bool) and count >= 2
    if len(parts) != wanted or not all(isinstance(part, str) for part in parts) or (how == "bins" and not whole):
        more = ", at least 2 bins" if how == "bins" else ""
        raise Refused(f"feature '{name}': {how} is written {FORMS[how]}{more}; got {given}")
    return Feature(name, how, tuple(parts), count)


def _turn(feature: Feature, cells: Cells, row: int, dates: Dates) -> float:
    """How much of a day, week or year has gone, 0 to 1."""
    cell = cells.columns[feature.columns[0]][row]
    if cell.lower() in MISSING:
        return math.nan
    time = moment(cell, dates)
    if time is None:
        where = f"{cells.place}, line {cells.lines[row]}"
        raise Refused(
            f"feature '{feature.name}': {where}: '{cell}' in {feature.columns[0]} is no time such as 2024-05-31 14:30"
        )
    day = (time.hour + time.minute / 60 + time.second / 3600) / 24
    if feature.how == "hour":
        return day
    return (time.weekday() + day) / 7 if feature.how == "weekday" else (time.timetuple().tm_yday - 1 + day) / 366
