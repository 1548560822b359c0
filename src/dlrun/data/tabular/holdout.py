"""Holds out test rows of a dataset without official ones: the same for every seed of a run.

Another draw (`data.seed`) holds out other rows, and needs a reason before they are evaluated.
"""

from __future__ import annotations

import numpy as np

from dlrun.core.errors import UserError

SPLIT_SEED = 113  # of the dataset, not of the run: every run holds out the same rows


def random_holdout(
    count: int, share: float, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a random share of the rows.

    Args:
        count: The number of rows.
        share: The share of test rows.
        seed: Of another draw than the usual one.

    Returns:
        Indices of development rows and of test rows, both in the rows' own order.
    """
    order = _random_state(seed).permutation(count)
    return _split_sorted(order, int(round(count * share)))


def stratified_holdout(
    labels: np.ndarray, share: float, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the same share of each class; a class always keeps a development row.

    Args:
        labels: The class of each row (N,).
        share: The share of test rows.
        seed: Of another draw than the usual one.
    """
    _, classes = np.unique(labels, return_inverse=True)
    order = _random_state(seed).permutation(len(labels))
    sizes = np.bincount(classes)
    # The rank of each row among those of its class, in the order that was drawn.
    ranks = np.empty(len(labels), np.int64)
    by_class = order[np.argsort(classes[order], kind="stable")]
    ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    num_test = np.minimum(np.round(sizes * share), sizes - 1)
    is_test = ranks < num_test[classes]
    return np.flatnonzero(~is_test), _check_test_rows(np.flatnonzero(is_test), share)


def time_holdout(times: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the last rows in time; rows of one moment stay together.

    Args:
        times: When each row was made (N,).
        share: The share of test rows.
    """
    cut = np.sort(times)[-max(1, int(round(len(times) * share)))]
    return np.flatnonzero(times < cut), _check_test_rows(np.flatnonzero(times >= cut), share)


def group_holdout(
    owners: np.ndarray, share: float, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out whole groups, drawn until they have the share of the rows.

    Args:
        owners: The group of each row (N,).
        share: The share of test rows.
        seed: Of another draw than the usual one.
    """
    names, groups = np.unique(owners, return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"all rows have the same owner, '{names[0]}': data.test=0 goes without test rows"
        )
    order = _random_state(seed).permutation(len(names))
    rows = np.cumsum(np.bincount(groups)[order])
    # 0.07 · 100 is 7.000000000000001, which would take one group too many: round.
    num_test = int(np.searchsorted(rows, round(share * len(owners), 9))) + 1
    is_test = np.isin(groups, order[: min(num_test, len(names) - 1)])
    return np.flatnonzero(~is_test), _check_test_rows(np.flatnonzero(is_test), share)


def _random_state(seed: int | None) -> np.random.RandomState:
    return np.random.RandomState(SPLIT_SEED if seed is None else seed % 2**32)


def _split_sorted(order: np.ndarray, num_test: int) -> tuple[np.ndarray, np.ndarray]:
    return np.sort(order[num_test:]), _check_test_rows(
        np.sort(order[:num_test]), num_test / max(1, len(order))
    )


def _check_test_rows(rows: np.ndarray, share: float) -> np.ndarray:
    if share and not len(rows):
        raise UserError(
            f"data.test={share:g} sets no row aside: there are too few; "
            "data.test=0 goes without test rows"
        )
    return rows
