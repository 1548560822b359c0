"""Says in words what each preprocessing step has learned from the training rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dlrun.core.dataset import ColumnLike, Dataset, PreparedData, Ragged, RawColumns, SlidingWindows
from dlrun.data.display import format_value, get_value_names
from dlrun.data.preprocessing.pipeline import describe_preprocessing

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
