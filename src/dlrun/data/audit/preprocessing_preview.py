"""Shows some training rows before and after preprocessing, and what it has learned from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from dlrun.core.dataset import (
    ColumnLike,
    Dataset,
    PreparedData,
    Ragged,
    RawColumn,
    RawColumns,
    SlidingWindows,
)
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

MAX_LISTED = 5  # learned values in a line
StepState = dict[str, Any]  # a step's name under 'step', and what it has learned


def describe_steps(
    dataset: Dataset, data: PreparedData, rows: RawColumns, train: np.ndarray
) -> list[str]:
    """Say what preprocessing has learned from training rows, in a line per step of each column.

    Args:
        dataset: The dataset.
        data: What was prepared from it.
        rows: Raw columns of the training + validation rows.
        train: Indices of the training rows.
    """
    lines = []
    for name, steps in describe_preprocessing(data.preprocessors).items():
        for step in steps:
            describe = STEP_DESCRIPTIONS.get(step["step"], _describe_other)
            names = _column_names(dataset, name, rows[name])
            lines.append(f"{name}: {describe(step, names, rows[name], train)}")
        if not steps and name in dataset.inputs:
            pixels = dataset.inputs[name] == "image" and rows[name].dtype == np.uint8
            scaled = "; 0 to 255 becomes 0 to 1" if pixels else ""
            lines.append(f"{name}: nothing is learned{scaled}")
    return lines


def _column_names(dataset: Dataset, name: str, column: ColumnLike) -> tuple[str, ...]:
    values = column.values if isinstance(column, SlidingWindows) else column
    # Only tables have a name for each number; ragged columns have no axes at all.
    is_table = not isinstance(values, Ragged) and values.ndim == 2
    return get_value_names(dataset, name, values.shape[1]) if is_table else (name,)


def _format_list(items: list[str]) -> str:
    more = f", … ({len(items)} in all)" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + more


def _describe_fill(
    state: StepState, names: tuple[str, ...], column: np.ndarray, train: np.ndarray
) -> str:
    gaps = np.isnan(column[train]).sum(axis=0)
    items = [
        f"{names[index]} {format_value(state['fill'][index])} ({gaps[index]} of {len(train)} rows)"
        for index in np.flatnonzero(gaps)
    ]
    flags = f"; {len(state['flagged'])} columns added that say where" if state["flagged"] else ""
    listed = _format_list(items) if items else "no training row has a gap"
    return (
        f"missing numbers are filled with the {state['how']} of the training rows: {listed}{flags}"
    )


def _describe_standard_scaler(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    pairs = zip(_extend_names(names, state["mean"]), state["mean"], state["scale"], strict=True)
    items = [f"{name} {format_value(mean)} ± {format_value(scale)}" for name, mean, scale in pairs]
    return f"each number less its mean, divided by its standard deviation: {_format_list(items)}"


def _describe_target_scaler(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    return f"less {format_value(state['mean'])}, divided by {format_value(state['scale'])}"


def _describe_min_max(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    pairs = zip(_extend_names(names, state["low"]), state["low"], state["width"], strict=True)
    items = [
        f"{name} {format_value(low)} to {format_value(low + width)}" for name, low, width in pairs
    ]
    return f"the range of the training rows becomes 0 to 1: {_format_list(items)}"


def _describe_labels(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    return "classes " + _format_list(
        [f"{index} = {name}" for index, name in enumerate(state["names"])]
    )


def _describe_categories(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    items = [f"{index} = {name}" for index, name in enumerate(state["levels"], 2)]
    gaps = int((column[train] == "").sum())
    levels = _format_list(items) or "none"
    return f"levels 0 = any other, 1 = missing ({gaps} of {len(train)} rows), learned: {levels}"


def _describe_bins(state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray) -> str:
    edges = _format_list([format_value(edge) for edge in state["edges"]])
    return f"bins numbered from 1, 0 = missing; edges between them: {edges or 'none'}"


def _describe_multi_hot(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    return (
        f"which of {state['words']} words a text has; "
        "nothing is learned: the dataset numbers its words"
    )


def _describe_padding(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    end = {"front": "last", "back": "first"}[state["cut"]]
    text = f"the {end} {state['length']} word numbers of a text in turn"
    return f"{text}; nothing is learned: the dataset numbers its words"


def _describe_vocabulary(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    ngrams = (
        "" if state["ngrams"] == [1] else f", {' and '.join(map(str, state['ngrams']))} in turn"
    )
    # A hashed vocabulary has no entries: its tokens are numbered without being counted.
    if not state["entries"]:
        return f"{state['tokens']}{ngrams}, numbered by their hash"
    entries = _format_list(state["entries"])
    return f"the most frequent {state['tokens']}{ngrams} of the training rows: {entries}"


def _describe_tokens(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    if "as" in state:
        return f"numbered as {state['as']} is"
    entries = [repr(name) for name in state["entries"]]
    listed = _format_list(entries)
    return f"the {state['unit']}s of the training windows, the most frequent first: {listed}"


def _describe_hashing(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    return (
        f"{state['tokens']} at the place that their hash says, one of {state['size']}; "
        "no vocabulary is learned"
    )


def _describe_other(
    state: StepState, names: tuple[str, ...], column: Any, train: np.ndarray
) -> str:
    """List what a step of a plugin has learned, by name."""
    keys = _format_list([key for key in state if key != "step"])
    return f"{state['step']}, which learns {keys or 'nothing'}"


def _extend_names(names: tuple[str, ...], values: list[float]) -> tuple[str, ...]:
    """Return names for all numbers: the columns', then of what earlier steps have appended."""
    return (*names, *(f"added {index}" for index in range(1, len(values) - len(names) + 1)))[
        : len(values)
    ]


