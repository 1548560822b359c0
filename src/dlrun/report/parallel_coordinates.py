"""Draws sweep.png: each job a line through its values to its score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core.formatting import direction_sign, format_number
from dlrun.core.run_folder import RunFolder
from dlrun.report import result_tables
from dlrun.report.plotting import GREY, WARNING_COLOR, save_figure
from dlrun.report.sweep_jobs import (
    JobRow,
    SweepObjective,
    find_best_jobs,
    find_variable_keys,
    get_job_score,
    merge_direction_map,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LOG_SCALE_RATIO = 30  # values above 0 that are so many times apart stand on a logarithmic axis
MAX_LABELS = 12  # at most so many beside one axis
MAX_LABEL_LENGTH = 14  # at most so many of one label
COLORMAP = "viridis"
MAX_OFFSET = 0.06  # of an axis: how far apart jobs with the same value may be drawn


@dataclass(frozen=True)
class AxisScale:
    """One vertical axis.

    Attributes:
        name: The config key, or the metric.
        heights: A job's value → its height, 0 to 1.
        labels: (height, text) beside the axis.
    """

    name: str
    heights: dict[str, float]
    labels: list[tuple[float, str]]


def draw_parallel_coordinates(
    folder: Path, jobs: Sequence[JobRow], objective: SweepObjective
) -> Path | None:
    """Write sweep.png; None for fewer than two jobs with scores and different settings."""
    measure = objective.get_main_metric(jobs)
    drawn_jobs = [
        line
        for line in jobs
        if get_job_score(line, measure) is not None and line.status in ("done", "pruned")
    ]
    keys = find_variable_keys(list(drawn_jobs))
    if len(drawn_jobs) < 2 or not keys:
        return None
    values = [str(get_job_score(line, measure)) for line in drawn_jobs]
    scales = [
        make_axis_scale(key, [line.overrides.get(key, "–") for line in drawn_jobs]) for key in keys
    ]
    scales.append(
        make_axis_scale(
            f"val {measure}", values, -direction_sign(measure, merge_direction_map(jobs))
        )
    )
    best_jobs = find_best_jobs(list(drawn_jobs), objective)[:1]
    # The heading names the task of the first job.
    config = RunFolder(folder / drawn_jobs[0].folder).read_config()
    warning = next((line.note for line in drawn_jobs if line.note), "")
    size: dict[str, Any] = {"height": 4.4, "width": max(5.6, 1.45 * len(scales) + 0.8)}
    with save_figure(
        folder / "sweep.png", f"Sweep of {result_tables.get_task_name(config)}", {}, warning, **size
    ) as figure:
        panel = figure.add_subplot()
        draw_axes(panel, scales)
        draw_job_lines(panel, scales, drawn_jobs, best_jobs)
        caption = _describe_jobs(jobs, drawn_jobs, bool(best_jobs))
        panel.set_title(caption, fontsize=10, color=GREY)
    return folder / "sweep.png"


def _describe_jobs(jobs: Sequence[JobRow], drawn: Sequence[JobRow], has_best: bool) -> str:
    """The line above the axes: how many jobs are shown, and how."""
    num_pruned = sum(line.status == "pruned" for line in drawn)
    num_failed = sum(line.status == "failed" for line in jobs)
    parts = [
        f"{len(drawn)} jobs",
        f"{num_pruned} of them pruned (dashed)" if num_pruned else "",
        f"{num_failed} failed, not shown" if num_failed else "",
        "the best one in red" if has_best else "",
    ]
    return " · ".join(filter(None, parts))


def make_axis_scale(name: str, values: Sequence[str], up: int = 1) -> AxisScale:
    """The axis of these values: numeric, logarithmic where they are far apart, or evenly spaced.

    Args:
        name: The config key, or the metric.
        values: The values as texts.
        up: -1 where less is better, so that what is good stands above.
    """
    texts = list(dict.fromkeys(values))
    numbers = [parse_number(text) for text in texts]
    distinct = sorted({value for value in numbers if value is not None})
    logarithmic = (
        len(distinct) > 1 and distinct[0] > 0 and distinct[-1] / distinct[0] >= LOG_SCALE_RATIO
    )
    # Zero among positive values has no logarithm, and a linear axis would crowd the others.
    mixed = (
        len(distinct) > 1
        and distinct[0] <= 0 < distinct[-1]
        and distinct[-1] / min(v for v in distinct if v > 0) >= 9.99
    )
    if len(distinct) < 2 or None in numbers or mixed:
        # Numbers in their order although they are evenly spaced; words in that of the jobs.
        return _make_even_scale(name, sorted(texts, key=float) if None not in numbers else texts)
    transform = math.log if logarithmic else float
    low, high = transform(distinct[0]), transform(distinct[-1])
    height = lambda value: (  # noqa: E731
        (transform(value) - low) / (high - low)
        if up > 0
        else (high - transform(value)) / (high - low)
    )
    ticks = (
        distinct if len(distinct) <= 6 else get_tick_values(distinct[0], distinct[-1], logarithmic)
    )
    labels = [(height(value), format_tick(value)) for value in ticks]
    return AxisScale(name, {text: height(float(text)) for text in texts}, labels)


def _make_even_scale(name: str, order: list[str]) -> AxisScale:
    """An axis of evenly spaced values, the first one at the bottom."""
    heights = {text: (index + 0.5) / len(order) for index, text in enumerate(order)}
    # As many labels as fit above each other.
    labeled = order[:: -(-len(order) // MAX_LABELS)]
    return AxisScale(name, heights, [(heights[text], truncate_start(text)) for text in labeled])


def parse_number(text: str) -> float | None:
    """The finite number that a text is; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def get_tick_values(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers between two ends: powers of ten, or some five at even distances."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    locator: Any = LogLocator(numticks=8) if logarithmic else MaxNLocator(5)
    ticks = [float(value) for value in locator.tick_values(low, high) if low <= value <= high]
    return ticks if len(ticks) > 1 else [low, high]


def format_tick(value: float) -> str:
    """A number beside an axis."""
    text = f"{value:.3g}"
    return text if "e" in text or len(text) < 7 else format_number(value)


def truncate_start(text: str) -> str:
    """A value in few letters: its end tells more than its beginning."""
    return text if len(text) <= MAX_LABEL_LENGTH else "…" + text[1 - MAX_LABEL_LENGTH :]


def draw_axes(panel: Axes, scales: Sequence[AxisScale]) -> None:
    """Draw the axes with their names below and their values beside them."""
    for index, scale in enumerate(scales):
        panel.axvline(index, color="#222222", linewidth=1, zorder=3)
        for height, text in scale.labels:
            panel.plot(
                [index - 0.02, index + 0.02],
                [height, height],
                color="#222222",
                linewidth=1,
                zorder=3,
            )
            box: dict[str, Any] = {
                "facecolor": "white",
                "alpha": 0.75,
                "linewidth": 0,
                "pad": 0.8,
            }
            panel.text(index + 0.05, height, text, va="center", fontsize=9, bbox=box, zorder=5)
    names = [
        scale.name.replace(".", ".\n", 1) if len(scale.name) > MAX_LABEL_LENGTH else scale.name
        for scale in scales
    ]
    panel.set_xticks(range(len(scales)), names, fontsize=10)
    panel.set_yticks([])
    panel.set_xlim(-0.15, len(scales) - 1 + 0.45)
    panel.set_ylim(-0.04, 1.04)
    panel.grid(False)
    panel.tick_params(length=0)
    for side in ("left", "bottom"):
        panel.spines[side].set_visible(False)


def draw_job_lines(
    panel: Axes, scales: Sequence[AxisScale], jobs: Sequence[JobRow], best_jobs: Sequence[JobRow]
) -> None:
    """Draw the jobs as lines colored by their scores, the best one on top.

    Jobs with the same value are spread a little, in the order of their scores, to be told apart.
    """
    from matplotlib import colormaps

    measure = scales[-1].name.removeprefix("val ")
    # Many lines cover each other: the more, the fainter.
    faint = max(0.35, min(0.9, 12 / len(jobs)))
    for job in sorted(jobs, key=lambda job: scales[-1].heights[str(get_job_score(job, measure))]):
        score = scales[-1].heights[str(get_job_score(job, measure))]
        # The score's own axis and axes of distinct values need no spread.
        spread = {
            scale.name: MAX_OFFSET * (score - 0.5) if len(scale.heights) < len(jobs) else 0
            for scale in scales
        }
        heights = [
            scale.heights[job.overrides.get(scale.name, "–")] + spread[scale.name]
            for scale in scales[:-1]
        ]
        heights.append(score)
        is_best = job in best_jobs
        style: dict[str, Any] = {
            "color": WARNING_COLOR if is_best else colormaps[COLORMAP](0.9 * score)
        }
        style |= (
            {"linewidth": 2.6, "zorder": 4}
            if is_best
            else {"linewidth": 1.3, "alpha": faint, "zorder": 2}
        )
        panel.plot(
            range(len(scales)), heights, linestyle="--" if job.status == "pruned" else "-", **style
        )
