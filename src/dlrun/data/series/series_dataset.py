"""Your own series: a CSV file with a time column; what one of its columns will be, from windows onto the past."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dlrun.config.constraints import Count, NonNegative
from dlrun.core.dataset import Preparation, Raw, Rows, Windowed
from dlrun.core.errors import Refused, in_short
from dlrun.core.types import Outlook
from dlrun.data.fingerprints import fingerprint
from dlrun.data.preprocessing.series import StandardiseSeries, StandardiseTarget
from dlrun.data.series import series_file
from dlrun.data.series.imputation import Impute, filled
from dlrun.data.series.readings import Readings
from dlrun.data.series.series_file import How
from dlrun.data.series.timestamps import Gaps, parts, usual_step
from dlrun.data.tabular.dates import Dates
from dlrun.data.tabular.number_format import Numbers

log = logging.getLogger("dlrun")

INPUT = "series"
UNITS = {"degC": "°C", "degF": "°F", "deg": "°"}


@dataclass(frozen=True)
class Plan:
    """What is foretold from what. inputs: columns of the windows. targets: name → what it looks ahead to.

    look_ahead: whether a window that ends amid a gap may draw on the value after it, as in dlrun 0.1.0.
    """

    inputs: tuple[str, ...]
    targets: dict[str, Outlook]
    gaps: Gaps
    impute: Impute
    scaled: bool
    look_ahead: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that rows must have."""
        return tuple(dict.fromkeys((*self.inputs, *(ahead.column for ahead in self.targets.values()))))


def series(
    *,
    path: str | None,
    time: str | None,
    target: str | list[str] | None,
    lookback: Count | None,
    delay: Count | list[Count],
    step: Count,
    inputs: list[str] | None,
    test: NonNegative,
    gaps: Gaps,
    impute: Impute,
    scale: Literal["standardise", "none"],
    time_format: str | None,
    separator: str | None,
    encoding: str = "utf-8",
    header: list[str] | None = None,
    numbers: Numbers = "plain",
    missing: list[str] | None = None,
    dates: Dates = "each",
    look_ahead: bool = True,
) -> Raw:
    """Windows onto a series from a CSV file, and what comes after each: see `windows` for the rows that they hold.

    The defaults are what dlrun 0.1.0 did.

    target: the column, or columns, to foretell. lookback, delay, step: in rows; several delays are several horizons. A
    delay counts from the last row that a window sees: 1 is the next row.
    inputs: columns of the windows; None takes every number column. test: the share, or number, of rows at the end that
    are set aside. encoding, header, numbers, missing, dates: see `table_csv.csv`. look_ahead: see Plan. Raises Refused
    for whatever is wrong with the file or the question.
    """
    how = How(separator, header, encoding, numbers, tuple(missing or ()), dates, time_format)
    if path is None:
        raise Refused("say which series: data.path=FILE.csv data.time=COLUMN data.target=COLUMN data.lookback=ROWS")
    wanted = [target] if isinstance(target, str) else list(target or ())
    if not wanted or lookback is None:
        lacks = "data.target=COLUMN" if not wanted else "data.lookback=ROWS, how far a window looks back"
        raise Refused(f"say {lacks}; {path} has: {in_short(series_file.header(path, how))}")
    readings = series_file.read(path, time, (*wanted, *(inputs or ())), how)
    ahead = outlooks(readings, wanted, tuple(rows - step for rows in delays(delay)), lookback, step)
    plan = Plan(tuple(inputs or readings.names), ahead, gaps, impute, scale == "standardise", look_ahead)
    again = replace(how, dates=readings.dates, written=readings.written or None)

    def read(file: str, encoding: str | None) -> Readings:
        return series_file.read(file, time, plan.inputs, replace(again, encoding=encoding or again.encoding))

    return dataset(readings, plan, test, read)


