"""What a fit foretold of a series, beside the truth and the last value: forecast/<job>-<split>.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.core import json_text
from dlrun.core.dataset import Raw, Rows, Windowed
from dlrun.core.files import write_text
from dlrun.core.types import DAY, Outlook

DAYS, LEAST, MOST = 10, 300, 1500  # days that are kept; rows at least, and at most
CAUTION = "neighbouring windows are alike, so the 95 % intervals are narrower than they should be"


def write(
    folder: Path,
    job: str,
    split: str,
    raw: Raw,
    rows: Rows,
    indices: np.ndarray,
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Path | None:
    """Write the first days of a split, and the mean error at each horizon over all of it; None for other data.

    rows: raw columns. indices: (n,) the row of `rows` that each answer is for. answers: target → (answers, truths)
    (n, horizons) in the target's own unit. Of each target: outlook, now (moments), truth, answer, last, and error,
    last_error by horizon; `last`, the last value that the window holds, is null where the input lacks the column.
    """
    found = {name: _one(raw, rows, indices, ahead, *answers[name]) for name, ahead in raw.outlook.items()}
    if not found:
        return None
    path = folder / "forecast" / f"{job}-{split}.json"
    write_text(path, json_text.text(found) + "\n")
    return path


def _one(
    raw: Raw, rows: Rows, indices: np.ndarray, ahead: Outlook, answer: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    assert raw.order is not None
    now = np.asarray(rows[raw.order])[indices]
    order = np.argsort(now, kind="stable")
    kept = order[_first(now[order], ahead)]
    last = last_values(raw, rows, ahead)
    parts = {"truth": truth, "answer": answer} | (
        {} if last is None else {"last": last[indices].repeat(truth.shape[1], 1)}
    )
    shown = {name: np.round(values[kept].astype(float), 6).tolist() for name, values in parts.items()}
    error = {name: np.abs(values - truth).mean(0).tolist() for name, values in parts.items() if name != "truth"}
    about = {"outlook": ahead.plain(), "rows": len(now), "now": now[kept].tolist(), "last": None, **shown}
    return about | {"error": error["answer"], "last_error": error.get("last")}


def _first(now: np.ndarray, ahead: Outlook) -> np.ndarray:
    """The places of the first days, not more than can be drawn."""
    count = int(np.searchsorted(now, now[0] + DAYS * DAY)) if ahead.dated else LEAST
    count = min(len(now), max(count, LEAST))
    return np.arange(0, count, max(1, -(-count // MOST)))


def last_values(raw: Raw, rows: Rows, ahead: Outlook) -> np.ndarray | None:
    """(N, 1) the last value of the target's own column in each window; None where no input holds that column."""
    for name in raw.inputs:
        series, columns = rows[name], raw.labels.get(name, ())
        if isinstance(series, Windowed) and ahead.column in columns:
            found = series.values[series.first + series.offsets[-1], columns.index(ahead.column)]
            return np.asarray(found)[:, None]
    return None


def notes(raw: Raw) -> list[str]:
    """What stands beside the scores of a series: the unit of measures in the target's own, and a caution."""
    units = [f"{name} in {ahead.unit}" for name, ahead in raw.outlook.items() if ahead.unit]
    told = [f"mae_unit: {', '.join(units)}"] if units else []
    return [*told, CAUTION] if raw.outlook else []
