"""How a measure is written, which way it is better, and what several folds of it come to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dlrun.figures import lower_is_better, number

if TYPE_CHECKING:
    from dlrun.bootstrap import Interval

__all__ = ["lower_is_better", "number"]

Scores = dict[str, dict[str, Any]]


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


def said(measure: str, found: Interval) -> str:
    """A difference in words: how much, on how many rows, and whether it is more than chance."""
    sign = "+" if found.value > 0 else ""
    what = f"{measure} (less is better)" if lower_is_better(measure) else measure
    ends = "" if found.low is None else f" [{number(found.low)}, {number(found.high)}]"
    text = f"{what} {sign}{number(found.value)}{ends} on the same {found.n:,} validation rows: "
    if found.why:
        return text + found.why
    if found.real:
        return text + "the difference is real (95 % interval excludes zero)"
    return text + "it may be chance (95 % interval includes zero)"
