"""How many equal rows of a table are look-alikes: as many as independent rows with these columns would give."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.data.audit.finding import InputColumn, has_single_columns, list_input_columns

MAX_COLUMNS = 64  # those that rows agree on least are looked at; the others hold more rows together
MAX_PAIRED_COLUMNS = 8  # columns that are left out two at a time
MIN_PAIRS = 10  # pairs of rows from which a count says something


def expected_duplicate_share(raw: Dataset) -> float:
    """The share, 0 to 1, of the pairs of equal rows that chance explains; 0 for images and texts.

    Copies are equal in all columns at once, look-alikes come with near misses: pairs that differ in
    one column, and in two. If agreeing in column a says nothing of agreeing in column b, all others
    being equal, then pairs that differ in none are (in a alone) × (in b alone) / (in both), as in
    capture-recapture estimates (Chapman 1951). So the frequencies are the joint ones of all others.
    """
    columns = (
        list_input_columns(raw) if all(has_single_columns(raw, name) for name in raw.inputs) else []
    )
    if len(columns) < 2:
        return _single_column_share(columns[0]) if columns else 0.0
    *keys, whole = _compute_row_keys(columns)
    equal = _count_equal_pairs(whole)
    alone = [
        _count_equal_pairs(whole - key) - equal for key in keys
    ]  # pairs that differ in this column only
    most = sorted(range(len(keys)), key=lambda place: -alone[place])[:MAX_PAIRED_COLUMNS]
    found = []
    for a, b in combinations(most, 2):
        both = _count_equal_pairs(whole - keys[a] - keys[b]) - equal - alone[a] - alone[b]
        found.append((alone[a] * alone[b] / (both + 1), both))
    # columns that depend on each other say too little, few pairs say anything
    sure = [expected for expected, both in found if both >= MIN_PAIRS]
    expected = max(sure) if sure else float(np.median([expected for expected, _ in found]))
    return min(1.0, expected / max(1, equal))


def count_unlikely_duplicates(equals: np.ndarray, share: float) -> int:
    """Of rows with so many equal others each (0: none), how many have one that no chance explains.

    share: of the pairs that chance explains. One row among many equal ones would have one anyway.
    """
    return round(float(((1 - share) ** equals[equals > 0]).sum()))


def _compute_row_keys(columns: list[InputColumn]) -> list[np.ndarray]:
    """A random number a level of each column that is looked at, by row, and last their sum over all columns."""
    agreeing = [float(((np.bincount(one.codes) / len(one.codes)) ** 2).sum()) for one in columns]
    chosen = set(sorted(range(len(columns)), key=agreeing.__getitem__)[:MAX_COLUMNS])
    random, kept = np.random.default_rng(0), list[np.ndarray]()
    whole = np.zeros(len(columns[0].codes), np.uint64)
    for place, one in enumerate(columns):
        key = random.integers(0, 2**64, int(one.codes.max()) + 1, dtype=np.uint64)[one.codes]
        whole += key
        kept += [key] if place in chosen else []
    return [*kept, whole]


def _count_equal_pairs(keys: np.ndarray) -> int:
    """How many pairs of rows are equal."""
    counts = np.unique(keys, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _single_column_share(column: InputColumn) -> float:
    """Of a single column: where most rows have a value that comes again, equal rows are its nature, else copies."""
    counts = np.bincount(column.codes)
    return float(2 * counts[counts > 1].sum() > len(column.codes))
