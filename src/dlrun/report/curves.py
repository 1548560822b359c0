"""Draws the learning curves of a run: one panel a measure, training dotted and validation solid."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.report import measures, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#c8501e", "#2e8540", "#7b4fa3", "#8c6d1f", "#1a8a94")
GREY = "#777777"
PANELS_A_ROW = 3
FAR = 4  # heights of the curves
Curve = dict[int, float]  # epoch → value


def draw(history: read.Lines, results: read.Lines, config: dict[str, Any], file: Path) -> Path | None:
    """Write the picture; None when there is nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in history for name in row["values"]))
    if not names:
        return None
    columns = min(len(names), PANELS_A_ROW)
    height = -(-len(names) // columns)
    figure = Figure(figsize=(max(5.0 * columns, 6.5), 3.8 * height + 0.7), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(height, columns, squeeze=False).flat)
    for name, panel in zip(names, axes, strict=False):
        _panel(panel, name, history, results)
    for panel in axes[len(names) :]:
        panel.set_axis_off()
    title(figure, "Learning curves", config, read.warning_of(results))
    figure.savefig(file)
    return file


def title(figure: Figure, what: str, config: dict[str, Any], warning: str) -> None:
    """Head a picture with task and model, and stamp it where its data is made up."""
    parts = (read.name_of_task(config), read.name_of_model(config))
    figure.suptitle(f"{what}: {' · '.join(filter(None, parts))}", fontsize=12, x=0.01, ha="left")
    if warning:
        place: dict[str, Any] = {"x": 0.99, "y": 0.985, "ha": "right", "va": "top", "weight": "bold"}
        figure.text(**place, s="SYNTHETIC DATA", fontsize=10, color="#b00020", bbox={"fc": "white", "ec": "#b00020"})


def curves(history: read.Lines, measure: str, split: str) -> dict[str, dict[str, Curve]]:
    """Family → job → curve of one measure on one split; folds are one family."""
    found: dict[str, dict[str, Curve]] = {}
    for row in history:
        value = row["values"].get(measure)
        if row["split"] == split and value is not None:
            found.setdefault(read.family(row["job"]), {}).setdefault(row["job"], {})[row["epoch"]] = value
    return found


def mean_curve(several: list[Curve]) -> Curve:
    """The mean over folds, epoch by epoch, as far as every fold goes."""
    shared = sorted(set.intersection(*(set(curve) for curve in several))) if several else []
    return {epoch: math.fsum(curve[epoch] for curve in several) / len(several) for epoch in shared}


def best_epoch(curve: Curve, measure: str) -> int | None:
    """Where a curve is at its best; None when it holds no number."""
    finite = {epoch: value for epoch, value in curve.items() if math.isfinite(value)}
    if not finite:
        return None
    return (min if measures.lower_is_better(measure) else max)(finite, key=lambda epoch: finite[epoch])


def _panel(panel: Axes, measure: str, history: read.Lines, results: read.Lines) -> None:
    from matplotlib.ticker import MaxNLocator

    families = list(dict.fromkeys(read.family(row["job"]) for row in history))
    by_split = {split: curves(history, measure, split) for split in ("train", "val")}
    several = len(families) > 1
    for position, family in enumerate(families):
        colour = COLOURS[position % len(COLOURS)]
        for split, style in (("train", ":"), ("val", "-")):
            of_jobs = by_split[split].get(family, {})
            label = f"{family} {split}" if several or family == "folds" else split
            _lines(panel, list(of_jobs.values()), colour, style, label)
        _mark_best(panel, measure, by_split["val"].get(family, {}), results, colour)
    _baseline(panel, measure, results)
    panel.set(title=measure, xlabel="epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")


def _lines(panel: Axes, several: list[Curve], colour: str, style: str, label: str) -> None:
    if not several:
        return
    main = several[0] if len(several) == 1 else mean_curve(several)
    if len(several) > 1:
        label = f"{label} (mean of {len(several)})"
        for curve in several:
            panel.plot(list(curve), list(curve.values()), color=colour, linestyle=style, linewidth=0.7, alpha=0.45)
    marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(main) == 1 else {}
    panel.plot(list(main), list(main.values()), color=colour, linestyle=style, linewidth=2, label=label, **marker)


def _mark_best(panel: Axes, measure: str, of_jobs: dict[str, Curve], results: read.Lines, colour: str) -> None:
    """A ring at the epoch whose checkpoint was kept; over folds, where their mean is best."""
    if not of_jobs:
        return
    if len(of_jobs) == 1:
        (job, curve), *_ = of_jobs.items()
        named = [
            re.search(r"best.*epoch (\d+)", str(line.get("checkpoint"))) for line in results if line["name"] == job
        ]
        epoch = next((int(match[1]) for match in named if match), None) or best_epoch(curve, measure)
    else:
        curve = mean_curve(list(of_jobs.values()))
        epoch = best_epoch(curve, measure)
    if epoch in curve and math.isfinite(curve[epoch]):
        label = f"epoch {epoch}: {measures.number(curve[epoch])}"
        panel.plot([epoch], [curve[epoch]], "o", color=colour, mfc="white", mew=2, ms=8, zorder=5, label=label)


def _baseline(panel: Axes, measure: str, results: read.Lines) -> None:
    """A dashed line; where it lies so far off that the curves would be squeezed flat, only its number."""
    known = [line.get("baseline") or {} for line in results if line["split"] == "val"]
    mean, _ = measures.mean_and_deviation(measures.values(known, measure))
    if mean is None or not math.isfinite(mean):
        return
    low, high = panel.get_ylim()
    away = max(low - mean, mean - high, 0)
    look: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.3}
    if away > FAR * (high - low):
        panel.plot([], [], **look, label=f"baseline {measures.number(mean)} ({'below' if mean < low else 'above'})")
    else:
        panel.axhline(mean, **look, label=f"baseline {measures.number(mean)}")
