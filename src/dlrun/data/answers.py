"""What is asked of a table: the target columns, each with its kind, found out or told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrun.data.cells import Cells
from dlrun.data.steps import Labels
from dlrun.errors import Refused
from dlrun.types import Column, Kind

log = logging.getLogger("dlrun")

FEW = 20  # that many different whole numbers or fewer are taken for classes
MULTILABEL = "labels"


@dataclass(frozen=True)
class Target:
    """One target: its name, kind, the columns it is read from, and the names of its classes or labels."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    names: tuple[str, ...] = ()

    def values(self, cells: Cells) -> Column:
        """Class names (N,), numbers (N,), or a 0/1 table (N, k). Raises Refused when one is missing or out of range."""
        for column in self.columns:
            missing = cells.missing(column)
            if missing.any():
                raise Refused(
                    f"target '{column}' is missing in {cells.where(missing)} of {cells.place}: "
                    f"take those rows out, or fill them in"
                )
        if self.kind in ("binary", "category"):
            return classes(cells, self.columns[0])
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
            return
        if wrong.any():
            raise Refused(
                f"data.kind={self.kind}: '{self.name}' is not {what} in {cells.where(wrong)} of {cells.place}"
            )

    def steps(self) -> tuple[Labels, ...]:
        """How its column becomes numbers."""
        return (Labels(self.name, self.names),) if self.kind in ("binary", "category") else ()


def find(cells: Cells, target: str | list[str] | None, kind: str) -> tuple[Target, ...]:
    """The targets of a table, kinds found out where `kind` is auto, and said in the log. Raises Refused, see `csv`."""
    columns = [target] if isinstance(target, str) else list(target or [])
    if not columns:
        raise Refused(f"say what is to be predicted: data.target=COLUMN. There are: {', '.join(cells.columns)}")
    cells.need(columns, "target")
    if len(set(columns)) < len(columns):
        raise Refused(f"a target is named twice: {', '.join(columns)}")
    if kind == "multilabel":
        if len(columns) < 2:
            raise Refused("data.kind=multilabel needs several columns of 0 and 1: data.target=[COLUMN, COLUMN]")
        found = Target(MULTILABEL, "multilabel", tuple(columns), tuple(columns))
        found.values(cells)
        return (found,)
    return tuple(_one(cells, column, kind) for column in columns)


def classes(cells: Cells, column: str) -> np.ndarray:
    """A column as class names: texts as they are, whole numbers without a decimal point."""
    if not cells.numeric(column):
        return cells.texts(column)
    return np.array(
        [str(int(value)) if value == int(value) else repr(value) for value in _floats(cells, column)], object
    )


def name_classes(target: Target, dev: Cells, test: Cells | None) -> Target:
    """The target with its class names: those of the development rows, in order.

    The classes belong to the question, as in an official dataset; their frequencies are learnt, on training rows.
    Raises Refused when there is one only, or when the test rows have another.
    """
    if target.kind not in ("binary", "category"):
        return target
    column = target.columns[0]
    order: Callable[[str], float | str] = float if dev.numeric(column) else str
    names = tuple(sorted(set(classes(dev, column)), key=order))
    if len(names) < 2:
        raise Refused(f"target '{column}' has one class only, '{names[0]}', in the development rows of {dev.place}")
    strange = sorted(set(classes(test, column)) - set(names)) if test else []
    if strange:
        raise Refused(f"target '{column}': no development row is of class {', '.join(strange)}, but test rows are")
    log.info("%s: %s", target.name, ", ".join(f"{number} = {name}" for number, name in enumerate(names[:FEW])))
    return replace(target, names=names)


def _one(cells: Cells, column: str, kind: str) -> Target:
    found, why = _guess(cells, column) if kind == "auto" else (kind, "as told")
    if found in ("number", "fraction") and not cells.numeric(column):
        cells.numbers(column)  # names the line, when a cell is text
    target = Target(column, found, (column,))  # type: ignore[arg-type]
    values = target.values(cells)
    if kind == "binary" and len(set(values)) > 2:
        raise Refused(f"data.kind=binary: '{column}' has {len(set(values))} different values; say data.kind=category")
    if len(set(values)) == 1:
        raise Refused(f"target '{column}' is '{values[0]}' in all {len(cells)} rows: there is nothing to learn")
    if found == "category" and len(set(values)) == len(values):
        raise Refused(f"target '{column}' differs in all {len(cells)} rows: it names rows, and is no class")
    article = "" if found == "binary" else "a "
    hint = "" if kind != "auto" else "; say data.kind=… to change it"
    log.info("%s is %s%s (%s)%s", column, article, found, why, hint)
    return target


def _guess(cells: Cells, column: str) -> tuple[str, str]:
    values = set(classes(cells, column)) - {""}
    if len(values) == 2:
        return "binary", "two different values"
    if not cells.numeric(column):
        return "category", f"text, {len(values)} different values"
    whole = all(value == int(value) for value in _floats(cells, column))
    if whole and len(values) <= FEW and 5 * len(values) <= len(cells):
        return "category", f"{len(values)} different whole numbers"
    return "number", f"{len(values)} different numbers"


def _floats(cells: Cells, column: str) -> list[float]:
    numbers = cells.numbers(column)
    return numbers[~np.isnan(numbers)].tolist()
