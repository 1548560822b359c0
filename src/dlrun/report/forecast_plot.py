"""Draws what was foretold of a series against what came, and the error at each horizon."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, run_reader, stored_files
from dlrun.core.files import make_file_names
from dlrun.report.plotting import COLORS, GREY, WIDTH, add_legend_below, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_PLOTS = 3  # horizons of which the course is drawn: the nearest, one amid, the farthest
CAPTION = (
    "The first days of the split: what came, what was foretold for that moment, and the last value that was known when "
    "it was foretold, which costs nothing; the errors are over the whole split."
)


def draw_forecasts(
    folder: Path,
    results: run_reader.JsonLines,
    config: dict[str, Any],
    only: Collection[str] | None,
) -> list[Path]:
    """A picture for each target, stage and split: forecast-<target>-<stage>-<split>.png. only: the stages to draw."""
    found: dict[tuple[str, str], Path] = {}
    for file in sorted((folder / "forecast").glob("*-*.json")):
        job, _, split = file.stem.rpartition("-")
        family = run_reader.get_family(job)
        if only is None or family in only:
            found[family, split] = file  # of several folds the latest in time
    drawn = []
    for family, split in run_reader.select_splits(found):
        about_all = stored_files.load_json_or_none(found[family, split]) or {}
        named = make_file_names(about_all)
        for target, about in about_all.items():
            place = folder / f"forecast-{named[target]}-{family}-{split}.png"
            drawn.append(
                _draw_forecast(
                    about,
                    f"{target}, {family} {split}",
                    config,
                    run_reader.get_data_warning(results),
                    place,
                )
            )
    return drawn


def _draw_forecast(
    about: dict[str, Any], what: str, config: dict[str, Any], warning: str, file: Path
) -> Path:
    from dlrun.core.types import horizon_from_dict

    ahead = horizon_from_dict(about["outlook"])
    assert ahead is not None
    count = len(ahead.rows)
    chosen = sorted({0, count // 2, count - 1})[:MAX_PLOTS] if count > 1 else [0]
    panels = len(chosen) + (count > 1)
    with save_figure(
        file, f"Forecast of {what}", config, warning, height=2.9 * panels + 0.9, width=1.6 * WIDTH
    ) as figure:
        axes = list(figure.subplots(panels, 1, squeeze=False).flat)
        for panel, place in zip(axes, chosen, strict=False):
            _draw_lines(panel, about, ahead, place)
        if count > 1:
            _draw_step_errors(axes[-1], about, ahead)
    return file


def _draw_lines(panel: Axes, about: dict[str, Any], ahead: Any, place: int) -> None:
    """One horizon: lines over the moments that were foretold."""
    moments = [now + ahead.rows[place] * ahead.every for now in about["now"]]
    when: Any = (
        [datetime(1970, 1, 1) + timedelta(seconds=moment) for moment in moments]
        if ahead.dated
        else moments
    )
    unit = f" {ahead.unit}" if ahead.unit else ""
    looks: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "last": (
            "last value known",
            about["last_error"],
            {"color": COLORS[1], "linewidth": 1.0, "alpha": 0.8},
        ),
        "truth": ("truth", None, {"color": GREY, "linewidth": 1.8}),
        "answer": ("forecast", about["error"], {"color": COLORS[0], "linewidth": 1.6}),
    }
    for name, (called, error, look) in looks.items():
        if about[name] is None:
            continue
        said = (
            f"{called}, off by {formatting.format_number(error[place])}{unit} on average"
            if error
            else called
        )
        panel.plot(when, [row[place] for row in about[name]], label=said, **look)
    panel.set(
        title=f"{ahead.column}, foretold {ahead.rows_to_time(ahead.horizon_rows[place])} before",
        ylabel=ahead.unit,
    )
    if ahead.dated:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=3, maxticks=9)
        panel.xaxis.set_major_locator(locator)
        panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    add_legend_below(panel, columns=3)


def _draw_step_errors(panel: Axes, about: dict[str, Any], ahead: Any) -> None:
    """The mean absolute error over the whole split, the farther the later."""
    places = range(len(ahead.rows))
    panel.plot(places, about["error"], "o-", color=COLORS[0], label="forecast")
    if about["last_error"]:
        panel.plot(places, about["last_error"], "o--", color=COLORS[1], label="last value known")
    panel.set(title="mean absolute error by horizon", ylabel=ahead.unit, ylim=(0, None))
    panel.set_xticks(list(places), [ahead.rows_to_time(rows) for rows in ahead.horizon_rows])
    add_legend_below(panel)
