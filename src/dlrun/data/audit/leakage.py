"""The audit's look at what each input column says of the target by itself: nearly everything is too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.data.audit.finding import Finding, InputColumn, list_input_columns
from dlrun.data.audit.targets import get_target_classes

MAX_ROWS, NUM_FOLDS = 3_000, 3  # each part of so many rows is foretold from the other parts
MIN_ROWS = 50  # rows; with fewer, a perfect column may be luck
SCREENING_SCORE, MAX_SCORE, MIN_RELATIVE_SCORE = 0.9, 0.99, 0.1
MIN_CLASS_ROWS = 5  # rows; a class with fewer does not count by itself


@dataclass(frozen=True)
class TargetValues:
    """One thing that is asked: classes as whole numbers, or numbers as ranks from 0 to 1, (N,) each."""

    name: str
    values: np.ndarray
    is_class: bool


@dataclass(frozen=True)
class ColumnScore:
    """What a column alone came to on held-out rows, beside the answer that needs no column."""

    metric: str
    score: float
    baseline: float

    @property
    def relative_score(self) -> float:
        """Which share of the way from the constant answer to perfection."""
        return (self.score - self.baseline) / max(1 - self.baseline, 1e-12)


def iter_leakage_findings(raw: Dataset, rows: np.ndarray, seed: int) -> Iterator[Finding]:
    """Columns that give a target away. rows: equal numbers for equal rows, of which one each is looked at."""
    columns = list_input_columns(raw)
    chosen = np.unique(rows, return_index=True)[1]
    chosen = np.random.default_rng(seed).permutation(chosen)[:MAX_ROWS]
    if not columns or len(chosen) < MIN_ROWS:
        return
    asked = list(iter_target_values(raw, chosen))
    for column in columns:
        known = rank_column(column, chosen)
        leaks = [
            _leakage_finding(column.name, answer, look, len(chosen))
            for answer in asked
            if (look := single_column_score(known, answer)) is not None
            and look.score > MAX_SCORE
            and look.relative_score > SCREENING_SCORE
        ]
        yield from leaks
        if not leaks and is_row_number(column):
            looks = [
                (answer.name, look)
                for answer in asked
                if (look := single_column_score(known, answer, screen=False))
            ]
            yield _row_number_finding(
                column.name, *max(looks, key=lambda pair: pair[1].relative_score)
            )


def iter_target_values(raw: Dataset, rows: np.ndarray) -> Iterator[TargetValues]:
    """What is asked, on these rows; each label of a multi-label target is a question of its own."""
    from scipy.stats import rankdata

    for name, kind in raw.targets.items():
        if kind in ("binary", "category"):
            yield TargetValues(name, get_target_classes(raw, name)[1][rows], True)
        elif kind == "multilabel":
            table = np.asarray(raw.dev[name])[rows].astype(np.int64)
            labels = raw.labels.get(name) or [f"{name}[{place}]" for place in range(table.shape[1])]
            yield from (
                TargetValues(label, table[:, place], True) for place, label in enumerate(labels)
            )
        else:
            numbers = np.asarray(raw.dev[name], np.float64).reshape(len(raw), -1)[rows, 0]
            yield TargetValues(name, rankdata(numbers) / len(rows), False)


def rank_column(column: InputColumn, rows: np.ndarray) -> InputColumn:
    """The column on some rows, numbers as their ranks: scale and outliers do not matter then."""
    codes = InputColumn(column.name, column.values[rows], column.is_number).codes.astype(np.float64)
    if column.is_number:
        codes[column.missing[rows]] = np.nan
    return InputColumn(column.name, codes, column.is_number)


def single_column_score(
    column: InputColumn, answer: TargetValues, *, screen: bool = True
) -> ColumnScore | None:
    """How well the column alone foretells the answer on held-out rows.

    screen: None, early, for a column that does so badly on a third of the rows that the rest cannot matter.
    """
    foretold = np.zeros(len(answer.values))
    parts = np.arange(len(foretold)) % NUM_FOLDS
    for part in range(NUM_FOLDS):
        held = parts == part
        foretold[held] = _predict_fold(column, answer, ~held, held)
        if (
            screen
            and part == 0
            and score_predictions(answer, foretold, held).score < SCREENING_SCORE
        ):
            return None
    return score_predictions(answer, foretold, np.ones(len(parts), bool))


def _predict_fold(
    column: InputColumn, answer: TargetValues, known: np.ndarray, held: np.ndarray
) -> np.ndarray:
    if not column.is_number:
        return _predict_by_level(column.values.astype(np.int64), answer, known)[held]
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    if answer.is_class:
        leaves = max(8, 2 * (int(answer.values.max()) + 1))
        tree = DecisionTreeClassifier(
            max_leaf_nodes=leaves, class_weight="balanced", random_state=0
        )
    else:
        tree = DecisionTreeRegressor(max_leaf_nodes=64, random_state=0)
    table = column.values[:, None]
    return tree.fit(table[known], answer.values[known]).predict(table[held])


def _predict_by_level(levels: np.ndarray, answer: TargetValues, known: np.ndarray) -> np.ndarray:
    """For each row what known rows of its level say: the commonest class, or the mean; else what all of them say."""
    seen = np.bincount(levels[known], minlength=levels.max() + 1)
    if not answer.is_class:
        sums = np.bincount(levels[known], answer.values[known], len(seen))
        return np.where(seen > 0, sums / np.maximum(seen, 1), answer.values[known].mean())[levels]
    table = np.zeros((len(seen), int(answer.values.max()) + 1), np.int64)
    np.add.at(table, (levels[known], answer.values[known]), 1)
    return np.where(seen > 0, table.argmax(1), table.sum(0).argmax())[levels]


def score_predictions(answer: TargetValues, foretold: np.ndarray, rows: np.ndarray) -> ColumnScore:
    """Accuracy, or the mean accuracy of the classes where that says more; for numbers an R² of their ranks.

    That R² is made of mean absolute errors instead of squares: a few rows far off must not hide a leak.
    """
    truth, foretold = answer.values[rows], foretold[rows]
    if not answer.is_class:
        left = np.abs(truth - foretold).mean() / max(np.abs(truth - np.median(truth)).mean(), 1e-12)
        return ColumnScore("explained share of its order", 1 - float(left**2), 0.0)
    right, counts = truth == foretold, np.bincount(truth)
    plain = ColumnScore("accuracy", float(right.mean()), counts.max() / len(truth))
    common = counts >= MIN_CLASS_ROWS
    if common.sum() < 2:
        return plain
    recalls = np.bincount(truth, right)[common] / counts[common]
    fair = ColumnScore("mean accuracy of the classes", float(recalls.mean()), 1 / int(common.sum()))
    return max(plain, fair, key=lambda look: look.relative_score)


def is_row_number(column: InputColumn) -> bool:
    """Whether a column is a mere number of the row: whole numbers, all different, at least half of all in between."""
    if not column.is_number:
        return False
    values = column.values.astype(np.float64)
    if len(values) <= 2 * MIN_CLASS_ROWS or not np.isfinite(values).all() or (values % 1).any():
        return False
    return len(values) == len(np.unique(values)) and 2 * len(values) > int(np.ptp(values))


def _leakage_finding(name: str, answer: TargetValues, look: ColumnScore, total: int) -> Finding:
    text = f"{name} alone predicts {answer.name} on {total:,} held-out rows with {look.metric} {look.score:.4f} "
    text += f"(without any column: {look.baseline:.4f}); unless it is known at prediction time: data.drop=[{name}]"
    effect = "every score may come from this column alone"
    return Finding("leak", "a column gives the target away", text, (name,), total, effect)


def _row_number_finding(name: str, target: str, look: ColumnScore) -> Finding:
    text = f"{name} counts the rows"
    if look.relative_score < MIN_RELATIVE_SCORE:
        return Finding(
            "note",
            "row numbers",
            f"{text}: it says nothing of a new row; data.drop=[{name}]",
            (name,),
        )
    text += (
        f", and predicts {target} ({look.metric} {look.score:.2f}; without it {look.baseline:.2f})"
    )
    effect = f"the rows lie in an order that new ones will not have: scores come out too high; data.drop=[{name}]"
    return Finding("warning", "row numbers", text, (name,), effect=effect)
