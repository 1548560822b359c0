"""Metrics of a whole split that are no mean over its rows: F1, areas under curves, R²."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
WeightedMetric = Callable[[Array], float]  # how often each entry counts → the measure
ClassCounts = tuple[
    Array, Array, Array
]  # of each class, or label: predicted rightly, predicted, true
CLASS_METRICS = ("precision", "recall", "f1")


@dataclass(frozen=True)
class SplitMetric:
    """One metric of one kind of target.

    Attributes:
        name: precision, recall, f1, roc_auc, pr_auc or r2.
        kind: The kind of the target.
        average: 'macro', 'micro' or 'weighted', for precision, recall and F1 of several classes.
    """

    name: str
    kind: str
    average: str = ""

    def __call__(self, predictions: Array, targets: Array) -> float:
        """The metric of predictions (n, outputs), probabilities or numbers; nan where undefined."""
        if self.find_fault(predictions, targets):
            return math.nan
        return self.make_row_metric(predictions, targets)(np.arange(len(targets)))

    def find_fault(self, predictions: Array, targets: Array) -> str:
        """Why the metric is undefined on these rows; '' where it is defined."""
        rows = f"all {len(targets):,} rows are" if len(targets) != 1 else "the one row is"
        if not len(targets):
            return "there are no rows"
        # A diverged model: argsort and argmax would give a number all the same.
        if predictions.dtype.kind == "f" and not np.isfinite(predictions).all():
            return "some of the model's predictions are not numbers"
        if self.name == "r2":
            return f"{rows} of one target" if np.ptp(targets.astype(float)) == 0 else ""
        if self.name in CLASS_METRICS:
            return ""
        truth = _get_true_classes(self.kind, predictions, targets)
        present, absent = truth.any(0), ~truth.all(0)
        if self.name == "pr_auc":
            return "" if present.any() else "no row is positive"
        description = "of one class" if self.kind != "multilabel" else "alike in every label"
        return "" if (present & absent).any() else f"{rows} {description}"

    def make_row_metric(self, predictions: Array, targets: Array) -> Callable[[Array], float]:
        """A function from row numbers, which may repeat, to the metric of these rows.

        Sorts once, so that a thousand resamples cost little.
        """
        weighted_metric = self._make_weighted_metric(predictions, targets)
        n = len(targets)
        # A binary row may hold several places, which are drawn together.
        width = 1 if self.kind in ("category", "multilabel") else targets.size // max(1, n)

        def measure(chosen: Array) -> float:
            counts = np.bincount(chosen, minlength=n).astype(float)
            return weighted_metric(np.repeat(counts, width) if width > 1 else counts)

        return measure

    def to_labels(self, predictions: Array) -> Array:
        """The predicted classes where only these count, else the predictions themselves."""
        if self.name not in CLASS_METRICS:
            return predictions
        return predictions.argmax(-1) if self.kind == "category" else predictions > 0.5

    def count_small_class(self, targets: Array) -> int:
        """How many entries the rarer of two classes has; of other kinds, all."""
        if self.kind != "binary":
            return len(targets)
        positive = int((targets > 0.5).sum())
        return min(positive, targets.size - positive)

    def get_cost(self, predictions: Array) -> int:
        """How many numbers one evaluation of the metric goes through."""
        curves = (
            predictions.shape[-1]
            if self.name not in CLASS_METRICS and self.kind != "binary" and predictions.ndim > 1
            else 1
        )
        return len(predictions) * curves

    def _make_weighted_metric(self, predictions: Array, targets: Array) -> WeightedMetric:
        if self.name == "r2":
            return _make_r2(predictions.ravel().astype(float), targets.ravel().astype(float))
        if self.name in CLASS_METRICS:
            totals = self._make_class_counts(self.to_labels(predictions), targets)
            return lambda counts: _average_classes(self.name, self.average, *totals(counts))
        curve = {"roc_auc": _make_roc_auc, "pr_auc": _make_average_precision}[self.name]
        if self.kind == "binary":
            return curve(predictions.ravel(), targets.ravel() > 0.5)
        truth = _get_true_classes(self.kind, predictions, targets)
        curves = [
            curve(class_curve, true)
            for class_curve, true in zip(predictions.T, truth.T, strict=True)
        ]
        return lambda counts: _nan_mean([class_curve(counts) for class_curve in curves])

    def _make_class_counts(self, labels: Array, targets: Array) -> Callable[[Array], ClassCounts]:
        if self.kind == "multilabel":
            predicted, true = labels.astype(float), (targets > 0.5).astype(float)
            hits = predicted * true
            return lambda counts: (counts @ hits, counts @ predicted, counts @ true)
        pair = labels.ravel().astype(int), targets.ravel().astype(int)
        return lambda counts: _count_classes(*pair, counts, binary=self.kind == "binary")


def make_row_metric(
    metric: Callable[[Any, Any], float], predictions: Array, targets: Array
) -> Callable[[Array], float]:
    """Row numbers → the metric of these rows, for dlrun's metrics and for any other."""
    if isinstance(metric, SplitMetric):
        return metric.make_row_metric(predictions, targets)
    return lambda chosen: compute_split_metric(metric, predictions[chosen], targets[chosen])[0]


