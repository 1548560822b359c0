"""The audit's look at equal rows: copies, copies on both sides of a split, and contradictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from dlrun.data.audit_finding import Finding, Severity, of, percent, separable, singles
from dlrun.data.pictures import Pictures
from dlrun.data.turned import Turned
from dlrun.types import Column, Ragged, Raw, Windowed

TOLERATED = 0.01  # of the validation rows may be known from training before it is called a leak
CHANCE = 100  # a leak has that many times more equal rows than coarse columns explain


def identities(raw: Raw, names: Iterable[str]) -> np.ndarray:
    """Equal whole numbers (N,) for development rows that are equal in all these columns; NaN equals NaN."""
    known: dict[bytes, int] = {}
    columns = [_pieces(raw.dev[name]) for name in names]
    digests = (hashlib.blake2b(b"".join(parts), digest_size=16).digest() for parts in zip(*columns, strict=True))
    return np.array([known.setdefault(digest, len(known)) for digest in digests], np.int64)


def _pieces(column: Column) -> Iterator[bytes]:
    """The content of each row as bytes, equally many in all rows, or with their length in front."""
    if isinstance(column, Ragged):
        values, ends = np.ascontiguousarray(column.values), column.offsets.tolist()
        for first, last in zip(ends, ends[1:], strict=False):
            yield b"%d:" % (last - first) + values[first:last].tobytes()
        return
    if isinstance(column, Windowed):  # a window is where it begins: no two are the same
        yield from (first.tobytes() for first in column.first)
        return
    if isinstance(column, Pictures | Turned):
        yield from (mark.tobytes() for mark in column.marks)
        return
    column = np.asarray(column)
    if column.dtype.kind in "OU":
        known: dict[str, int] = {}
        codes = [known.setdefault(str(cell), len(known)) for cell in column.reshape(-1)]
        column = np.array(codes, np.int64).reshape(column.shape)
    if column.dtype.kind == "f":
        column = np.where(np.isnan(column), np.nan, column) + 0.0  # one NaN, one zero
    yield from (row.tobytes() for row in column.reshape(len(column), -1))


def findings(raw: Raw, rows: np.ndarray, train: np.ndarray, val: np.ndarray | None) -> Iterator[Finding]:
    """Copies within the development rows and across the split, and equal inputs with different targets."""
    if val is not None:
        yield from _across(raw, rows, train, val)
    copies = len(rows) - len(np.unique(rows))
    if copies:
        text = f"{of(copies, len(rows), 'development rows')} {_be(copies)} of an earlier row's inputs"
        yield Finding("warning" if copies > TOLERATED * len(rows) else "note", "duplicates", text, (), copies)
    yield from _contradictions(raw, rows)


def _be(count: int) -> str:
    return "is a copy" if count == 1 else "are copies"


def _across(raw: Raw, rows: np.ndarray, train: np.ndarray, val: np.ndarray) -> Iterator[Finding]:
    count = int(np.isin(rows[val], rows[train]).sum())
    if not count:
        return
    share, chance = count / len(val), _by_chance(raw, len(train))
    leak = share > TOLERATED and share > CHANCE * chance
    verb, whose = ("is", "its score is") if count == 1 else ("are", "their scores are")
    text = f"{of(count, len(val), 'validation rows')} {verb} also among the training rows"
    if share <= chance:
        told = f"{text}, no more than the {percent(chance)} that columns as coarse as these make equal by mere chance"
        yield Finding("note", "duplicates across splits", told, (), count)
        return
    text += f": {whose} remembered, not predicted{_other_answers(raw, rows, train, val, count)}"
    if chance * CHANCE >= share:
        text += f" (columns as coarse as these make {percent(chance)} equal by mere chance)"
    yield Finding("leak" if leak else "warning", "duplicates across splits", text, (), count)


def _other_answers(raw: Raw, rows: np.ndarray, train: np.ndarray, val: np.ndarray, count: int) -> str:
    """How many of the copies have a target that no training copy has."""
    pairs = rows * len(rows) + identities(raw, raw.targets)
    other = count - int(np.isin(pairs[val], pairs[train]).sum())
    return f"; {other:,} of them had another target there" if other else ""


def _by_chance(raw: Raw, train: int) -> float:
    """The share of rows that would have an equal training row if the columns knew nothing of each other."""
    if not all(separable(raw, name) for name in raw.inputs):
        return 0.0  # images and texts are not equal by chance
    equal = 1.0
    for column in singles(raw):
        shares = np.bincount(column.codes) / len(column.values)
        equal *= float((shares**2).sum())
    return 1 - (1 - equal) ** train


def _contradictions(raw: Raw, rows: np.ndarray) -> Iterator[Finding]:
    answers = identities(raw, raw.targets)
    pairs, counts = np.unique(rows * len(rows) + answers, return_counts=True)
    owner = pairs // len(rows)
    different = np.bincount(owner, minlength=rows.max() + 1)[rows] > 1
    count = int(different.sum())
    if not count:
        return
    verb = "have inputs that another row has too, with another target"
    text = f"{of(count, len(rows), 'development rows')} {verb}{_bound(raw, rows, owner, counts)}"
    severity: Severity = "warning" if count > TOLERATED / 10 * len(rows) else "note"
    yield Finding(severity, "contradictions", text, tuple(raw.targets), count)


def _bound(raw: Raw, rows: np.ndarray, owner: np.ndarray, counts: np.ndarray) -> str:
    """What the best of all models could reach on these very rows."""
    (target, kind), *more = raw.targets.items()
    if more:
        return ""
    if kind in ("binary", "category"):
        best = np.zeros(rows.max() + 1, np.int64)
        np.maximum.at(best, owner, counts)
        return f": no model can be right on more than {percent(best.sum() / len(rows))} of them all"
    values = np.asarray(raw.dev[target], np.float64).reshape(len(rows), -1)[:, 0]
    means = np.bincount(rows, values) / np.bincount(rows)
    left = ((values - means[rows]) ** 2).mean() / max(values.var(), np.finfo(float).tiny)
    return f": no model can explain more than {percent(1 - left)} of the variance" if kind == "number" else ""
