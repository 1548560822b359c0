"""Measures of a whole split, no mean over its rows (F1, areas under curves, R²), and how other means are finished."""

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
]  # of each class, or label: rightly answered, answered, true
MAX_NATS = 700.0  # nats, whose exponential a float can still hold
FINISHES: dict[str, Callable[[float], float]] = {  # done to the mean of rows
    "rmse": math.sqrt,
    "rmse_unit": math.sqrt,
    "perplexity": lambda nats: math.exp(min(nats, MAX_NATS)),
    "bits": lambda nats: nats / math.log(2),
}
CLASS_METRICS = ("precision", "recall", "f1")
SPLIT_METRICS = (*CLASS_METRICS, "roc_auc", "pr_auc", "r2")


@dataclass(frozen=True)
class SplitMetric:
    """One measure of one kind of target. average: macro, micro or weighted, for the shares of several classes."""

    name: str
    kind: str
    average: str = ""

    def __call__(self, answers: Array, targets: Array) -> float:
        """The measure of answers (n, outputs), as probabilities or numbers; nan where it is not defined."""
        if self.find_fault(answers, targets):
            return math.nan
        return self.make_row_metric(answers, targets)(np.arange(len(targets)))

    def find_fault(self, answers: Array, targets: Array) -> str:
        """Why the measure is not defined on these rows; '' where it is."""
        rows = f"all {len(targets):,} rows are" if len(targets) != 1 else "the one row is"
        if not len(targets):
            return "there are no rows"
        if answers.dtype.kind == "f" and not np.isfinite(answers).all():
            return "some of the model's answers are no numbers"
        if self.name == "r2":
            return f"{rows} of one target" if np.ptp(targets.astype(float)) == 0 else ""
        if self.name in CLASS_METRICS:
            return ""
        truth = _get_true_classes(self.kind, answers, targets)
        there, absent = truth.any(0), ~truth.all(0)
        if self.name == "pr_auc":
            return "" if there.any() else "no row is positive"
        one = "of one class" if self.kind != "multilabel" else "alike in every label"
        return "" if (there & absent).any() else f"{rows} {one}"

    def make_row_metric(self, answers: Array, targets: Array) -> Callable[[Array], float]:
        """Row numbers, which may repeat → the measure of these rows. Sorts once, so that many drawings cost little."""
        counted = self._make_weighted_metric(answers, targets)
        n = len(targets)
        width = 1 if self.kind in ("category", "multilabel") else targets.size // max(1, n)

        def measure(chosen: Array) -> float:
            counts = np.bincount(chosen, minlength=n).astype(float)
            return counted(np.repeat(counts, width) if width > 1 else counts)

        return measure

    def to_labels(self, answers: Array) -> Array:
        """What of the answers matters: the classes that are answered, or the numbers themselves."""
        if self.name not in CLASS_METRICS:
            return answers
        return answers.argmax(-1) if self.kind == "category" else answers > 0.5

    def count_small_class(self, targets: Array) -> int:
        """How many entries have the rarer of two classes; of other kinds, all."""
        if self.kind != "binary":
            return len(targets)
        positive = int((targets > 0.5).sum())
        return min(positive, targets.size - positive)

    def get_cost(self, answers: Array) -> int:
        """How many numbers one taking of the measure goes through."""
        curves = (
            answers.shape[-1]
            if self.name not in CLASS_METRICS and self.kind != "binary" and answers.ndim > 1
            else 1
        )
        return len(answers) * curves

    def _make_weighted_metric(self, answers: Array, targets: Array) -> WeightedMetric:
        if self.name == "r2":
            return _make_r2(answers.ravel().astype(float), targets.ravel().astype(float))
        if self.name in CLASS_METRICS:
            totals = self._make_class_counts(self.to_labels(answers), targets)
            return lambda counts: _average_classes(self.name, self.average, *totals(counts))
        curve = {"roc_auc": _make_roc_auc, "pr_auc": _make_average_precision}[self.name]
        if self.kind == "binary":
            return curve(answers.ravel(), targets.ravel() > 0.5)
        truth = _get_true_classes(self.kind, answers, targets)
        curves = [curve(one, true) for one, true in zip(answers.T, truth.T, strict=True)]
        return lambda counts: _nan_mean([one(counts) for one in curves])

    def _make_class_counts(self, said: Array, targets: Array) -> Callable[[Array], ClassCounts]:
        if self.kind == "multilabel":
            answered, true = said.astype(float), (targets > 0.5).astype(float)
            both = answered * true
            return lambda counts: (counts @ both, counts @ answered, counts @ true)
        pair = said.ravel().astype(int), targets.ravel().astype(int)
        return lambda counts: _count_classes(*pair, counts, binary=self.kind == "binary")


