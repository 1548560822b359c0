"""One loss by epoch, read so that noise is not taken for a trend."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

MIN_VALUES = 5  # with fewer, noise cannot be told from a trend

# A change counts when it exceeds all three:
MIN_RELATIVE_CHANGE = 0.05  # of the level
MIN_INITIAL_CHANGE = 0.005  # of the loss that the fit began with, so that nothing near zero counts
NOISE_FACTOR = 2.5  # standard deviations of the epochs' noise

# A last value alone is weaker evidence, so that more is asked of it:
MIN_RELATIVE_INCREASE = 0.1  # of the level
MIN_NOISE_INCREASE = 5  # standard deviations of the noise


class LossCurve:
    """One loss by epoch, smoothed, with its noise and its level at the end.

    Attributes:
        epochs: The epochs, from 1.
        values: The loss at each of them, as measured.
        width: How many epochs the running mean covers; 1 for short curves.
        smooth: The running mean of the running median of `values`.
        noise: The standard deviation from epoch to epoch; 0 for fewer than five values.
        tail_count: How many of the last values the final level is the median of.
    """

    def __init__(self, epochs: list[int], values: list[float]) -> None:
        self.epochs, self.values = epochs, values
        # Short curves stay as they are; longer ones are smoothed over a tenth of their epochs.
        self.width = 1 if len(values) < 30 else 2 * (len(values) // 20) + 1
        self.smooth = running_mean(running_median(values), self.width)
        self.noise = estimate_noise(values)
        self.tail_count = max(self.width, 2 if len(values) < MIN_VALUES else 3)

    @property
    def final_level(self) -> float:
        """The level at the end."""
        return self.tail_median(self.tail_count)

    def tail_median(self, count: int) -> float:
        """The median of the last `count` values, the lower of two middle ones.

        One blip at the end is no rise.
        """
        return sorted(self.values[-count:])[(min(count, len(self.values)) - 1) // 2]

    @property
    def best_index(self) -> int:
        """The index of the lowest value, noise aside."""
        lowest = min(range(len(self.smooth)), key=self.smooth.__getitem__)
        # Unsmoothed, the lowest value itself may lie beside the running median's.
        if self.width > 1:
            return lowest
        near = range(max(0, lowest - 1), min(len(self.values), lowest + 2))
        return min(near, key=self.values.__getitem__)

    def format_at(self, index: int) -> str:
        """The value at an index as a text may state it: smoothed where the curve is."""
        return format_loss(self.values[index] if self.width == 1 else self.smooth[index])

    @property
    def final_increase(self) -> float:
        """How far the last value lies above the lowest, noise aside; 0 where that is not clear."""
        low = min(self.smooth)
        least = max(
            MIN_RELATIVE_INCREASE * abs(low),
            MIN_INITIAL_CHANGE * abs(self.values[0]),
            MIN_NOISE_INCREASE * self.noise,
        )
        if self.values[-1] - low <= least:
            return 0.0
        return self.values[-1] - low

    @property
    def oscillation_rate(self) -> float:
        """The share of epochs after the first third that are peaks or troughs."""
        later = self.values[len(self.values) // 3 :]
        pairs = list(zip(later, later[1:], later[2:], strict=False))
        return sum((b - a) * (c - b) < 0 for a, b, c in pairs) / max(1, len(pairs))

    def is_significant(self, change: float, level: float, start: float, count: int) -> bool:
        """Whether a change is more than noise.

        Args:
            change: From a smooth level to the median of `count` epochs.
            level: The level that it is measured against.
            start: The loss that the fit began with.
            count: How many epochs the median is of.
        """
        # Of a smooth value (a median of 3 has 0.45) and of a median, in units of the noise.
        variance = 1 / max(2, self.width) + math.pi / 2 / count
        return change > max(
            MIN_RELATIVE_CHANGE * abs(level),
            MIN_INITIAL_CHANGE * abs(start),
            NOISE_FACTOR * self.noise * math.sqrt(variance),
        )


def get_metric_series(
    entries: list[dict[str, Any]], split: str, name: str
) -> tuple[list[int], list[float]]:
    """Epochs and values of one metric on one split.

    Args:
        entries: Rows of the history, as dicts.
        split: 'train' or 'val'.
        name: The metric, or 'loss'.

    Returns:
        Epochs and values of the rows that have it; a value that is null in the file is nan.
    """
    rows = [row for row in entries if row["split"] == split and name in row["values"]]
    values = (row["values"][name] for row in rows)
    return [row["epoch"] for row in rows], [
        math.nan if value is None else float(value) for value in values
    ]


def make_loss_curve(entries: list[dict[str, Any]], split: str) -> LossCurve | None:
    """The loss on one split; None when it was never measured."""
    epochs, values = get_metric_series(entries, split, "loss")
    return LossCurve(epochs, values) if values else None


def running_median(values: list[float]) -> list[float]:
    """Medians of three neighbors, which leave no single blip; fewer than five values stay."""
    if len(values) < MIN_VALUES:
        return values
    last = len(values) - 1
    return [
        median(values[min(max(i - 1, 0), last - 2) : min(max(i - 1, 0), last - 2) + 3])
        for i in range(last + 1)
    ]


def running_mean(values: list[float], width: int) -> list[float]:
    """Means of `width` neighbors, of fewer at the ends."""
    reach = width // 2
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def estimate_noise(values: list[float]) -> float:
    """The standard deviation from epoch to epoch; 0 for fewer than five values.

    Distances from the median of three neighbors: a slope has none, a single blip has one. Three in
    four of them are below 0.93 standard deviations where all is noise.
    """
    if len(values) < MIN_VALUES:
        return 0.0
    distances = sorted(
        abs(value - middle)
        for value, middle in zip(values[1:], running_median(values)[1:-1], strict=False)
    )
    return distances[3 * (len(distances) - 1) // 4] / 0.93


def format_loss(value: float) -> str:
    """A loss in three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
