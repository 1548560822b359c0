"""What a raw row looks like to a person: the cells of a table, the words of a text, a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrun.core.dataset import Dataset, Ragged, RawColumn, RawColumns, SlidingWindows
from dlrun.data.images.image_column import ImageFileColumn
from dlrun.data.images.rotation_pretext import RotatedImages
from dlrun.data.preprocessing.language import join_tokens

FIRST_WORDS, LAST_WORDS = 80, 40
MAX_LINE_LENGTH = 2000  # characters
MISSING_LABEL = "(missing)"


def describe_raw_row(raw: Dataset, rows: RawColumns, index: int) -> dict[str, Any]:
    """One row of raw columns, such as raw.dev, with its inputs as a person reads them.

    'kind' is 'text', 'image', or 'row' where there are cells beside, or nothing else. 'text': the first word list,
    long ones without their middle. 'image': the first picture, uint8 (H, W) or (H, W, 3); 'file' names it where it has
    one. 'cells': column → text of all other inputs.
    """
    found: dict[str, Any] = {}
    cells: dict[str, str] = {}
    files = [
        rows[name].name(index)
        for name in raw.inputs
        if isinstance(rows[name], ImageFileColumn | RotatedImages)
    ]
    named = {"file": files[0]} if files else {}
    for name, kind in raw.inputs.items():
        if kind in ("bag", "tokens") and "text" not in found:
            found["text"] = format_text(raw, rows[name], index)
        elif kind == "image" and "image" not in found:
            found["image"] = to_display_image(rows[name][index])
        else:
            cells |= _format_cells(raw, name, rows[name], index)
    if cells or len(found) != 1:
        return {"kind": "row", **found, **named, "cells": cells}
    return {"kind": next(iter(found)), **found, **named}


def get_words(raw: Dataset, column: RawColumn, index: int) -> list[str]:
    """The words of a text, or of a row of word numbers; its numbers behind a remark when no one knows the words."""
    if isinstance(column, np.ndarray) and isinstance(column[index], str):
        return str(column[index]).split()
    if isinstance(column, Ragged):
        numbers = column.values[column.offsets[index] : column.offsets[index + 1]].tolist()
    elif isinstance(column, SlidingWindows):
        numbers = column.values[column.first[index] + column.offsets].tolist()
    else:
        numbers = column[index].tolist()
    names = raw.read_vocabulary() if raw.read_vocabulary else ()
    if not names:
        return ["[word numbers: there is no list of their words]", *map(str, numbers)]
    return [word for number in numbers if (word := names[number])]


def format_text(raw: Dataset, column: RawColumn, index: int) -> str:
    """A text as one line; a window onto one text with its line ends."""
    if not isinstance(column, SlidingWindows):
        return truncate_words(get_words(raw, column, index))
    tokens = get_words(raw, column, index)
    return join_tokens(tokens, "character" if max(map(len, tokens)) == 1 else "word")


def truncate_words(text: list[str]) -> str:
    """Words as one line; of a long text the start and the end."""
    if len(text) > FIRST_WORDS + LAST_WORDS:
        text = [*text[:FIRST_WORDS], "…", *text[-LAST_WORDS:]]
    line = " ".join(text)
    return (
        line
        if len(line) <= MAX_LINE_LENGTH
        else f"{line[: MAX_LINE_LENGTH * 2 // 3]} … {line[-MAX_LINE_LENGTH // 3 :]}"
    )  # words may have no blanks


def to_display_image(values: np.ndarray) -> np.ndarray:
    """An image (C, H, W) as uint8: (H, W, 3) for three channels, else their mean (H, W); floats fill 0 to 255."""
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


def get_value_names(raw: Dataset, column: str, width: int) -> tuple[str, ...]:
    """What the numbers of a column (N, width) are called, in order."""
    known = raw.labels.get(column, ())
    return (
        known
        if len(known) == width
        else tuple(f"{column} {place}" for place in range(1, width + 1))
    )


def format_cell(value: Any) -> str:
    """One value of a column of texts or numbers."""
    if isinstance(value, str):
        return value or MISSING_LABEL
    return format_value(float(value))


def describe_array(values: np.ndarray) -> str:
    """'28 × 28, 0 to 255' for an array that is too large to be written out."""
    low, high = format_value(float(values.min())), format_value(float(values.max()))
    return f"{' × '.join(map(str, values.shape))}, {low} to {high}"


def _format_cells(raw: Dataset, name: str, column: RawColumn, index: int) -> dict[str, str]:
    if raw.inputs[name] in ("bag", "tokens"):
        return {name: format_text(raw, column, index)}
    if isinstance(column, SlidingWindows):
        return _describe_window(raw, name, column, index)
    value = column[index]
    if np.ndim(value) == 0:
        return {name: format_cell(value)}
    if np.ndim(value) > 1:
        return {name: describe_array(value)}
    return dict(zip(get_value_names(raw, name, len(value)), map(format_cell, value), strict=True))


def _describe_window(raw: Dataset, name: str, column: SlidingWindows, index: int) -> dict[str, str]:
    """How large a window is, and what it sees last."""
    steps = column.first[index] + column.offsets
    last = column.values[steps[-1]]
    about = {name: f"{len(steps)} steps of {len(last)} columns; the last one:"}
    return about | dict(
        zip(get_value_names(raw, name, len(last)), map(format_cell, last), strict=True)
    )
