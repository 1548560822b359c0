"""What preparation learns from training rows, in words, and a few of these rows before and after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from dlrun.core.dataset import Dataset, PreparedData, RawColumns, SlidingWindows
from dlrun.data.display import (
    MISSING_LABEL,
    describe_array,
    format_cell,
    format_text,
    format_value,
    get_value_names,
    get_words,
)
from dlrun.data.preprocessing.pipeline import describe_preprocessing, transform_rows
from dlrun.data.shards.npz_column import ShardedArray

MAX_COLUMNS = 8  # of the table, the row's name and the targets among them
MAX_LISTED = 5  # learnt values that a line names
MAX_WORDS = 8
MAX_CHARACTERS = 40  # of a window onto one text
TableColumn = tuple[str, list[str], list[str]]  # its name, its values before, its values after
StepState = dict[str, Any]  # a step's name and state


def build_preprocessing_examples(
    raw: Dataset, data: PreparedData, rows: RawColumns, train: np.ndarray, *, count: int = 3
) -> dict[str, Any]:
    """{'evidence': a line for each step of each column, 'tables': [one of `count` training rows]}, all plain text.

    rows: raw columns (raw.dev). train: indices of the training rows, which `data` has learnt from. The table has two
    lines a row, before and after; columns in which the chosen rows miss a value come first where not all have room.
    """
    chosen = _select_rows(raw, rows, train, count)
    some = {name: column[chosen] for name, column in rows.items()}
    batch = next(transform_rows(raw, data, some).batches(len(chosen)))
    some = {
        name: np.asarray(column) if isinstance(column, ShardedArray) else column
        for name, column in some.items()
    }
    columns = _limit_columns(_build_columns(raw, some, batch), MAX_COLUMNS - 1, len(raw.targets))
    lines = []
    for place, row in enumerate(chosen.tolist()):
        lines.append([f"row {row}, before", *(before[place] for _, before, _ in columns)])
        lines.append([f"row {row}, after", *(after[place] for _, _, after in columns)])
    title = f"{len(chosen)} training rows before and after preparation"
    table = {"title": title, "columns": ["", *(name for name, _, _ in columns)], "rows": lines}
    return {"evidence": _describe_steps(raw, data, rows, train), "tables": [table]}


def _select_rows(raw: Dataset, rows: RawColumns, train: np.ndarray, count: int) -> np.ndarray:
    """The first training rows; the last of them gives way to one that misses a value, where there is one."""
    missing = np.zeros(len(train), bool)
    for name in raw.inputs:
        missing |= _has_missing(rows[name], train)
    chosen = np.array(train[:count])
    if missing.any() and not missing[:count].any():
        chosen[-1] = train[int(np.argmax(missing))]
    return chosen


def _has_missing(column: Any, train: np.ndarray) -> np.ndarray:
    """Which of the training rows miss a value of a column."""
    values = getattr(column, "dtype", None)
    if (
        values is None or values.kind not in "fOU" or isinstance(column, ShardedArray)
    ):  # of which none may be missing
        return np.zeros(len(train), bool)
    found = np.isnan(column[train]) if values.kind == "f" else column[train] == ""
    return found.reshape(len(train), -1).any(axis=1)


def _build_columns(raw: Dataset, some: RawColumns, batch: dict[str, Tensor]) -> list[TableColumn]:
    found: list[TableColumn] = []
    for name in raw.inputs | raw.targets:
        found += _build_column(raw, name, some[name], batch[name])
    return found


def _build_column(raw: Dataset, name: str, column: Any, after: Tensor) -> list[TableColumn]:
    if (raw.inputs | raw.targets)[name] in ("bag", "tokens"):
        return [(name, *_format_texts(raw, name, column, after))]
    if isinstance(column, SlidingWindows):
        return [(name, [describe_array(column.values[one + column.offsets]) for one in column.first],
                 [describe_array(value.numpy()) for value in after])]  # fmt: skip
    if column.ndim > 2:
        return [
            (
                name,
                [describe_array(value) for value in column],
                [describe_array(value.numpy()) for value in after],
            )
        ]
    if name in raw.targets and column.ndim == 1:
        return [(name, *_format_target(raw, name, column, after))]
    return _format_numbers(
        raw, name, column.reshape(len(column), -1), after.reshape(len(column), -1)
    )


def _format_texts(
    raw: Dataset, name: str, column: Any, after: Tensor
) -> tuple[list[str], list[str]]:
    before = [get_words(raw, column, place) for place in range(len(column))]
    first = [
        " ".join(text[:MAX_WORDS]) + (" …" if len(text) > MAX_WORDS else "") for text in before
    ]
    if isinstance(column, SlidingWindows):
        first = [
            f"{format_text(raw, column, place)[:MAX_CHARACTERS]} …" for place in range(len(column))
        ]
    if (raw.inputs | raw.targets)[name] == "tokens":
        there = [row[row != 0].tolist() for row in after]
        return first, [
            f"{', '.join(map(str, row[:MAX_WORDS]))}, … ({len(row)} numbers)" for row in there
        ]
    dense = after.to_dense()
    return first, [f"{int((row != 0).sum())} different words of {dense.shape[1]}" for row in dense]


def _format_target(
    raw: Dataset, name: str, column: np.ndarray, after: Tensor
) -> tuple[list[str], list[str]]:
    labels = raw.labels.get(name, ())
    named = labels and column.dtype.kind in "iu"
    before = [labels[value] if named else format_cell(value) for value in column]
    return before, [format_cell(value) for value in after.reshape(len(column)).tolist()]


def _format_numbers(
    raw: Dataset, name: str, before: np.ndarray, after: Tensor
) -> list[TableColumn]:
    """A column of the table for each number; what steps have added behind them is told in the evidence."""
    width = before.shape[1]
    if after.shape[1] < width:
        return [
            (name, [f"{width} numbers"] * len(before), [f"{after.shape[1]} numbers"] * len(before))
        ]
    called = get_value_names(raw, name, width) if width > 1 or name in raw.labels else (name,)
    prepared = after.tolist()
    return [
        (
            called[place],
            [format_cell(row[place]) for row in before],
            [format_cell(row[place]) for row in prepared],
        )
        for place in range(width)
    ]


def _limit_columns(columns: list[TableColumn], most: int, targets: int) -> list[TableColumn]:
    """As many columns as there is room for, in their order: those with gaps first; targets, at the end, always."""
    inputs, last = columns[: len(columns) - targets], columns[len(columns) - targets :]
    by_gaps = sorted(range(len(inputs)), key=lambda place: MISSING_LABEL not in inputs[place][1])
    kept = sorted(by_gaps[: max(1, most - len(last))])
    return [inputs[place] for place in kept] + last[: max(1, most - len(kept))]


def _describe_steps(
    raw: Dataset, data: PreparedData, rows: RawColumns, train: np.ndarray
) -> list[str]:
    found = []
    for name, steps in describe_preprocessing(data.preprocessors).items():
        for step in steps:
            tell = STEP_DESCRIPTIONS.get(step["step"], _describe_other)
            found.append(f"{name}: {tell(step, _column_names(raw, name, rows), rows[name], train)}")
        if not steps and name in raw.inputs:
            pixels = raw.inputs[name] == "image" and rows[name].dtype == np.uint8
            found.append(
                f"{name}: nothing is learnt" + ("; 0 to 255 becomes 0 to 1" if pixels else "")
            )
    return found


def _column_names(raw: Dataset, name: str, rows: RawColumns) -> tuple[str, ...]:
    column = rows[name]
    if isinstance(column, SlidingWindows):
        return (
            get_value_names(raw, name, column.values.shape[1])
            if column.values.ndim > 1
            else (name,)
        )
    return (
        get_value_names(raw, name, column.shape[1]) if getattr(column, "ndim", 1) == 2 else (name,)
    )


def _format_list(parts: list[str]) -> str:
    more = f", … ({len(parts)} in all)" if len(parts) > MAX_LISTED else ""
    return ", ".join(parts[:MAX_LISTED]) + more


def _describe_fill(
    learnt: StepState, called: tuple[str, ...], column: np.ndarray, train: np.ndarray
) -> str:
    gaps = np.isnan(column[train]).sum(axis=0)
    parts = [
        f"{called[place]} {format_value(learnt['fill'][place])} ({gaps[place]} of {len(train)} rows)"
        for place in np.flatnonzero(gaps)
    ]
    flags = f"; {len(learnt['flagged'])} columns added that say where" if learnt["flagged"] else ""
    said = _format_list(parts) if parts else "no training row has a gap"
    return (
        f"missing numbers are filled with the {learnt['how']} of the training rows: {said}{flags}"
    )


def _describe_standard_scaler(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    pairs = zip(_extend_names(called, learnt["mean"]), learnt["mean"], learnt["scale"], strict=True)
    parts = [f"{name} {format_value(mean)} ± {format_value(scale)}" for name, mean, scale in pairs]
    return f"each number less its mean, divided by its standard deviation: {_format_list(parts)}"


def _describe_target_scaler(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    return f"less {format_value(learnt['mean'])}, divided by {format_value(learnt['scale'])}"


def _describe_min_max(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    pairs = zip(_extend_names(called, learnt["low"]), learnt["low"], learnt["width"], strict=True)
    parts = [
        f"{name} {format_value(low)} to {format_value(low + width)}" for name, low, width in pairs
    ]
    return f"the range of the training rows becomes 0 to 1: {_format_list(parts)}"


def _describe_labels(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    return "classes " + _format_list(
        [f"{place} = {name}" for place, name in enumerate(learnt["names"])]
    )


def _describe_categories(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    parts = [f"{place} = {name}" for place, name in enumerate(learnt["levels"], 2)]
    gaps = int((column[train] == "").sum())
    return f"levels 0 = any other, 1 = missing ({gaps} of {len(train)} rows), learnt: {_format_list(parts) or 'none'}"


def _describe_bins(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    edges = _format_list([format_value(edge) for edge in learnt["edges"]])
    return f"bins numbered from 1, 0 = missing; edges between them: {edges or 'none'}"


def _describe_multi_hot(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    return f"which of {learnt['words']} words a text has; nothing is learnt: the dataset numbers its words"


def _describe_padding(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    kept = {"front": "last", "back": "first"}[learnt["cut"]]
    what = f"the {kept} {learnt['length']} word numbers of a text in turn"
    return f"{what}; nothing is learnt: the dataset numbers its words"


def _describe_vocabulary(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    runs = (
        "" if learnt["ngrams"] == [1] else f", {' and '.join(map(str, learnt['ngrams']))} in turn"
    )
    what = f"the most frequent {learnt['tokens']}{runs} of the training rows: {_format_list(learnt['entries'])}"
    return what if learnt["entries"] else f"{learnt['tokens']}{runs}, numbered by their hash"


def _describe_tokens(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    if "as" in learnt:
        return f"numbered as {learnt['as']} is"
    shown = [repr(name) for name in learnt["entries"]]
    return f"the {learnt['unit']}s of the training windows, the most frequent first: {_format_list(shown)}"


def _describe_hashing(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    return f"{learnt['tokens']} at the place that their hash says, one of {learnt['size']}; no vocabulary is learnt"


def _describe_other(
    learnt: StepState, called: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    """A step of somebody else's: the names of what it learnt."""
    return f"{learnt['step']}, which learns {_format_list([key for key in learnt if key != 'step']) or 'nothing'}"


def _extend_names(called: tuple[str, ...], values: list[float]) -> tuple[str, ...]:
    """Names for all numbers: the columns', then those of what an earlier step has added."""
    return (*called, *(f"added {place}" for place in range(1, len(values) - len(called) + 1)))[
        : len(values)
    ]


STEP_DESCRIPTIONS: dict[str, Callable[[StepState, tuple[str, ...], Any, np.ndarray], str]] = {
    "Impute": _describe_fill,
    "Standardise": _describe_standard_scaler,
    "StandardiseSeries": _describe_standard_scaler,
    "StandardiseTarget": _describe_target_scaler,
    "Unit": _describe_min_max,
    "Labels": _describe_labels,
    "Categories": _describe_categories,
    "Bins": _describe_bins,
    "MultiHot": _describe_multi_hot,
    "Padded": _describe_padding,
    "Bagged": _describe_vocabulary,
    "Hashed": _describe_hashing,
    "Numbered": _describe_vocabulary,
    "Tokens": _describe_tokens,
}
