"""What a fit foretold of a series, beside the truth and the last value: forecast/<job>-<split>.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.core import json_text
from dlrun.core.dataset import Dataset, RawColumns, SlidingWindows
from dlrun.core.files import write_text
from dlrun.core.types import SECONDS_PER_DAY, ForecastHorizon

MAX_DAYS, MIN_POINTS, MAX_POINTS = 10, 300, 1500  # days that are kept; rows at least, and at most
INTERVAL_WARNING = (
    "neighbouring windows are alike, so the 95 % intervals are narrower than they should be"
)


def write_forecast(
    folder: Path,
    job: str,
    split: str,
    raw: Dataset,
    rows: RawColumns,
    indices: np.ndarray,
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Path | None:
    """Write the first days of a split, and the mean error at each horizon over all of it; None for other data.

    rows: raw columns. indices: (n,) the row of `rows` that each answer is for. answers: target → (answers, truths)
    (n, horizons) in the target's own unit. Of each target: outlook, now (moments), truth, answer, last, and error,
    last_error by horizon; `last`, the last value that the window holds, is null where the input lacks the column.
    """
    found = {
        name: _forecast_to_dict(raw, rows, indices, ahead, *answers[name])
        for name, ahead in raw.forecast.items()
    }
    if not found:
        return None
    path = folder / "forecast" / f"{job}-{split}.json"
    write_text(path, json_text.to_json(found) + "\n")
    return path


def _forecast_to_dict(
    raw: Dataset,
    rows: RawColumns,
    indices: np.ndarray,
    ahead: ForecastHorizon,
    answer: np.ndarray,
    truth: np.ndarray,
) -> dict[str, Any]:
    assert raw.order is not None
    now = np.asarray(rows[raw.order])[indices]
    order = np.argsort(now, kind="stable")
    kept = order[_select_first_days(now[order], ahead)]
    last = get_last_values(raw, rows, ahead)
    parts = {"truth": truth, "answer": answer} | (
        {} if last is None else {"last": last[indices].repeat(truth.shape[1], 1)}
    )
    shown = {
        name: np.round(values[kept].astype(float), 6).tolist() for name, values in parts.items()
    }
    error = {
        name: np.abs(values - truth).mean(0).tolist()
        for name, values in parts.items()
        if name != "truth"
    }
    about = {
        "outlook": ahead.to_dict(),
        "rows": len(now),
        "now": now[kept].tolist(),
        "last": None,
        **shown,
    }
    return about | {"error": error["answer"], "last_error": error.get("last")}


def _select_first_days(now: np.ndarray, ahead: ForecastHorizon) -> np.ndarray:
    """The places of the first days, not more than can be drawn."""
    count = (
        int(np.searchsorted(now, now[0] + MAX_DAYS * SECONDS_PER_DAY))
        if ahead.dated
        else MIN_POINTS
    )
    count = min(len(now), max(count, MIN_POINTS))
    return np.arange(0, count, max(1, -(-count // MAX_POINTS)))


def get_last_values(raw: Dataset, rows: RawColumns, ahead: ForecastHorizon) -> np.ndarray | None:
    """(N, 1) the last value of the target's own column in each window; None where no input holds that column."""
    for name in raw.inputs:
        series, columns = rows[name], raw.labels.get(name, ())
        if isinstance(series, SlidingWindows) and ahead.column in columns:
            found = series.values[series.first + series.offsets[-1], columns.index(ahead.column)]
            return np.asarray(found)[:, None]
    return None


def make_series_messages(raw: Dataset) -> list[str]:
    """What stands beside the scores of a series: the unit of measures in the target's own, and a caution."""
    units = [f"{name} in {ahead.unit}" for name, ahead in raw.forecast.items() if ahead.unit]
    told = [f"mae_unit: {', '.join(units)}"] if units else []
    return [*told, INTERVAL_WARNING] if raw.forecast else []
