"""What is asked of a table: the target columns, each with its kind, found out or told."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import RawColumn
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import LabelEncoder
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.number_format import FLOAT32_MAX, parse_float

log = logging.getLogger("dlrun")

MAX_INFERRED_CLASSES = 20  # that many different whole numbers or fewer are taken for classes
MULTILABEL = "labels"
CLASS_KINDS = ("binary", "category")

ClassNaming = Literal["written", "numbers"]
MissingTarget = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Target:
    """One target: its name, kind, the columns it is read from, and the names of its classes or labels.

    classes: written keeps 1, 01 and 1.0 apart; numbers makes one class of them, as dlrun 0.1.0 did.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    class_naming: ClassNaming = "numbers"

    def missing_mask(self, cells: CsvTable) -> np.ndarray:
        """The mask of rows that miss it. A class is missing only where its cell says so in a word for that."""
        if self.kind in CLASS_KINDS:
            return np.array([not name for name in cells.to_texts(self.columns[0])], bool)
        return np.any([cells.missing_mask(column) for column in self.columns], axis=0)

    def read_values(self, cells: CsvTable) -> RawColumn:
        """Class names (N,), numbers (N,), or a 0/1 table (N, k). Raises UserError when one is missing or out of range."""
        missing = self.missing_mask(cells)
        if missing.any():
            raise UserError(
                f"target '{self.name}' is missing in {cells.describe_rows(missing)} of {cells.source}: fill them in, or "
                f"data.missing_target=drop leaves these rows out"
            )
        if self.kind in CLASS_KINDS:
            return read_class_names(cells, self.columns[0], self.class_naming)
        numbers = np.stack([cells.to_numbers(column) for column in self.columns], 1)
        self._check_range(numbers, cells)
        return numbers if self.kind == "multilabel" else numbers[:, 0]

    def _check_range(self, numbers: np.ndarray, cells: CsvTable) -> None:
        wrong: Any
        if self.kind == "multilabel":
            wrong, what = (~np.isin(numbers, (0, 1))).any(axis=1), "0 or 1"
        elif self.kind == "fraction":
            wrong, what = ((numbers < 0) | (numbers > 1)).any(axis=1), "from 0 to 1"
        else:
            wrong, what = (
                np.isnan(numbers).any(axis=1),
                f"within ± {FLOAT32_MAX:.2g}, what float32 holds,",
            )
        if wrong.any():
            raise UserError(
                f"data.kind={self.kind}: '{self.name}' is not {what} in {cells.describe_rows(wrong)} of {cells.source}"
            )

    def preprocessing(self) -> tuple[LabelEncoder, ...]:
        """How its column becomes numbers."""
        return (LabelEncoder(self.name, self.class_names),) if self.kind in CLASS_KINDS else ()


def find_targets(
    cells: CsvTable,
    target: str | list[str] | None,
    kind: str,
    how: ClassNaming = "numbers",
    test: CsvTable | None = None,
) -> tuple[Target, ...]:
    """The targets of a table, kinds found out where `kind` is auto, and said in the log. Raises UserError, see `csv`.

    test: the rows of a file of test rows, which may bring further classes.
    """
    columns = get_target_columns(cells, target)
    if kind == "multilabel":
        if len(columns) < 2:
            raise UserError(
                "data.kind=multilabel needs several columns of 0 and 1: data.target=[COLUMN, COLUMN]"
            )
        found = Target(MULTILABEL, "multilabel", tuple(columns), tuple(columns))
        found.read_values(cells)
        return (found,)
    return tuple(_build_target(cells, column, kind, how, test) for column in columns)


def get_target_columns(cells: CsvTable, target: str | list[str] | None) -> list[str]:
    """The columns that are to be predicted. Raises UserError for none, for one that is not there or is named twice."""
    columns = [target] if isinstance(target, str) else list(target or [])
    if not columns:
        raise UserError(
            f"say what is to be predicted: data.target=COLUMN. There are: {format_names(cells.columns)}"
        )
    cells.require_columns(columns, "target")
    if len(set(columns)) < len(columns):
        raise UserError(f"a target is named twice: {', '.join(columns)}")
    return columns


def drop_missing_targets(
    cells: CsvTable, target: str | list[str] | None, kind: str, missing: MissingTarget
) -> CsvTable:
    """The rows that have all targets, where the others are to be dropped, which is said. Raises UserError for none."""
    if missing == "refuse":
        return cells
    gone = np.zeros(len(cells), bool)
    for column in get_target_columns(cells, target):
        guess: Any = _infer_kind(cells, column, "numbers")[0] if kind == "auto" else kind
        gone |= Target(column, guess, (column,)).missing_mask(cells)
    if gone.all():
        raise UserError(f"{cells.source}: all {len(cells):,} rows miss the target")
    if not gone.any():
        return cells
    log.warning(
        "%s: left out, for the target is missing: %s", cells.source, cells.describe_rows(gone)
    )
    return cells.take(np.flatnonzero(~gone))


def read_class_names(cells: CsvTable, column: str, how: ClassNaming) -> np.ndarray:
    """A column as class names: the texts that stand in the file, or by their numbers, whole ones without a point."""
    if how == "written" or not cells.is_numeric(column):
        return cells.to_texts(column)
    values = zip(cells.columns[column], cells.to_numbers(column).tolist(), strict=True)
    return np.array(
        [_class_name(cell, value) for cell, value in values if not math.isnan(value)], object
    )


