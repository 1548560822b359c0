"""What all figures share, and the plots of predictions against the truth."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import run_folder, run_reader
from dlrun.core.files import convert_write_errors, make_file_names
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import result_tables

if TYPE_CHECKING:
    import numpy as np
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
        run_title = result_tables.get_run_title(config)
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


CLASSES = ("binary", "category")
NUMBERS = ("number", "fraction")
POINTS = 5000  # of a scatter plot: more cover each other
CLASSES_WITH_COUNTS = 60  # in more classes, cells are smaller than their numbers
CLASSES_WITH_NAMES = 120


def load_by_family(
    folder: Path, only: Collection[str] | None = None
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Load the predictions of a run by family of jobs.

    Args:
        folder: The run folder.
        only: The families to read; None: all.

    Returns:
        (family, split) → 'target/<name>' and 'output/<name>', each row once: the folds of a family
        one after the other, of several repeats the first.
    """
    import numpy as np

    families: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    run = RunFolder(folder)
    for file in run.list_files(RunFile.PREDICTIONS):
        job, _, split = file.stem.rpartition("-")
        # Repeats predict the same rows again: together they would count each row twice.
        if "repeat-" in job or (only is not None and run_reader.get_family(job) not in only):
            continue
        arrays = {
            name: array
            for name, array in run.read_predictions(job, split).items()
            if name.startswith(("target/", "output/"))
        }
        families.setdefault((run_reader.get_family(job), split), []).append(arrays)
    return {
        key: {name: np.concatenate([fold[name] for fold in folds]) for name in folds[0]}
        for key, folds in families.items()
    }


def count_confusion(truth: np.ndarray, output: np.ndarray, kind: str, size: int = 0) -> np.ndarray:
    """Counts of (true class, predicted class).

    Args:
        truth: (n,) class numbers.
        output: (n, classes) probabilities, of a binary target (n, 1) of the positive class.
        kind: 'category' or 'binary'.
        size: How many classes at least.
    """
    import numpy as np

    true = truth.reshape(len(truth)).astype(int)
    predicted = (
        (output.reshape(len(true)) > 0.5).astype(int) if kind == "binary" else output.argmax(-1)
    )
    # Classes that never occur keep their row and column.
    size = max(size, 2) if kind == "binary" else max(size, output.shape[-1])
    return np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)


def draw_matrix(
    counts: np.ndarray,
    labels: list[str],
    title: str,
    config: dict[str, Any],
    warning: str,
    file: Path,
) -> Path:
    """Write a confusion matrix: colors are shares of the true class, numbers are rows."""
    size = len(counts)
    # Without a name for each class, numbers stand for them.
    labels = [str(label) for label in (labels if len(labels) == size else range(size))]
    # A class without rows has a row of zeros, not of nan.
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    # Cells shrink with many classes, and the figure stays below 18 inches.
    side = min(max(4.2, 0.5 * size if size <= 12 else 2.5 + 0.3 * size), 18)
    layout: dict[str, Any] = {
        "height": side + 0.1,
        "width": max(side + 1.2, WIDTH),
        "dpi": 150 if size <= 12 else 110,
    }
    with save_figure(file, title, config, warning, **layout) as figure:
        axes = figure.subplots()
        style: dict[str, Any] = {"cmap": "Blues", "interpolation": "nearest", "aspect": "auto"}
        image = axes.imshow(shares, vmin=0, vmax=1, **style)
        bar: dict[str, Any] = {"shrink": 0.7, "fraction": 0.6 / side, "pad": 0.02}
        figure.colorbar(image, ax=axes, label="share of the true class", **bar)
        axes.set(xlabel="predicted", ylabel="true (rows)")
        axes.grid(visible=False)
        if size <= CLASSES_WITH_NAMES:
            _write_names(axes, labels, counts.sum(1).tolist())
        if size <= CLASSES_WITH_COUNTS:
            _write_counts(axes, counts, shares)
    return file


