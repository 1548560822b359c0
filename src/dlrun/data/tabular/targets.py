"""What is asked of a table: the target columns, each with its kind, found out or told."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Column
from dlrun.core.errors import Refused, in_short
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import Labels
from dlrun.data.tabular.csv_file import Cells
from dlrun.data.tabular.number_format import LARGEST, plain

log = logging.getLogger("dlrun")

FEW = 20  # that many different whole numbers or fewer are taken for classes
MULTILABEL = "labels"
CLASSES = ("binary", "category")

Classes = Literal["written", "numbers"]
MissingTarget = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Target:
    """One target: its name, kind, the columns it is read from, and the names of its classes or labels.

    classes: written keeps 1, 01 and 1.0 apart; numbers makes one class of them, as dlrun 0.1.0 did.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    names: tuple[str, ...] = ()
    classes: Classes = "numbers"

    def missing(self, cells: Cells) -> np.ndarray:
        """The mask of rows that miss it. A class is missing only where its cell says so in a word for that."""
        if self.kind in CLASSES:
            return np.array([not name for name in cells.texts(self.columns[0])], bool)
        return np.any([cells.missing(column) for column in self.columns], axis=0)

    def values(self, cells: Cells) -> Column:
        """Class names (N,), numbers (N,), or a 0/1 table (N, k). Raises Refused when one is missing or out of range."""
        missing = self.missing(cells)
        if missing.any():
            raise Refused(
                f"target '{self.name}' is missing in {cells.where(missing)} of {cells.place}: fill them in, or "
                f"data.missing_target=drop leaves these rows out"
            )
        if self.kind in CLASSES:
            return classes(cells, self.columns[0], self.classes)
        numbers = np.stack([cells.numbers(column) for column in self.columns], 1)
        self._check_range(numbers, cells)
        return numbers if self.kind == "multilabel" else numbers[:, 0]

    def _check_range(self, numbers: np.ndarray, cells: Cells) -> None:
        wrong: Any
        if self.kind == "multilabel":
            wrong, what = (~np.isin(numbers, (0, 1))).any(axis=1), "0 or 1"
        elif self.kind == "fraction":
            wrong, what = ((numbers < 0) | (numbers > 1)).any(axis=1), "from 0 to 1"
        else:
            wrong, what = np.isnan(numbers).any(axis=1), f"within ± {LARGEST:.2g}, what float32 holds,"
        if wrong.any():
            raise Refused(
                f"data.kind={self.kind}: '{self.name}' is not {what} in {cells.where(wrong)} of {cells.place}"
            )

    def steps(self) -> tuple[Labels, ...]:
        """How its column becomes numbers."""
        return (Labels(self.name, self.names),) if self.kind in CLASSES else ()


def find(
    cells: Cells, target: str | list[str] | None, kind: str, how: Classes = "numbers", test: Cells | None = None
) -> tuple[Target, ...]:
    """The targets of a table, kinds found out where `kind` is auto, and said in the log. Raises Refused, see `csv`.

    test: the rows of a file of test rows, which may bring further classes.
    """
    columns = named(cells, target)
    if kind == "multilabel":
        if len(columns) < 2:
            raise Refused("data.kind=multilabel needs several columns of 0 and 1: data.target=[COLUMN, COLUMN]")
        found = Target(MULTILABEL, "multilabel", tuple(columns), tuple(columns))
        found.values(cells)
        return (found,)
    return tuple(_one(cells, column, kind, how, test) for column in columns)


def named(cells: Cells, target: str | list[str] | None) -> list[str]:
    """The columns that are to be predicted. Raises Refused for none, for one that is not there or is named twice."""
    columns = [target] if isinstance(target, str) else list(target or [])
    if not columns:
        raise Refused(f"say what is to be predicted: data.target=COLUMN. There are: {in_short(cells.columns)}")
    cells.need(columns, "target")
    if len(set(columns)) < len(columns):
        raise Refused(f"a target is named twice: {', '.join(columns)}")
    return columns


def with_target(cells: Cells, target: str | list[str] | None, kind: str, missing: MissingTarget) -> Cells:
    """The rows that have all targets, where the others are to be dropped, which is said. Raises Refused for none."""
    if missing == "refuse":
        return cells
    gone = np.zeros(len(cells), bool)
    for column in named(cells, target):
        guess: Any = _guess(cells, column, "numbers")[0] if kind == "auto" else kind
        gone |= Target(column, guess, (column,)).missing(cells)
    if gone.all():
        raise Refused(f"{cells.place}: all {len(cells):,} rows miss the target")
    if not gone.any():
        return cells
    log.warning("%s: left out, for the target is missing: %s", cells.place, cells.where(gone))
    return cells.take(np.flatnonzero(~gone))


