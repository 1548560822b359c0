"""Which rows share a class, so that a split keeps the shares of the classes."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError, format_names

log = logging.getLogger("dlrun")

Rare = Literal["stratify_others", "stratify_none"]


def get_class_groups(
    dataset: Dataset, by: str, min_rows: int, rare: Rare, *, tell: bool = True
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
    rare: Rare,
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
