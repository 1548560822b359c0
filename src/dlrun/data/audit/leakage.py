"""Audit of what each input column alone says about the target: nearly everything is a leak."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.data.audit.finding import Finding, InputColumn, list_input_columns
from dlrun.data.audit.targets import get_target_classes

MAX_ROWS = 3_000  # of the sample that columns are tried on
NUM_FOLDS = 3
MIN_ROWS = 50  # with fewer rows, a perfect column may be luck
SCREENING_SCORE = 0.9  # columns below this on the first fold are not tried on the others
MAX_SCORE = 0.99  # columns above this are leaks
MIN_RELATIVE_SCORE = 0.1  # row numbers below this say nothing about the target
MIN_CLASS_ROWS = 5  # classes with fewer rows are left out of the mean accuracy


@dataclass(frozen=True)
class TargetValues:
    """One thing to predict.

    Attributes:
        name: The target, or one label of a multi-label target.
        values: Classes as whole numbers, or numbers as ranks from 0 to 1 (N,).
        is_class: Whether the values are classes.
    """

    name: str
    values: np.ndarray
    is_class: bool


@dataclass(frozen=True)
class ColumnScore:
    """How well a column alone predicts a target on held-out rows.

    Attributes:
        metric: The metric, in words.
        score: Its value.
        baseline: Its value for predictions that use no column.
    """

    metric: str
    score: float
    baseline: float

    @property
    def relative_score(self) -> float:
        """The share of the way from the baseline to a perfect score."""
        return (self.score - self.baseline) / max(1 - self.baseline, 1e-12)


def iter_leakage_findings(dataset: Dataset, rows: np.ndarray, seed: int) -> Iterator[Finding]:
    """Yield columns that give a target away.

    Args:
        dataset: The dataset; only its training + validation rows are read.
        rows: Equal numbers for rows with equal inputs (N,); of those only one is used.
        seed: Which rows are sampled.
    """
    columns = list_input_columns(dataset)
    sample = np.unique(rows, return_index=True)[1]
    sample = np.random.default_rng(seed).permutation(sample)[:MAX_ROWS]
    if not columns or len(sample) < MIN_ROWS:
        return
    target_values = list(iter_target_values(dataset, sample))
    for column in columns:
        ranked = rank_column(column, sample)
        leaks = list(_find_leaks(ranked, target_values, len(sample)))
        yield from leaks
        if not leaks and is_row_number(column):
            yield _row_number_finding(ranked, target_values)


def _find_leaks(column: InputColumn, targets: list[TargetValues], total: int) -> Iterator[Finding]:
    for target in targets:
        score = single_column_score(column, target)
        if score is None or score.score <= MAX_SCORE or score.relative_score <= SCREENING_SCORE:
            continue
        yield _leakage_finding(column.name, target, score, total)


def iter_target_values(dataset: Dataset, rows: np.ndarray) -> Iterator[TargetValues]:
    """Yield what is to be predicted on these rows; each label of a multi-label target is one.

    Args:
        dataset: The dataset; only its training + validation rows are read.
        rows: Indices of the rows.
    """
    from scipy.stats import rankdata

    for name, kind in dataset.targets.items():
        if kind in ("binary", "category"):
            yield TargetValues(name, get_target_classes(dataset, name)[1][rows], True)
        elif kind == "multilabel":
            table = np.asarray(dataset.dev[name])[rows].astype(np.int64)
            labels = dataset.labels.get(name) or [
                f"{name}[{index}]" for index in range(table.shape[1])
            ]
            yield from (
                TargetValues(label, table[:, index], True) for index, label in enumerate(labels)
            )
        else:
            numbers = np.asarray(dataset.dev[name], np.float64).reshape(len(dataset), -1)[rows, 0]
            yield TargetValues(name, rankdata(numbers) / len(rows), False)


def rank_column(column: InputColumn, rows: np.ndarray) -> InputColumn:
    """Return a column on some rows, numbers as ranks: scale and outliers do not matter then."""
    codes = InputColumn(column.name, column.values[rows], column.is_number).codes.astype(np.float64)
    if column.is_number:
        codes[column.missing[rows]] = np.nan
    return InputColumn(column.name, codes, column.is_number)


def single_column_score(
    column: InputColumn, target: TargetValues, *, screen: bool = True
) -> ColumnScore | None:
    """Return how well a column alone predicts a target on held-out rows.

    Args:
        column: The column, see `rank_column`.
        target: What is to be predicted on the same rows.
        screen: Return None early for a column that is so bad on the first of the folds that the
            others cannot matter.
    """
    predictions = np.zeros(len(target.values))
    folds = np.arange(len(predictions)) % NUM_FOLDS
    for fold in range(NUM_FOLDS):
        held_out = folds == fold
        predictions[held_out] = _predict_fold(column, target, ~held_out, held_out)
        if screen and fold == 0:
            score = score_predictions(target, predictions, held_out).score
            if score < SCREENING_SCORE:
                return None
    return score_predictions(target, predictions, np.ones(len(folds), bool))


def _predict_fold(
    column: InputColumn, target: TargetValues, train: np.ndarray, held_out: np.ndarray
) -> np.ndarray:
    if not column.is_number:
        return _predict_by_level(column.values.astype(np.int64), target, train)[held_out]
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    # Shallow trees: enough leaves for a threshold per class, too few to memorize rows.
    if target.is_class:
        leaves = max(8, 2 * (int(target.values.max()) + 1))
        tree = DecisionTreeClassifier(
            max_leaf_nodes=leaves, class_weight="balanced", random_state=0
        )
    else:
        tree = DecisionTreeRegressor(max_leaf_nodes=64, random_state=0)
    table = column.values[:, None]
    return tree.fit(table[train], target.values[train]).predict(table[held_out])


def _predict_by_level(levels: np.ndarray, target: TargetValues, train: np.ndarray) -> np.ndarray:
    """Predict the most frequent class, or the mean, of a level's training rows, else of all."""
    counts = np.bincount(levels[train], minlength=levels.max() + 1)
    if not target.is_class:
        sums = np.bincount(levels[train], target.values[train], len(counts))
        return np.where(counts > 0, sums / np.maximum(counts, 1), target.values[train].mean())[
            levels
        ]
    table = np.zeros((len(counts), int(target.values.max()) + 1), np.int64)
    np.add.at(table, (levels[train], target.values[train]), 1)
    return np.where(counts > 0, table.argmax(1), table.sum(0).argmax())[levels]


