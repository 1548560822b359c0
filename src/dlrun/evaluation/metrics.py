"""Measures of success, exact over any batch size: per-example values are summed, whole-split measures see every row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dlrun.config.compatibility import get_best_constant, get_default_metric_names, get_metric_error
from dlrun.config.constraints import Count, Fraction
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Score
from dlrun.evaluation.bootstrap import NO_VARIATION, check_sample_size
from dlrun.evaluation.split_metrics import FINISHES, SplitMetric

RowFunction = Callable[[Tensor, Tensor], Tensor]
Average = Literal["macro", "micro", "weighted"]


@dataclass(frozen=True)
class Metric:
    """One measure. each: (raw outputs, targets) → values (B,), or whole: (answers, targets of a split) → number.

    goal: which direction is better. finish: applied to the mean (the root of RMSE). constant: of the answers that are
    the same for every row (`models.constant`), the one that is best by it.
    """

    goal: Literal["max", "min"]
    per_row: RowFunction | None = None
    over_split: Callable[[Any, Any], float] | None = None
    finish: Callable[[float], float] = float
    constant: Literal["prior", "median", "yes"] = "prior"


def accuracy(field: Field, *, threshold: Fraction) -> Metric:
    """Share of rows, of labels or of tokens that are right. threshold: probability from which the answer is yes."""
    _check_kind("accuracy", field)
    if field.kind == "tokens":
        return Metric("max", lambda raw, target: (raw.argmax(-1) == target).float().mean(1))
    if field.kind == "category":
        return Metric("max", lambda raw, target: (raw.argmax(-1) == target).float())
    cut = _to_logit(threshold)
    return Metric(
        "max", lambda raw, target: ((raw > cut) == (target > 0.5)).float().flatten(1).mean(1)
    )


def exact_match(field: Field, *, threshold: Fraction) -> Metric:
    """Share of rows whose labels are all right."""
    _check_kind("exact_match", field)
    cut = _to_logit(threshold)
    return Metric("max", lambda raw, target: ((raw > cut) == (target > 0.5)).all(-1).float())


def top_k(field: Field, *, k: Count) -> Metric:
    """Share of rows, or of tokens, whose class is among the k most likely."""
    _check_kind("top_k", field)
    if k > field.size:
        raise ValueError(f"k={k}, but there are only {field.size} classes")
    found = lambda raw, target: (raw.topk(k, -1).indices == target.unsqueeze(-1)).any(-1).float()  # noqa: E731
    return Metric("max", lambda raw, target: found(raw, target).reshape(len(target), -1).mean(1))


def perplexity(field: Field) -> Metric:
    """Among how many equally likely classes, or next tokens, one would be as unsure: e to the mean cross-entropy."""
    _check_kind("perplexity", field)
    return Metric("min", row_cross_entropy, finish=FINISHES["perplexity"])


def bits(field: Field) -> Metric:
    """Mean cross-entropy in bits a row, or a token: how much it takes to write down what the model did not foresee."""
    _check_kind("bits", field)
    return Metric("min", row_cross_entropy, finish=FINISHES["bits"])


def row_cross_entropy(raw: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of each row (B,) from logits (B, …, classes); of several places their mean."""
    right = raw.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return (raw.logsumexp(-1) - right).reshape(len(target), -1).mean(1)


def mae(field: Field) -> Metric:
    """Mean absolute error in the target's own unit; of a series in standard deviations (`mae_unit` is in its unit)."""
    _check_kind("mae", field)
    errors = lambda raw, target: field.prediction_error(raw, target).abs().flatten(1).mean(1)  # noqa: E731
    return Metric("min", errors, constant=get_best_constant("mae", field.kind))


def mse(field: Field) -> Metric:
    """Mean squared error."""
    _check_kind("mse", field)
    return Metric("min", _squared_error(field))


def rmse(field: Field) -> Metric:
    """Root of the mean squared error, in the unit of `mae`."""
    _check_kind("rmse", field)
    return Metric("min", _squared_error(field), finish=FINISHES["rmse"])


def mae_unit(field: Field) -> Metric:
    """Mean absolute error in the target's own unit, such as °C; `mae` itself where nothing was standardised."""
    _check_kind("mae_unit", field)

    def absolute_errors(raw: Tensor, target: Tensor) -> Tensor:
        return (
            (field.to_original_units(raw) - field.to_original_units(target))
            .abs()
            .flatten(1)
            .mean(1)
        )

    return Metric("min", absolute_errors, constant=get_best_constant("mae_unit", field.kind))