def make_row_metric(
    whole: Callable[[Any, Any], float], answers: Array, targets: Array
) -> Callable[[Array], float]:
    """Row numbers → the measure of these rows, for our own measures and for anybody's (answers, targets) → number."""
    if isinstance(whole, SplitMetric):
        return whole.make_row_metric(answers, targets)
    return lambda chosen: compute_split_metric(whole, answers[chosen], targets[chosen])[0]


def compute_split_metric(
    whole: Callable[[Any, Any], float], answers: Array, targets: Array
) -> tuple[float, str]:
    """The measure of these rows, or nan and why there is none, also where somebody's own function fails on them."""
    fault = (
        whole.find_fault(answers, targets)
        if isinstance(whole, SplitMetric)
        else ""
        if len(targets)
        else "there are no rows"
    )
    if fault:
        return math.nan, fault
    try:
        value = float(whole(answers, targets))
    except (ValueError, ArithmeticError) as error:
        return math.nan, str(error) or type(error).__name__
    return value, "" if math.isfinite(value) else f"it comes to {value} on these rows"


def _get_true_classes(kind: str, answers: Array, targets: Array) -> Array:
    """Which classes, or labels, each row is of (n, classes); of two classes whether it is the positive one (n, 1)."""
    if kind == "category":
        return targets[:, None] == np.arange(answers.shape[-1])
    truth: Array = targets.reshape(len(targets), -1) > 0.5
    return truth


def _count_classes(said: Array, true: Array, counts: Array, binary: bool) -> ClassCounts:
    """The totals of the classes that occur, in truth or answers; of two classes, those of the positive one."""
    size = 2 if binary else 1 + int(max(said.max(), true.max()))
    right = said == true
    totals = [
        np.bincount(said[right], counts[right], size),
        np.bincount(said, counts, size),
        np.bincount(true, counts, size),
    ]
    there = np.arange(size) == 1 if binary else totals[1] + totals[2] > 0
    return totals[0][there], totals[1][there], totals[2][there]


def _average_classes(name: str, average: str, right: Array, said: Array, true: Array) -> float:
    if average == "micro":
        right, said, true = (
            right.sum(keepdims=True),
            said.sum(keepdims=True),
            true.sum(keepdims=True),
        )
    below = {"precision": said, "recall": true, "f1": (said + true) / 2}[name]
    each = np.divide(right, below, out=np.zeros(len(right)), where=below > 0)
    if average != "weighted":
        return float(each.mean())
    return float(each @ true / true.sum()) if true.any() else 0.0


def _nan_mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _find_tie_bounds(answers: Array) -> Array:
    """Where each run of equal answers begins, in sorted answers."""
    return np.flatnonzero(np.concatenate([[True], answers[1:] != answers[:-1]]))


def _make_roc_auc(answers: Array, true: Array) -> WeightedMetric:
    """Area under the ROC curve: how often a positive is answered higher than a negative (Mann and Whitney 1947)."""
    order = np.argsort(answers, kind="stable")
    starts, positive = _find_tie_bounds(answers[order]), true[order].astype(float)

    def area(counts: Array) -> float:
        weights = counts[order]
        above = np.add.reduceat(weights * positive, starts)
        below = np.add.reduceat(weights, starts) - above
        pairs = above.sum() * below.sum()
        return float(above @ (np.cumsum(below) - below / 2) / pairs) if pairs else math.nan

    return area


def _make_average_precision(answers: Array, true: Array) -> WeightedMetric:
    """Average precision: the precision at each threshold, weighted by the recall that it adds."""
    order = np.argsort(-answers, kind="stable")
    starts, positive = _find_tie_bounds(answers[order]), true[order].astype(float)

    def area(counts: Array) -> float:
        weights = counts[order]
        added = np.add.reduceat(weights * positive, starts)
        called = np.cumsum(np.add.reduceat(weights, starts))
        total = added.sum()
        precision = np.divide(np.cumsum(added), called, out=np.zeros(len(called)), where=called > 0)
        return float(added @ precision / total) if total else math.nan

    return area


def _make_r2(answers: Array, targets: Array) -> WeightedMetric:
    squared = (answers - targets) ** 2

    def share(counts: Array) -> float:
        middle = counts @ targets / counts.sum()
        spread = counts @ (targets - middle) ** 2
        return float(1 - counts @ squared / spread) if spread > 0 else math.nan

    return share
