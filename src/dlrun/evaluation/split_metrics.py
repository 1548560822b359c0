"""Measures of a whole split, no mean over its rows (F1, areas under curves, R²), and how other means are finished."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Counted = Callable[[Array], float]  # how often each entry counts → the measure
Totals = tuple[Array, Array, Array]  # of each class, or label: rightly answered, answered, true
LARGEST = 700.0  # nats, whose exponential a float can still hold
FINISHES: dict[str, Callable[[float], float]] = {  # done to the mean of rows
    "rmse": math.sqrt,
    "rmse_unit": math.sqrt,
    "perplexity": lambda nats: math.exp(min(nats, LARGEST)),
    "bits": lambda nats: nats / math.log(2),
}
SHARES = ("precision", "recall", "f1")
NAMES = (*SHARES, "roc_auc", "pr_auc", "r2")


@dataclass(frozen=True)
class Whole:
    """One measure of one kind of target. average: macro, micro or weighted, for the shares of several classes."""

    name: str
    kind: str
    average: str = ""

    def __call__(self, answers: Array, targets: Array) -> float:
        """The measure of answers (n, outputs), as probabilities or numbers; nan where it is not defined."""
        if self.fault(answers, targets):
            return math.nan
        return self.of(answers, targets)(np.arange(len(targets)))

    def fault(self, answers: Array, targets: Array) -> str:
        """Why the measure is not defined on these rows; '' where it is."""
        rows = f"all {len(targets):,} rows are" if len(targets) != 1 else "the one row is"
        if not len(targets):
            return "there are no rows"
        if answers.dtype.kind == "f" and not np.isfinite(answers).all():
            return "some of the model's answers are no numbers"
        if self.name == "r2":
            return f"{rows} of one target" if np.ptp(targets.astype(float)) == 0 else ""
        if self.name in SHARES:
            return ""
        truth = _truths(self.kind, answers, targets)
        there, absent = truth.any(0), ~truth.all(0)
        if self.name == "pr_auc":
            return "" if there.any() else "no row is positive"
        one = "of one class" if self.kind != "multilabel" else "alike in every label"
        return "" if (there & absent).any() else f"{rows} {one}"

    def of(self, answers: Array, targets: Array) -> Callable[[Array], float]:
        """Row numbers, which may repeat → the measure of these rows. Sorts once, so that many drawings cost little."""
        counted = self._counted(answers, targets)
        n = len(targets)
        width = 1 if self.kind in ("category", "multilabel") else targets.size // max(1, n)

        def measure(chosen: Array) -> float:
            counts = np.bincount(chosen, minlength=n).astype(float)
            return counted(np.repeat(counts, width) if width > 1 else counts)

        return measure

    def decided(self, answers: Array) -> Array:
        """What of the answers matters: the classes that are answered, or the numbers themselves."""
        if self.name not in SHARES:
            return answers
        return answers.argmax(-1) if self.kind == "category" else answers > 0.5

    def rarer(self, targets: Array) -> int:
        """How many entries have the rarer of two classes; of other kinds, all."""
        if self.kind != "binary":
            return len(targets)
        positive = int((targets > 0.5).sum())
        return min(positive, targets.size - positive)

    def work(self, answers: Array) -> int:
        """How many numbers one taking of the measure goes through."""
        curves = answers.shape[-1] if self.name not in SHARES and self.kind != "binary" and answers.ndim > 1 else 1
        return len(answers) * curves

    def _counted(self, answers: Array, targets: Array) -> Counted:
        if self.name == "r2":
            return _r2(answers.ravel().astype(float), targets.ravel().astype(float))
        if self.name in SHARES:
            totals = self._totals(self.decided(answers), targets)
            return lambda counts: _averaged(self.name, self.average, *totals(counts))
        curve = {"roc_auc": _roc, "pr_auc": _precision_recall}[self.name]
        if self.kind == "binary":
            return curve(answers.ravel(), targets.ravel() > 0.5)
        truth = _truths(self.kind, answers, targets)
        curves = [curve(one, true) for one, true in zip(answers.T, truth.T, strict=True)]
        return lambda counts: _mean_of_defined([one(counts) for one in curves])

    def _totals(self, said: Array, targets: Array) -> Callable[[Array], Totals]:
        if self.kind == "multilabel":
            answered, true = said.astype(float), (targets > 0.5).astype(float)
            both = answered * true
            return lambda counts: (counts @ both, counts @ answered, counts @ true)
        pair = said.ravel().astype(int), targets.ravel().astype(int)
        return lambda counts: _of_classes(*pair, counts, binary=self.kind == "binary")


def resampled(whole: Callable[[Any, Any], float], answers: Array, targets: Array) -> Callable[[Array], float]:
    """Row numbers → the measure of these rows, for our own measures and for anybody's (answers, targets) → number."""
    if isinstance(whole, Whole):
        return whole.of(answers, targets)
    return lambda chosen: taken(whole, answers[chosen], targets[chosen])[0]


