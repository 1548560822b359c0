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
    dataset: Dataset,
    rows: RawColumns,
    indices: np.ndarray,
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Path | None:
    """Write the first days of a split, and the mean error at each horizon over all of it; None for other data.

    rows: raw columns. indices: (n,) the row of `rows` that each answer is for. answers: target → (answers, truths)
    (n, horizons) in the target's own unit. Of each target: outlook, now (moments), truth, answer, last, and error,
    last_error by horizon; `last`, the last value that the window holds, is null where the input lacks the column.
    """
    forecasts = {
        name: _forecast_to_dict(dataset, rows, indices, horizon, *answers[name])
        for name, horizon in dataset.forecast.items()
    }
    if not forecasts:
        return None
    path = folder / "forecast" / f"{job}-{split}.json"
    write_text(path, json_text.to_json(forecasts) + "\n")
    return path


def _forecast_to_dict(
    dataset: Dataset,
    rows: RawColumns,
    indices: np.ndarray,
    horizon: ForecastHorizon,
    answer: np.ndarray,
    truth: np.ndarray,
) -> dict[str, Any]:
    assert dataset.order is not None
    moments = np.asarray(rows[dataset.order])[indices]
    order = np.argsort(moments, kind="stable")
    selected = order[_select_first_days(moments[order], horizon)]
    last = get_last_values(dataset, rows, horizon)
    series = {"truth": truth, "answer": answer} | (
        {} if last is None else {"last": last[indices].repeat(truth.shape[1], 1)}
    )
    rounded = {
        name: np.round(values[selected].astype(float), 6).tolist()
        for name, values in series.items()
    }
    error = {
        name: np.abs(values - truth).mean(0).tolist()
        for name, values in series.items()
        if name != "truth"
    }
    record = {
        "outlook": horizon.to_dict(),
        "rows": len(moments),
        "now": moments[selected].tolist(),
        "last": None,
        **rounded,
    }
    return record | {"error": error["answer"], "last_error": error.get("last")}


def _select_first_days(moments: np.ndarray, horizon: ForecastHorizon) -> np.ndarray:
    """The places of the first days, not more than can be drawn."""
    count = (
        int(np.searchsorted(moments, moments[0] + MAX_DAYS * SECONDS_PER_DAY))
        if horizon.dated
        else MIN_POINTS
    )
    count = min(len(moments), max(count, MIN_POINTS))
    return np.arange(0, count, max(1, -(-count // MAX_POINTS)))


def get_last_values(
    dataset: Dataset, rows: RawColumns, horizon: ForecastHorizon
) -> np.ndarray | None:
    """(N, 1) the last value of the target's own column in each window; None where no input holds that column."""
    for name in dataset.inputs:
        series, columns = rows[name], dataset.labels.get(name, ())
        if isinstance(series, SlidingWindows) and horizon.column in columns:
            last_values = series.values[
                series.first + series.offsets[-1], columns.index(horizon.column)
            ]
            return np.asarray(last_values)[:, None]
    return None


def make_series_messages(dataset: Dataset) -> list[str]:
    """What stands beside the scores of a series: the unit of measures in the target's own, and a caution."""
    units = [
        f"{name} in {horizon.unit}" for name, horizon in dataset.forecast.items() if horizon.unit
    ]
    messages = [f"mae_unit: {', '.join(units)}"] if units else []
    return [*messages, INTERVAL_WARNING] if dataset.forecast else []
