"""Sets test rows aside where a dataset has no official ones. The same rows for every seed of a run.

Who asks for another draw (`data.seed`) gets other test rows, and has to say why before they are opened.
"""

from __future__ import annotations

import numpy as np

from dlrun.core.errors import UserError

SPLIT_SEED = 113  # a property of the dataset, not of the run


def random_holdout(
    count: int, share: float, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (development, test), both in the rows' own order: a random `share` of `count` rows is the test.

    seed: of another draw than the usual one.
    """
    order = _random_state(seed).permutation(count)
    return _split_sorted(order, int(round(count * share)))


def stratified_holdout(
    labels: np.ndarray, share: float, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Like `random_holdout`, with the same `share` of every class; a class never leaves the development rows."""
    _, classes = np.unique(labels, return_inverse=True)
    drawn = _random_state(seed).permutation(len(labels))
    wanted = np.bincount(classes) * share
    ranks = np.empty(len(labels), np.int64)
    by_class = drawn[np.argsort(classes[drawn], kind="stable")]
    sizes = np.bincount(classes)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    taken = np.minimum(np.round(wanted), sizes - 1)
    sealed = ranks < taken[classes]
    return np.flatnonzero(~sealed), _check_test_rows(np.flatnonzero(sealed), share)


def time_holdout(times: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Like `random_holdout`, but the test rows are the last `share` in time; rows of one moment keep together."""
    cut = np.sort(times)[-max(1, int(round(len(times) * share)))]
    return np.flatnonzero(times < cut), _check_test_rows(np.flatnonzero(times >= cut), share)


def group_holdout(
    owners: np.ndarray, share: float, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Like `random_holdout`, but all rows of one owner go to one side; owners are drawn until `share` of the rows is there."""
    names, which = np.unique(owners, return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"all rows have the same owner, '{names[0]}': data.test=0 goes without test rows"
        )
    order = _random_state(seed).permutation(len(names))
    rows = np.cumsum(np.bincount(which)[order])
    enough = (
        int(np.searchsorted(rows, round(share * len(owners), 9))) + 1
    )  # 0.07 · 100 is 7.000000000000001
    sealed = np.isin(which, order[: min(enough, len(names) - 1)])
    return np.flatnonzero(~sealed), _check_test_rows(np.flatnonzero(sealed), share)


def _random_state(seed: int | None) -> np.random.RandomState:
    return np.random.RandomState(SPLIT_SEED if seed is None else seed % 2**32)


def _split_sorted(order: np.ndarray, test: int) -> tuple[np.ndarray, np.ndarray]:
    return np.sort(order[test:]), _check_test_rows(np.sort(order[:test]), test / max(1, len(order)))


def _check_test_rows(test: np.ndarray, share: float) -> np.ndarray:
    if share and not len(test):
        raise UserError(
            f"data.test={share:g} sets no row aside: there are too few; data.test=0 goes without test rows"
        )
    return test
