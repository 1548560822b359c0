"""What an audit reports, and how its sentences are put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dlrun.core.dataset import Dataset, Ragged, SlidingWindows

Severity = Literal["leak", "warning", "note"]
MAX_LISTED_NAMES = 5  # columns or classes in a sentence
TOLERANCE = 0.01  # share of doubtful rows that is no leak yet, however many rows there are


@dataclass(frozen=True)
class Finding:
    """One result of an audit.

    Attributes:
        severity: How bad it is: `leak` (scores cannot be believed), `warning` or `note`.
        what: What kind of finding it is; the key in audit.json, which run folders keep.
        text: A sentence with the numbers.
        columns: The columns concerned.
        count: How many rows, columns or classes the sentence is about.
        effect: What it can do to a score; required for leaks and warnings.
    """

    severity: Severity
    what: str
    text: str
    columns: tuple[str, ...] = ()
    count: int = 0
    effect: str = ""

    def __post_init__(self) -> None:
        if self.severity != "note" and not self.effect:
            raise ValueError(
                f"'{self.what}' is a {self.severity} that does not say what it can do to a score"
            )

    @property
    def description(self) -> str:
        """The evidence, then the effect."""
        return f"{self.text}; effect: {self.effect}" if self.effect else self.text


@dataclass(frozen=True)
class InputColumn:
    """An input column with a meaning of its own.

    Attributes:
        name: The column's name.
        values: Numbers (N,), NaN where missing, or levels (N,) of any type.
        is_number: Whether the values are numbers.
    """

    name: str
    values: np.ndarray
    is_number: bool

    @cached_property
    def missing(self) -> np.ndarray:
        """Mask of the rows without a value (N,)."""
        if self.values.dtype.kind == "f":
            return np.isnan(self.values)
        if self.values.dtype.kind == "U":
            return np.asarray(self.values == "")
        if self.values.dtype.kind != "O":
            return np.zeros(len(self.values), bool)
        # Objects may hold None, an empty text or NaN, the only value that differs from itself.
        return np.array(
            [value is None or value == "" or value != value for value in self.values], bool
        )

    @cached_property
    def codes(self) -> np.ndarray:
        """Values as whole numbers from 0, int64 (N,): numbers in their order, missing ones last."""
        # Objects of different types cannot be sorted, their texts can.
        values = self.values if self.values.dtype.kind != "O" else self.values.astype(str)
        return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def has_single_columns(dataset: Dataset, name: str) -> bool:
    """Return whether an input is made of columns with a meaning each (no images, no texts)."""
    column = dataset.dev[name]
    if isinstance(column, Ragged | SlidingWindows):
        return False
    kinds = ("number", "fraction", "binary", "category")
    return dataset.inputs[name] in kinds and bool(column.ndim <= 2)


def list_input_columns(dataset: Dataset) -> list[InputColumn]:
    """Return the columns with a meaning of their own: of number tables, and categories."""
    columns = []
    for name, kind in dataset.inputs.items():
        column = dataset.dev[name]
        if not has_single_columns(dataset, name):
            continue
        if column.ndim == 1:
            is_number = kind in ("number", "fraction") or column.dtype.kind == "f"
            columns.append(InputColumn(name, column, is_number))
            continue
        names = dataset.labels.get(name, ())
        if len(names) != column.shape[1]:
            names = tuple(f"{name}[{index}]" for index in range(column.shape[1]))
        columns += [
            InputColumn(str(label), column[:, index], True) for index, label in enumerate(names)
        ]
    return columns


def interval_half_width(rows: int) -> float:
    """Return half the 95 % interval of a share near one half, measured on so many rows."""
    return 1.96 * math.sqrt(0.25 / max(1, rows))


def classify_effect(share: float, rows: int) -> Severity:
    """Return how bad it is that a share of the validation rows is scored wrongly.

    Args:
        share: The largest share of the rows, 0 to 1.
        rows: Number of validation rows. Within their 95 % interval it is a note.
    """
    if share <= interval_half_width(rows):
        return "note"
    return "leak" if share > TOLERANCE else "warning"


def describe_effect(share: float, rows: int) -> str:
    """Say how far a score can be off, beside its 95 % interval.

    Args:
        share: The largest share of the rows that is scored wrongly, 0 to 1.
        rows: Number of validation rows.
    """
    interval = format_share(interval_half_width(rows))
    return (
        f"at most {format_share(share)} of a score on {rows:,} rows, "
        f"whose 95 % interval is ± {interval}"
    )


def format_share(share: float) -> str:
    """Format a share: 0.1561 → '15.6 %', with more digits where it is near 0 or 100 %."""
    value = 100 * share
    if 0 < value < 1:
        return f"{value:.2g} %"
    if 99.9 < value < 100:
        return f"{100 - float(f'{100 - value:.1g}'):.10g} %"
    return f"{value:.1f} %" if value % 100 else f"{value:.0f} %"


def format_row_share(count: int, total: int, noun: str) -> str:
    """Format a count and its share: '312 of 2,000 validation rows (15.6 %)'."""
    return f"{count:,} of {total:,} {noun} ({format_share(count / max(1, total))})"


def list_names(names: Sequence[str]) -> str:
    """Join the first names: 'a, b, c, d, e and 7 more'."""
    more = f" and {len(names) - MAX_LISTED_NAMES:,} more" if len(names) > MAX_LISTED_NAMES else ""
    return ", ".join(names[:MAX_LISTED_NAMES]) + more
