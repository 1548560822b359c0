"""What an audit finds, and how its sentences are put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dlrun.core.dataset import Dataset, Ragged, SlidingWindows

Severity = Literal["leak", "warning", "note"]
MAX_LISTED_NAMES = 5  # that many columns or classes are named in a sentence
TOLERANCE = 0.01  # of the rows may be doubtful before it is called a leak, however many there are


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found: how bad it is, its kind, a sentence with the numbers, and the columns concerned.

    count: how many rows (or columns, or classes) the sentence is about. effect: what it can do to a score; leaks and
    warnings must say it.
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
    """One input column that can be looked at by itself: numbers (N,), NaN where missing, or levels (N,) of any type."""

    name: str
    values: np.ndarray
    is_number: bool

    @cached_property
    def missing(self) -> np.ndarray:
        """The mask of rows without a value."""
        if self.values.dtype.kind == "f":
            return np.isnan(self.values)
        if self.values.dtype.kind != "O":
            return (
                np.asarray(self.values == "")
                if self.values.dtype.kind == "U"
                else np.zeros(len(self.values), bool)
            )
        return np.array(
            [value is None or value == "" or value != value for value in self.values], bool
        )

    @cached_property
    def codes(self) -> np.ndarray:
        """Equal values as equal whole numbers from 0 (int64), numbers in their order, missing ones last."""
        values = self.values if self.values.dtype.kind != "O" else self.values.astype(str)
        return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def has_single_columns(raw: Dataset, name: str) -> bool:
    """Whether an input is made of columns that stand for one thing each; images, texts and series are not."""
    column = raw.dev[name]
    if isinstance(column, Ragged | SlidingWindows) or raw.inputs[name] not in (
        "number",
        "fraction",
        "binary",
        "category",
    ):
        return False
    return bool(column.ndim <= 2)


def list_input_columns(raw: Dataset) -> list[InputColumn]:
    """The input columns that stand for one thing each: those of number tables by name, and categories."""
    found = []
    for name, kind in raw.inputs.items():
        column = raw.dev[name]
        if not has_single_columns(raw, name):
            continue
        if column.ndim == 1:
            found.append(
                InputColumn(
                    name, column, kind in ("number", "fraction") or column.dtype.kind == "f"
                )
            )
        else:
            labels = raw.labels.get(name, ())
            named = (
                labels
                if len(labels) == column.shape[1]
                else [f"{name}[{i}]" for i in range(column.shape[1])]
            )
            found += [
                InputColumn(str(one), column[:, place], True) for place, one in enumerate(named)
            ]
    return found


def interval_half_width(rows: int) -> float:
    """Half of a 95 % interval of a share near one half, measured on so many rows."""
    return 1.96 * math.sqrt(0.25 / max(1, rows))


def classify_effect(share: float, rows: int) -> Severity:
    """How bad it is if this share of so many validation rows is scored wrongly: within its interval a note."""
    if share <= interval_half_width(rows):
        return "note"
    return "leak" if share > TOLERANCE else "warning"


def describe_effect(share: float, rows: int) -> str:
    """What that can do to a score, beside what chance does."""
    return f"at most {format_share(share)} of a score on {rows:,} rows, whose 95 % interval is ± {format_share(interval_half_width(rows))}"


def format_share(share: float) -> str:
    """0.1561 → '15.6 %'; near 0 and near 100 with as many digits as it takes to tell them apart."""
    value = 100 * share
    if 0 < value < 1:
        return f"{value:.2g} %"
    if 99.9 < value < 100:
        return f"{100 - float(f'{100 - value:.1g}'):.10g} %"
    return f"{value:.1f} %" if value % 100 else f"{value:.0f} %"


def format_row_share(count: int, total: int, what: str) -> str:
    """'312 of 2,000 validation rows (15.6 %)'."""
    return f"{count:,} of {total:,} {what} ({format_share(count / max(1, total))})"


def list_names(names: Sequence[str]) -> str:
    """'a, b, c, d, e and 7 more'."""
    more = f" and {len(names) - MAX_LISTED_NAMES:,} more" if len(names) > MAX_LISTED_NAMES else ""
    return ", ".join(names[:MAX_LISTED_NAMES]) + more
