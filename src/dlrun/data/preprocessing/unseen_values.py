"""What held-out rows bring that no training row has: told and counted, never a reason to stop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Dataset, PreparedData, RawColumns
from dlrun.core.formatting import counted
from dlrun.data.images.image_column import format_file_list
from dlrun.data.preprocessing.numeric import OrdinalEncoder, SimpleImputer
from dlrun.data.preprocessing.out_of_vocabulary import out_of_vocabulary_counts
from dlrun.data.tabular.number_format import FLOAT32_MAX

log = logging.getLogger("dlrun")

OUTLIER_RANGES = 1  # ranges of the training rows: a value that lies further out than that is said
LABEL_KINDS = ("binary", "category", "multilabel")


def warn_missing_classes(raw: Dataset, train: np.ndarray, val: np.ndarray | None) -> None:
    """Warn of classes, or labels, that no training row is of; held-out rows of them count as wrong."""
    for name, kind in raw.targets.items():
        names = raw.labels.get(name, ())
        column = raw.dev[name]
        if (
            kind not in LABEL_KINDS
            or not names
            or not isinstance(column, np.ndarray)
            or not len(train)
        ):
            continue
        trained = _count_per_class(column[train], names)
        absent = [names[place] for place in np.flatnonzero(trained == 0)]
        if absent:
            held_out = (
                0 if val is None else int(_count_per_class(column[val], names)[trained == 0].sum())
            )
            rows = f"; {held_out:,} validation rows of it count as wrong" if held_out else ""
            log.warning(
                "%s: no training row is of class %s: no model can learn it%s",
                name,
                format_file_list(absent),
                rows,
            )


def warn_new_values(
    raw: Dataset,
    data: PreparedData,
    rows: RawColumns,
    train: np.ndarray,
    what: str,
    *,
    words: bool = False,
) -> None:
    """Say what the inputs of some rows have that those of no training row have, and in how many rows.

    words: also of texts, which takes as long as to prepare them.
    """
    found = list[str]()
    for name in raw.inputs:
        column, steps = rows[name], data.preprocessors.get(name, ())
        if isinstance(column, np.ndarray) and steps and isinstance(steps[0], OrdinalEncoder):
            found += _describe_new_levels(name, column, steps[0], raw.dev[name][train])
        elif (
            isinstance(column, np.ndarray)
            and steps
            and isinstance(steps[0], SimpleImputer)
            and len(column)
        ):
            names = raw.labels.get(name) or tuple(
                f"{name} {place}" for place in range(column.shape[1])
            )
            found += _describe_new_numbers(names, column, raw.dev[name][train])
        elif (
            words
            and (unknown := out_of_vocabulary_counts(column, steps)) is not None
            and unknown[:, 0].sum()
        ):
            few, some = unknown.sum(0).tolist()
            found.append(f"{few:,} of {some:,} words of {name} are unknown")
    if found:
        log.warning("%s have what no training row has: %s", what, format_file_list(found))


def _describe_new_levels(
    name: str, column: np.ndarray, step: OrdinalEncoder, trained: np.ndarray
) -> Iterator[str]:
    known = (
        {*step.levels} if step.max_levels is None else {str(value) for value in trained}
    )  # beside the most frequent ones
    new = Counter(str(value) for value in column if str(value) not in known and value != "")
    if new:
        some = f"{', '.join(sorted(new)[:3])}{' …' if len(new) > 3 else ''}"
        yield f"{name} is {some} ({counted(sum(new.values()), 'row')})"
    if (missing := int((column == "").sum())) and not (trained == "").any():
        yield f"{name} is missing ({counted(missing, 'row')})"


def _describe_new_numbers(
    names: tuple[str, ...], column: np.ndarray, trained: np.ndarray
) -> Iterator[str]:
    gone = np.isnan(trained).any(axis=0)
    for place, name in enumerate(names[: column.shape[1]]):
        if (missing := int(np.isnan(column[:, place]).sum())) and not gone[place]:
            yield f"{name} is missing ({counted(missing, 'row')})"
        known = trained[~np.isnan(trained[:, place]), place]
        if not len(known):
            continue
        low, high = known.min(), known.max()
        far = int(
            (
                (column[:, place] < low - OUTLIER_RANGES * (high - low))
                | (column[:, place] > high + OUTLIER_RANGES * (high - low))
            ).sum()
        )
        if far:
            yield f"{name} is far beyond {low:g} to {high:g} ({counted(far, 'row')})"


def clip_to_float32(name: str, column: np.ndarray) -> np.ndarray:
    """The same numbers, those that float32 cannot hold cut to what it can, which is said."""
    column = np.asarray(column)
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


def _count_per_class(column: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """How many rows are of each class, or have each label."""
    if column.ndim > 1:
        return np.asarray(column).sum(axis=0)
    if column.dtype.kind in "OU":
        place = {name: number for number, name in enumerate(names)}
        column = np.array([place.get(str(value), len(names)) for value in column], np.int64)
    return np.bincount(column.astype(np.int64), minlength=len(names))[: len(names)]
