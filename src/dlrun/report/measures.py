"""How a measure is written, which way it is better, and what several folds of it come to."""

from __future__ import annotations

import math
import re
from typing import Any

Scores = dict[str, dict[str, Any]]
LOWER = {"loss", "mae", "mse", "rmse", "perplexity", "error"}


def lower_is_better(measure: str) -> bool:
    """Whether less of this measure is better: losses and errors ('loss', 'loss_generator', 'price_mae')."""
    return not LOWER.isdisjoint(re.split(r"[^a-z0-9]+", measure.lower()))


def number(value: float | None) -> str:
    """Four significant figures at least, and no needless exponent: 0.8891, 12.35, 5.2e-05."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 100000 or 0 < size < 0.0001:
        return f"{value:.3g}"
    return f"{value:.4f}" if size < 10 else f"{value:.{max(0, 6 - len(str(int(size))) - 1)}f}"


def score_text(score: dict[str, Any] | None) -> str:
    """A score with its 95 % interval, where it has one."""
    if not score:
        return ""
    if score.get("low") is None or score.get("high") is None:
        return number(score["value"])
    return f"{number(score['value'])} [{number(score['low'])}, {number(score['high'])}]"


def spread_text(mean: float | None, deviation: float | None) -> str:
    """A mean with its standard deviation, which has as many decimals."""
    text = number(mean)
    if deviation is None:
        return text
    decimals = len(text.partition(".")[2])
    return f"{text} ± {number(deviation) if 'e' in text else f'{deviation:.{decimals}f}'}"


def values(scores: list[Scores], measure: str) -> list[float]:
    """The values of one measure over several results; NaN where it could not be taken (JSON null)."""
    found = [score[measure].get("value") for score in scores if measure in score]
    return [math.nan if value is None else float(value) for value in found]


def mean_and_deviation(numbers: list[float]) -> tuple[float | None, float | None]:
    """The mean, and the standard deviation (n - 1) where there are at least two."""
    if not numbers:
        return None, None
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1))


def over_folds(scores: list[Scores], measure: str) -> str:
    """One score with its interval, or mean ± deviation over folds."""
    if len(scores) == 1:
        return score_text(scores[0].get(measure))
    return spread_text(*mean_and_deviation(values(scores, measure)))
