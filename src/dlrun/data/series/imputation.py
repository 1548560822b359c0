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
    readings: TimeSeries, columns: tuple[str, ...], rows: slice, how: MissingValuePolicy
) -> np.ndarray:
    """(t, columns) of some rows of the series, without a missing number.

    forward: the last number before it, which may lie before these rows. interpolate: on a line to the next number of
    these rows, which a window that ends between could not know yet. Raises UserError, naming columns and lines, where
    nothing may be filled, or nothing comes before.
    """
    places = [readings.names.index(name) for name in columns]
    values = (
        readings.values[rows]
        if places == list(range(len(readings.names)))
        else readings.values[rows][:, places]
    )
    missing = np.isnan(values)
    if (
        how == "forward" and rows.start and missing[:1].any()
    ):  # what came before these rows is known
        whole = fill_missing(readings, columns, slice(0, rows.stop), how)
        return whole[rows.start :]
    if not missing.any():
        return values
    if how == "refuse":
        raise UserError(
            f"{readings.source} misses numbers in {_describe_missing(readings, columns, missing, rows)}: data.impute=forward "
            "carries the last one forward, data.impute=interpolate draws a line to the next, or take the column out "
            "(data.inputs=[…])"
        )
    if missing[0].any():
        empty = ", ".join(name for name, lacks in zip(columns, missing[0], strict=True) if lacks)
        line = readings.lines[rows][0]
        raise UserError(
            f"{readings.source}: nothing comes before line {line} that could stand for the missing {empty}"
        )
    log.warning(
        "%s: %s filled in (%s)",
        readings.source,
        _describe_missing(readings, columns, missing, rows),
        how,
    )
    return _forward_fill(values, missing) if how == "forward" else _interpolate(values, missing)


def _describe_missing(
    readings: TimeSeries, columns: tuple[str, ...], missing: np.ndarray, rows: slice
) -> str:
    found = []
    for place, name in enumerate(columns):
        if missing[:, place].any():
            whole = np.zeros(len(readings), bool)
            whole[rows] = missing[:, place]
            found.append(f"'{name}' at {readings.describe_rows(whole)}")
    return ", ".join(found)


def _forward_fill(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    known = np.where(missing, 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(known, axis=0), axis=0)


def _interpolate(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    found, rows = values.copy(), np.arange(len(values))
    for place in np.flatnonzero(missing.any(axis=0)):
        gaps = missing[:, place]
        found[gaps, place] = np.interp(rows[gaps], rows[~gaps], values[~gaps, place])
    return found
