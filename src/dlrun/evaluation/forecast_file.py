"""Writes a fit's forecasts of a series beside the truth and the last value known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.core import files
from dlrun.core.dataset import Dataset, RawColumns, SlidingWindows
from dlrun.core.files import write_text
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import SECONDS_PER_DAY, ForecastHorizon

MAX_DAYS = 10  # that are written
MIN_POINTS, MAX_POINTS = 300, 1500  # rows of them


def write_forecast(
    folder: Path,
    job: str,
    split: str,
    dataset: Dataset,
    rows: RawColumns,
    indices: np.ndarray,
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Path | None:
    """Write `forecast/<job>-<split>.json`: a split's first days, and the errors over all of it.

    Of each target: outlook, now (moments), truth, answer, last, and by horizon error and
    last_error. `last`, the last value in the window, is null where the inputs lack the target's
    column.

    Args:
        folder: The run folder.
        job: The name of the fit.
        split: 'val', 'test' or 'train'.
        dataset: What the rows come from.
        rows: Its raw columns.
        indices: (n,) the row of `rows` that each prediction is for.
        answers: Target → (predictions, truths), both (n, horizons) in the target's own unit.

    Returns:
        The file; None for data without forecasts.
    """
    forecasts = {
        name: _forecast_to_dict(dataset, rows, indices, horizon, *answers[name])
        for name, horizon in dataset.forecast.items()
    }
    if not forecasts:
        return None
    path = RunFolder(folder).path(RunFile.FORECAST, job=job, split=split)
    # On one line: the numbers of days are many.
    write_text(path, files.to_json(forecasts) + "\n")
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
    # In time, whatever the order of the rows.
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
    """The indices of the first days, no more than can be drawn."""
    count = (
        int(np.searchsorted(moments, moments[0] + MAX_DAYS * SECONDS_PER_DAY))
        if horizon.dated
        else MIN_POINTS
    )
    # Ten days of a daily series are too few to see anything.
    count = min(len(moments), max(count, MIN_POINTS))
    return np.arange(0, count, max(1, -(-count // MAX_POINTS)))


def get_last_values(
    dataset: Dataset, rows: RawColumns, horizon: ForecastHorizon
) -> np.ndarray | None:
    """(N, 1) the last value of the target's column in each window; None without that input."""
    for name in dataset.inputs:
        series, columns = rows[name], dataset.labels.get(name, ())
        # The target's column may be among the inputs, or predicted from others alone.
        if isinstance(series, SlidingWindows) and horizon.column in columns:
            last_values = series.values[
                series.first + series.offsets[-1], columns.index(horizon.column)
            ]
            return np.asarray(last_values)[:, None]
    return None