def rmse_unit(field: Field) -> Metric:
    """Root of the mean squared error in the target's own unit."""
    _check_kind("rmse_unit", field)

    def squared_errors(raw: Tensor, target: Tensor) -> Tensor:
        return (
            (field.to_original_units(raw) - field.to_original_units(target))
            .square()
            .flatten(1)
            .mean(1)
        )

    return Metric("min", squared_errors, finish=FINISHES["rmse_unit"])


def r2(field: Field) -> Metric:
    """Coefficient of determination: 1 is perfect, 0 is the mean's. nan where the target is one number."""
    return _make_split_metric("r2", field)


def precision(field: Field, *, average: Average) -> Metric:
    """Of those called positive, the share that is; averaged over classes where there are several."""
    return _make_split_metric("precision", field, average)


def recall(field: Field, *, average: Average) -> Metric:
    """Of those that are positive, the share found; averaged over classes where there are several."""
    return _make_split_metric("recall", field, average)


def f1(field: Field, *, average: Average) -> Metric:
    """Harmonic mean of precision and recall; averaged over classes where there are several."""
    return _make_split_metric("f1", field, average)


def roc_auc(field: Field) -> Metric:
    """Area under the ROC curve; each class against the rest, averaged over those that occur. nan if none does."""
    return _make_split_metric("roc_auc", field)


def pr_auc(field: Field) -> Metric:
    """Average precision: area under the precision-recall curve; averaged over the labels that occur."""
    return _make_split_metric("pr_auc", field)


def _make_split_metric(name: str, field: Field, average: str = "") -> Metric:
    _check_kind(name, field)
    return Metric(
        "max",
        over_split=SplitMetric(name, field.kind, average),
        constant=get_best_constant(name, field.kind),
    )


def _squared_error(field: Field) -> RowFunction:
    return lambda raw, target: field.prediction_error(raw, target).square().flatten(1).mean(1)


def _to_logit(threshold: float) -> float:
    if threshold in (0, 1):
        return math.inf if threshold else -math.inf
    return math.log(threshold / (1 - threshold))


def _check_kind(name: str, field: Field) -> None:
    if fault := get_metric_error(name, field.kind):
        raise UserError(fault)


def get_default_metrics(field: Field) -> dict[str, Metric]:
    """The measures of this kind of target when none is asked for."""
    made: dict[str, Callable[[Field], Metric]] = {
        "accuracy": lambda f: accuracy(f, threshold=0.5),
        "mae": mae,
        "rmse": rmse,
        "mae_unit": mae_unit,
        "perplexity": perplexity,
        "bits": bits,
    }
    return {
        name: made[name](field)
        for name in get_default_metric_names(
            field.kind, field.outlook is not None and field.scale is not None
        )
    }


def compute_mean_score(
    total: float,
    squares: float,
    n: int,
    finish: Callable[[float], float] = float,
    goal: str = "min",
) -> Score:
    """The mean of n values with its 95 % interval, from their sum and sum of squares.

    Wilson's interval where every value is 0 or 1 (Wilson 1927), the normal approximation elsewhere. What an interval
    is of, and when there is none, `bootstrap.check_sample_size` says for all.
    """
    mean = total / n
    if not math.isfinite(mean):
        return Score(math.nan, n=n, goal=goal, why="some rows have no value")
    if why := check_sample_size(n):
        return Score(finish(mean), n=n, goal=goal, why=why)
    if (
        abs(squares - total) < 1e-9 * max(1.0, total)
        and 0 <= mean <= 1
        and float(total).is_integer()
    ):
        z = 1.959964
        middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    else:
        middle = mean
        half = 1.959964 * math.sqrt(max(0.0, squares / n - mean * mean) / (n - 1))
        if not half:
            return Score(finish(mean), n=n, goal=goal, why=NO_VARIATION)
    low, high = middle - half if mean < 0 else max(0.0, middle - half), middle + half
    return Score(finish(mean), finish(low), finish(high), n, goal)


def score_from_rows(values: Tensor, finish: Callable[[float], float] = float) -> Score:
    """The mean of an error, a value from 0 up, of each row (N,), with its 95 % interval."""
    values = values.double()
    return compute_mean_score(
        float(values.sum()), float(values.square().sum()), len(values), finish
    )


def get_direction_map(metrics: dict[str, Metric]) -> dict[str, str]:
    """Name → direction of every measure that a row will hold."""
    return {"loss": "min", **{name: metric.goal for name, metric in metrics.items()}}


def make_zero_accumulator(count: int, device: torch.device) -> Tensor:
    """Sums on the device: (count, 2), double where the device can."""
    return torch.zeros(
        count, 2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device
    )
