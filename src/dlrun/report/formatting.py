"""Writes metrics as text, and sums them up over folds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dlrun.core import json_text
from dlrun.core.formatting import format_number
from dlrun.core.measure_names import get_direction

if TYPE_CHECKING:
    from dlrun.evaluation.bootstrap import Interval


Scores = dict[str, dict[str, Any]]


def format_score(score: dict[str, Any] | None) -> str:
    """A score with its 95 % interval, where it has one."""
    if not score:
        return ""
    return format_interval(
        json_text.number_from_json(score.get("value")), score.get("low"), score.get("high")
    )


def get_metric_labels(scores: list[Scores]) -> dict[str, str]:
    """Metric → what its row is called.

    Those in the target's own unit come first; a metric that equals the loss takes the loss's place.
    """
    names = list(dict.fromkeys(name for score in scores for name in score))
    unit_names = [name for name in names if name.endswith("_unit")]
    loss_names = [
        name
        for name in names
        if name not in ("loss", *unit_names) and _is_close(scores, name, "loss")
    ]
    # A metric that is the loss stands for it, so that no row comes twice.
    order = [name for name in (*unit_names, *names) if not (name == "loss" and loss_names)]
    return {
        name: f"{name} (the loss)" if name in loss_names[:1] else name
        for name in dict.fromkeys(order)
    }


def _is_close(scores: list[Scores], name: str, other_name: str) -> bool:
    first, second = get_metric_values(scores, name), get_metric_values(scores, other_name)
    # Equal up to rounding: the loss is summed in batches, the metric over rows.
    return len(first) == len(second) > 0 and all(
        abs(a - b) <= 1e-9 * abs(a) for a, b in zip(first, second, strict=True)
    )


def get_interval_heading(several: bool, scores: list[Scores]) -> str:
    """What stands beside the values of a column: a deviation over fits, or an interval."""
    if several:
        return "mean ± sd"
    has_interval = any(
        score.get("low") is not None
        for score_by_metric in scores
        for score in score_by_metric.values()
    )
    return "95 % interval" if has_interval else ""


def format_interval(value: float, low: float | None, high: float | None) -> str:
    """'0.8821 [0.8780, 0.8861]', or the value alone where there is no interval."""
    if low is None or high is None:
        return format_number(value)
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"


def format_mean_std(mean: float | None, deviation: float | None) -> str:
    """A mean with its standard deviation, which has as many decimals."""
    text = format_number(mean)
    if deviation is None or mean is None or not math.isfinite(mean):
        return text
    # Digits of the deviation beyond those of the mean would be noise.
    decimals = len(text.partition(".")[2])
    return f"{text} ± {format_number(deviation) if 'e' in text else f'{deviation:.{decimals}f}'}"


def get_metric_values(scores: list[Scores], measure: str) -> list[float]:
    """The values of one metric over several results; nan where it is undefined (JSON null)."""
    return [
        json_text.number_from_json(score[measure].get("value"))
        for score in scores
        if measure in score
    ]


def mean_and_std(numbers: list[float]) -> tuple[float | None, float | None]:
    """The mean and the standard deviation (n - 1) of the numbers that are defined.

    The mean is nan where none is defined, and None of no numbers; the deviation needs two.
    """
    defined = [value for value in numbers if not math.isnan(value)]
    if not defined:
        # None: not measured. nan: measured and undefined.
        return (math.nan if numbers else None), None
    # fsum, so that the order of the folds does not matter.
    mean = math.fsum(defined) / len(defined)
    if len(defined) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in defined) / (len(defined) - 1))


def format_defined_count(numbers: list[float]) -> str:
    """'mean of 3 of 4 fits' where a metric is undefined for some of them; else ''."""
    defined = sum(not math.isnan(value) for value in numbers)
    return f"mean of {defined} of {len(numbers)} fits" if 0 < defined < len(numbers) else ""


def format_over_folds(scores: list[Scores], measure: str) -> str:
    """One score with its interval, or mean ± deviation over folds."""
    if len(scores) == 1:
        return format_score(scores[0].get(measure))
    values = get_metric_values(scores, measure)
    return " · ".join(
        filter(None, (format_mean_std(*mean_and_std(values)), format_defined_count(values)))
    )


def describe_difference(measure: str, interval: Interval, goals: Mapping[str, str]) -> str:
    """A difference in words: how much, on how many rows, and whether it is more than chance."""
    sign = "+" if interval.value > 0 else ""
    label = f"{measure} (less is better)" if get_direction(measure, goals) == "min" else measure
    bounds = (
        ""
        if interval.low is None
        else f" [{format_number(interval.low)}, {format_number(interval.high)}]"
    )
    text = (
        f"{label} {sign}{format_number(interval.value)}{bounds} on the same {interval.n:,} "
        "validation rows: "
    )
    if interval.why:
        return text + interval.why
    if interval.is_nonzero:
        return text + "the difference is real (95 % interval excludes zero)"
    return text + "it may be chance (95 % interval includes zero)"
