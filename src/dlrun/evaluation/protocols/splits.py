"""Row numbers for training and for validation; scikit-learn's splitters wherever rows are drawn."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError

log = logging.getLogger("dlrun")

Rare = Literal["stratify_others", "stratify_none"]  # see `stratification.get_class_groups`
By = Literal["auto", "stratified", "random", "group", "time", "first", "last"]
Split = tuple[np.ndarray, np.ndarray]


def split_validation(
    dataset: Dataset, validation: float, by: By, seed: int, rare: Rare = "stratify_none"
) -> Split:
    """Split the rows of one hold-out.

    Args:
        dataset: The rows; a series of windows is split in time alone, with `get_window_span` rows
            left out between training and validation, so that no value is on both sides.
        validation: A share below 1, or a number of rows.
        by: 'stratified' keeps class shares, 'group' keeps the rows of one owner together, 'time'
            holds out the latest (rows of one moment keep together, so it may hold out more),
            'first' and 'last' take the rows in their order (book §3.5). 'auto' holds out the
            validation rows that the data set comes with; else it is 'group' where the data name
            owners, else 'stratified'.
        seed: Of the drawing.
        rare: See `get_class_groups`.

    Returns:
        (training rows, validation rows).

    Raises:
        UserError: One side would have no row, or the data lack what `by` needs.
    """
    total = len(dataset)
    rows, provided = np.arange(total), dataset.num_validation_rows
    if by == "auto" and 0 < provided < total:
        log.info(
            "validated on: the %d rows of the folder validation; data.validation=mixed: any",
            provided,
        )
        return rows[: total - provided], rows[total - provided :]
    count = _count_held_out(validation, total)
    if provided:
        log.info(
            "protocol.by=%s mixes the %d rows of the folder validation with the others",
            by,
            provided,
        )
    # Windows overlap: a random split would put the same values on both sides.
    if (span := get_window_span(dataset)) and by in ("auto", "time"):
        return make_time_splits(dataset, [total - count, total], span)[0]
    by = resolve_split_method(dataset, by, tell=True)
    check_time_split(dataset, by)
    if by == "first":
        return rows[count:], rows[:count]
    if by == "last":
        # As they lie, as the book takes the first ones (§3.5).
        return rows[:-count], rows[-count:]
    if by == "time":
        return make_time_splits(dataset, [total - count, total], 0)[0]
    if by == "group":
        return _split_by_group(dataset, count, seed)
    from dlrun.evaluation.protocols.stratification import sample_validation

    return sample_validation(dataset, count, by, seed, rare)


def _count_held_out(validation: float, total: int) -> int:
    """How many rows a share below 1, or a number from 1 on, holds out."""
    count = round(validation * total) if validation < 1 else int(validation)
    if not 0 < count < total:
        raise UserError(
            f"protocol.validation={validation:g} holds out {count} of {total} rows; some must be "
            "left on each side"
        )
    return count


def sample_split(dataset: Dataset, train: int, validation: int, seed: int) -> Split:
    """Draw a few training rows, and validation rows from the others.

    Args:
        dataset: The rows; where they have owners, no owner is on both sides.
        train: How many training rows.
        validation: How many validation rows at most.
        seed: Of the drawing.

    Returns:
        (training rows, validation rows), each in ascending order.

    Raises:
        UserError: No row is left to validate on.
    """
    from dlrun.evaluation.protocols.stratification import warn_not_stratified

    check_time_split(dataset, "random")
    warn_not_stratified(dataset, "the few training rows are drawn at random")
    # RandomState, as scikit-learn's splitters use it, takes seeds below 2**32 alone.
    order = np.random.RandomState(seed % 2**32).permutation(len(dataset))
    remaining = order[train:]
    if dataset.group is not None:
        owners = get_named_column(dataset, dataset.group, "group")
        remaining = remaining[~np.isin(owners[remaining], owners[order[:train]])]
    if not len(remaining):
        raise UserError(
            f"protocol.train={train} leaves none of the {len(dataset)} rows to validate on"
        )
    return np.sort(order[:train]), np.sort(remaining[:validation])


def resolve_split_method(dataset: Dataset, by: By, *, tell: bool = False) -> By:
    """'group' for 'auto' where the data name owners; anything else as it is."""
    if by != "auto" or dataset.group is None or len(np.unique(dataset.dev[dataset.group])) < 2:
        return by
    if tell:
        from dlrun.evaluation.protocols.stratification import warn_not_stratified

        warn_not_stratified(dataset, f"the rows of one '{dataset.group}' keep together")
    return "group"


def _split_by_group(dataset: Dataset, count: int, seed: int) -> Split:
    from sklearn.model_selection import GroupShuffleSplit

    owners = get_named_column(dataset, dataset.group, "group")
    groups = len(np.unique(owners))
    if groups < 2:
        raise UserError(
            f"protocol.by=group: all rows have the same '{dataset.group}', so none can be held out"
        )
    # The share of owners, rounded up in integers: in floats 7 / 100 · 100 is above 7.
    num_held_out = -(-count * groups // len(dataset))
    splitter = GroupShuffleSplit(1, test_size=num_held_out, random_state=seed % 2**32)
    return next(splitter.split(owners, groups=owners))


def split_folds(
    dataset: Dataset,
    count: int,
    by: By,
    shuffle: bool,
    seed: int,
    rare: Rare = "stratify_none",
    *,
    tell: bool = True,
) -> list[Split]:
    """Split the rows into folds.

    Args:
        dataset: The rows.
        count: How many folds.
        by: See `split_validation`; 'time', 'first' and 'last' make no folds.
        shuffle: Whether the rows are shuffled first.
        seed: Of the shuffling.
        rare: See `get_class_groups`.
        tell: Whether to log what is not stratified.

    Returns:
        (training rows, validation rows) of each fold.

    Raises:
        UserError: There are fewer rows, or owners, than folds, or `by` makes no folds.
    """
    check_time_split(dataset, by)
    by = resolve_split_method(dataset, by, tell=tell)
    if tell and dataset.num_validation_rows:
        log.info(
            "folds mix the %d rows of the folder validation with the others",
            dataset.num_validation_rows,
        )
    if count > len(dataset):
        raise UserError(f"protocol.folds={count}, but there are only {len(dataset)} rows")
    shuffling: dict[str, Any] = {"shuffle": True, "random_state": seed % 2**32} if shuffle else {}
    if by == "group":
        owners = get_named_column(dataset, dataset.group, "group")
        if len(np.unique(owners)) < count:
            raise UserError(
                f"protocol.folds={count}, but there are only {len(np.unique(owners))} groups"
            )
        from sklearn.model_selection import GroupKFold

        return list(GroupKFold(count, **shuffling).split(owners, groups=owners))
    if by in ("first", "last", "time"):
        alternative = "walk_forward" if by == "time" else "holdout"
        raise UserError(
            f"protocol.by={by} makes no folds: use by=auto, stratified, random or group, or "
            f"protocol={alternative}"
        )
    from dlrun.evaluation.protocols.stratification import split_random_folds

    return split_random_folds(dataset, count, by, shuffling, rare, tell=tell)


def split_forward_in_time(dataset: Dataset, count: int, gap: int, size: int | None) -> list[Split]:
    """Split the rows into folds that follow each other in time.

    The windows are those of scikit-learn's TimeSeriesSplit: the last count · size rows are
    validated, one window after the other, and a fold trains on all rows before its own, less the
    last `gap`. Rows of one moment keep together, for which a window may begin earlier.

    Args:
        dataset: The rows, with a column of times; of a series the gap is `get_window_span` at
            least.
        count: How many folds.
        gap: How many rows are left out before each window.
        size: Rows of a window; None: rows / (count + 1).

    Returns:
        (training rows, validation rows) of each fold.

    Raises:
        UserError: The data have no order, or too few rows.
    """
    if dataset.order is None:
        raise UserError("protocol=walk_forward needs data.order=COLUMN")
    total, gap = len(dataset), max(gap, get_window_span(dataset))
    size = size or total // (count + 1)
    first = total - count * size
    if not size or first <= gap:
        raise UserError(
            f"protocol=walk_forward: {count} folds of {size} rows and a gap of {gap} leave "
            f"{max(0, first - gap)} of {total} rows to train on: use fewer folds, a smaller size "
            "or a smaller gap"
        )
    return make_time_splits(dataset, [first + size * fold for fold in range(count + 1)], gap)


def make_time_splits(dataset: Dataset, edges: list[int], gap: int) -> list[Split]:
    """Split the rows at windows in time.

    Args:
        dataset: The rows, with a column of times.
        edges: Where the windows begin, in time, and the end of the last one. An edge amid rows of
            one moment moves to the first of them.
        gap: How many rows are left out before each window.

    Returns:
        (rows before the window less `gap`, rows of the window) of each window, in time.

    Raises:
        UserError: A window, or what it is trained on, would be empty.
    """
    times = get_named_column(dataset, dataset.order, "order")
    order = np.argsort(times, kind="stable")
    moments = times[order]
    starts = [*(int(np.searchsorted(moments, moments[edge])) for edge in edges[:-1]), edges[-1]]
    if starts[0] <= gap and get_window_span(dataset):
        raise UserError(
            f"{len(dataset)} windows of a series, {edges[-1] - edges[0]} of them held out, leave "
            f"none to train on before a gap of {gap} ({_describe_window_settings(dataset)}): use "
            f"a longer series, a smaller {_describe_window_settings(dataset).partition(' ')[0]} "
            "or a smaller protocol.validation"
        )
    if starts[0] <= gap or min(np.diff(starts)) == 0:
        raise UserError(
            f"rows of one moment of '{dataset.order}' keep together, and "
            f"{len(np.unique(moments))} moments in {len(dataset)} rows are too few for "
            f"{len(edges) - 1} windows of validation rows and a gap of {gap}"
        )
    return [
        (order[: low - gap], order[low:high]) for low, high in zip(starts, starts[1:], strict=False)
    ]


def get_window_span(dataset: Dataset) -> int:
    """How many rows apart two windows share no value or forecast; 0 for other rows."""
    return max((dataset.overlap_gap, *(horizon.span for horizon in dataset.forecast.values())))


def _describe_window_settings(dataset: Dataset) -> str:
    """The settings that say how far a window reaches."""
    return "data.lookback and the largest data.delay" if dataset.forecast else "data.length"


def check_time_split(dataset: Dataset, by: By) -> None:
    """Refuse to split a series otherwise than in time."""
    if get_window_span(dataset):
        raise UserError(
            f"protocol.by={by}: neighboring windows of a "
            f"{'series' if dataset.forecast else 'text'} share their values, so held-out rows "
            "would be known from training; use protocol=last_in_time (by=time), or "
            "protocol=walk_forward"
        )


def get_named_column(dataset: Dataset, name: str | None, role: str) -> np.ndarray:
    """The column for a role, 'order' or 'group'; raises UserError when the data name none."""
    if name is None:
        raise UserError(
            f"protocol.by={'time' if role == 'order' else role} needs data.{role}=COLUMN"
        )
    return np.asarray(dataset.dev[name])