def draw_residuals(
    truth: np.ndarray,
    predicted: np.ndarray,
    title: str,
    config: dict[str, Any],
    warning: str,
    file: Path,
) -> Path:
    """Write two panels: predicted against true, and predicted - true against predicted."""
    import numpy as np

    truth, predicted = truth.ravel(), predicted.ravel()
    error = predicted - truth
    summary = f"mean error {error.mean():.3g}, mean absolute error {abs(error).mean():.3g}"
    if len(truth) > POINTS:
        # Evenly spaced instead of random, so that the figure is the same each time.
        indices = np.linspace(0, len(truth) - 1, POINTS).astype(int)
        truth, predicted = truth[indices], predicted[indices]
    with save_figure(file, title, config, warning, height=7.4, width=WIDTH) as figure:
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 2))
        ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
        # The diagonal spans predictions too, which may lie outside the truth.
        upper.plot(ends, ends, "--", color=GREY, linewidth=1.4)
        upper.set(
            xlabel="true", ylabel="predicted", title="predicted against true; dashed: no error"
        )
        lower.axhline(0, linestyle="--", color=GREY, linewidth=1.4)
        lower.set(xlabel="predicted", ylabel="predicted - true", title=summary)
        _draw_points(upper, truth, predicted)
        _draw_points(lower, predicted, predicted - truth)
    return file


def draw_predictions(
    folder: Path,
    results: run_folder.JsonLines,
    config: dict[str, Any],
    only: Collection[str] | None = None,
) -> list[Path]:
    """Write a figure for each target of classes or numbers, family of jobs, and split."""
    warning = run_reader.get_data_warning(results)
    fields = run_reader.read_targets(folder)
    file_names = make_file_names(fields)
    predictions = load_by_family(folder, only) if fields else {}
    files = []
    for (family, split), target in product(run_reader.select_splits(predictions), fields):
        truth, output = (
            predictions[family, split].get(f"{group}/{target}") for group in ("target", "output")
        )
        # A fit on other targets, or a split without rows, has nothing to draw.
        if truth is None or output is None or not len(truth):
            continue
        suffix = f"{file_names[target]}-{family}-{split}.png"
        title = f"{target}, {split} of {family}{format_seed_note(results, family)}"
        kind, labels = fields[target]["kind"], list(fields[target].get("labels") or ())
        if kind in CLASSES:
            counts = count_confusion(truth, output, kind, len(labels))
            files.append(
                draw_matrix(counts, labels, title, config, warning, folder / f"confusion-{suffix}")
            )
        elif kind in NUMBERS:
            files.append(
                draw_residuals(
                    truth, output, title, config, warning, folder / f"residuals-{suffix}"
                )
            )
    return files


def format_seed_note(results: run_folder.JsonLines, family: str) -> str:
    """The remark on a figure that shows one of several repeats."""
    repeats = {
        line["job"].get("repeat") or 0
        for line in results
        if run_reader.get_family(line["name"]) == family
    }
    return f" (the first of {len(repeats)} repeats)" if len(repeats) > 1 else ""


def _draw_points(panel: Axes, across: np.ndarray, up: np.ndarray) -> None:
    panel.scatter(
        across, up, s=14 if len(up) < 1000 else 5, alpha=0.45, color=COLORS[0], linewidths=0
    )


def _write_names(axes: Axes, labels: list[str], totals: list[int]) -> None:
    size = len(labels)
    fontsize = 10 if size <= 12 else 9
    if size > CLASSES_WITH_COUNTS:
        fontsize = 7  # only names are left in so large a matrix
    rows = [f"{label} ({total:,})" for label, total in zip(labels, totals, strict=True)]
    axes.set_xticks(
        range(size),
        labels,
        rotation=0 if max(map(len, labels)) * size < 40 else 90,
        fontsize=fontsize,
    )
    axes.set_yticks(range(size), rows, fontsize=fontsize)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    size = len(counts)
    # Numbers must fit into cells that shrink.
    letters = 10 if size <= 12 else max(6.5, 9.5 - 0.04 * size)
    for row, column in zip(*counts.nonzero(), strict=True):
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": letters}
        # Readable on both ends of the color map.
        color = "white" if shares[row, column] > 0.55 else "#333333"
        axes.text(column, row, f"{counts[row, column]:,}", color=color, **style)
