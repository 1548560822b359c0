"""What preparation learns from training rows, in words, and a few of these rows before and after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from dlrun.core.dataset import Data, Raw, Rows, Windowed
from dlrun.data.display import MISSING, cell, names, number, span, words, written
from dlrun.data.preprocessing.pipeline import apply, state
from dlrun.data.shards.npz_column import Sharded

COLUMNS = 8  # of the table, the row's name and the targets among them
FEW = 5  # learnt values that a line names
FIRST_WORDS = 8
LETTERS = 40  # of a window onto one text
Column = tuple[str, list[str], list[str]]  # its name, its values before, its values after
Learnt = dict[str, Any]  # a step's name and state


def before_and_after(raw: Raw, data: Data, rows: Rows, train: np.ndarray, *, count: int = 3) -> dict[str, Any]:
    """{'evidence': a line for each step of each column, 'tables': [one of `count` training rows]}, all plain text.

    rows: raw columns (raw.dev). train: indices of the training rows, which `data` has learnt from. The table has two
    lines a row, before and after; columns in which the chosen rows miss a value come first where not all have room.
    """
    chosen = _chosen(raw, rows, train, count)
    some = {name: column[chosen] for name, column in rows.items()}
    batch = next(apply(raw, data, some).batches(len(chosen)))
    some = {name: np.asarray(column) if isinstance(column, Sharded) else column for name, column in some.items()}
    columns = _room(_columns(raw, some, batch), COLUMNS - 1, len(raw.targets))
    lines = []
    for place, row in enumerate(chosen.tolist()):
        lines.append([f"row {row}, before", *(before[place] for _, before, _ in columns)])
        lines.append([f"row {row}, after", *(after[place] for _, _, after in columns)])
    title = f"{len(chosen)} training rows before and after preparation"
    table = {"title": title, "columns": ["", *(name for name, _, _ in columns)], "rows": lines}
    return {"evidence": _evidence(raw, data, rows, train), "tables": [table]}


def _chosen(raw: Raw, rows: Rows, train: np.ndarray, count: int) -> np.ndarray:
    """The first training rows; the last of them gives way to one that misses a value, where there is one."""
    missing = np.zeros(len(train), bool)
    for name in raw.inputs:
        missing |= _missing(rows[name], train)
    chosen = np.array(train[:count])
    if missing.any() and not missing[:count].any():
        chosen[-1] = train[int(np.argmax(missing))]
    return chosen


def _missing(column: Any, train: np.ndarray) -> np.ndarray:
    """Which of the training rows miss a value of a column."""
    values = getattr(column, "dtype", None)
    if values is None or values.kind not in "fOU" or isinstance(column, Sharded):  # of which none may be missing
        return np.zeros(len(train), bool)
    found = np.isnan(column[train]) if values.kind == "f" else column[train] == ""
    return found.reshape(len(train), -1).any(axis=1)


def _columns(raw: Raw, some: Rows, batch: dict[str, Tensor]) -> list[Column]:
    found: list[Column] = []
    for name in raw.inputs | raw.targets:
        found += _column(raw, name, some[name], batch[name])
    return found


def _column(raw: Raw, name: str, column: Any, after: Tensor) -> list[Column]:
    if (raw.inputs | raw.targets)[name] in ("bag", "tokens"):
        return [(name, *_texts(raw, name, column, after))]
    if isinstance(column, Windowed):
        return [(name, [span(column.values[one + column.offsets]) for one in column.first],
                 [span(value.numpy()) for value in after])]  # fmt: skip
    if column.ndim > 2:
        return [(name, [span(value) for value in column], [span(value.numpy()) for value in after])]
    if name in raw.targets and column.ndim == 1:
        return [(name, *_target(raw, name, column, after))]
    return _numbers(raw, name, column.reshape(len(column), -1), after.reshape(len(column), -1))


def _texts(raw: Raw, name: str, column: Any, after: Tensor) -> tuple[list[str], list[str]]:
    before = [words(raw, column, place) for place in range(len(column))]
    first = [" ".join(text[:FIRST_WORDS]) + (" …" if len(text) > FIRST_WORDS else "") for text in before]
    if isinstance(column, Windowed):
        first = [f"{written(raw, column, place)[:LETTERS]} …" for place in range(len(column))]
    if (raw.inputs | raw.targets)[name] == "tokens":
        there = [row[row != 0].tolist() for row in after]
        return first, [f"{', '.join(map(str, row[:FIRST_WORDS]))}, … ({len(row)} numbers)" for row in there]
    dense = after.to_dense()
    return first, [f"{int((row != 0).sum())} different words of {dense.shape[1]}" for row in dense]


def _target(raw: Raw, name: str, column: np.ndarray, after: Tensor) -> tuple[list[str], list[str]]:
    labels = raw.labels.get(name, ())
    named = labels and column.dtype.kind in "iu"
    before = [labels[value] if named else cell(value) for value in column]
    return before, [cell(value) for value in after.reshape(len(column)).tolist()]


def _numbers(raw: Raw, name: str, before: np.ndarray, after: Tensor) -> list[Column]:
    """A column of the table for each number; what steps have added behind them is told in the evidence."""
    width = before.shape[1]
    if after.shape[1] < width:
        return [(name, [f"{width} numbers"] * len(before), [f"{after.shape[1]} numbers"] * len(before))]
    called = names(raw, name, width) if width > 1 or name in raw.labels else (name,)
    prepared = after.tolist()
    return [
        (called[place], [cell(row[place]) for row in before], [cell(row[place]) for row in prepared])
        for place in range(width)
    ]


def _room(columns: list[Column], most: int, targets: int) -> list[Column]:
    """As many columns as there is room for, in their order: those with gaps first; targets, at the end, always."""
    inputs, last = columns[: len(columns) - targets], columns[len(columns) - targets :]
    by_gaps = sorted(range(len(inputs)), key=lambda place: MISSING not in inputs[place][1])
    kept = sorted(by_gaps[: max(1, most - len(last))])
    return [inputs[place] for place in kept] + last[: max(1, most - len(kept))]


def _evidence(raw: Raw, data: Data, rows: Rows, train: np.ndarray) -> list[str]:
    found = []
    for name, steps in state(data.learnt).items():
        for step in steps:
            tell = TOLD.get(step["step"], _other)
            found.append(f"{name}: {tell(step, _called(raw, name, rows), rows[name], train)}")
        if not steps and name in raw.inputs:
            pixels = raw.inputs[name] == "image" and rows[name].dtype == np.uint8
            found.append(f"{name}: nothing is learnt" + ("; 0 to 255 becomes 0 to 1" if pixels else ""))
    return found


def _called(raw: Raw, name: str, rows: Rows) -> tuple[str, ...]:
    column = rows[name]
    if isinstance(column, Windowed):
        return names(raw, name, column.values.shape[1]) if column.values.ndim > 1 else (name,)
    return names(raw, name, column.shape[1]) if getattr(column, "ndim", 1) == 2 else (name,)


def _listed(parts: list[str]) -> str:
    more = f", … ({len(parts)} in all)" if len(parts) > FEW else ""
    return ", ".join(parts[:FEW]) + more


def _impute(learnt: Learnt, called: tuple[str, ...], column: np.ndarray, train: np.ndarray) -> str:
    gaps = np.isnan(column[train]).sum(axis=0)
    parts = [
        f"{called[place]} {number(learnt['fill'][place])} ({gaps[place]} of {len(train)} rows)"
        for place in np.flatnonzero(gaps)
    ]
    flags = f"; {len(learnt['flagged'])} columns added that say where" if learnt["flagged"] else ""
    said = _listed(parts) if parts else "no training row has a gap"
    return f"missing numbers are filled with the {learnt['how']} of the training rows: {said}{flags}"


def _standardise(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    pairs = zip(_widened(called, learnt["mean"]), learnt["mean"], learnt["scale"], strict=True)
    parts = [f"{name} {number(mean)} ± {number(scale)}" for name, mean, scale in pairs]
    return f"each number less its mean, divided by its standard deviation: {_listed(parts)}"


def _standardise_target(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    return f"less {number(learnt['mean'])}, divided by {number(learnt['scale'])}"


def _unit(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    pairs = zip(_widened(called, learnt["low"]), learnt["low"], learnt["width"], strict=True)
    parts = [f"{name} {number(low)} to {number(low + width)}" for name, low, width in pairs]
    return f"the range of the training rows becomes 0 to 1: {_listed(parts)}"


def _labels(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    return "classes " + _listed([f"{place} = {name}" for place, name in enumerate(learnt["names"])])


def _categories(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    parts = [f"{place} = {name}" for place, name in enumerate(learnt["levels"], 2)]
    gaps = int((column[train] == "").sum())
    return f"levels 0 = any other, 1 = missing ({gaps} of {len(train)} rows), learnt: {_listed(parts) or 'none'}"


def _bins(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    edges = _listed([number(edge) for edge in learnt["edges"]])
    return f"bins numbered from 1, 0 = missing; edges between them: {edges or 'none'}"


def _multi_hot(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    return f"which of {learnt['words']} words a text has; nothing is learnt: the dataset numbers its words"


def _padded(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    kept = {"front": "last", "back": "first"}[learnt["cut"]]
    what = f"the {kept} {learnt['length']} word numbers of a text in turn"
    return f"{what}; nothing is learnt: the dataset numbers its words"


def _vocabulary(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    runs = "" if learnt["ngrams"] == [1] else f", {' and '.join(map(str, learnt['ngrams']))} in turn"
    what = f"the most frequent {learnt['tokens']}{runs} of the training rows: {_listed(learnt['entries'])}"
    return what if learnt["entries"] else f"{learnt['tokens']}{runs}, numbered by their hash"


def _tokens(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    if "as" in learnt:
        return f"numbered as {learnt['as']} is"
    shown = [repr(name) for name in learnt["entries"]]
    return f"the {learnt['unit']}s of the training windows, the most frequent first: {_listed(shown)}"


def _hashed(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    return f"{learnt['tokens']} at the place that their hash says, one of {learnt['size']}; no vocabulary is learnt"


def _other(learnt: Learnt, called: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    """A step of somebody else's: the names of what it learnt."""
    return f"{learnt['step']}, which learns {_listed([key for key in learnt if key != 'step']) or 'nothing'}"


def _widened(called: tuple[str, ...], values: list[float]) -> tuple[str, ...]:
    """Names for all numbers: the columns', then those of what an earlier step has added."""
    return (*called, *(f"added {place}" for place in range(1, len(values) - len(called) + 1)))[: len(values)]


TOLD: dict[str, Callable[[Learnt, tuple[str, ...], Any, np.ndarray], str]] = {
    "Impute": _impute,
    "Standardise": _standardise,
    "StandardiseSeries": _standardise,
    "StandardiseTarget": _standardise_target,
    "Unit": _unit,
    "Labels": _labels,
    "Categories": _categories,
    "Bins": _bins,
    "MultiHot": _multi_hot,
    "Padded": _padded,
    "Bagged": _vocabulary,
    "Hashed": _hashed,
    "Numbered": _vocabulary,
    "Tokens": _tokens,
}