def compute_split_metric(
    metric: Callable[[Any, Any], float], predictions: Array, targets: Array
) -> tuple[float, str]:
    """The metric of these rows.

    Args:
        metric: A function (predictions, targets) → number, dlrun's or the user's.
        predictions: (n, outputs) probabilities or numbers.
        targets: (n, …).

    Returns:
        The value, or nan, and why there is none.
    """
    fault = "" if len(targets) else "there are no rows"
    if isinstance(metric, SplitMetric):
        fault = metric.find_fault(predictions, targets)
    if fault:
        return math.nan, fault
    try:
        value = float(metric(predictions, targets))
    # A user's function may fail on a fold that lacks a class: that fold has no value, no more.
    except (ValueError, ArithmeticError) as error:
        return math.nan, str(error) or type(error).__name__
    return value, "" if math.isfinite(value) else f"it comes to {value} on these rows"


def _get_true_classes(kind: str, predictions: Array, targets: Array) -> Array:
    """The classes or labels of each row (n, classes); of two classes, the positive one (n, 1)."""
    if kind == "category":
        return targets[:, None] == np.arange(predictions.shape[-1])
    truth: Array = targets.reshape(len(targets), -1) > 0.5
    return truth


def _count_classes(predicted: Array, true: Array, counts: Array, binary: bool) -> ClassCounts:
    """The totals of the classes that occur, in truth or predictions; of two, the positive one."""
    # bincount needs as many classes as the largest number in either.
    size = 2 if binary else 1 + int(max(predicted.max(), true.max()))
    correct = predicted == true
    totals = [
        np.bincount(predicted[correct], counts[correct], size),
        np.bincount(predicted, counts, size),
        np.bincount(true, counts, size),
    ]
    occurs = np.arange(size) == 1 if binary else totals[1] + totals[2] > 0
    return totals[0][occurs], totals[1][occurs], totals[2][occurs]


def _average_classes(
    name: str, average: str, correct: Array, predicted: Array, true: Array
) -> float:
    # The sums of all classes take the place of the classes.
    if average == "micro":
        correct, predicted, true = (
            correct.sum(keepdims=True),
            predicted.sum(keepdims=True),
            true.sum(keepdims=True),
        )
    denominator = {"precision": predicted, "recall": true, "f1": (predicted + true) / 2}[name]
    scores = np.divide(correct, denominator, out=np.zeros(len(correct)), where=denominator > 0)
    if average != "weighted":
        return float(scores.mean())
    return float(scores @ true / true.sum()) if true.any() else 0.0


def _nan_mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _find_tie_bounds(predictions: Array) -> Array:
    """Where each run of equal predictions begins, in sorted predictions."""
    return np.flatnonzero(np.concatenate([[True], predictions[1:] != predictions[:-1]]))


def _make_roc_auc(predictions: Array, true: Array) -> WeightedMetric:
    """How often a positive is predicted higher than a negative (Mann and Whitney 1947)."""
    # Ties share a threshold, and a pair within a tie counts half.
    order = np.argsort(predictions, kind="stable")
    starts, positive = _find_tie_bounds(predictions[order]), true[order].astype(float)

    def area(counts: Array) -> float:
        weights = counts[order]
        positives = np.add.reduceat(weights * positive, starts)
        negatives = np.add.reduceat(weights, starts) - positives
        pairs = positives.sum() * negatives.sum()
        return (
            float(positives @ (np.cumsum(negatives) - negatives / 2) / pairs) if pairs else math.nan
        )

    return area


def _make_average_precision(predictions: Array, true: Array) -> WeightedMetric:
    """Average precision: the precision at each threshold, weighted by the recall that it adds."""
    # From the highest score down, so that each step lowers the threshold.
    order = np.argsort(-predictions, kind="stable")
    starts, positive = _find_tie_bounds(predictions[order]), true[order].astype(float)

    def area(counts: Array) -> float:
        weights = counts[order]
        hits = np.add.reduceat(weights * positive, starts)
        num_predicted = np.cumsum(np.add.reduceat(weights, starts))
        total = hits.sum()
        precision = np.divide(
            np.cumsum(hits),
            num_predicted,
            out=np.zeros(len(num_predicted)),
            where=num_predicted > 0,
        )
        return float(hits @ precision / total) if total else math.nan

    return area


def _make_r2(predictions: Array, targets: Array) -> WeightedMetric:
    squared = (predictions - targets) ** 2

    def share(counts: Array) -> float:
        middle = counts @ targets / counts.sum()
        spread = counts @ (targets - middle) ** 2
        return float(1 - counts @ squared / spread) if spread > 0 else math.nan

    return share
