"""Draws every stage as a dot with its interval beside the baseline, the winner in orange."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, run_folder, run_reader
from dlrun.report import workflow_stages
from dlrun.report.plotting import COLORS, GREY, OUTLIER_RATIO, WIDTH, save_figure
from dlrun.report.result_tables import STAR

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_STAGES = 24  # stages in one figure; of more, the best of the search
BLUE, WINNER_COLOR = COLORS[0], COLORS[1]
Dot = tuple[float, float | None, float | None]  # score, and the ends of its whisker


def draw_score_plot(
    results: run_folder.JsonLines, steps: run_folder.JsonLines, config: dict[str, Any], file: Path
) -> Path | None:
    """Write the figure; None when no stage has a score."""
    measure = workflow_stages.get_main_metric(steps, results)
    winner = workflow_stages.find_best_stage(steps)
    dots = collect_dots(results, measure)
    baseline = dots.pop(
        workflow_stages.CONSTANT_STAGE,
        (workflow_stages.get_baseline_score(results, measure), None, None),
    )
    lower_is_better = (
        formatting.get_direction(measure, run_reader.read_direction_map(results)) == "min"
    )
    dots = select_dots(dots, winner, 1 if lower_is_better else -1)
    if not dots:
        return None
    height = 1.5 + 0.27 * (len(dots) + 1)
    warning = run_reader.get_data_warning(results)
    with save_figure(
        file, "Baseline and models", config, warning, height=height, width=WIDTH
    ) as figure:
        panel = figure.subplots()
        _draw_dots(panel, dots, winner)
        _draw_baseline(panel, *baseline)
        better = "less" if lower_is_better else "more"
        whiskers = _describe_whiskers(results, dots)
        panel.set_xlabel(f"validation {measure} ({whiskers}{better} is better)", fontsize=10)
    return file


def _describe_whiskers(results: run_folder.JsonLines, dots: dict[str, Dot]) -> str:
    """What the whiskers mean, for the label of the axis; '' where there are none."""
    fits = max(map(len, workflow_stages.group_by_stage(results).values()))
    if fits > 1:
        return f"mean ± sd of {fits} fits; "
    return "95 % interval; " if any(low is not None for _, low, _ in dots.values()) else ""


def collect_dots(results: run_folder.JsonLines, measure: str) -> dict[str, Dot]:
    """Stage → its dot; stages of which a fit has no finite score are left out."""
    dots: dict[str, Dot] = {}
    for stage, lines in workflow_stages.group_by_stage(results).items():
        scores = [line.get("scores") or {} for line in lines]
        value, low, high = workflow_stages.get_score_range(scores, measure)
        # A mean over the folds that survived would look too good.
        if value is not None and math.isfinite(value) and all(measure in score for score in scores):
            dots[stage] = (value, low, high)
    return dots


def select_dots(dots: dict[str, Dot], winner: str, sign: int) -> dict[str, Dot]:
    """As many stages as there is room for: all but the worst of the search.

    Args:
        dots: Stage → its dot.
        winner: The stage that is kept in any case.
        sign: 1 where less is better, else -1.
    """
    # Stages of the workflow's own steps are few and all wanted; the search may have hundreds.
    searched = sorted(
        (name for name in dots if name.startswith("search-")), key=lambda name: sign * dots[name][0]
    )
    surplus = max(0, len(dots) - MAX_STAGES)
    dropped = (
        {name for name in searched[len(searched) - surplus :] if name != winner}
        if surplus
        else set()
    )
    return {name: dot for name, dot in dots.items() if name not in dropped}


def _draw_dots(panel: Axes, dots: dict[str, Dot], winner: str) -> None:
    for row, (name, (value, low, high)) in enumerate(dots.items(), 1):
        color = WINNER_COLOR if name == winner else BLUE
        if low is not None and high is not None:
            panel.plot([low, high], [row, row], color=color, linewidth=2.2, solid_capstyle="butt")
        panel.plot([value], [row], "D" if name == winner else "o", color=color, markersize=7)
    names = [f"{name} {STAR}" if name == winner else name for name in dots]
    panel.set_yticks(range(len(dots) + 1), [workflow_stages.CONSTANT_STAGE, *names], fontsize=10)
    # From the top, in the order of the table.
    panel.set_ylim(len(dots) + 0.6, -0.6)
    panel.tick_params(axis="y", length=0)
    if winner in dots:
        label = panel.get_yticklabels()[list(dots).index(winner) + 1]
        label.set(color=WINNER_COLOR, fontweight="bold")
    # More ticks would run together in so narrow a figure.
    panel.locator_params(axis="x", nbins=5)


def _draw_baseline(panel: Axes, value: float | None, low: float | None, high: float | None) -> None:
    """Draw the baseline as a dashed line, or as an arrow where it lies far off."""
    if value is None or not math.isfinite(value):
        return
    left, right = panel.get_xlim()
    style: dict[str, Any] = {"va": "center", "fontsize": 10, "color": GREY}
    if max(left - value, value - right) <= OUTLIER_RATIO * (right - left):
        panel.axvline(value, color=GREY, linestyle="--", linewidth=1.4)
        panel.plot([value], [0], "s", color=GREY, markersize=7)
        if low is not None and high is not None:
            panel.plot([low, high], [0, 0], color=GREY, linewidth=2.2, solid_capstyle="butt")
        return
    text, side = formatting.format_number(value), "left" if value < left else "right"
    arrow = f"◀ {text}, far to the left" if side == "left" else f"{text}, far to the right ▶"
    panel.text(
        0.01 if side == "left" else 0.99,
        0,
        arrow,
        ha=side,
        transform=panel.get_yaxis_transform(),
        **style,
    )