def taken(whole: Callable[[Any, Any], float], answers: Array, targets: Array) -> tuple[float, str]:
    """The measure of these rows, or nan and why there is none, also where somebody's own function fails on them."""
    fault = whole.fault(answers, targets) if isinstance(whole, Whole) else "" if len(targets) else "there are no rows"
    if fault:
        return math.nan, fault
    try:
        value = float(whole(answers, targets))
    except (ValueError, ArithmeticError) as error:
        return math.nan, str(error) or type(error).__name__
    return value, "" if math.isfinite(value) else f"it comes to {value} on these rows"


def _truths(kind: str, answers: Array, targets: Array) -> Array:
    """Which classes, or labels, each row is of (n, classes); of two classes whether it is the positive one (n, 1)."""
    if kind == "category":
        return targets[:, None] == np.arange(answers.shape[-1])
    truth: Array = targets.reshape(len(targets), -1) > 0.5
    return truth


def _of_classes(said: Array, true: Array, counts: Array, binary: bool) -> Totals:
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


def _averaged(name: str, average: str, right: Array, said: Array, true: Array) -> float:
    if average == "micro":
        right, said, true = right.sum(keepdims=True), said.sum(keepdims=True), true.sum(keepdims=True)
    below = {"precision": said, "recall": true, "f1": (said + true) / 2}[name]
    each = np.divide(right, below, out=np.zeros(len(right)), where=below > 0)
    if average != "weighted":
        return float(each.mean())
    return float(each @ true / true.sum()) if true.any() else 0.0


def _mean_of_defined(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _ties(answers: Array) -> Array:
    """Where each run of equal answers begins, in sorted answers."""
    return np.flatnonzero(np.concatenate([[True], answers[1:] != answers[:-1]]))


def _roc(answers: Array, true: Array) -> Counted:
    """Area under the ROC curve: how often a positive is answered higher than a negative (Mann and Whitney 1947)."""
    order = np.argsort(answers, kind="stable")
    starts, positive = _ties(answers[order]), true[order].astype(float)

    def area(counts: Array) -> float:
        weights = counts[order]
        above = np.add.reduceat(weights * positive, starts)
        below = np.add.reduceat(weights, starts) - above
        pairs = above.sum() * below.sum()
        return float(above @ (np.cumsum(below) - below / 2) / pairs) if pairs else math.nan

    return area


def _precision_recall(answers: Array, true: Array) -> Counted:
    """Average precision: the precision at each threshold, weighted by the recall that it adds."""
    order = np.argsort(-answers, kind="stable")
    starts, positive = _ties(answers[order]), true[order].astype(float)

    def area(counts: Array) -> float:
        weights = counts[order]
        added = np.add.reduceat(weights * positive, starts)
        called = np.cumsum(np.add.reduceat(weights, starts))
        total = added.sum()
        precision = np.divide(np.cumsum(added), called, out=np.zeros(len(called)), where=called > 0)
        return float(added @ precision / total) if total else math.nan

    return area


def _r2(answers: Array, targets: Array) -> Counted:
    squared = (answers - targets) ** 2

    def share(counts: Array) -> float:
        middle = counts @ targets / counts.sum()
        spread = counts @ (targets - middle) ** 2
        return float(1 - counts @ squared / spread) if spread > 0 else math.nan

    return share
