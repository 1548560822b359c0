"""Draws the forecasts of a series against what came, and the error at each horizon."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, run_folder, run_reader
from dlrun.core.files import make_file_names
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report.plotting import COLORS, GREY, WIDTH, add_legend_below, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_PLOTS = 3  # horizons of which the course is drawn: the nearest, one amid, the farthest


def draw_forecasts(
    folder: Path,
    results: run_folder.JsonLines,
    config: dict[str, Any],
    only: Collection[str] | None,
) -> list[Path]:
    """Write forecast-<target>-<stage>-<split>.png for each target, stage and split.

    Args:
        folder: The run folder.
        results: Its results.
        config: Its config.
        only: The stages to draw; None: all.
    """
    jobs: dict[tuple[str, str], str] = {}
    run = RunFolder(folder)
    for file in run.list_files(RunFile.FORECAST):
        # A job's name may hold dashes, a split's does not.
        job, _, split = file.stem.rpartition("-")
        family = run_reader.get_family(job)
        if only is None or family in only:
            jobs[family, split] = job  # of several folds the latest in time
    drawn = []
    for family, split in run_reader.select_splits(jobs):
        forecasts = run.read_json(RunFile.FORECAST, job=jobs[family, split], split=split) or {}
        file_names = make_file_names(forecasts)
        for target, forecast in forecasts.items():
            path = folder / f"forecast-{file_names[target]}-{family}-{split}.png"
            drawn.append(
                _draw_forecast(
                    forecast,
                    f"{target}, {family} {split}",
                    config,
                    run_reader.get_data_warning(results),
                    path,
                )
            )
    return drawn


def _draw_forecast(
    forecast: dict[str, Any], title: str, config: dict[str, Any], warning: str, file: Path
) -> Path:
    # Here, because it imports torch, which a report otherwise does not need.
    from dlrun.core.types import horizon_from_dict

    horizon = horizon_from_dict(forecast["outlook"])
    assert horizon is not None
    count = len(horizon.rows)
    # A set: of two horizons the middle one is an end.
    shown_steps = sorted({0, count // 2, count - 1})[:MAX_PLOTS] if count > 1 else [0]
    # One horizon has no error by horizon.
    panels = len(shown_steps) + (count > 1)
    with save_figure(
        file, f"Forecast of {title}", config, warning, height=2.9 * panels + 0.9, width=1.6 * WIDTH
    ) as figure:
        axes = list(figure.subplots(panels, 1, squeeze=False).flat)
        for panel, step in zip(axes, shown_steps, strict=False):
            _draw_lines(panel, forecast, horizon, step)
        if count > 1:
            _draw_step_errors(axes[-1], forecast, horizon)
    return file


def _draw_lines(panel: Axes, forecast: dict[str, Any], horizon: Any, step: int) -> None:
    """Draw one horizon over the moments of the forecasts."""
    moments: list[Any] = [now + horizon.rows[step] * horizon.every for now in forecast["now"]]
    if horizon.dated:
        # Not fromtimestamp, which would shift by the machine's time zone.
        moments = [datetime(1970, 1, 1) + timedelta(seconds=moment) for moment in moments]
    unit = f" {horizon.unit}" if horizon.unit else ""
    lines: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "last": (
            "last value known",
            forecast["last_error"],
            {"color": COLORS[1], "linewidth": 1.0, "alpha": 0.8},
        ),
        "truth": ("truth", None, {"color": GREY, "linewidth": 1.8}),
        "answer": ("forecast", forecast["error"], {"color": COLORS[0], "linewidth": 1.6}),
    }
    for name, (label, error, style) in lines.items():
        if forecast[name] is None:
            continue
        text = (
            f"{label}, off by {formatting.format_number(error[step])}{unit} on average"
            if error
            else label
        )
        panel.plot(moments, [row[step] for row in forecast[name]], label=text, **style)
    panel.set(
        title=f"{horizon.column}, foretold {horizon.rows_to_time(horizon.horizon_rows[step])} "
        "before",
        ylabel=horizon.unit,
    )
    if horizon.dated:
        _label_dates(panel)
    add_legend_below(panel, columns=3)


def _label_dates(panel: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    # More dates would run together.
    locator = AutoDateLocator(minticks=3, maxticks=9)
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _draw_step_errors(panel: Axes, forecast: dict[str, Any], horizon: Any) -> None:
    """Draw the mean absolute error over the whole split by horizon."""
    steps = range(len(horizon.rows))
    panel.plot(steps, forecast["error"], "o-", color=COLORS[0], label="forecast")
    if forecast["last_error"]:
        panel.plot(steps, forecast["last_error"], "o--", color=COLORS[1], label="last value known")
    panel.set(title="mean absolute error by horizon", ylabel=horizon.unit, ylim=(0, None))
    panel.set_xticks(list(steps), [horizon.rows_to_time(rows) for rows in horizon.horizon_rows])
    add_legend_below(panel)
