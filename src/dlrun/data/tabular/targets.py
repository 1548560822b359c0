"""The target columns of a table, each with its kind, inferred or stated."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from dlrun.core.dataset import ColumnLike
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import LabelEncoder
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.number_format import FLOAT32_MAX, parse_float

log = logging.getLogger("dlrun")

MAX_INFERRED_CLASSES = 20  # up to so many distinct whole numbers are taken for classes
MULTILABEL = "labels"
CLASS_KINDS = ("binary", "category")

ClassNaming = Literal["written", "numbers"]
MissingTarget = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        name: The target's name.
        kind: What its values are.
        columns: The columns that it is read from.
        class_names: The names of its classes or labels, in order.
        class_naming: "written" keeps 1, 01 and 1.0 apart; "numbers" makes one class of them, as
            dlrun 0.1.0 did.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    class_naming: ClassNaming = "numbers"

    def missing_mask(self, table: CsvTable) -> np.ndarray:
        """The mask of rows without a value; a class is missing only where a word says so."""
        if self.kind in CLASS_KINDS:
            return np.array([not name for name in table.to_texts(self.columns[0])], bool)
        return np.any([table.missing_mask(column) for column in self.columns], axis=0)

    def read_values(self, table: CsvTable) -> ColumnLike:
        """Class names (N,), numbers (N,), or a 0/1 table (N, k).

        Raises:
            UserError: A value is missing or out of range.
        """
        missing = self.missing_mask(table)
        if missing.any():
            raise UserError(
                f"target '{self.name}' is missing in {table.describe_rows(missing)} of "
                f"{table.source}: fill them in, or data.missing_target=drop leaves these rows out"
            )
        if self.kind in CLASS_KINDS:
            return read_class_names(table, self.columns[0], self.class_naming)
        # Several columns make one multilabel target; others have one column.
        numbers = np.stack([table.to_numbers(column) for column in self.columns], 1)
        self._check_range(numbers, table)
        return numbers if self.kind == "multilabel" else numbers[:, 0]

    def _check_range(self, numbers: np.ndarray, table: CsvTable) -> None:
        wrong: Any
        if self.kind == "multilabel":
            wrong, allowed = ~np.isin(numbers, (0, 1)), "0 or 1"
        elif self.kind == "fraction":
            wrong, allowed = (numbers < 0) | (numbers > 1), "from 0 to 1"
        else:  # what float32 cannot hold was read as missing
            wrong, allowed = np.isnan(numbers), f"within ± {FLOAT32_MAX:.2g}, what float32 holds,"
        rows = wrong.any(axis=1)
        if rows.any():
            raise UserError(
                f"data.kind={self.kind}: '{self.name}' is not {allowed} in "
                f"{table.describe_rows(rows)} of {table.source}"
            )

    def preprocessing(self) -> tuple[LabelEncoder, ...]:
        """The unfitted steps of its column."""
        return (LabelEncoder(self.name, self.class_names),) if self.kind in CLASS_KINDS else ()


def find_targets(
    table: CsvTable,
    target: str | list[str] | None,
    kind: str,
    class_naming: ClassNaming = "numbers",
    test: CsvTable | None = None,
) -> tuple[Target, ...]:
    """The targets of a table, inferred where `kind` is "auto", which is logged.

    Args:
        table: The rows.
        target: The column, or columns, to predict.
        kind: Their kind, or "auto".
        class_naming: See `Target`.
        test: The rows of a test file, which may bring further classes.

    Raises:
        UserError: A column does not exist, or cannot be of that kind.
    """
    columns = get_target_columns(table, target)
    if kind == "multilabel":
        if len(columns) < 2:
            raise UserError(
                "data.kind=multilabel needs several columns of 0 and 1: "
                "data.target=[COLUMN, COLUMN]"
            )
        multilabel = Target(MULTILABEL, "multilabel", tuple(columns), tuple(columns))
        # Read now, so that a value other than 0 and 1 is refused before anything else.
        multilabel.read_values(table)
        return (multilabel,)
    return tuple(_build_target(table, column, kind, class_naming, test) for column in columns)


def get_target_columns(table: CsvTable, target: str | list[str] | None) -> list[str]:
    """The columns to predict.

    Raises:
        UserError: None is named, one does not exist, or one is named twice.
    """
    columns = [target] if isinstance(target, str) else list(target or [])
    if not columns:
        raise UserError(
            "say what is to be predicted: data.target=COLUMN. "
            f"There are: {format_names(table.columns)}"
        )
    table.require_columns(columns, "target")
    if len(set(columns)) < len(columns):
        raise UserError(f"a target is named twice: {', '.join(columns)}")
    return columns


def drop_missing_targets(
    table: CsvTable, target: str | list[str] | None, kind: str, missing: MissingTarget
) -> CsvTable:
    """The rows that have all targets, if others are to be dropped, which is logged.

    Args:
        table: The rows.
        target: The column, or columns, to predict.
        kind: Their kind, or "auto".
        missing: Whether rows without a target are dropped, or refused later.

    Raises:
        UserError: No row would be left.
    """
    # Refusing happens later, where the target is read, with the lines.
    if missing == "refuse":
        return table
    is_missing = np.zeros(len(table), bool)
    for column in get_target_columns(table, target):
        inferred: Any = _infer_kind(table, column, "numbers")[0] if kind == "auto" else kind
        is_missing |= Target(column, inferred, (column,)).missing_mask(table)
    if is_missing.all():
        raise UserError(f"{table.source}: all {len(table):,} rows miss the target")
    if not is_missing.any():
        return table
    log.warning(
        "%s: left out, for the target is missing: %s", table.source, table.describe_rows(is_missing)
    )
    return table.take(np.flatnonzero(~is_missing))


def read_class_names(table: CsvTable, column: str, class_naming: ClassNaming) -> np.ndarray:
    """A column as class names.

    Args:
        table: The rows.
        column: The column's name.
        class_naming: "written" takes the texts of the file; "numbers" drops the point of 1.0.
    """
    if class_naming == "written" or not table.is_numeric(column):
        return table.to_texts(column)
    # 1, 01 and 1.0 are one class by their number.
    values = zip(table.columns[column], table.to_numbers(column).tolist(), strict=True)
    return np.array(
        [_class_name(cell, value) for cell, value in values if not math.isnan(value)], object
    )


def _class_name(cell: str, value: float) -> str:
    """The name of a class by its number, exact where the cell is a whole number, however large."""
    # float has 53 bits: two large identifiers could become one class.
    number = int(cell) if re.fullmatch(r"[+-]?\d+", cell, re.ASCII) else value
    return str(int(number)) if number == int(number) else repr(number)


def with_class_names(target: Target, tables: Iterable[CsvTable | None]) -> Target:
    """The target with its class names in order.

    The classes belong to the question, as in an official dataset; only their frequencies are
    fitted, on training rows.

    Args:
        target: The target.
        tables: All rows that may bring classes, the development rows first.

    Raises:
        UserError: The development rows are of one class.
    """
    if target.kind not in CLASS_KINDS:
        return target
    column = target.columns[0]
    # Classes of test rows count, too: none of them may be unknown to the encoder.
    dev, *further = [
        set(read_class_names(table, column, target.class_naming))
        for table in tables
        if table is not None
    ]
    if len(dev) < 2:
        raise UserError(
            f"target '{column}' has one class only, '{min(dev)}', in the development rows"
        )
    names = tuple(sort_class_names(dev.union(*further)))
    log.info(
        "%s: %s",
        target.name,
        format_names(f"{number} = {name}" for number, name in enumerate(names)),
    )
    _warn_equal_class_numbers(column, names)
    return replace(target, class_names=names)


def sort_class_names(names: Iterable[str]) -> list[str]:
    """Class names, sorted as numbers if all are numbers, else alphabetically."""
    numbers = {name: parse_float(name) for name in names}
    all_numbers = all(number is not None for number in numbers.values())
    if not all_numbers:
        return sorted(numbers)
    return sorted(numbers, key=lambda name: (numbers[name], name))


def _warn_equal_class_numbers(column: str, names: tuple[str, ...]) -> None:
    by_number: dict[str, list[str]] = {}
    for name in names:
        if (number := parse_float(name)) is not None and math.isfinite(number):
            # Classes that differ only in how the number is written, such as 1 and 01.
            by_number.setdefault(_class_name(name, number), []).append(name)
    same = [" and ".join(group) for group in by_number.values() if len(group) > 1]
    if same:
        log.warning(
            "%s: kept apart as they are written: %s; data.classes=numbers makes one class of each",
            column,
            same[0],
        )


def _build_target(
    table: CsvTable, column: str, kind: str, class_naming: ClassNaming, test: CsvTable | None
) -> Target:
    inferred, reason = kind, "as told"
    if kind == "auto":
        inferred, reason = _infer_kind(table, column, class_naming)
    if inferred in ("number", "fraction") and not table.is_numeric(column):
        table.to_numbers(column)  # raises with the line of the cell that is text
    target = Target(column, cast(Kind, inferred), (column,), class_naming=class_naming)
    values = target.read_values(table)
    _check_target_values(table, target, kind, values)
    article = "" if inferred == "binary" else "a "
    hint = "; say data.kind=… to change it" if kind == "auto" else ""
    log.info("%s is %s%s (%s)%s", column, article, inferred, reason, hint)
    if test is None:
        return target
    return _include_test_classes(target, kind, {*map(str, values)}, test)


def _check_target_values(table: CsvTable, target: Target, kind: str, values: ColumnLike) -> None:
    num_values = len(set(values))
    # Stated kinds are checked; inferred ones cannot fail this.
    if kind == "binary" and num_values > 2:
        raise UserError(
            f"data.kind=binary: '{target.name}' has {num_values} different values; "
            "say data.kind=category"
        )
    if num_values == 1:
        rows = f"all {len(table):,} rows" if len(table) > 1 else "the only row"
        raise UserError(
            f"target '{target.name}' is '{values[0]}' in {rows}: there is nothing to learn"
        )
    if target.kind == "category" and num_values == len(values):
        raise UserError(
            f"target '{target.name}' differs in all {len(table)} rows: it names rows, and is no "
            "class"
        )


def _include_test_classes(target: Target, kind: str, classes: set[str], test: CsvTable) -> Target:
    """The target with any further classes of a test file, which no model can learn.

    All test rows are read, so that what is wrong with them is found before anything is trained.
    """
    test.require_columns(target.columns, "column")
    values = target.read_values(test)
    if target.kind not in CLASS_KINDS or not (new := set(values) - classes):
        return target
    has_new_class = np.isin(values.astype(str), sorted(new))
    log.warning(
        "%s: the class of %s (%s) is that of no other row: no model can learn it, and these count "
        "as wrong",
        test.source,
        test.describe_rows(has_new_class),
        format_names(sorted(new)),
    )
    if kind == "binary":
        raise UserError(
            f"data.kind=binary: with the test rows '{target.name}' has more than two classes"
        )
    return replace(target, kind="category")


def _infer_kind(table: CsvTable, column: str, class_naming: ClassNaming) -> tuple[str, str]:
    """The kind of a column, and the reason, for the log."""
    values = set(read_class_names(table, column, class_naming)) - {""}
    if len(values) == 2:
        return "binary", "two different values"
    if not table.is_numeric(column):
        return "category", f"text, {len(values)} different values"
    numbers = table.to_numbers(column)
    numbers = numbers[~np.isnan(numbers)]
    is_whole = all(value == int(value) for value in numbers.tolist())
    # Few values, each in five rows or more: ratings or codes, not counts of something.
    if is_whole and len(values) <= MAX_INFERRED_CLASSES and 5 * len(values) <= len(table):
        return "category", f"{len(values)} different whole numbers"
    return "number", f"{len(set(numbers.tolist()))} different numbers"