def delays(delay: int | list[int]) -> tuple[int, ...]:
    """The horizons in rows. Raises Refused for none, and for one that comes twice."""
    found = (delay,) if isinstance(delay, int) else tuple(delay)
    if not found or len(set(found)) < len(found):
        raise Refused(f"data.delay={delay!r}: it must be a number of rows, or several different ones")
    return found


def outlooks(
    readings: Readings, targets: list[str], rows: tuple[int, ...], lookback: int, step: int
) -> dict[str, Outlook]:
    """Target name → what it looks ahead to. Raises Refused for a window that is no whole number of steps."""
    if lookback % step:
        raise Refused(
            f"data.lookback={lookback} is no multiple of data.step={step}: say {lookback // step * step or step}"
        )
    taken = {INPUT, readings.clock}
    found: dict[str, Outlook] = {}
    for column in targets:
        every = usual_step(readings.moments)
        ahead = Outlook(column, rows, lookback, step, every, readings.dated, unit_of(column))
        name = name_of(column)
        name = name if name not in taken else f"{name}_ahead"
        if name in found:
            name = re.sub(r"\W+", "_", column).strip("_")
        found[name] = ahead
    return found


def name_of(column: str) -> str:
    """'T (degC)' → 'T': the column without its unit, in letters, digits and underscores."""
    bare = re.sub(r"\s*[(\[][^()\[\]]*[)\]]\s*$", "", column)
    return re.sub(r"\W+", "_", bare).strip("_") or re.sub(r"\W+", "_", column).strip("_") or "target"


def unit_of(column: str) -> str:
    """'T (degC)' → '°C', 'p [mbar]' → 'mbar'; '' where the column names no unit."""
    found = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", column)
    unit = found[1].strip() if found else ""
    return UNITS.get(unit, unit)


def dataset(
    readings: Readings, plan: Plan, test: float, read: Callable[[str, str | None], Readings], note: str = ""
) -> Raw:
    """The dataset of a series: the last rows are set aside, and no window of either part reaches into the other."""
    count = round(test * len(readings)) if test < 1 else int(test)
    if count >= len(readings):
        raise Refused(f"data.test={test:g} sets all {len(readings):,} rows of {readings.place} aside")
    part = parts(readings, plan.gaps)
    cut = len(readings) - count
    dev = windows(readings, plan, part, slice(0, cut), "the development rows" if count else "the series")
    sealed = windows(readings, plan, part, slice(cut, None), f"the test rows (data.test={test:g})") if count else None
    learn: dict[str, tuple[Preparation, ...]] = {}
    if plan.scaled:
        place = {name: plan.inputs.index(name) for name in plan.inputs}
        learn = {INPUT: (StandardiseSeries(),)}
        learn |= {t: (StandardiseTarget(INPUT, place.get(a.column)),) for t, a in plan.targets.items()}
    return Raw(
        dev=dev,
        test=None if sealed is None else lambda: sealed,
        inputs={INPUT: "series"},
        targets=dict.fromkeys(plan.targets, "number"),
        learn=learn,
        order=readings.clock,
        labels={INPUT: plan.inputs} | {t: a.horizons for t, a in plan.targets.items() if len(a.rows) > 1},
        note=note,
        further=lambda path, encoding=None: latest(read(path, encoding), plan),
        outlook=plan.targets,
        marks=(mark(readings, plan, slice(0, cut)), mark(readings, plan, slice(cut, None))),
    )


def mark(readings: Readings, plan: Plan, rows: slice) -> str:
    """What rows of a series and their targets are known by, whatever is looked back at."""
    columns = sorted({ahead.column for ahead in plan.targets.values()})
    known = {name: readings.values[rows, readings.names.index(name)] for name in columns}
    return fingerprint({**known, "moments": readings.moments[rows]})


