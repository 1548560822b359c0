"""The audit's look at equal rows: copies, copies on both sides of a split, and contradictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from dlrun.core.dataset import Dataset, Ragged, RawColumn, SlidingWindows
from dlrun.data.audit.chance import count_unlikely_duplicates, expected_duplicate_share
from dlrun.data.audit.finding import (
    TOLERANCE,
    Finding,
    Severity,
    classify_effect,
    describe_effect,
    format_row_share,
    format_share,
    interval_half_width,
    list_names,
)
from dlrun.data.images.image_column import ImageFileColumn
from dlrun.data.images.rotation_pretext import RotatedImages


def compute_row_ids(raw: Dataset, names: Iterable[str]) -> np.ndarray:
    """Equal whole numbers (N,) for development rows that are equal in all these columns; NaN equals NaN."""
    known: dict[bytes, int] = {}
    columns = [_iter_row_bytes(raw.dev[name]) for name in names]
    digests = (
        hashlib.blake2b(b"".join(parts), digest_size=16).digest()
        for parts in zip(*columns, strict=True)
    )
    return np.array([known.setdefault(digest, len(known)) for digest in digests], np.int64)


def _iter_row_bytes(column: RawColumn) -> Iterator[bytes]:
    """The content of each row as bytes, equally many in all rows, or with their length in front."""
    if isinstance(column, Ragged):
        values, ends = np.ascontiguousarray(column.values), column.offsets.tolist()
        for first, last in zip(ends, ends[1:], strict=False):
            yield b"%d:" % (last - first) + values[first:last].tobytes()
        return
    if isinstance(column, SlidingWindows):  # a window is where it begins: no two are the same
        yield from (first.tobytes() for first in column.first)
        return
    if isinstance(column, ImageFileColumn | RotatedImages):
        yield from (mark.tobytes() for mark in column.pixel_hashes)
        return
    column = np.asarray(column)
    if column.dtype.kind in "OU":
        known: dict[str, int] = {}
        codes = [known.setdefault(str(cell), len(known)) for cell in column.reshape(-1)]
        column = np.array(codes, np.int64).reshape(column.shape)
    if column.dtype.kind == "f":
        column = np.where(np.isnan(column), np.nan, column) + 0.0  # one NaN, one zero
    yield from (row.tobytes() for row in column.reshape(len(column), -1))


def iter_duplicate_findings(
    raw: Dataset, rows: np.ndarray, train: np.ndarray, val: np.ndarray | None
) -> Iterator[Finding]:
    """Copies within the development rows and across the split, and equal inputs with different targets."""
    copies = len(rows) - len(np.unique(rows))
    if not copies:
        return
    share, same = expected_duplicate_share(raw), _compute_owner_ids(raw, rows)
    if val is not None:
        yield from _find_split_overlap(raw, rows, same, share, train, val)
    yield _duplicate_finding(raw, rows, same, share)
    yield from _find_conflicts(raw, rows, len(train) if val is None else len(val))


def _get_owner_columns(raw: Dataset) -> dict[str, np.ndarray]:
    """The columns that are no inputs and say whose a row is: rows that differ in one of them are no copies."""
    owners = (
        {raw.group: np.asarray(raw.dev[raw.group])}
        if raw.group and raw.group not in raw.inputs
        else {}
    )
    return owners | {
        name: np.asarray(values)
        for name, values in raw.identifiers.items()
        if len(values) == len(raw)
    }


def _compute_owner_ids(raw: Dataset, rows: np.ndarray) -> np.ndarray:
    """Equal whole numbers for rows that are equal in their inputs and in what says whose they are."""
    for values in _get_owner_columns(raw).values():
        codes = np.unique(values.astype(str), return_inverse=True)[1].reshape(-1)
        rows = np.unique(rows * (int(codes.max()) + 1) + codes, return_inverse=True)[1].reshape(-1)
    return rows


def _duplicate_finding(raw: Dataset, rows: np.ndarray, same: np.ndarray, share: float) -> Finding:
    first = np.unique(rows, return_index=True)[1]
    others = np.bincount(rows)[rows] - 1
    others[first] = 0
    count = int((others > 0).sum())
    by_chance = count - count_unlikely_duplicates(others, share)
    doubtful = min(len(same) - len(np.unique(same)), count - by_chance)
    text = f"{format_row_share(count, len(rows), 'development rows')} {_has_or_have(count)} the inputs of an earlier row"
    text += _describe_expected(raw, by_chance, count - doubtful)
    severity: Severity = "warning" if doubtful > TOLERANCE * len(rows) else "note"
    weight = f"copies weigh double: at most {format_share(doubtful / len(rows))} of what is learned and measured"
    return Finding(severity, "duplicates", text, (), count, weight if doubtful else "")


def _has_or_have(count: int) -> str:
    return "has" if count == 1 else "have"


def _describe_expected(raw: Dataset, by_chance: int, alike: int) -> str:
    """Why so many equal rows are look-alikes: by chance, or for they are of different owners."""
    told = ""
    if by_chance:
        told = f"; independent rows with these columns' joint frequencies would give about {by_chance:,}"
    if alike > by_chance:
        told += f"; {alike:,} of them differ in {list_names(list(_get_owner_columns(raw)))}: look-alikes, not copies"
    return told


def _find_split_overlap(
    raw: Dataset,
    rows: np.ndarray,
    same: np.ndarray,
    share: float,
    train: np.ndarray,
    val: np.ndarray,
) -> Iterator[Finding]:
    """Validation rows that training has seen: how many of them no chance and no owner explains."""
    equals = np.bincount(rows[train], minlength=len(rows))[rows[val]]
    count, total = int((equals > 0).sum()), len(val)
    if not count:
        return
    by_chance = count - count_unlikely_duplicates(equals, share)
    known = int(np.isin(same[val], same[train]).sum())
    other = count - int(
        np.isin(_compute_target_ids(raw, rows)[val], _compute_target_ids(raw, rows)[train]).sum()
    )
    text = f"{format_row_share(count, total, 'validation rows')} {_has_or_have(count)} the inputs of a training row"
    text += _describe_expected(raw, by_chance, max(count - known, by_chance))
    text += f"; {other:,} of them had another target there" if other else ""
    unnamed = min(count - by_chance, count - other) / total  # if owners are disregarded
    doubtful = min(known / total, unnamed)
    severity, effect = (
        classify_effect(doubtful, total),
        describe_effect(doubtful, total) if doubtful > 0 else "",
    )
    if severity != "note":
        effect = f"scores on them may reflect memorization: {effect}"
    elif classify_effect(unnamed, total) != "note":
        severity, effect = (
            "warning",
            f"if these are copies under new names, {describe_effect(unnamed, total)}",
        )
    yield Finding(severity, "duplicates across splits", text, (), count, effect)


def _compute_target_ids(raw: Dataset, rows: np.ndarray) -> np.ndarray:
    """Equal numbers for rows that are equal in inputs and targets."""
    return rows * len(rows) + compute_row_ids(raw, raw.targets)


def _find_conflicts(raw: Dataset, rows: np.ndarray, measured: int) -> Iterator[Finding]:
    pairs, counts = np.unique(_compute_target_ids(raw, rows), return_counts=True)
    owner = pairs // len(rows)
    different = np.bincount(owner, minlength=rows.max() + 1)[rows] > 1
    count = int(different.sum())
    if not count:
        return
    text = f"{format_row_share(count, len(rows), 'development rows')} have inputs that another row has too, with another target"
    lost, effect = _compute_score_bound(raw, rows, owner, counts)
    severity: Severity = "warning" if lost > interval_half_width(measured) else "note"
    yield Finding(severity, "contradictions", text, tuple(raw.targets), count, effect)


def _compute_score_bound(
    raw: Dataset, rows: np.ndarray, owner: np.ndarray, counts: np.ndarray
) -> tuple[float, str]:
    """The share that the best of all models must lose on these very rows, and that in words."""
    (target, kind), *more = raw.targets.items()
    if more or kind not in ("binary", "category", "number"):
        return 0.0, ""
    if kind == "number":
        values = np.asarray(raw.dev[target], np.float64).reshape(len(rows), -1)[:, 0]
        means = np.bincount(rows, values) / np.bincount(rows)
        lost = float(((values - means[rows]) ** 2).mean() / max(values.var(), np.finfo(float).tiny))
        return lost, f"no model can explain more than {format_share(1 - lost)} of the variance"
    best = np.zeros(rows.max() + 1, np.int64)
    np.maximum.at(best, owner, counts)
    lost = 1 - float(best.sum()) / len(rows)
    return lost, f"no model can be right on more than {format_share(1 - lost)} of them all"