def classes(cells: Cells, column: str, how: Classes) -> np.ndarray:
    """A column as class names: the texts that stand in the file, or by their numbers, whole ones without a point."""
    if how == "written" or not cells.numeric(column):
        return cells.texts(column)
    values = zip(cells.columns[column], cells.numbers(column).tolist(), strict=True)
    return np.array([_named(cell, value) for cell, value in values if not math.isnan(value)], object)


def _named(cell: str, value: float) -> str:
    """The name of a class by its number, which is exact where the cell is a whole number, however large."""
    number = int(cell) if re.fullmatch(r"[+-]?\d+", cell, re.ASCII) else value
    return str(int(number)) if number == int(number) else repr(number)


def name_classes(target: Target, parts: Iterable[Cells | None]) -> Target:
    """The target with its class names, in order: those of all parts of the data, the development rows first.

    The classes belong to the question, as in an official dataset; their frequencies are learnt, on training rows.
    Raises Refused when the development rows are of one class.
    """
    if target.kind not in CLASSES:
        return target
    column = target.columns[0]
    dev, *others = [set(classes(part, column, target.classes)) for part in parts if part is not None]
    if len(dev) < 2:
        raise Refused(f"target '{column}' has one class only, '{min(dev)}', in the development rows")
    names = tuple(in_order(dev.union(*others)))
    log.info("%s: %s", target.name, in_short(f"{number} = {name}" for number, name in enumerate(names)))
    _warn_of_same_numbers(column, names)
    return replace(target, names=names)


def in_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their numbers where all are numbers, else of their letters."""
    numbers = {name: plain(name) for name in names}
    known = all(number is not None for number in numbers.values())
    return sorted(numbers, key=lambda name: (numbers[name] if known else 0, name))  # type: ignore[return-value]


def _warn_of_same_numbers(column: str, names: tuple[str, ...]) -> None:
    by_number: dict[str, list[str]] = {}
    for name in names:
        if (number := plain(name)) is not None and math.isfinite(number):
            by_number.setdefault(_named(name, number), []).append(name)
    same = [" and ".join(group) for group in by_number.values() if len(group) > 1]
    if same:
        log.warning(
            "%s: kept apart as they are written: %s; data.classes=numbers makes one class of each", column, same[0]
        )


def _one(cells: Cells, column: str, kind: str, how: Classes, test: Cells | None) -> Target:
    found, why = _guess(cells, column, how) if kind == "auto" else (kind, "as told")
    if found in ("number", "fraction") and not cells.numeric(column):
        cells.numbers(column)  # names the line, when a cell is text
    target = Target(column, found, (column,), classes=how)  # type: ignore[arg-type]
    values = target.values(cells)
    if kind == "binary" and len(set(values)) > 2:
        raise Refused(f"data.kind=binary: '{column}' has {len(set(values))} different values; say data.kind=category")
    if len(set(values)) == 1:
        rows = f"all {len(cells):,} rows" if len(cells) > 1 else "the only row"
        raise Refused(f"target '{column}' is '{values[0]}' in {rows}: there is nothing to learn")
    if found == "category" and len(set(values)) == len(values):
        raise Refused(f"target '{column}' differs in all {len(cells)} rows: it names rows, and is no class")
    article = "" if found == "binary" else "a "
    hint = "" if kind != "auto" else "; say data.kind=… to change it"
    log.info("%s is %s%s (%s)%s", column, article, found, why, hint)
    return target if test is None else _with_test(target, kind, {*map(str, values)}, test)


def _with_test(target: Target, kind: str, known: set[str], test: Cells) -> Target:
    """The same, where a file of test rows may have further classes, of which no model can learn anything.

    All test rows are looked at, so that what is wrong with them is said before anything is trained. Raises Refused.
    """
    test.need(target.columns, "column")
    values = target.values(test)
    if target.kind not in CLASSES or not (new := set(values) - known):
        return target
    strange = np.isin(values.astype(str), sorted(new))
    log.warning(
        "%s: the class of %s (%s) is that of no other row: no model can learn it, and these count as wrong",
        test.place, test.where(strange), in_short(sorted(new)),
    )  # fmt: skip
    if kind == "binary":
        raise Refused(f"data.kind=binary: with the test rows '{target.name}' has more than two classes")
    return replace(target, kind="category")


def _guess(cells: Cells, column: str, how: Classes) -> tuple[str, str]:
    values = set(classes(cells, column, how)) - {""}
    if len(values) == 2:
        return "binary", "two different values"
    if not cells.numeric(column):
        return "category", f"text, {len(values)} different values"
    numbers = _floats(cells, column)
    if all(value == int(value) for value in numbers) and len(values) <= FEW and 5 * len(values) <= len(cells):
        return "category", f"{len(values)} different whole numbers"
    return "number", f"{len(set(numbers))} different numbers"


def _floats(cells: Cells, column: str) -> list[float]:
    numbers = cells.numbers(column)
    return numbers[~np.isnan(numbers)].tolist()
