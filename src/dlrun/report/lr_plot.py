"""Draws a learning-rate range test: the loss of each step over its rate, and the suggested rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.report.plotting import COLORS, GREY, WIDTH, add_legend_below, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# A share of the fall that is shown above the first loss; the divergence at the end leaves the axis.
LOSS_MARGIN = 0.4


def draw_lr_plot(record: dict[str, Any], config: dict[str, Any], file: Path) -> Path:
    """Write the figure of the record in lr.json."""
    title, warning = "Learning-rate range test", record["note"] if record["synthetic"] else ""
    with save_figure(file, title, config, warning, height=4.2, width=WIDTH) as figure:
        panel = figure.subplots()
        panel.plot(
            record["rates"],
            record["losses"],
            color=COLORS[0],
            alpha=0.3,
            linewidth=1,
            label="loss of a step",
        )
        panel.plot(
            record["rates"], record["smoothed"], color=COLORS[0], linewidth=2, label="smoothed"
        )
        panel.set(ylabel="training loss", ylim=get_loss_range(record))
        format_rate_axis(panel, record["rates"])
        draw_suggestion(panel, record)
        add_legend_below(panel)
    return file


def draw_suggestion(panel: Axes, record: dict[str, Any]) -> None:
    """Draw a line at the suggestion, and points at the steepest and at the lowest loss."""
    if record["rate"] is None:
        return
    suggestion = f"suggestion: {record['rate']:.2g}"
    panel.axvline(record["rate"], color=COLORS[1], linestyle="--", linewidth=1.6, label=suggestion)
    for name, marker in (("steepest", "v"), ("lowest", "o")):
        rate = record[name]
        # The suggestion is read off the smoothed curve, so its points lie there.
        height = record["smoothed"][record["rates"].index(rate)]
        panel.plot(
            [rate],
            [height],
            marker,
            color=GREY,
            ms=7,
            mfc="white",
            mew=2,
            zorder=5,
            label=f"{name}: {rate:.2g}",
        )


def format_rate_axis(panel: Axes, rates: list[float]) -> None:
    """Make the axis logarithmic, with plain numbers, more of them where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set(xscale="log", xlabel="learning rate")
    panel.xaxis.set_major_locator(
        LogLocator(subs=(1,) if rates[-1] > 100 * rates[0] else (1, 2, 5))
    )
    panel.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    # matplotlib labels minor ticks where an axis is short, over the major ones.
    panel.xaxis.set_minor_formatter(NullFormatter())


def get_loss_range(record: dict[str, Any]) -> tuple[float, float]:
    """The losses to show: from the lowest of a step to somewhat above the first smoothed one."""
    low, first = min(record["losses"]), record["smoothed"][0]
    # A loss that never falls, or is 0, still needs an axis.
    span = (first - low) or abs(first) or 1.0
    return low - 0.05 * span, first + LOSS_MARGIN * span
