"""One loss by epoch, read so that noise is not taken for a trend: smoothed, with its noise and its level at the end."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

CLEAR = 0.05  # a change counts from this share of the level,
FEW = 5  # values; with fewer there is no telling noise from a trend
SMALL = 0.005  # and from this share of the loss that the fit began with, so that nothing near zero counts,
RISEN, ALONE = 0.1, 5  # so much for a last value alone: a share of the level, standard deviations of the noise
NOISE = 2.5  # and from so many standard deviations of the epochs' noise


class Curve:
    """One loss by epoch: as measured, smoothed, its noise, and its level at the end."""

    def __init__(self, epochs: list[int], values: list[float]) -> None:
        self.epochs, self.values = epochs, values
        self.width = 1 if len(values) < 30 else 2 * (len(values) // 20) + 1
        self.smooth = running_mean(running_median(values), self.width)
        self.noise = noise(values)
        self.few = max(self.width, 2 if len(values) < FEW else 3)

    @property
    def late(self) -> float:
        """The level at the end."""
        return self.end(self.few)

    def end(self, count: int) -> float:
        """The median of the last `count` values, the lower of two middle ones: one blip at the end is no rise."""
        return sorted(self.values[-count:])[(min(count, len(self.values)) - 1) // 2]

    @property
    def best(self) -> int:
        """The index of the lowest value, noise aside."""
        lowest = min(range(len(self.smooth)), key=self.smooth.__getitem__)
        if self.width > 1:
            return lowest
        near = range(max(0, lowest - 1), min(len(self.values), lowest + 2))
        return min(near, key=self.values.__getitem__)

    def shown(self, index: int) -> str:
        """The value at an index as a text may state it: as measured, or smoothed where the curve is."""
        return number(self.values[index] if self.width == 1 else self.smooth[index])

    @property
    def rise(self) -> float:
        """How far the last value lies above the lowest, noise aside; 0 where that is not clear."""
        low = min(self.smooth)
        least = max(RISEN * abs(low), SMALL * abs(self.values[0]), ALONE * self.noise)
        if self.values[-1] - low <= least:
            return 0.0
        return self.values[-1] - low

    @property
    def turns(self) -> float:
        """The share of epochs, the first third aside, that are higher or lower than both neighbours."""
        later = self.values[len(self.values) // 3 :]
        pairs = list(zip(later, later[1:], later[2:], strict=False))
        return sum((b - a) * (c - b) < 0 for a, b, c in pairs) / max(1, len(pairs))

    def clearly(self, change: float, level: float, start: float, count: int) -> bool:
        """Whether a change from this smooth level to the median of `count` epochs is more than noise."""
        variance = 1 / max(2, self.width) + math.pi / 2 / count  # of a smooth value (a median of 3: 0.45), of a median
        return change > max(CLEAR * abs(level), SMALL * abs(start), NOISE * self.noise * math.sqrt(variance))


def series(entries: list[dict[str, Any]], split: str, name: str) -> tuple[list[int], list[float]]:
    """Epochs and values of one measure on one split; entries without it are left out, a value that is none is nan."""
    found = [row for row in entries if row["split"] == split and name in row["values"]]
    values = (row["values"][name] for row in found)
    return [row["epoch"] for row in found], [math.nan if value is None else float(value) for value in values]


def curve(entries: list[dict[str, Any]], split: str) -> Curve | None:
    """The loss on one split; None when it was never measured."""
    epochs, values = series(entries, split, "loss")
    return Curve(epochs, values) if values else None


def running_median(values: list[float]) -> list[float]:
    """Medians of three neighbours, which leave no single blip; fewer than five values stay as they are."""
    if len(values) < FEW:
        return values
    last = len(values) - 1
    return [median(values[min(max(i - 1, 0), last - 2) : min(max(i - 1, 0), last - 2) + 3]) for i in range(last + 1)]


def running_mean(values: list[float], width: int) -> list[float]:
    """Means of `width` neighbours, of fewer at the ends."""
    reach = width // 2
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def noise(values: list[float]) -> float:
    """The standard deviation of what is not smooth; 0 for fewer than five values.

    Distances from the median of three neighbours: a slope has none, a single blip has one. Three in four of them are
    below 0.93 standard deviations where all is noise.
    """
    if len(values) < FEW:
        return 0.0
    away = sorted(abs(value - middle) for value, middle in zip(values[1:], running_median(values)[1:-1], strict=False))
    return away[3 * (len(away) - 1) // 4] / 0.93


def number(value: float) -> str:
    """A loss in three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