def windows(readings: Readings, plan: Plan, part: np.ndarray, rows: slice, what: str) -> Rows:
    """The windows that lie, with what they foretell, wholly within some rows of the series.

    Of the window of row `now` the input holds rows now - lookback, now - lookback + step, …, now - step, and a target
    rows now + delay: as in the book's generator (§6.3), whose last observation is thus one step before now.
    """
    some = next(iter(plan.targets.values()))
    moments, part = readings.moments[rows], part[rows]
    values = filled(readings, plan.inputs, rows, plan.impute)
    now = np.arange(some.lookback, len(values) - max(0, *some.rows))
    if not len(now):
        raise Refused(
            f"{what} of {readings.place} are {len(values):,} rows, and a window needs {some.span + 1:,} "
            "(data.lookback) with what comes after it (data.delay)"
        )
    now = now[part[now - some.lookback] == part[now + max(some.rows)]]
    if not len(now):
        raise Refused(f"no window of {some.span + 1:,} rows lies within {what} without crossing a gap (data.gaps)")
    answers = {name: _answers(readings, ahead, rows, now) for name, ahead in plan.targets.items()}
    there = np.all([np.isfinite(answer).all(axis=1) for answer in answers.values()], axis=0)
    if not there.all():
        log.warning("%s windows are left out: the value that they would foretell is missing", f"{(~there).sum():,}")
    if not there.any():
        raise Refused(f"{what} of {readings.place}: the value to foretell is missing for every window")
    there &= _known(readings, plan, rows, now - some.step)
    if not there.any():
        raise Refused(f"every window of {what} ends amid missing numbers: say data.impute=forward")
    now = now[there]
    first = now - some.lookback
    offsets = np.arange(0, some.lookback, some.step)
    if (np.diff(moments) < 0).any():  # the order is that of the file, as if its clock were even
        moments = moments[0] + some.every * np.arange(len(moments))
    found: Rows = {INPUT: Windowed(values, first, offsets), readings.clock: moments[now]}
    return found | {name: answer[there] for name, answer in answers.items()}


def _known(readings: Readings, plan: Plan, rows: slice, last: np.ndarray) -> np.ndarray:
    """The mask of windows, by their last rows, in which nothing depends on a later value; says how many are not."""
    if plan.impute != "interpolate" or plan.look_ahead:
        return np.ones(len(last), bool)
    places = [readings.names.index(name) for name in plan.inputs]
    known = ~np.isnan(readings.values[rows][last][:, places]).any(axis=1)
    if not known.all():
        log.warning(
            "%s windows are left out: they end amid missing numbers, and a line to the next one would tell them of it",
            f"{(~known).sum():,}",
        )
    return known


def _answers(readings: Readings, ahead: Outlook, rows: slice, now: np.ndarray) -> np.ndarray:
    column = readings.values[rows, readings.names.index(ahead.column)]
    return column[now[:, None] + np.array(ahead.rows)]


def latest(readings: Readings, plan: Plan) -> tuple[Rows, list[int]]:
    """The window that ends with the last row: what it foretells comes step + delay rows after that row."""
    some = next(iter(plan.targets.values()))
    first = len(readings) - some.lookback + some.step - 1
    if first < 0:
        raise Refused(
            f"{readings.place} has {len(readings):,} rows, and a window needs {some.lookback - some.step + 1:,}"
        )
    rows = slice(first, None)
    part = parts(replace_rows(readings, rows), plan.gaps)
    if part[0] != part[-1]:
        raise Refused(f"{readings.place}: its last {len(part):,} rows are not even, and the window would cross a gap")
    values = filled(readings, plan.inputs, rows, plan.impute)
    window = Windowed(values, np.zeros(1, np.int64), np.arange(0, some.lookback, some.step))
    return {INPUT: window, readings.clock: readings.moments[-1:]}, [int(readings.lines[-1])]


def replace_rows(readings: Readings, rows: slice) -> Readings:
    """Some rows of a series."""
    some = {name: getattr(readings, name)[rows] for name in ("moments", "values", "lines")}
    return replace(readings, **some)