def score_predictions(
    target: TargetValues, predictions: np.ndarray, rows: np.ndarray
) -> ColumnScore:
    """Score predictions on some rows.

    The score of classes is accuracy, or the mean accuracy of the classes where that is further
    above its baseline; of numbers it is an R² of their ranks, made of mean absolute errors instead
    of squares: a few rows far off must not hide a leak.

    Args:
        target: What was to be predicted.
        predictions: Predictions for all rows (N,).
        rows: Mask of the rows to score (N,).
    """
    truth, predictions = target.values[rows], predictions[rows]
    if not target.is_class:
        remaining = np.abs(truth - predictions).mean() / max(
            np.abs(truth - np.median(truth)).mean(), 1e-12
        )
        return ColumnScore("explained share of its order", 1 - float(remaining**2), 0.0)
    correct, counts = truth == predictions, np.bincount(truth)
    accuracy = ColumnScore("accuracy", float(correct.mean()), counts.max() / len(truth))
    # Accuracy hides what a column says of rare classes; their mean does not.
    common = counts >= MIN_CLASS_ROWS
    if common.sum() < 2:
        return accuracy
    recalls = np.bincount(truth, correct)[common] / counts[common]
    mean_recall = ColumnScore(
        "mean accuracy of the classes", float(recalls.mean()), 1 / int(common.sum())
    )
    return max(accuracy, mean_recall, key=lambda candidate: candidate.relative_score)


def is_row_number(column: InputColumn) -> bool:
    """Return whether a column numbers the rows.

    That is: whole numbers, all different, and at least half of the numbers in their range.
    """
    if not column.is_number:
        return False
    values = column.values.astype(np.float64)
    if len(values) <= 2 * MIN_CLASS_ROWS or not np.isfinite(values).all() or (values % 1).any():
        return False
    # Rows that were dropped leave gaps in the numbers, so up to half may be absent.
    return len(values) == len(np.unique(values)) and 2 * len(values) > int(np.ptp(values))


def _leakage_finding(name: str, target: TargetValues, score: ColumnScore, total: int) -> Finding:
    text = (
        f"{name} alone predicts {target.name} on {total:,} held-out rows with "
        f"{score.metric} {score.score:.4f} (without any column: {score.baseline:.4f}); "
        f"unless it is known at prediction time: data.drop=[{name}]"
    )
    effect = "every score may come from this column alone"
    return Finding("leak", "a column gives the target away", text, (name,), total, effect)


def _row_number_finding(column: InputColumn, targets: list[TargetValues]) -> Finding:
    scores = [
        (target.name, score)
        for target in targets
        if (score := single_column_score(column, target, screen=False))
    ]
    target, score = max(scores, key=lambda pair: pair[1].relative_score)
    name = column.name
    text = f"{name} counts the rows"
    if score.relative_score < MIN_RELATIVE_SCORE:
        text += f": it says nothing of a new row; data.drop=[{name}]"
        return Finding("note", "row numbers", text, (name,))
    text += f", and predicts {target} ({score.metric} {score.score:.2f}; "
    text += f"without it {score.baseline:.2f})"
    effect = (
        "the rows lie in an order that new ones will not have: scores come out too high; "
        f"data.drop=[{name}]"
    )
    return Finding("warning", "row numbers", text, (name,), effect=effect)
