"""Rows drawn at random by scikit-learn's splitters, so that the shares of the classes are kept."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError, format_names

log = logging.getLogger("dlrun")


def sample_validation(
    dataset: Dataset, count: int, by: str, seed: int, rare: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw so many validation rows; arguments and result as in `splits.split_validation`."""
    from sklearn.model_selection import train_test_split

    rows, classes = np.arange(len(dataset)), get_class_groups(dataset, by, 2, rare)
    # A row alone in its class cannot be on both sides: it is trained on.
    candidates = rows if classes is None else rows[~find_single_members(classes)]
    if (
        classes is not None
        and min(count, len(candidates) - count) <= len(np.unique(classes[candidates])) - 1
    ):  # one row of each
        if by == "stratified":
            raise UserError(
                f"protocol.by=stratified: {count} of {len(rows)} rows are too few for "
                f"{classes.max() + 1} classes"
            )
        warn_not_stratified(
            dataset, f"{count} of {len(rows)} rows are too few for {classes.max() + 1} classes"
        )
        # scikit-learn needs a row of each class on both sides: not stratified at all, then.
        classes, candidates = None, rows
    labels = None if classes is None else classes[candidates]
    train, val = train_test_split(
        candidates, test_size=count, random_state=seed % 2**32, stratify=labels
    )
    return np.setdiff1d(rows, val), np.sort(val)


def split_random_folds(
    dataset: Dataset, count: int, by: str, shuffling: dict[str, Any], rare: str, *, tell: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw folds; arguments and result as in `splits.split_folds`.

    Args:
        dataset: The rows.
        count: How many folds.
        by: 'auto', 'stratified' or 'random'.
        shuffling: Whether and how scikit-learn's splitter shuffles.
        rare: See `get_class_groups`.
        tell: Whether to log what is not stratified.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    classes = get_class_groups(dataset, by, count, rare, tell=tell)
    splitter = KFold if classes is None else StratifiedKFold
    # Classes with fewer rows than folds have been logged already.
    with warnings.catch_warnings(action="ignore"):
        return list(splitter(count, **shuffling).split(np.zeros(len(dataset)), classes))


def get_class_groups(
    dataset: Dataset, by: str, min_rows: int, rare: str, *, tell: bool = True
) -> np.ndarray | None:
    """The number of each row's class, to stratify on.

    Args:
        dataset: The rows; the first target of classes decides.
        by: 'random' asks for none, 'stratified' requires them, 'auto' takes them where it can.
        min_rows: Rows that a class must have.
        rare: 'stratify_none' stops stratifying where one class has fewer, as in dlrun 0.1.0;
            'stratify_others' stratifies the others.
        tell: Whether to log classes that are too small.

    Returns:
        (N,) class numbers; None where the split is not stratified.

    Raises:
        UserError: by='stratified', and there are no classes or too few rows of one.
    """
    if by == "random":
        return None
    target = _find_class_target(dataset)
    if target is None:
        if by == "stratified":
            raise UserError(
                "protocol.by=stratified needs a target of classes: use by=auto or by=random"
            )
        return None
    # As text, so that classes of any type, None among them, can be sorted.
    names, values = np.unique(np.asarray(dataset.dev[target]).astype(str), return_inverse=True)
    values, counts = values.reshape(-1), np.bincount(values.reshape(-1))
    is_rare = counts < min_rows
    if is_rare.any() and by == "stratified":
        raise UserError(
            f"protocol.by=stratified: '{target}' has classes of fewer than {min_rows} rows "
            f"({_format_class_counts(names, is_rare, counts)}); protocol.by=auto stratifies the "
            "others"
        )
    if is_rare.any() and tell:
        _warn_small_classes(target, names, is_rare, min_rows, counts, rare)
    return None if is_rare.all() or (is_rare.any() and rare == "stratify_none") else values


def find_single_members(classes: np.ndarray) -> np.ndarray:
    """The mask of rows that are alone in their class."""
    # Counts by class, looked up for each row.
    return (np.bincount(classes) == 1)[classes]


def warn_not_stratified(dataset: Dataset, reason: str) -> None:
    """Log that a split does not keep the shares of the classes, where there are any."""
    target = _find_class_target(dataset)
    if target is not None:
        log.info("'%s' is not stratified: %s", target, reason)


def _find_class_target(dataset: Dataset) -> str | None:
    """The first target of classes."""
    return next(
        (name for name, kind in dataset.targets.items() if kind in ("binary", "category")), None
    )


def _warn_small_classes(
    target: str,
    names: np.ndarray,
    is_rare: np.ndarray,
    min_rows: int,
    counts: np.ndarray,
    rare: str,
) -> None:
    counts_text = _format_class_counts(names, is_rare, counts)
    outcome = (
        "no class is stratified"
        if is_rare.all() or rare == "stratify_none"
        else "the other classes are stratified"
    )
    log.warning(
        "'%s': classes of fewer than %d rows (%s) cannot be stratified; %s",
        target,
        min_rows,
        counts_text,
        outcome,
    )


def _format_class_counts(names: np.ndarray, is_rare: np.ndarray, counts: np.ndarray) -> str:
    return format_names(
        [f"{name}: {count}" for name, count in zip(names[is_rare], counts[is_rare], strict=True)]
    )
