"""Row numbers for training and for validation. Splits are scikit-learn's wherever they are drawn."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Raw
from dlrun.core.errors import Refused
from dlrun.evaluation.protocols.stratification import Rare, single, strata, tell_not_stratified

log = logging.getLogger("dlrun")

By = Literal["auto", "stratified", "random", "group", "time", "first", "last"]
Split = tuple[np.ndarray, np.ndarray]


def held_out(raw: Raw, validation: float, by: By, seed: int, rare: Rare = "stratify_none") -> Split:
    """(training rows, validation rows) of one hold-out: auto holds out what the data set apart for it, if they do.

    validation: a share below 1, or a number of rows. by: stratified keeps class shares, group keeps owners whole, time
    holds out the latest (rows of one moment keep together, so it may hold out more), first and last take the rows as
    they lie (BOOK §3.5), auto is group where the data name owners, else stratified for classes. A series is split in
    time alone: the training rows end `span` rows before the validation rows, so that no training row, or what it
    foretells, is seen in a validation window. rare: see `strata`.
    """
    total = len(raw)
    if by == "auto" and 0 < raw.validation < total:
        log.info("validated on: the %d rows of the folder validation; data.validation=mixed: any", raw.validation)
        return np.arange(total - raw.validation), np.arange(total - raw.validation, total)
    count = round(validation * total) if validation < 1 else int(validation)
    if not 0 < count < total:
        raise Refused(
            f"protocol.validation={validation:g} holds out {count} of {total} rows; some must be left on each side"
        )
    if raw.validation:
        log.info("protocol.by=%s mixes the %d rows of the folder validation with the others", by, raw.validation)
    rows = np.arange(total)
    if (shared := span(raw)) and by in ("auto", "time"):
        return later(raw, [total - count, total], shared)[0]
    by = by_owner(raw, by, tell=True)
    refuse_neighbours(raw, by)
    if by == "first":
        return rows[count:], rows[:count]
    if by == "last":
        return rows[:-count], rows[-count:]
    if by == "time":
        return later(raw, [total - count, total], 0)[0]
    if by == "group":
        return _by_group(raw, count, seed)
    return _drawn(raw, rows, count, by, seed, rare)


def drawn(raw: Raw, train: int, validation: int, seed: int) -> Split:
    """(training rows, validation rows) drawn at random: so many of the first, and at most so many of the second.

    Where the data name owners, no validation row is of an owner of training rows. Raises Refused where no row is left
    to validate on.
    """
    refuse_neighbours(raw, "random")
    tell_not_stratified(raw, "the few training rows are drawn at random")
    order = np.random.RandomState(seed % 2**32).permutation(len(raw))
    others = order[train:]
    if raw.group is not None:
        owners = column(raw, raw.group, "group")
        others = others[~np.isin(owners[others], owners[order[:train]])]
    if not len(others):
        raise Refused(f"protocol.train={train} leaves none of the {len(raw)} rows to validate on")
    return np.sort(order[:train]), np.sort(others[:validation])


def by_owner(raw: Raw, by: By, *, tell: bool = False) -> By:
    """What `auto` comes to where the data name owners, whose rows keep together: group; anything else as it is."""
    if by != "auto" or raw.group is None or len(np.unique(raw.dev[raw.group])) < 2:
        return by
    if tell:
        tell_not_stratified(raw, f"the rows of one '{raw.group}' keep together")
    return "group"


def _drawn(raw: Raw, rows: np.ndarray, count: int, by: By, seed: int, rare: Rare) -> Split:
    from sklearn.model_selection import train_test_split

    classes = strata(raw, by, 2, rare)
    left = rows if classes is None else rows[~single(classes)]  # one alone in its class is trained on
    if classes is not None and min(count, len(left) - count) <= len(np.unique(classes[left])) - 1:  # one row of each
        if by == "stratified":
            raise Refused(
                f"protocol.by=stratified: {count} of {len(rows)} rows are too few for {classes.max() + 1} classes"
            )
        tell_not_stratified(raw, f"{count} of {len(rows)} rows are too few for {classes.max() + 1} classes")
        classes, left = None, rows
    chosen = None if classes is None else classes[left]
    train, val = train_test_split(left, test_size=count, random_state=seed % 2**32, stratify=chosen)
    return np.setdiff1d(rows, val), np.sort(val)


def _by_group(raw: Raw, count: int, seed: int) -> Split:
    from sklearn.model_selection import GroupShuffleSplit

    owners = column(raw, raw.group, "group")
    groups = len(np.unique(owners))
    if groups < 2:
        raise Refused(f"protocol.by=group: all rows have the same '{raw.group}', so none can be held out")
    held = -(-count * groups // len(raw))  # the share of owners, rounded up; in floats 7 / 100 · 100 is above 7
    splitter = GroupShuffleSplit(1, test_size=held, random_state=seed % 2**32)
    return next(splitter.split(owners, groups=owners))


def folds(
    raw: Raw, count: int, by: By, shuffle: bool, seed: int, rare: Rare = "stratify_none", *, tell: bool = True
) -> list[Split]:
    """(training rows, validation rows) of each of `count` folds. tell: whether to say what is not stratified."""
    from sklearn import model_selection as ms

    refuse_neighbours(raw, by)
    by = by_owner(raw, by, tell=tell)
    if tell and raw.validation:
        log.info("folds mix the %d rows of the folder validation with the others", raw.validation)
    if count > len(raw):
        raise Refused(f"protocol.folds={count}, but there are only {len(raw)} rows")
    random = {"shuffle": True, "random_state": seed % 2**32} if shuffle else {}
    if by == "group":
        owners = column(raw, raw.group, "group")
        if len(np.unique(owners)) < count:
            raise Refused(f"protocol.folds={count}, but there are only {len(np.unique(owners))} groups")
        return list(ms.GroupKFold(count, **random).split(owners, groups=owners))
    if by in ("first", "last", "time"):
        other = "walk_forward" if by == "time" else "holdout"
        raise Refused(f"protocol.by={by} makes no folds: use by=auto, stratified, random or group, or protocol={other}")
    classes = strata(raw, by, count, rare, tell=tell)
    splitter: Any = ms.KFold(count, **random) if classes is None else ms.StratifiedKFold(count, **random)
    with warnings.catch_warnings(action="ignore"):  # of classes with fewer rows than folds, which is said already
        return list(splitter.split(np.zeros(len(raw)), classes))


def forward(raw: Raw, count: int, gap: int, size: int | None) -> list[Split]:
    """(training rows, validation rows) of each of `count` folds, in time: what lies before, and the `size` rows after.

    The windows are those of scikit-learn's TimeSeriesSplit: the last count · size rows are validated, one after the
    other, and a fold trains on all rows before its own, less the last `gap`. Rows of one moment keep together, for
    which a window may begin earlier. size: null is rows / (count + 1). Of a series the gap is `span` at least. Raises
    Refused when there are too few rows.
    """
    if raw.order is None:
        raise Refused("protocol=walk_forward needs data.order=COLUMN")
    total, gap = len(raw), max(gap, span(raw))
    size = size or total // (count + 1)
    first = total - count * size
    if not size or first <= gap:
        raise Refused(
            f"protocol=walk_forward: {count} folds of {size} rows and a gap of {gap} leave {max(0, first - gap)} of "
            f"{total} rows to train on: use fewer folds, a smaller size or a smaller gap"
        )
    return later(raw, [first + size * fold for fold in range(count + 1)], gap)


def later(raw: Raw, edges: list[int], gap: int) -> list[Split]:
    """The rows before each window, less `gap`, and the rows of the window, in time; windows lie between the edges.

    An edge amid rows of one moment moves to the first of them. Raises Refused when a window or its training rows then
    are none.
    """
    times = column(raw, raw.order, "order")
    order = np.argsort(times, kind="stable")
    moments = times[order]
    whole = [*(int(np.searchsorted(moments, moments[edge])) for edge in edges[:-1]), edges[-1]]
    if whole[0] <= gap and span(raw):
        raise Refused(
            f"{len(raw)} windows of a series, {edges[-1] - edges[0]} of them held out, leave none to train on before a "
            f"gap of {gap} ({_reach(raw)}): use a longer series, a smaller {_reach(raw).partition(' ')[0]} or "
            "a smaller protocol.validation"
        )
    if whole[0] <= gap or min(np.diff(whole)) == 0:
        raise Refused(
            f"rows of one moment of '{raw.order}' keep together, and {len(np.unique(moments))} moments in {len(raw)} "
            f"rows are too few for {len(edges) - 1} windows of validation rows and a gap of {gap}"
        )
    return [(order[: low - gap], order[low:high]) for low, high in zip(whole, whole[1:], strict=False)]


def span(raw: Raw) -> int:
    """So many rows apart, two windows share nothing, what they foretold included; 0 for other rows."""
    return max((raw.apart, *(ahead.span for ahead in raw.outlook.values())))


def _reach(raw: Raw) -> str:
    """The settings that say how far a window reaches."""
    return "data.lookback and the largest data.delay" if raw.outlook else "data.length"


def refuse_neighbours(raw: Raw, by: By) -> None:
    """Refuse to split a series otherwise than in time."""
    if span(raw):
        raise Refused(
            f"protocol.by={by}: neighbouring windows of a {'series' if raw.outlook else 'text'} share their values, so "
            "held-out rows would be known from training; use protocol=last_in_time (by=time), or protocol=walk_forward"
        )


def column(raw: Raw, name: str | None, what: str) -> np.ndarray:
    """A column that the data name for this purpose; Refused when they name none."""
    if name is None:
        raise Refused(f"protocol.by={'time' if what == 'order' else what} needs data.{what}=COLUMN")
    return np.asarray(raw.dev[name])
