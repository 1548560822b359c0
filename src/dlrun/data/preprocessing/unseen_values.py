"""Warns of values and words in new rows that no training row has; they never stop a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import numpy as np

from dlrun.core.dataset import ColumnLike, Dataset, PreparedData, Preprocessor, Ragged, RawColumns
from dlrun.core.formatting import format_file_list
from dlrun.data.preprocessing.padding import OUT_OF_WORDS, START


def out_of_vocabulary_counts(
    column: ColumnLike, steps: tuple[Preprocessor, ...]
) -> np.ndarray | None:
    """Count unknown words.

    Args:
        column: Raw texts, or word ids as Keras gives them.
        steps: The fitted preprocessing of that column.

    Returns:
        Unknown words and all words of each text (N, 2); None without a list of known words, as
        with hashing, or with n-grams that leave out single words.
    """
    if isinstance(column, Ragged):
        words = column.values > START
        unknown_words = words & (column.values == OUT_OF_WORDS)
        return np.stack([column.count_marked(unknown_words), column.count_marked(words)], 1)
    return steps[0].count_unknown_words(column) if steps else None


log = logging.getLogger("dlrun")

FLOAT32_MAX = float(np.finfo(np.float32).max)
LABEL_KINDS = ("binary", "category", "multilabel")


def warn_missing_classes(dataset: Dataset, train: np.ndarray, val: np.ndarray | None) -> None:
    """Warn of classes, or labels, without a training row; held-out rows of them count as wrong.

    Args:
        dataset: The rows and the names of their classes.
        train: Indices of the training rows.
        val: Indices of the validation rows.
    """
    for name, kind in dataset.targets.items():
        class_names = dataset.labels.get(name, ())
        column = dataset.dev[name]
        if kind not in LABEL_KINDS or not class_names or not isinstance(column, np.ndarray):
            continue
        if not len(train):
            continue
        train_counts = _count_per_class(column[train], class_names)
        absent = [class_names[index] for index in np.flatnonzero(train_counts == 0)]
        if not absent:
            continue
        held_out = 0
        if val is not None:
            held_out = int(_count_per_class(column[val], class_names)[train_counts == 0].sum())
        log.warning(
            "%s: no training row is of class %s: no model can learn it%s",
            name,
            format_file_list(absent),
            f"; {held_out:,} validation rows of it count as wrong" if held_out else "",
        )


def warn_new_values(
    dataset: Dataset,
    data: PreparedData,
    rows: RawColumns,
    train: np.ndarray,
    title: str,
    *,
    words: bool = False,
) -> None:
    """Warn of input values that no training row has, with the number of rows.

    Args:
        dataset: The dataset that the training rows are from.
        data: What was fitted on them.
        rows: The rows to look at.
        train: Indices of the training rows.
        title: What the rows are called in the warning.
        words: Whether to look at texts, too, which takes as long as to prepare them.
    """
    messages = list[str]()
    for name in dataset.inputs:
        column, steps = rows[name], data.preprocessors.get(name, ())
        if steps and isinstance(column, np.ndarray):
            labels = dataset.labels.get(name, ())
            read_rows = partial(dataset.dev[name].__getitem__, train)
            messages += steps[0].describe_new_values(name, labels, column, read_rows)
        # Tokenizing takes as long as preparing the rows.
        if words:
            messages += _describe_unknown_words(name, column, steps)
    if messages:
        log.warning("%s have what no training row has: %s", title, format_file_list(messages))


def _describe_unknown_words(
    name: str, column: ColumnLike, steps: tuple[Preprocessor, ...]
) -> Iterator[str]:

    counts = out_of_vocabulary_counts(column, steps)
    if counts is not None and counts[:, 0].sum():
        unknown, total = counts.sum(0).tolist()
        yield f"{unknown:,} of {total:,} words of {name} are unknown"


def clip_to_float32(name: str, column: np.ndarray) -> np.ndarray:
    """The same numbers, clipped with a warning to what float32 holds."""
    column = np.asarray(column)
    # Only float64 can hold more than float32.
    if column.dtype != np.float64:
        return column
    beyond = np.isfinite(column) & (np.abs(column) > FLOAT32_MAX)
    if not beyond.any():
        return column
    log.warning(
        "%s: %s numbers are too large once prepared, and are cut to %.2g",
        name,
        f"{beyond.sum():,}",
        FLOAT32_MAX,
    )
    return np.where(beyond, np.sign(column) * FLOAT32_MAX, column)


def _count_per_class(column: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """The number of rows of each class, or with each label."""
    # Multilabel: a row may count for several labels.
    if column.ndim > 1:
        return np.asarray(column).sum(axis=0)
    if column.dtype.kind in "OU":
        index = {name: number for number, name in enumerate(class_names)}
        # Unknown classes fall behind the last one, and are cut off below.
        column = np.array([index.get(str(value), len(class_names)) for value in column], np.int64)
    return np.bincount(column.astype(np.int64), minlength=len(class_names))[: len(class_names)]