def _class_name(cell: str, value: float) -> str:
    """The name of a class by its number, which is exact where the cell is a whole number, however large."""
    number = int(cell) if re.fullmatch(r"[+-]?\d+", cell, re.ASCII) else value
    return str(int(number)) if number == int(number) else repr(number)


def with_class_names(target: Target, parts: Iterable[CsvTable | None]) -> Target:
    """The target with its class names, in order: those of all parts of the data, the development rows first.

    The classes belong to the question, as in an official dataset; their frequencies are learnt, on training rows.
    Raises UserError when the development rows are of one class.
    """
    if target.kind not in CLASS_KINDS:
        return target
    column = target.columns[0]
    dev, *others = [
        set(read_class_names(part, column, target.class_naming))
        for part in parts
        if part is not None
    ]
    if len(dev) < 2:
        raise UserError(
            f"target '{column}' has one class only, '{min(dev)}', in the development rows"
        )
    names = tuple(sort_class_names(dev.union(*others)))
    log.info(
        "%s: %s",
        target.name,
        format_names(f"{number} = {name}" for number, name in enumerate(names)),
    )
    _warn_equal_class_numbers(column, names)
    return replace(target, class_names=names)


def sort_class_names(names: Iterable[str]) -> list[str]:
    """Class names in the order of their numbers where all are numbers, else of their letters."""
    numbers = {name: parse_float(name) for name in names}
    known = all(number is not None for number in numbers.values())
    return sorted(numbers, key=lambda name: (numbers[name] if known else 0, name))  # type: ignore[return-value]


def _warn_equal_class_numbers(column: str, names: tuple[str, ...]) -> None:
    by_number: dict[str, list[str]] = {}
    for name in names:
        if (number := parse_float(name)) is not None and math.isfinite(number):
            by_number.setdefault(_class_name(name, number), []).append(name)
    same = [" and ".join(group) for group in by_number.values() if len(group) > 1]
    if same:
        log.warning(
            "%s: kept apart as they are written: %s; data.classes=numbers makes one class of each",
            column,
            same[0],
        )


def _build_target(
    cells: CsvTable, column: str, kind: str, how: ClassNaming, test: CsvTable | None
) -> Target:
    found, why = _infer_kind(cells, column, how) if kind == "auto" else (kind, "as told")
    if found in ("number", "fraction") and not cells.is_numeric(column):
        cells.to_numbers(column)  # names the line, when a cell is text
    target = Target(column, found, (column,), class_naming=how)  # type: ignore[arg-type]
    values = target.read_values(cells)
    if kind == "binary" and len(set(values)) > 2:
        raise UserError(
            f"data.kind=binary: '{column}' has {len(set(values))} different values; say data.kind=category"
        )
    if len(set(values)) == 1:
        rows = f"all {len(cells):,} rows" if len(cells) > 1 else "the only row"
        raise UserError(f"target '{column}' is '{values[0]}' in {rows}: there is nothing to learn")
    if found == "category" and len(set(values)) == len(values):
        raise UserError(
            f"target '{column}' differs in all {len(cells)} rows: it names rows, and is no class"
        )
    article = "" if found == "binary" else "a "
    hint = "" if kind != "auto" else "; say data.kind=… to change it"
    log.info("%s is %s%s (%s)%s", column, article, found, why, hint)
    return (
        target if test is None else _include_test_classes(target, kind, {*map(str, values)}, test)
    )


def _include_test_classes(target: Target, kind: str, known: set[str], test: CsvTable) -> Target:
    """The same, where a file of test rows may have further classes, of which no model can learn anything.

    All test rows are looked at, so that what is wrong with them is said before anything is trained. Raises UserError.
    """
    test.require_columns(target.columns, "column")
    values = target.read_values(test)
    if target.kind not in CLASS_KINDS or not (new := set(values) - known):
        return target
    strange = np.isin(values.astype(str), sorted(new))
    log.warning(
        "%s: the class of %s (%s) is that of no other row: no model can learn it, and these count as wrong",
        test.source, test.describe_rows(strange), format_names(sorted(new)),
    )  # fmt: skip
    if kind == "binary":
        raise UserError(
            f"data.kind=binary: with the test rows '{target.name}' has more than two classes"
        )
    return replace(target, kind="category")


def _infer_kind(cells: CsvTable, column: str, how: ClassNaming) -> tuple[str, str]:
    values = set(read_class_names(cells, column, how)) - {""}
    if len(values) == 2:
        return "binary", "two different values"
    if not cells.is_numeric(column):
        return "category", f"text, {len(values)} different values"
    numbers = _present_numbers(cells, column)
    if (
        all(value == int(value) for value in numbers)
        and len(values) <= MAX_INFERRED_CLASSES
        and 5 * len(values) <= len(cells)
    ):
        return "category", f"{len(values)} different whole numbers"
    return "number", f"{len(set(numbers))} different numbers"


def _present_numbers(cells: CsvTable, column: str) -> list[float]:
    numbers = cells.to_numbers(column)
    return numbers[~np.isnan(numbers)].tolist()
