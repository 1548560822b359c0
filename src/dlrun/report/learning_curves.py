"""Draws learning curves: one panel a metric, training dotted and validation solid."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, run_folder, run_reader
from dlrun.report import result_tables
from dlrun.report.plotting import (
    COLORS,
    GREY,
    WIDTH,
    Curve,
    add_legend_below,
    get_value_range,
    save_figure,
    truncate_name,
    use_integer_epochs,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


RING_NOTE = "the ring is the epoch that was kept, over several fits the best of their mean."


def draw_learning_curves(
    history: run_folder.JsonLines,
    results: run_folder.JsonLines,
    config: dict[str, Any],
    file: Path,
    *,
    only: Collection[str] | None,
) -> Path | None:
    """Write the learning curves.

    Args:
        history: The rows of history.jsonl.
        results: The lines of results.jsonl.
        config: The run's config.
        file: Where to write.
        only: The families of jobs to show; None: all.

    Returns:
        The file; None when there is nothing to draw.
    """
    rows = [row for row in history if only is None or run_reader.get_family(row["job"]) in only]
    names = list(dict.fromkeys(name for row in rows for name in row["values"]))
    if not names:
        return None
    families = len({run_reader.get_family(row["job"]) for row in rows})
    # Two lines of legend for each family, below each panel.
    height = (2.9 + 0.35 * families) * len(names) + 0.5
    with save_figure(
        file,
        "Learning curves",
        config,
        run_reader.get_data_warning(results),
        height=height,
        width=WIDTH,
    ) as figure:
        for name, panel in zip(
            names, figure.subplots(len(names), 1, squeeze=False).flat, strict=True
        ):
            _draw_panel(panel, name, rows, results)
    return file


def collect_curves(
    history: run_folder.JsonLines, measure: str, split: str
) -> dict[str, dict[str, Curve]]:
    """Family → job → curve of one metric on one split; folds are one family."""
    curves: dict[str, dict[str, Curve]] = {}
    for row in history:
        value = row["values"].get(measure)
        if row["split"] == split and value is not None:
            curves.setdefault(run_reader.get_family(row["job"]), {}).setdefault(row["job"], {})[
                row["epoch"]
            ] = value
    return curves


def compute_mean_curve(several: list[Curve]) -> Curve:
    """The mean over folds, epoch by epoch, as far as every fold goes."""
    # Early stopping ends folds at different epochs; a mean of fewer would jump there.
    shared = sorted(set.intersection(*(set(curve) for curve in several))) if several else []
    return {epoch: math.fsum(curve[epoch] for curve in several) / len(several) for epoch in shared}


def find_curve_best(curve: Curve, goal: str) -> int | None:
    """The best epoch of a curve, for goal 'min' or 'max'; None when no value is finite."""
    finite = {epoch: value for epoch, value in curve.items() if math.isfinite(value)}
    if not finite:
        return None
    return (min if goal == "min" else max)(finite, key=lambda epoch: finite[epoch])


def get_checkpoint_epoch(results: run_folder.JsonLines, job: str) -> int | None:
    """The epoch whose weights were kept and scored; None where none was selected."""
    matches = [
        # results.jsonl tells the checkpoint in words, such as 'best, epoch 12'.
        re.search(r"best.*epoch (\d+)", str(line.get("checkpoint")))
        for line in results
        if line["name"] == job
    ]
    return next((int(match[1]) for match in matches if match), None)


def _draw_panel(
    panel: Axes, measure: str, history: run_folder.JsonLines, results: run_folder.JsonLines
) -> None:
    families = list(dict.fromkeys(run_reader.get_family(row["job"]) for row in history))
    by_split = {split: collect_curves(history, measure, split) for split in ("train", "val")}
    multiple = len(families) > 1
    for position, family in enumerate(families):
        # Colors repeat after six families; the legend still names each.
        color = COLORS[position % len(COLORS)]
        for split, style in (("train", ":"), ("val", "-")):
            curves = by_split[split].get(family, {})
            label = f"{family} {split}" if multiple or family == "folds" else split
            _draw_lines(panel, list(curves.values()), color, style, label)
        prefix = f"{family}, " if multiple else ""
        _mark_best(
            panel,
            measure,
            by_split["val"].get(family, {}),
            results,
            {"color": color, "label": prefix},
        )
    limits = get_value_range(
        curve for split in by_split.values() for jobs in split.values() for curve in jobs.values()
    )
    panel.set(title=truncate_name(measure), ylim=limits)
    _draw_baseline(panel, measure, results)
    use_integer_epochs(panel)
    add_legend_below(panel)


def _draw_lines(panel: Axes, curves: list[Curve], color: str, style: str, label: str) -> None:
    if not curves:
        return
    main = curves[0] if len(curves) == 1 else compute_mean_curve(curves)
    if len(curves) > 1:
        label = f"{label} (mean of {len(curves)})"
        for curve in curves:
            panel.plot(
                list(curve),
                list(curve.values()),
                color=color,
                linestyle=style,
                linewidth=0.7,
                alpha=0.45,
            )
    # A line of one point is invisible.
    marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(main) == 1 else {}
    panel.plot(
        list(main),
        list(main.values()),
        color=color,
        linestyle=style,
        linewidth=2,
        label=label,
        **marker,
    )


def _mark_best(
    panel: Axes,
    measure: str,
    curves: dict[str, Curve],
    results: run_folder.JsonLines,
    style: dict[str, Any],
) -> None:
    """Draw a ring at the epoch of the checkpoint; over folds, where their mean is best."""
    if not curves:
        return
    goal = formatting.get_direction(measure, run_reader.read_direction_map(results))
    if len(curves) == 1:
        (job, curve), *_ = curves.items()
        # The kept epoch may be chosen by another metric than this panel's.
        epoch = get_checkpoint_epoch(results, job) or find_curve_best(curve, goal)
    else:
        curve = compute_mean_curve(list(curves.values()))
        epoch = find_curve_best(curve, goal)
    if epoch in curve and math.isfinite(curve[epoch]):
        style["label"] += f"epoch {epoch}: {formatting.format_number(curve[epoch])}"
        panel.plot([epoch], [curve[epoch]], "o", mfc="white", mew=2, ms=8, zorder=5, **style)


def _draw_baseline(panel: Axes, measure: str, results: run_folder.JsonLines) -> None:
    """Draw a dashed line; only its number where it would squeeze the curves flat."""
    baselines = [line.get("baseline") or {} for line in results if line["split"] == "val"]
    mean, _ = result_tables.mean_and_std(result_tables.get_metric_values(baselines, measure))
    if mean is None or not math.isfinite(mean):
        return
    low, high = panel.get_ylim()
    distance = max(low - mean, mean - high)
    style: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.4}
    # An axis down to a far baseline would squeeze the curves flat: its number must do.
    if distance > high - low:
        panel.plot(
            [],
            [],
            **style,
            label=f"baseline {formatting.format_number(mean)} "
            f"({'below' if mean < low else 'above'})",
        )
        return
    panel.axhline(mean, **style, label=f"baseline {formatting.format_number(mean)}")
    margin = 0.05 * (high - low) if distance > 0 else 0
    panel.set_ylim(min(low, mean - margin), max(high, mean + margin))
