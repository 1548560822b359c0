"""What all figures share: size, fonts, colors, heading, and a legend that covers no curve."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core.files import convert_write_errors
from dlrun.report import naming

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDTH = 5.6  # inches: narrow, so that a phone shows readable letters

# Okabe and Ito's palette, which color-blind readers can tell apart:
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#6b6b6b"
WARNING_COLOR = "#b00020"
LETTERS_PER_INCH = 11  # of a heading, for each inch
STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "text.parse_math": False,  # a column may be called $price$
}
OUTLIER_RATIO = (
    4  # times the range of what comes later: first epochs as far off as that are cut off
)
MAX_LINES = 4  # of a heading
MAX_NAME_LENGTH = 60  # of a name in a panel's title
Curve = dict[int, float]  # epoch → value


def truncate_name(name: str) -> str:
    """A name from data; a long one without its end."""
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


@contextmanager
def save_figure(
    file: Path,
    title: str,
    config: dict[str, Any],
    warning: str,
    *,
    height: float,
    width: float,
    dpi: int = 150,
) -> Iterator[Figure]:
    """A figure to draw on, which gets its heading and is written when the block ends.

    Args:
        file: Where to write.
        title: What the figure shows; task and model of the config follow it.
        config: The run's config.
        warning: Where it is not '', the heading is red and names synthetic data.
        height: In inches.
        width: In inches.
        dpi: Pixels an inch.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=dpi)
        # No pyplot: it keeps global state and may look for a display.
        FigureCanvasAgg(figure)
        yield figure
        run_title = naming.get_run_title(config)
        lines = textwrap.wrap(
            f"{title}: {run_title}" if run_title else title, round(width * LETTERS_PER_INCH)
        )
        # A name from data may be of any length, and must not push the figure off the page.
        lines = lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "…"]
        if warning:
            lines.insert(0, "SYNTHETIC DATA")
        style: dict[str, Any] = {"color": WARNING_COLOR, "weight": "bold"} if warning else {}
        figure.suptitle("\n".join(lines), fontsize=12, x=0.01, ha="left", **style)
        with convert_write_errors(file):
            figure.savefig(file)


def add_legend_below(panel: Axes, columns: int = 2) -> None:
    """Put the names of a panel's curves under its axis."""
    if panel.get_legend_handles_labels()[0]:
        panel.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.2),
            ncols=columns,
            borderaxespad=0,
            columnspacing=1.2,
        )


def use_integer_epochs(panel: Axes) -> None:
    """Label the axis with whole epochs."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def get_value_range(curves: Iterable[Curve]) -> tuple[float, float] | None:
    """The range of values to show, with a margin; None when no value is finite.

    The first tenth of the epochs is left out where it lies far off: the book, §3.7, drops the first
    ten points for the same reason.
    """
    import math

    curves = list(curves)
    points = [
        (epoch / max(curve), value)
        for curve in curves
        for epoch, value in curve.items()
        if math.isfinite(value)
    ]
    later = [value for position, value in points if position > 0.1] or [
        value for _, value in points
    ]
    if not later:
        return None
    low, high = min(later), max(later)
    lowest, highest = min(value for _, value in points), max(value for _, value in points)
    if highest - lowest <= OUTLIER_RATIO * (high - low):
        low, high = lowest, highest
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin
