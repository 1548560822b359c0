"""Audit of equal rows: copies, copies on both sides of a split, and contradictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np

from dlrun.core.dataset import ColumnLike, Dataset, Ragged, RawColumn, SlidingWindows
from dlrun.data.audit.finding import (
    TOLERANCE,
    Finding,
    InputColumn,
    Severity,
    classify_effect,
    describe_effect,
    format_row_share,
    format_share,
    has_single_columns,
    interval_half_width,
    list_input_columns,
    list_names,
)

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


def compute_row_ids(dataset: Dataset, names: Iterable[str]) -> np.ndarray:
    """Return equal numbers (N,) for rows that are equal in all these columns; NaN equals NaN.

    Args:
        dataset: The dataset; only its training + validation rows are read.
        names: The columns to compare.
    """
    ids: dict[bytes, int] = {}
    columns = [_iter_row_bytes(dataset.dev[name]) for name in names]
    # Digests instead of rows: images and texts would fill the memory as keys.
    digests = (
        hashlib.blake2b(b"".join(cells), digest_size=16).digest()
        for cells in zip(*columns, strict=True)
    )
    return np.array([ids.setdefault(digest, len(ids)) for digest in digests], np.int64)


def _iter_row_bytes(column: ColumnLike) -> Iterator[bytes]:
    """Yield the content of each row as bytes of equal length, or with their length in front."""
    if isinstance(column, Ragged):
        values, offsets = np.ascontiguousarray(column.values), column.offsets.tolist()
        for first, last in zip(offsets, offsets[1:], strict=False):
            yield b"%d:" % (last - first) + values[first:last].tobytes()
        return
    if isinstance(column, SlidingWindows):
        # No two windows begin at the same row, so none is a copy, whatever its values.
        yield from (first.tobytes() for first in column.first)
        return
    if isinstance(column, RawColumn) and (hashes := column.row_hashes) is not None:
        yield from (digest.tobytes() for digest in hashes)
        return
    column = np.asarray(column)
    if column.dtype.kind in "OU":
        ids: dict[str, int] = {}
        codes = [ids.setdefault(str(cell), len(ids)) for cell in column.reshape(-1)]
        column = np.array(codes, np.int64).reshape(column.shape)
    if column.dtype.kind == "f":
        # NaN has many bit patterns, and -0.0 another one than 0.0: one of each.
        column = np.where(np.isnan(column), np.nan, column) + 0.0
    yield from (row.tobytes() for row in column.reshape(len(column), -1))


def iter_duplicate_findings(
    dataset: Dataset, rows: np.ndarray, train: np.ndarray, val: np.ndarray | None
) -> Iterator[Finding]:
    """Yield copies, copies across the split, and equal inputs with different targets.

    Args:
        dataset: The dataset; only its training + validation rows are read.
        rows: Equal numbers for rows with equal inputs (N,), see `compute_row_ids`.
        train: Indices of the training rows.
        val: Indices of the validation rows, None without any.
    """
    copies = len(rows) - len(np.unique(rows))
    if not copies:
        return
    share = expected_duplicate_share(dataset)
    owner_ids = _compute_owner_ids(dataset, rows)
    if val is not None:
        yield from _find_split_overlap(dataset, rows, owner_ids, share, train, val)
    yield _duplicate_finding(dataset, rows, owner_ids, share)
    yield from _find_conflicts(dataset, rows, len(train) if val is None else len(val))


def _get_owner_columns(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return the columns that are no inputs and say to whom a row belongs."""
    # Rows of different owners are no copies of each other, however alike their inputs.
    owners = {}
    if dataset.group and dataset.group not in dataset.inputs:
        owners[dataset.group] = np.asarray(dataset.dev[dataset.group])
    for name, values in dataset.identifiers.items():
        if len(values) == len(dataset):
            owners[name] = np.asarray(values)
    return owners


def _compute_owner_ids(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return equal numbers (N,) for rows of equal inputs and equal owners."""
    for values in _get_owner_columns(dataset).values():
        codes = np.unique(values.astype(str), return_inverse=True)[1].reshape(-1)
        rows = np.unique(rows * (int(codes.max()) + 1) + codes, return_inverse=True)[1].reshape(-1)
    return rows


def _duplicate_finding(
    dataset: Dataset, rows: np.ndarray, owner_ids: np.ndarray, share: float
) -> Finding:
    first = np.unique(rows, return_index=True)[1]
    num_equal = np.bincount(rows)[rows] - 1
    # The first of equal rows is the original; the others are its copies.
    num_equal[first] = 0
    count = int((num_equal > 0).sum())
    by_chance = count - count_unlikely_duplicates(num_equal, share)
    doubtful = min(len(owner_ids) - len(np.unique(owner_ids)), count - by_chance)
    share_text = format_row_share(count, len(rows), "development rows")
    text = f"{share_text} {_has_or_have(count)} the inputs of an earlier row"
    text += _describe_expected(dataset, by_chance, count - doubtful)
    severity: Severity = "warning" if doubtful > TOLERANCE * len(rows) else "note"
    doubtful_share = format_share(doubtful / len(rows))
    effect = f"copies weigh double: at most {doubtful_share} of what is learned and measured"
    return Finding(severity, "duplicates", text, (), count, effect if doubtful else "")


def _has_or_have(count: int) -> str:
    return "has" if count == 1 else "have"


def _describe_expected(dataset: Dataset, by_chance: int, coincidences: int) -> str:
    """Say why equal rows are no copies: chance, or different owners."""
    text = ""
    if by_chance:
        text = (
            "; independent rows with these columns' joint frequencies would give about "
            f"{by_chance:,}"
        )
    if coincidences > by_chance:
        owners = list_names(list(_get_owner_columns(dataset)))
        text += f"; {coincidences:,} of them differ in {owners}: look-alikes, not copies"
    return text


def _find_split_overlap(
    dataset: Dataset,
    rows: np.ndarray,
    owner_ids: np.ndarray,
    share: float,
    train: np.ndarray,
    val: np.ndarray,
) -> Iterator[Finding]:
    """Yield validation rows seen in training that neither chance nor different owners explain."""
    equals = np.bincount(rows[train], minlength=len(rows))[rows[val]]
    count, total = int((equals > 0).sum()), len(val)
    if not count:
        return
    by_chance = count - count_unlikely_duplicates(equals, share)
    same_owner = int(np.isin(owner_ids[val], owner_ids[train]).sum())
    target_ids = _compute_target_ids(dataset, rows)
    other_target = count - int(np.isin(target_ids[val], target_ids[train]).sum())
    share_text = format_row_share(count, total, "validation rows")
    text = f"{share_text} {_has_or_have(count)} the inputs of a training row"
    text += _describe_expected(dataset, by_chance, max(count - same_owner, by_chance))
    text += f"; {other_target:,} of them had another target there" if other_target else ""
    doubtful_any_owner = min(count - by_chance, count - other_target) / total
    doubtful = min(same_owner / total, doubtful_any_owner)
    severity = classify_effect(doubtful, total)
    effect = describe_effect(doubtful, total) if doubtful > 0 else ""
    if severity != "note":
        effect = f"scores on them may reflect memorization: {effect}"
    elif classify_effect(doubtful_any_owner, total) != "note":
        # Owners may be mere row names; then the copies would be hidden by them.
        severity = "warning"
        bound = describe_effect(doubtful_any_owner, total)
        effect = f"if these are copies under new names, {bound}"
    yield Finding(severity, "duplicates across splits", text, (), count, effect)


def _compute_target_ids(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return equal numbers (N,) for rows of equal inputs and targets."""
    return rows * len(rows) + compute_row_ids(dataset, dataset.targets)


def _find_conflicts(dataset: Dataset, rows: np.ndarray, num_measured: int) -> Iterator[Finding]:
    pairs, counts = np.unique(_compute_target_ids(dataset, rows), return_counts=True)
    owner = pairs // len(rows)
    different = np.bincount(owner, minlength=rows.max() + 1)[rows] > 1
    count = int(different.sum())
    if not count:
        return
    share = format_row_share(count, len(rows), "development rows")
    text = f"{share} have inputs that another row has too, with another target"
    lost_share, effect = _compute_score_bound(dataset, rows, owner, counts)
    severity: Severity = "warning" if lost_share > interval_half_width(num_measured) else "note"
    yield Finding(severity, "contradictions", text, tuple(dataset.targets), count, effect)


def _compute_score_bound(
    dataset: Dataset, rows: np.ndarray, owner: np.ndarray, counts: np.ndarray
) -> tuple[float, str]:
    """Return the share that the best of all models must lose on these rows, and that in words."""
    (target, kind), *other_targets = dataset.targets.items()
    if other_targets or kind not in ("binary", "category", "number"):
        return 0.0, ""
    if kind == "number":
        # The best prediction for equal inputs is the mean of their targets.
        values = np.asarray(dataset.dev[target], np.float64).reshape(len(rows), -1)[:, 0]
        means = np.bincount(rows, values) / np.bincount(rows)
        lost_share = float(
            ((values - means[rows]) ** 2).mean() / max(values.var(), np.finfo(float).tiny)
        )
        return (
            lost_share,
            f"no model can explain more than {format_share(1 - lost_share)} of the variance",
        )
    # The best prediction for equal inputs is their most frequent class.
    best = np.zeros(rows.max() + 1, np.int64)
    np.maximum.at(best, owner, counts)
    lost_share = 1 - float(best.sum()) / len(rows)
    return (
        lost_share,
        f"no model can be right on more than {format_share(1 - lost_share)} of them all",
    )