# By the names under which steps are saved in run folders, which are those of earlier versions.
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

MAX_COLUMNS = 8  # of the table, with the row's name and the targets
MAX_WORDS = 8
MAX_CHARACTERS = 40  # of a window onto one text
TableColumn = tuple[str, list[str], list[str]]  # name, cells before, cells after


def build_preprocessing_examples(
    dataset: Dataset, data: PreparedData, rows: RawColumns, train: np.ndarray, *, count: int = 3
) -> dict[str, Any]:
    """Describe what was learned, and show a few training rows before and after preprocessing.

    Args:
        dataset: The dataset.
        data: What was prepared from it.
        rows: Raw columns of the training + validation rows.
        train: Indices of the training rows, which `data` has learned from.
        count: Number of rows to show.

    Returns:
        Plain text under 'evidence' (a line per step of each column) and 'tables' (one table with
        two lines per row; where not all columns fit, those in which a shown row misses a value
        come first).
    """
    selected = _select_rows(dataset, rows, train, count)
    examples = {name: column[selected] for name, column in rows.items()}
    batch = next(transform_rows(dataset, data, examples).batches(len(selected)))
    examples = {
        name: np.asarray(column) if _reads_files(column) else column
        for name, column in examples.items()
    }
    columns = _limit_columns(
        _build_columns(dataset, examples, batch), MAX_COLUMNS - 1, len(dataset.targets)
    )
    lines = []
    for index, row in enumerate(selected.tolist()):
        lines.append([f"row {row}, before", *(raw_cells[index] for _, raw_cells, _ in columns)])
        lines.append(
            [f"row {row}, after", *(prepared_cells[index] for _, _, prepared_cells in columns)]
        )
    title = f"{len(selected)} training rows before and after preparation"
    table = {"title": title, "columns": ["", *(name for name, _, _ in columns)], "rows": lines}
    return {"evidence": describe_steps(dataset, data, rows, train), "tables": [table]}


def _select_rows(dataset: Dataset, rows: RawColumns, train: np.ndarray, count: int) -> np.ndarray:
    """Return the first training rows, the last replaced by one with a gap where none has one."""
    missing = np.zeros(len(train), bool)
    for name in dataset.inputs:
        missing |= _has_missing(rows[name], train)
    selected = np.array(train[:count])
    if missing.any() and not missing[:count].any():
        selected[-1] = train[int(np.argmax(missing))]
    return selected


def _has_missing(column: Any, train: np.ndarray) -> np.ndarray:
    """Return which of the training rows miss a value of a column."""
    # Only numbers and texts can be missing; shards, which must be complete, are not read for it.
    if isinstance(column, RawColumn) or column.dtype.kind not in "fOU":
        return np.zeros(len(train), bool)
    is_missing = np.isnan(column[train]) if column.dtype.kind == "f" else column[train] == ""
    return is_missing.reshape(len(train), -1).any(axis=1)


