"""The audit's look at what each input column says of the target by itself: nearly everything is too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlrun.core.dataset import Raw
from dlrun.data.audit.finding import Finding, Single, singles
from dlrun.data.audit.targets import classes

ROWS, PARTS = 3_000, 3  # each part of so many rows is foretold from the other parts
LEAST = 50  # rows; with fewer, a perfect column may be luck
SCREEN, GIVEN_AWAY, TELLING = 0.9, 0.99, 0.1
RARE = 5  # rows; a class with fewer does not count by itself


@dataclass(frozen=True)
class Answer:
    """One thing that is asked: classes as whole numbers, or numbers as ranks from 0 to 1, (N,) each."""

    name: str
    values: np.ndarray
    classes: bool


@dataclass(frozen=True)
class Look:
    """What a column alone came to on held-out rows, beside the answer that needs no column."""

    measure: str
    score: float
    constant: float

    @property
    def skill(self) -> float:
        """Which share of the way from the constant answer to perfection."""
        return (self.score - self.constant) / max(1 - self.constant, 1e-12)


def findings(raw: Raw, rows: np.ndarray, seed: int) -> Iterator[Finding]:
    """Columns that give a target away. rows: equal numbers for equal rows, of which one each is looked at."""
    columns = singles(raw)
    chosen = np.unique(rows, return_index=True)[1]
    chosen = np.random.default_rng(seed).permutation(chosen)[:ROWS]
    if not columns or len(chosen) < LEAST:
        return
    asked = list(answers(raw, chosen))
    for column in columns:
        known = on_rows(column, chosen)
        leaks = [
            _gives_away(column.name, answer, look, len(chosen))
            for answer in asked
            if (look := alone(known, answer)) is not None and look.score > GIVEN_AWAY and look.skill > SCREEN
        ]
        yield from leaks
        if not leaks and counting(column):
            looks = [(answer.name, look) for answer in asked if (look := alone(known, answer, screen=False))]
            yield _counts(column.name, *max(looks, key=lambda pair: pair[1].skill))


def answers(raw: Raw, rows: np.ndarray) -> Iterator[Answer]:
    """What is asked, on these rows; each label of a multi-label target is a question of its own."""
    from scipy.stats import rankdata

    for name, kind in raw.targets.items():
        if kind in ("binary", "category"):
            yield Answer(name, classes(raw, name)[1][rows], True)
        elif kind == "multilabel":
            table = np.asarray(raw.dev[name])[rows].astype(np.int64)
            labels = raw.labels.get(name) or [f"{name}[{place}]" for place in range(table.shape[1])]
            yield from (Answer(label, table[:, place], True) for place, label in enumerate(labels))
        else:
            numbers = np.asarray(raw.dev[name], np.float64).reshape(len(raw), -1)[rows, 0]
            yield Answer(name, rankdata(numbers) / len(rows), False)


def on_rows(column: Single, rows: np.ndarray) -> Single:
    """The column on some rows, numbers as their ranks: scale and outliers do not matter then."""
    codes = Single(column.name, column.values[rows], column.number).codes.astype(np.float64)
    if column.number:
        codes[column.missing[rows]] = np.nan
    return Single(column.name, codes, column.number)


def alone(column: Single, answer: Answer, *, screen: bool = True) -> Look | None:
    """How well the column alone foretells the answer on held-out rows.

    screen: None, early, for a column that does so badly on a third of the rows that the rest cannot matter.
    """
    foretold = np.zeros(len(answer.values))
    parts = np.arange(len(foretold)) % PARTS
    for part in range(PARTS):
        held = parts == part
        foretold[held] = _foretell(column, answer, ~held, held)
        if screen and part == 0 and judged(answer, foretold, held).score < SCREEN:
            return None
    return judged(answer, foretold, np.ones(len(parts), bool))


def _foretell(column: Single, answer: Answer, known: np.ndarray, held: np.ndarray) -> np.ndarray:
    if not column.number:
        return _by_level(column.values.astype(np.int64), answer, known)[held]
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    if answer.classes:
        leaves = max(8, 2 * (int(answer.values.max()) + 1))
        tree = DecisionTreeClassifier(max_leaf_nodes=leaves, class_weight="balanced", random_state=0)
    else:
        tree = DecisionTreeRegressor(max_leaf_nodes=64, random_state=0)
    table = column.values[:, None]
    return tree.fit(table[known], answer.values[known]).predict(table[held])


def _by_level(levels: np.ndarray, answer: Answer, known: np.ndarray) -> np.ndarray:
    """For each row what known rows of its level say: the commonest class, or the mean; else what all of them say."""
    seen = np.bincount(levels[known], minlength=levels.max() + 1)
    if not answer.classes:
        sums = np.bincount(levels[known], answer.values[known], len(seen))
        return np.where(seen > 0, sums / np.maximum(seen, 1), answer.values[known].mean())[levels]
    table = np.zeros((len(seen), int(answer.values.max()) + 1), np.int64)
    np.add.at(table, (levels[known], answer.values[known]), 1)
    return np.where(seen > 0, table.argmax(1), table.sum(0).argmax())[levels]


def judged(answer: Answer, foretold: np.ndarray, rows: np.ndarray) -> Look:
    """Accuracy, or the mean accuracy of the classes where that says more; for numbers an R² of their ranks.

    That R² is made of mean absolute errors instead of squares: a few rows far off must not hide a leak.
    """
    truth, foretold = answer.values[rows], foretold[rows]
    if not answer.classes:
        left = np.abs(truth - foretold).mean() / max(np.abs(truth - np.median(truth)).mean(), 1e-12)
        return Look("explained share of its order", 1 - float(left**2), 0.0)
    right, counts = truth == foretold, np.bincount(truth)
    plain = Look("accuracy", float(right.mean()), counts.max() / len(truth))
    common = counts >= RARE
    if common.sum() < 2:
        return plain
    recalls = np.bincount(truth, right)[common] / counts[common]
    fair = Look("mean accuracy of the classes", float(recalls.mean()), 1 / int(common.sum()))
    return max(plain, fair, key=lambda look: look.skill)


def counting(column: Single) -> bool:
    """Whether a column is a mere number of the row: whole numbers, all different, at least half of all in between."""
    if not column.number:
        return False
    values = column.values.astype(np.float64)
    if len(values) <= 2 * RARE or not np.isfinite(values).all() or (values % 1).any():
        return False
    return len(values) == len(np.unique(values)) and 2 * len(values) > int(np.ptp(values))


def _gives_away(name: str, answer: Answer, look: Look, total: int) -> Finding:
    text = f"{name} alone predicts {answer.name} on {total:,} held-out rows with {look.measure} {look.score:.4f} "
    text += f"(without any column: {look.constant:.4f}); unless it is known at prediction time: data.drop=[{name}]"
    effect = "every score may come from this column alone"
    return Finding("leak", "a column gives the target away", text, (name,), total, effect)


def _counts(name: str, target: str, look: Look) -> Finding:
    text = f"{name} counts the rows"
    if look.skill < TELLING:
        return Finding("note", "row numbers", f"{text}: it says nothing of a new row; data.drop=[{name}]", (name,))
    text += f", and predicts {target} ({look.measure} {look.score:.2f}; without it {look.constant:.2f})"
    effect = f"the rows lie in an order that new ones will not have: scores come out too high; data.drop=[{name}]"
    return Finding("warning", "row numbers", text, (name,), effect=effect)
