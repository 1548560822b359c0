"""Scores that are means over rows, with 95 % intervals from sums that were taken on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

# Torch is imported where it computes: comparing runs needs the rules for intervals without it.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dlrun.core.types import Score

MIN_ROWS = 20  # of an interval
NO_INTERVAL = "it has no interval"
NO_VARIATION = "all rows have the same value, so that they say nothing of how others would come out"
NORMAL_QUANTILE = 1.959964  # of 97.5 %: half of a 95 % interval, in standard errors


def check_sample_size(rows: int) -> str:
    """Why there is no interval over so few rows; '' where there is one.

    An interval belongs to one score of one fit over its rows, or to a difference on the same rows:
    how far it could have come out otherwise with other rows. It is not computed over fits.
    """
    subject = "1 row is" if rows == 1 else f"{rows} rows are"
    return (
        f"{subject} too few for an interval: at least {MIN_ROWS} are needed"
        if rows < MIN_ROWS
        else ""
    )


def compute_mean_score(
    total: float,
    squares: float,
    n: int,
    finish: Callable[[float], float] = float,
    goal: str = "min",
) -> Score:
    """The mean of n values with its 95 % interval, from their sums.

    Wilson's interval where every value is 0 or 1 (Wilson 1927), the normal approximation elsewhere.
    `check_sample_size` says when there is no interval.

    Args:
        total: The sum of the values.
        squares: The sum of their squares.
        n: How many values there are, at least one.
        finish: Applied to the mean and to both ends.
        goal: The better direction.
    """
    from dlrun.core.types import Score

    mean = total / n
    if not math.isfinite(mean):
        return Score(math.nan, n=n, goal=goal, why="some rows have no value")
    if why := check_sample_size(n):
        return Score(finish(mean), n=n, goal=goal, why=why)
    if _are_zeros_and_ones(total, squares, mean):
        center, half = _wilson_interval(mean, n)
    else:
        center = mean
        half = NORMAL_QUANTILE * math.sqrt(max(0.0, squares / n - mean * mean) / (n - 1))
        if not half:
            return Score(finish(mean), n=n, goal=goal, why=NO_VARIATION)
    # An error cannot be negative, so neither can the lower end; a log-likelihood can.
    low = center - half if mean < 0 else max(0.0, center - half)
    return Score(finish(mean), finish(low), finish(center + half), n, goal)


def _are_zeros_and_ones(total: float, squares: float, mean: float) -> bool:
    """Whether values can only have been 0 and 1: these alone are their own squares."""
    same = abs(squares - total) < 1e-9 * max(1.0, total)
    return same and 0 <= mean <= 1 and float(total).is_integer()


def _wilson_interval(mean: float, n: int) -> tuple[float, float]:
    """The center and half the width of Wilson's interval of a share."""
    z = NORMAL_QUANTILE
    center = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return center, half


def score_from_rows(values: Tensor, finish: Callable[[float], float] = float) -> Score:
    """The mean of an error, a value from 0 up, of each row (N,), with its 95 % interval."""
    values = values.double()
    total, squares = float(values.sum()), float(values.square().sum())
    return compute_mean_score(total, squares, len(values), finish)


def make_zero_accumulator(count: int, device: torch.device) -> Tensor:
    """Sums and sums of squares on the device, (count, 2) zeros."""
    import torch

    # Double where the device has it: a float32 sum over a million rows loses the last digits.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(count, 2, dtype=dtype, device=device)
