"""Missing numbers in a series: refused, carried forward, or interpolated."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from dlrun.core.errors import UserError
from dlrun.data.series.readings import TimeSeries

log = logging.getLogger("dlrun")

MissingValuePolicy = Literal["refuse", "interpolate", "forward"]


def fill_missing(
    readings: TimeSeries, columns: tuple[str, ...], rows: slice, policy: MissingValuePolicy
) -> np.ndarray:
    """Some rows of the series (t, columns) without a missing number.

    Args:
        readings: The series.
        columns: The columns to take.
        rows: The rows to take.
        policy: "forward" takes the last number before, which may lie before these rows;
            "interpolate" draws a line to the next number of these rows, which a window that ends
            between could not know yet.

    Raises:
        UserError: Nothing may be filled, or nothing comes before; columns and lines are named.
    """
    indices = [readings.names.index(name) for name in columns]
    values = readings.values[rows]
    if indices != list(range(len(readings.names))):  # a view, without a copy, where it can be
        values = values[:, indices]
    missing = np.isnan(values)
    if policy == "forward" and rows.start and missing[:1].any():
        # What came before these rows is known: fill from the start of the series.
        return fill_missing(readings, columns, slice(0, rows.stop), policy)[rows.start :]
    if not missing.any():
        return values
    described = _describe_missing(readings, columns, missing, rows)
    if policy == "refuse":
        raise UserError(
            f"{readings.source} misses numbers in {described}: data.impute=forward carries the "
            "last one forward, data.impute=interpolate draws a line to the next, or take the "
            "column out (data.inputs=[…])"
        )
    if missing[0].any():
        empty = ", ".join(name for name, lacks in zip(columns, missing[0], strict=True) if lacks)
        line = readings.lines[rows][0]
        raise UserError(
            f"{readings.source}: nothing comes before line {line} that could stand for the missing "
            f"{empty}"
        )
    log.warning("%s: %s filled in (%s)", readings.source, described, policy)
    return _forward_fill(values, missing) if policy == "forward" else _interpolate(values, missing)


def _describe_missing(
    readings: TimeSeries, columns: tuple[str, ...], missing: np.ndarray, rows: slice
) -> str:
    descriptions = []
    for index, name in enumerate(columns):
        if missing[:, index].any():
            mask = np.zeros(len(readings), bool)
            mask[rows] = missing[:, index]
            descriptions.append(f"'{name}' at {readings.describe_rows(mask)}")
    return ", ".join(descriptions)


def _forward_fill(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    # The running maximum of the rows that have a number is the last such row.
    last_row = np.where(missing, 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(last_row, axis=0), axis=0)


def _interpolate(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    filled, rows = values.copy(), np.arange(len(values))
    for column in np.flatnonzero(missing.any(axis=0)):
        gaps = missing[:, column]
        filled[gaps, column] = np.interp(rows[gaps], rows[~gaps], values[~gaps, column])
    return filled
