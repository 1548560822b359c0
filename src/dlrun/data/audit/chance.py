"""How many equal rows of a table are coincidences: as many as independent rows would give."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.data.audit.finding import InputColumn, has_single_columns, list_input_columns

MAX_COLUMNS = 64  # columns that rows agree on least; leaving out others joins more rows
MAX_PAIRED_COLUMNS = 8  # columns of which two at a time are left out
MIN_PAIRS = 10  # pairs of rows that make an estimate reliable


def expected_duplicate_share(dataset: Dataset) -> float:
    """Estimate which share of the pairs of equal rows is due to chance, 0 to 1.

    Copies are equal in all columns at once; coincidences come with near misses: pairs that differ
    in one column, and in two. If agreement in column a is independent of agreement in column b,
    given all others, then pairs that differ in none are (in a alone) × (in b alone) / (in both),
    as in capture-recapture estimates (Chapman 1951). So the other columns keep their joint
    frequencies.

    Args:
        dataset: The dataset; images, texts and series give 0, for they do not coincide.
    """
    columns = (
        list_input_columns(dataset)
        if all(has_single_columns(dataset, name) for name in dataset.inputs)
        else []
    )
    if len(columns) < 2:
        return _single_column_share(columns[0]) if columns else 0.0
    *keys, row_key = _compute_row_keys(columns)
    equal = _count_equal_pairs(row_key)
    # The sum without a column's key is the key of the row without that column.
    differ_in_one = [_count_equal_pairs(row_key - key) - equal for key in keys]
    by_frequency = sorted(range(len(keys)), key=lambda column: -differ_in_one[column])
    estimates = []
    for first, second in combinations(by_frequency[:MAX_PAIRED_COLUMNS], 2):
        in_first, in_second = differ_in_one[first], differ_in_one[second]
        at_most_two = _count_equal_pairs(row_key - keys[first] - keys[second])
        in_both = at_most_two - equal - in_first - in_second
        estimates.append((in_first * in_second / (in_both + 1), in_both))
    # Columns that depend on each other give too low an estimate, hence the largest one; few
    # pairs give any estimate, hence the median where there is nothing better.
    reliable = [expected for expected, in_both in estimates if in_both >= MIN_PAIRS]
    expected = (
        max(reliable) if reliable else float(np.median([expected for expected, _ in estimates]))
    )
    return min(1.0, expected / max(1, equal))


def count_unlikely_duplicates(equals: np.ndarray, share: float) -> int:
    """Return how many rows have an equal row that chance does not explain.

    Args:
        equals: Number of equal other rows of each row (N,), 0 for none.
        share: Share of the pairs that is due to chance. A row among many equal ones has one that
            is not in any case.
    """
    return round(float(((1 - share) ** equals[equals > 0]).sum()))


def _compute_row_keys(columns: list[InputColumn]) -> list[np.ndarray]:
    """Return a random number per level of each selected column, by row; last their sum over all."""
    agreement = [
        float(((np.bincount(column.codes) / len(column.codes)) ** 2).sum()) for column in columns
    ]
    # Random keys add up: two rows of equal sums are equal rows, but for a chance of 2^-64.
    selected = set(sorted(range(len(columns)), key=agreement.__getitem__)[:MAX_COLUMNS])
    random, selected_keys = np.random.default_rng(0), list[np.ndarray]()
    row_key = np.zeros(len(columns[0].codes), np.uint64)
    for index, column in enumerate(columns):
        key = random.integers(0, 2**64, int(column.codes.max()) + 1, dtype=np.uint64)[column.codes]
        row_key += key
        selected_keys += [key] if index in selected else []
    return [*selected_keys, row_key]


def _count_equal_pairs(keys: np.ndarray) -> int:
    """How many pairs of rows are equal."""
    counts = np.unique(keys, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _single_column_share(column: InputColumn) -> float:
    """Return 1 where most rows have a recurring value, as single columns may, else 0."""
    counts = np.bincount(column.codes)
    return float(2 * counts[counts > 1].sum() > len(column.codes))
