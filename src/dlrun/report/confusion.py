"""Draws what was answered against what is true: a confusion matrix for classes, residuals for numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.report import read
from dlrun.report.curves import title

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLASSES = ("binary", "category")
NUMBERS = ("number", "fraction")
POINTS = 5000
CLASSES_WITH_COUNTS = 60
CLASSES_WITH_NAMES = 120


def predictions(folder: Path) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """(family, split) → "target/<name>" and "output/<name>" of all rows; the folds of a family are laid together."""
    import numpy as np

    parts: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for file in sorted((folder / "predictions").glob("*-*.npz")):
        job, _, split = file.stem.rpartition("-")
        with np.load(file, allow_pickle=False) as arrays:
            parts.setdefault((read.family(job), split), []).append(dict(arrays))
    return {key: {name: np.concatenate([p[name] for p in some]) for name in some[0]} for key, some in parts.items()}


def matrix(truth: np.ndarray, output: np.ndarray, kind: str, size: int = 0) -> np.ndarray:
    """Counts (true class, answered class); a probability above one half answers 'yes'."""
    import numpy as np

    true = truth.reshape(len(truth)).astype(int)
    answer = (output.reshape(len(true)) > 0.5).astype(int) if kind == "binary" else output.argmax(-1)
    size = max(size, 2) if kind == "binary" else max(size, output.shape[-1])
    return np.bincount(true * size + answer, minlength=size * size).reshape(size, size)


def draw_matrix(
    counts: np.ndarray, labels: list[str], what: str, config: dict[str, Any], warning: str, file: Path
) -> Path:
    """Write a confusion matrix: colours are shares of the true class, numbers are rows of the split."""
    size = len(counts)
    labels = [str(label) for label in labels] if len(labels) == size else [str(number) for number in range(size)]
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    side = min(max(4.2, 0.62 * size if size <= 12 else 2.5 + 0.3 * size), 18)
    figure = _figure(side + 1.4, side if size > 12 else side + 0.7)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.7, fraction=0.6 / side, pad=0.02, label="share of the true class")
    axes.set(xlabel="answered", ylabel="true (rows)")
    if size <= CLASSES_WITH_NAMES:
        small = 9 if size <= 60 else 7
        rows = [f"{label} ({total:,})" for label, total in zip(labels, counts.sum(1), strict=True)]
        axes.set_xticks(range(size), labels, rotation=0 if max(map(len, labels)) * size < 40 else 90, fontsize=small)
        axes.set_yticks(range(size), rows, fontsize=small)
    if size <= CLASSES_WITH_COUNTS:
        _write_counts(axes, counts, shares)
    title(figure, what, config, warning)
    figure.savefig(file)
    return file


def draw_residuals(
    truth: np.ndarray, answer: np.ndarray, what: str, config: dict[str, Any], warning: str, file: Path
) -> Path:
    """Write two panels: predicted against true, and the residuals (predicted - true) against predicted."""
    import numpy as np

    truth, answer = truth.ravel(), answer.ravel()
    error = answer - truth
    about = f"mean error {error.mean():.3g}, mean absolute error {abs(error).mean():.3g}"
    if len(truth) > POINTS:
        chosen = np.linspace(0, len(truth) - 1, POINTS).astype(int)
        truth, answer = truth[chosen], answer[chosen]
    figure = _figure(10, 4.9)
    left, right = figure.subplots(1, 2)
    ends = [min(truth.min(), answer.min()), max(truth.max(), answer.max())]
    left.plot(ends, ends, "--", color="#777777", linewidth=1.2, label="predicted = true")
    left.set(xlabel="true", ylabel="predicted", title="predicted against true")
    left.legend(fontsize=8, frameon=False)
    right.axhline(0, linestyle="--", color="#777777", linewidth=1.2)
    right.set(xlabel="predicted", ylabel="predicted - true", title=about)
    _points(left, truth, answer)
    _points(right, answer, answer - truth)
    title(figure, what, config, warning)
    figure.savefig(file)
    return file


def draw_all(folder: Path, results: read.Lines, config: dict[str, Any]) -> list[Path]:
    """One picture for each target, family of jobs, and split; targets of other kinds have none."""
    warning = read.warning_of(results)
    fields = read.targets(folder)
    files = []
    for (family, split), arrays in predictions(folder).items() if fields else ():
        for target, about in fields.items():
            truth, output = arrays.get(f"target/{target}"), arrays.get(f"output/{target}")
            if truth is None or output is None or not len(truth):
                continue
            end = f"{target}-{family}-{split}.png"
            what = f"{target}, {split} of {family}"
            if about["kind"] in CLASSES:
                labels = list(about.get("labels") or ())
                counts = matrix(truth, output, about["kind"], len(labels))
                files.append(draw_matrix(counts, labels, what, config, warning, folder / f"confusion-{end}"))
            elif about["kind"] in NUMBERS:
                files.append(draw_residuals(truth, output, what, config, warning, folder / f"residuals-{end}"))
    return files


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def _points(panel: Axes, across: np.ndarray, up: np.ndarray) -> None:
    panel.scatter(across, up, s=14 if len(up) < 1000 else 5, alpha=0.45, color="#1f5fa8", linewidths=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.title.set_fontsize(10)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    size = len(counts)
    letters = 9 if size <= 12 else max(6.5, 9.5 - 0.04 * size)
    for row, column in zip(*counts.nonzero(), strict=True):
        place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": letters}
        colour = "white" if shares[row, column] > 0.55 else "#333333"
        axes.text(column, row, f"{counts[row, column]:,}", color=colour, **place)
