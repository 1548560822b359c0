"""Row numbers for training and for validation. Splits are scikit-learn's wherever they are drawn."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.evaluation.protocols.stratification import (
    Rare,
    find_single_members,
    get_class_groups,
    warn_not_stratified,
)

log = logging.getLogger("dlrun")

By = Literal["auto", "stratified", "random", "group", "time", "first", "last"]
Split = tuple[np.ndarray, np.ndarray]


def split_validation(
    raw: Dataset, validation: float, by: By, seed: int, rare: Rare = "stratify_none"
) -> Split:
    """(training rows, validation rows) of one hold-out: auto holds out what the data set apart for it, if they do.

    validation: a share below 1, or a number of rows. by: stratified keeps class shares, group keeps owners whole, time
    holds out the latest (rows of one moment keep together, so it may hold out more), first and last take the rows as
    they lie (BOOK §3.5), auto is group where the data name owners, else stratified for classes. A series is split in
    time alone: the training rows end `get_window_span` rows before the validation rows, so that no training row, or what it
    foretells, is seen in a validation window. rare: see `get_class_groups`.
    """
    total = len(raw)
    if by == "auto" and 0 < raw.num_validation_rows < total:
        log.info(
            "validated on: the %d rows of the folder validation; data.validation=mixed: any",
            raw.num_validation_rows,
        )
        return np.arange(total - raw.num_validation_rows), np.arange(
            total - raw.num_validation_rows, total
        )
    count = round(validation * total) if validation < 1 else int(validation)
    if not 0 < count < total:
        raise UserError(
            f"protocol.validation={validation:g} holds out {count} of {total} rows; some must be left on each side"
        )
    if raw.num_validation_rows:
        log.info(
            "protocol.by=%s mixes the %d rows of the folder validation with the others",
            by,
            raw.num_validation_rows,
        )
    rows = np.arange(total)
    if (shared := get_window_span(raw)) and by in ("auto", "time"):
        return make_time_splits(raw, [total - count, total], shared)[0]
    by = resolve_split_method(raw, by, tell=True)
    check_time_split(raw, by)
    if by == "first":
        return rows[count:], rows[:count]
    if by == "last":
        return rows[:-count], rows[-count:]
    if by == "time":
        return make_time_splits(raw, [total - count, total], 0)[0]
    if by == "group":
        return _split_by_group(raw, count, seed)
    return _sample_validation(raw, rows, count, by, seed, rare)


def sample_split(raw: Dataset, train: int, validation: int, seed: int) -> Split:
    """(training rows, validation rows) drawn at random: so many of the first, and at most so many of the second.

    Where the data name owners, no validation row is of an owner of training rows. Raises UserError where no row is left
    to validate on.
    """
    check_time_split(raw, "random")
    warn_not_stratified(raw, "the few training rows are drawn at random")
    order = np.random.RandomState(seed % 2**32).permutation(len(raw))
    others = order[train:]
    if raw.group is not None:
        owners = get_named_column(raw, raw.group, "group")
        others = others[~np.isin(owners[others], owners[order[:train]])]
    if not len(others):
        raise UserError(f"protocol.train={train} leaves none of the {len(raw)} rows to validate on")
    return np.sort(order[:train]), np.sort(others[:validation])


def resolve_split_method(raw: Dataset, by: By, *, tell: bool = False) -> By:
    """What `auto` comes to where the data name owners, whose rows keep together: group; anything else as it is."""
    if by != "auto" or raw.group is None or len(np.unique(raw.dev[raw.group])) < 2:
        return by
    if tell:
        warn_not_stratified(raw, f"the rows of one '{raw.group}' keep together")
    return "group"


def _sample_validation(
    raw: Dataset, rows: np.ndarray, count: int, by: By, seed: int, rare: Rare
) -> Split:
    from sklearn.model_selection import train_test_split

    classes = get_class_groups(raw, by, 2, rare)
    left = (
        rows if classes is None else rows[~find_single_members(classes)]
    )  # one alone in its class is trained on
    if (
        classes is not None and min(count, len(left) - count) <= len(np.unique(classes[left])) - 1
    ):  # one row of each
        if by == "stratified":
            raise UserError(
                f"protocol.by=stratified: {count} of {len(rows)} rows are too few for {classes.max() + 1} classes"
            )
        warn_not_stratified(
            raw, f"{count} of {len(rows)} rows are too few for {classes.max() + 1} classes"
        )
        classes, left = None, rows
    chosen = None if classes is None else classes[left]
    train, val = train_test_split(left, test_size=count, random_state=seed % 2**32, stratify=chosen)
    return np.setdiff1d(rows, val), np.sort(val)


def _split_by_group(raw: Dataset, count: int, seed: int) -> Split:
    from sklearn.model_selection import GroupShuffleSplit

    owners = get_named_column(raw, raw.group, "group")
    groups = len(np.unique(owners))
    if groups < 2:
        raise UserError(
            f"protocol.by=group: all rows have the same '{raw.group}', so none can be held out"
        )
    held = -(
        -count * groups // len(raw)
    )  # the share of owners, rounded up; in floats 7 / 100 · 100 is above 7
    splitter = GroupShuffleSplit(1, test_size=held, random_state=seed % 2**32)
    return next(splitter.split(owners, groups=owners))


def split_folds(
    raw: Dataset,
    count: int,
    by: By,
    shuffle: bool,
    seed: int,
    rare: Rare = "stratify_none",
    *,
    tell: bool = True,
) -> list[Split]:
    """(training rows, validation rows) of each of `count` folds. tell: whether to say what is not stratified."""
    from sklearn import model_selection as ms

    check_time_split(raw, by)
    by = resolve_split_method(raw, by, tell=tell)
    if tell and raw.num_validation_rows:
        log.info(
            "folds mix the %d rows of the folder validation with the others",
            raw.num_validation_rows,
        )
    if count > len(raw):
        raise UserError(f"protocol.folds={count}, but there are only {len(raw)} rows")
    random = {"shuffle": True, "random_state": seed % 2**32} if shuffle else {}
    if by == "group":
        owners = get_named_column(raw, raw.group, "group")
        if len(np.unique(owners)) < count:
            raise UserError(
                f"protocol.folds={count}, but there are only {len(np.unique(owners))} groups"
            )
        return list(ms.GroupKFold(count, **random).split(owners, groups=owners))
    if by in ("first", "last", "time"):
        other = "walk_forward" if by == "time" else "holdout"
        raise UserError(
            f"protocol.by={by} makes no folds: use by=auto, stratified, random or group, or protocol={other}"
        )
    classes = get_class_groups(raw, by, count, rare, tell=tell)
    splitter: Any = (
        ms.KFold(count, **random) if classes is None else ms.StratifiedKFold(count, **random)
    )
    with warnings.catch_warnings(
        action="ignore"
    ):  # of classes with fewer rows than folds, which is said already
        return list(splitter.split(np.zeros(len(raw)), classes))


def split_forward_in_time(raw: Dataset, count: int, gap: int, size: int | None) -> list[Split]:
    """(training rows, validation rows) of each of `count` folds, in time: what lies before, and the `size` rows after.

    The windows are those of scikit-learn's TimeSeriesSplit: the last count · size rows are validated, one after the
    other, and a fold trains on all rows before its own, less the last `gap`. Rows of one moment keep together, for
    which a window may begin earlier. size: null is rows / (count + 1). Of a series the gap is `get_window_span` at least. Raises
    UserError when there are too few rows.
    """
    if raw.order is None:
        raise UserError("protocol=walk_forward needs data.order=COLUMN")
    total, gap = len(raw), max(gap, get_window_span(raw))
    size = size or total // (count + 1)
    first = total - count * size
    if not size or first <= gap:
        raise UserError(
            f"protocol=walk_forward: {count} folds of {size} rows and a gap of {gap} leave {max(0, first - gap)} of "
            f"{total} rows to train on: use fewer folds, a smaller size or a smaller gap"
        )
    return make_time_splits(raw, [first + size * fold for fold in range(count + 1)], gap)


def make_time_splits(raw: Dataset, edges: list[int], gap: int) -> list[Split]:
    """The rows before each window, less `gap`, and the rows of the window, in time; windows lie between the edges.

    An edge amid rows of one moment moves to the first of them. Raises UserError when a window or its training rows then
    are none.
    """
    times = get_named_column(raw, raw.order, "order")
    order = np.argsort(times, kind="stable")
    moments = times[order]
    whole = [*(int(np.searchsorted(moments, moments[edge])) for edge in edges[:-1]), edges[-1]]
    if whole[0] <= gap and get_window_span(raw):
        raise UserError(
            f"{len(raw)} windows of a series, {edges[-1] - edges[0]} of them held out, leave none to train on before a "
            f"gap of {gap} ({_describe_window_settings(raw)}): use a longer series, a smaller {_describe_window_settings(raw).partition(' ')[0]} or "
            "a smaller protocol.validation"
        )
    if whole[0] <= gap or min(np.diff(whole)) == 0:
        raise UserError(
            f"rows of one moment of '{raw.order}' keep together, and {len(np.unique(moments))} moments in {len(raw)} "
            f"rows are too few for {len(edges) - 1} windows of validation rows and a gap of {gap}"
        )
    return [
        (order[: low - gap], order[low:high]) for low, high in zip(whole, whole[1:], strict=False)
    ]


def get_window_span(raw: Dataset) -> int:
    """So many rows apart, two windows share nothing, what they foretold included; 0 for other rows."""
    return max((raw.overlap_gap, *(ahead.span for ahead in raw.forecast.values())))


def _describe_window_settings(raw: Dataset) -> str:
    """The settings that say how far a window reaches."""
    return "data.lookback and the largest data.delay" if raw.forecast else "data.length"


def check_time_split(raw: Dataset, by: By) -> None:
    """Refuse to split a series otherwise than in time."""
    if get_window_span(raw):
        raise UserError(
            f"protocol.by={by}: neighbouring windows of a {'series' if raw.forecast else 'text'} share their values, so "
            "held-out rows would be known from training; use protocol=last_in_time (by=time), or protocol=walk_forward"
        )


def get_named_column(raw: Dataset, name: str | None, what: str) -> np.ndarray:
    """A column that the data name for this purpose; UserError when they name none."""
    if name is None:
        raise UserError(
            f"protocol.by={'time' if what == 'order' else what} needs data.{what}=COLUMN"
        )
    return np.asarray(raw.dev[name])
