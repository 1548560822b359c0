"""Raw rows as a person reads them: the cells of a table, the words of a text, an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrun.core.dataset import ColumnLike, Dataset, Ragged, RawColumn, RawColumns, SlidingWindows

FIRST_WORDS, LAST_WORDS = 80, 40
MAX_LINE_LENGTH = 2000  # characters
MISSING_LABEL = "(missing)"


def describe_raw_row(dataset: Dataset, rows: RawColumns, index: int) -> dict[str, Any]:
    """One row of raw columns, with its inputs as a person reads them.

    Args:
        dataset: The dataset that the rows are of.
        rows: Raw columns, such as dataset.dev.
        index: The row.

    Returns:
        "kind": "text", "image", or "row" where there are cells beside, or nothing else. "text":
        the first text, a long one without its middle. "image": the first image, uint8 (H, W) or
        (H, W, 3), and "file" its name, if it has one. "cells": column → text of all other inputs.
    """
    described: dict[str, Any] = {}
    cells: dict[str, str] = {}
    for name, kind in dataset.inputs.items():
        if kind in ("bag", "tokens") and "text" not in described:
            described["text"] = format_text(dataset, rows[name], index)
        elif kind == "image" and "image" not in described:
            described["image"] = to_display_image(rows[name][index])
        else:
            cells |= _format_cells(dataset, name, rows[name], index)
    columns = [rows[name] for name in dataset.inputs if isinstance(rows[name], RawColumn)]
    file_name = next((name for column in columns if (name := column.file_name(index))), "")
    file = {"file": file_name} if file_name else {}
    if cells or len(described) != 1:
        return {"kind": "row", **described, **file, "cells": cells}
    return {"kind": next(iter(described)), **described, **file}


def get_words(dataset: Dataset, column: ColumnLike, index: int) -> list[str]:
    """The words of a text, or of a row of word ids.

    Returns:
        Words, or a remark and the ids themselves where there is no list of their words.
    """
    if isinstance(column, np.ndarray) and isinstance(column[index], str):
        return str(column[index]).split()
    if isinstance(column, Ragged):
        ids = column.values[column.offsets[index] : column.offsets[index + 1]].tolist()
    elif isinstance(column, SlidingWindows):
        ids = column.values[column.first[index] + column.offsets].tolist()
    else:
        ids = column[index].tolist()
    # The list of words is only read when it is needed.
    names = dataset.read_vocabulary() if dataset.read_vocabulary else ()
    if not names:
        return ["[word numbers: there is no list of their words]", *map(str, ids)]
    return [word for token_id in ids if (word := names[token_id])]


def format_text(dataset: Dataset, column: ColumnLike, index: int) -> str:
    """A text as one line; a window onto one text with its line ends."""
    if not isinstance(column, SlidingWindows):
        return truncate_words(get_words(dataset, column, index))
    from dlrun.data.preprocessing.language import join_tokens

    tokens = get_words(dataset, column, index)
    # Whether tokens are characters shows in their length.
    return join_tokens(tokens, "character" if max(map(len, tokens)) == 1 else "word")


def truncate_words(text: list[str]) -> str:
    """Words as one line; of a long text the start and the end."""
    if len(text) > FIRST_WORDS + LAST_WORDS:
        text = [*text[:FIRST_WORDS], "…", *text[-LAST_WORDS:]]
    line = " ".join(text)
    if len(line) <= MAX_LINE_LENGTH:
        return line
    # Few words, but long ones: some languages write no blanks.
    return f"{line[: MAX_LINE_LENGTH * 2 // 3]} … {line[-MAX_LINE_LENGTH // 3 :]}"


def to_display_image(values: np.ndarray) -> np.ndarray:
    """An image as bytes.

    Args:
        values: Pixels (C, H, W); floats are stretched to 0 … 255.

    Returns:
        uint8 (H, W, 3) for three channels, else the mean of the channels (H, W).
    """
    # Standardized pixels have no range of their own.
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / (high - low) if high > low else 0.0)
    values = values.transpose(1, 2, 0) if len(values) == 3 else values.mean(0)
    return np.ascontiguousarray(values.round().astype(np.uint8))


def format_value(value: float) -> str:
    """A number in few digits; NaN is a missing one."""
    if np.isnan(value):
        return MISSING_LABEL
    if abs(value) >= 1e15 or (abs(value) < 1000 and not value.is_integer()):
        return f"{value:.4g}"
    return str(int(value)) if value.is_integer() else f"{value:.1f}"


def get_value_names(dataset: Dataset, column: str, width: int) -> tuple[str, ...]:
    """The names of the numbers of a column (N, width), in order."""
    labels = dataset.labels.get(column, ())
    if len(labels) == width:
        return labels
    return tuple(f"{column} {number}" for number in range(1, width + 1))


def format_cell(value: Any) -> str:
    """One value of a column of texts or numbers."""
    if isinstance(value, str):
        return value or MISSING_LABEL
    return format_value(float(value))


def describe_array(values: np.ndarray) -> str:
    """'28 × 28, 0 to 255' for an array that is too large to print."""
    low, high = format_value(float(values.min())), format_value(float(values.max()))
    return f"{' × '.join(map(str, values.shape))}, {low} to {high}"


def _format_cells(dataset: Dataset, name: str, column: ColumnLike, index: int) -> dict[str, str]:
    if dataset.inputs[name] in ("bag", "tokens"):
        return {name: format_text(dataset, column, index)}
    if isinstance(column, SlidingWindows):
        return _describe_window(dataset, name, column, index)
    value = column[index]
    if np.ndim(value) == 0:
        return {name: format_cell(value)}
    if np.ndim(value) > 1:
        return {name: describe_array(value)}
    return dict(
        zip(get_value_names(dataset, name, len(value)), map(format_cell, value), strict=True)
    )


def _describe_window(
    dataset: Dataset, name: str, column: SlidingWindows, index: int
) -> dict[str, str]:
    """How large a window is, and its last row."""
    steps = column.first[index] + column.offsets
    last = column.values[steps[-1]]
    cells = {name: f"{len(steps)} steps of {len(last)} columns; the last one:"}
    names = get_value_names(dataset, name, len(last))
    return cells | dict(zip(names, map(format_cell, last), strict=True))