def _reads_files(column: Any) -> bool:
    return isinstance(column, RawColumn) and column.reads_files


def _build_columns(
    dataset: Dataset, examples: RawColumns, batch: dict[str, Tensor]
) -> list[TableColumn]:
    columns: list[TableColumn] = []
    for name in dataset.inputs | dataset.targets:
        columns += _build_column(dataset, name, examples[name], batch[name])
    return columns


def _build_column(dataset: Dataset, name: str, column: Any, prepared: Tensor) -> list[TableColumn]:
    if (dataset.inputs | dataset.targets)[name] in ("bag", "tokens"):
        return [(name, *_format_texts(dataset, name, column, prepared))]
    if isinstance(column, SlidingWindows):
        windows = [column.values[first + column.offsets] for first in column.first]
        return [_describe_arrays(name, windows, prepared)]
    if column.ndim > 2:
        return [_describe_arrays(name, column, prepared)]
    if name in dataset.targets and column.ndim == 1:
        return [(name, *_format_target(dataset, name, column, prepared))]
    return _format_numbers(
        dataset, name, column.reshape(len(column), -1), prepared.reshape(len(column), -1)
    )


def _describe_arrays(name: str, values: Iterable[np.ndarray], prepared: Tensor) -> TableColumn:
    """Return a column that shows shape and range of arrays too large for a cell."""
    raw_cells = [describe_array(value) for value in values]
    return name, raw_cells, [describe_array(value.numpy()) for value in prepared]


def _format_texts(
    dataset: Dataset, name: str, column: Any, prepared: Tensor
) -> tuple[list[str], list[str]]:
    words = [get_words(dataset, column, index) for index in range(len(column))]
    beginnings = [
        " ".join(text[:MAX_WORDS]) + (" …" if len(text) > MAX_WORDS else "") for text in words
    ]
    if isinstance(column, SlidingWindows):
        beginnings = [
            f"{format_text(dataset, column, index)[:MAX_CHARACTERS]} …"
            for index in range(len(column))
        ]
    if (dataset.inputs | dataset.targets)[name] == "tokens":
        sequences = [row[row != 0].tolist() for row in prepared]
        return beginnings, [
            f"{', '.join(map(str, row[:MAX_WORDS]))}, … ({len(row)} numbers)" for row in sequences
        ]
    dense = prepared.to_dense()
    return beginnings, [
        f"{int((row != 0).sum())} different words of {dense.shape[1]}" for row in dense
    ]


def _format_target(
    dataset: Dataset, name: str, column: np.ndarray, prepared: Tensor
) -> tuple[list[str], list[str]]:
    labels = dataset.labels.get(name, ())
    is_index = labels and column.dtype.kind in "iu"
    labels_shown = [labels[value] if is_index else format_cell(value) for value in column]
    return labels_shown, [format_cell(value) for value in prepared.reshape(len(column)).tolist()]


def _format_numbers(
    dataset: Dataset, name: str, values: np.ndarray, prepared: Tensor
) -> list[TableColumn]:
    """Return a table column per number; what steps have appended to them stands in the evidence."""
    width, new_width = values.shape[1], prepared.shape[1]
    if new_width < width:
        raw_cells = [f"{width} numbers"] * len(values)
        return [(name, raw_cells, [f"{new_width} numbers"] * len(values))]
    names = (
        get_value_names(dataset, name, width) if width > 1 or name in dataset.labels else (name,)
    )
    prepared_rows = prepared.tolist()
    return [
        (
            names[index],
            [format_cell(row[index]) for row in values],
            [format_cell(row[index]) for row in prepared_rows],
        )
        for index in range(width)
    ]


def _limit_columns(
    columns: list[TableColumn], max_columns: int, num_targets: int
) -> list[TableColumn]:
    """Return the columns that fit, in their order: those with gaps first, targets in any case."""
    num_inputs = len(columns) - num_targets
    inputs, target_columns = columns[:num_inputs], columns[num_inputs:]
    # A row with a gap shows what imputation does, so it comes first.
    by_gaps = sorted(range(len(inputs)), key=lambda index: MISSING_LABEL not in inputs[index][1])
    selected = sorted(by_gaps[: max(1, max_columns - len(target_columns))])
    num_free = max(1, max_columns - len(selected))
    return [*(inputs[index] for index in selected), *target_columns[:num_free]]
