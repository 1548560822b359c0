"""Warns of values in held-out rows that no training row has; they never stop a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Dataset, PreparedData, Preprocessor, RawColumn, RawColumns
from dlrun.core.formatting import counted
from dlrun.data.images.image_column import format_file_list
from dlrun.data.preprocessing.numeric import OrdinalEncoder, SimpleImputer
from dlrun.data.preprocessing.out_of_vocabulary import out_of_vocabulary_counts
from dlrun.data.tabular.number_format import FLOAT32_MAX

log = logging.getLogger("dlrun")

# A value further out than this many ranges of the training rows is warned of.
OUTLIER_RANGES = 1
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
        first = steps[0] if steps else None
        if isinstance(column, np.ndarray) and isinstance(first, OrdinalEncoder):
            messages += _describe_new_levels(name, column, first, dataset.dev[name][train])
        elif isinstance(column, np.ndarray) and isinstance(first, SimpleImputer) and len(column):
            numbered = tuple(f"{name} {index}" for index in range(column.shape[1]))
            names = dataset.labels.get(name) or numbered
            messages += _describe_new_numbers(names, column, dataset.dev[name][train])
        # Tokenizing takes as long as preparing the rows.
        elif words:
            messages += _describe_unknown_words(name, column, steps)
    if messages:
        log.warning("%s have what no training row has: %s", title, format_file_list(messages))


def _describe_unknown_words(
    name: str, column: RawColumn, steps: tuple[Preprocessor, ...]
) -> Iterator[str]:
    counts = out_of_vocabulary_counts(column, steps)
    if counts is not None and counts[:, 0].sum():
        unknown, total = counts.sum(0).tolist()
        yield f"{unknown:,} of {total:,} words of {name} are unknown"


def _describe_new_levels(
    name: str, column: np.ndarray, step: OrdinalEncoder, trained: np.ndarray
) -> Iterator[str]:
    # With max_levels, rare levels of training rows have no index but are not new.
    levels = {*step.levels} if step.max_levels is None else {str(value) for value in trained}
    new = Counter(str(value) for value in column if str(value) not in levels and value != "")
    if new:
        examples = f"{', '.join(sorted(new)[:3])}{' …' if len(new) > 3 else ''}"
        yield f"{name} is {examples} ({counted(sum(new.values()), 'row')})"
    if (missing := int((column == "").sum())) and not (trained == "").any():
        yield f"{name} is missing ({counted(missing, 'row')})"


def _describe_new_numbers(
    names: tuple[str, ...], column: np.ndarray, trained: np.ndarray
) -> Iterator[str]:
    had_missing = np.isnan(trained).any(axis=0)
    for index, name in enumerate(names[: column.shape[1]]):
        values = column[:, index]
        if (missing := int(np.isnan(values).sum())) and not had_missing[index]:
            yield f"{name} is missing ({counted(missing, 'row')})"
        present = trained[~np.isnan(trained[:, index]), index]
        if not len(present):
            continue
        low, high = present.min(), present.max()
        margin = OUTLIER_RANGES * (high - low)
        if outliers := int(((values < low - margin) | (values > high + margin)).sum()):
            yield f"{name} is far beyond {low:g} to {high:g} ({counted(outliers, 'row')})"


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
