"""The schema of a table: what becomes of each column, and the dataset that comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from dlrun.core.dataset import Dataset, Preprocessor, RawColumns
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import (
    KBinsDiscretizer,
    LabelEncoder,
    MinMaxScaler,
    OrdinalEncoder,
    SimpleImputer,
    StandardScaler,
)
from dlrun.data.preprocessing.series import TargetScaler
from dlrun.data.tabular.csv_file import CsvTable, read_csv
from dlrun.data.tabular.dates import DateOrder, parse_datetime
from dlrun.data.tabular.features import Feature, compute_feature
from dlrun.data.tabular.number_format import NumberFormat
from dlrun.data.tabular.targets import CLASS_KINDS, Target

log = logging.getLogger("dlrun")

SCALERS: dict[str, tuple[Preprocessor, ...]] = {
    "standardize": (StandardScaler(),),
    "unit": (MinMaxScaler(),),
    "none": (),
}
NUMERIC_INPUT = "features"  # the input that all number columns make up together


@dataclass(frozen=True)
class TableSchema:
    """What becomes of each column of a table, the same for development and test rows.

    Attributes:
        numeric: Columns of numbers, which become one input.
        categorical: Columns of categories.
        features: Computed features.
        targets: The targets.
        order: The column that puts rows in time.
        group: The column that names the group of a row.
        text_columns: Columns of texts, which are taken as they are.
        number_formats: How the numbers of each column are written, by all rows of the file that the
            schema was made from.
        date_formats: How the dates of a column are written, likewise.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    features: tuple[Feature, ...]
    targets: tuple[Target, ...]
    order: str | None = None
    group: str | None = None
    text_columns: tuple[str, ...] = ()
    number_formats: Mapping[str, NumberFormat | None] = field(default_factory=dict)
    date_formats: Mapping[str, DateOrder] = field(default_factory=dict)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that rows must have."""
        return (
            *self.numeric,
            *self.categorical,
            *self.text_columns,
            *(column for feature in self.features for column in feature.columns),
            *(column for target in self.targets for column in target.columns),
            *filter(None, (self.order, self.group)),
        )

    @property
    def binned_features(self) -> tuple[Feature, ...]:
        """The features that become categories."""
        return tuple(feature for feature in self.features if feature.transform == "bins")

    def build_rows(self, table: CsvTable) -> RawColumns:
        """The raw columns: numbers (N, F), one (N,) for each category or text, targets, roles."""
        rows: RawColumns = {}
        numbers = self.compute_numbers(table)
        if numbers:
            rows[NUMERIC_INPUT] = np.stack(list(numbers.values()), 1)
        for name in self.categorical:
            rows[name] = table.to_texts(name)
        for name in self.text_columns:
            # A text may well be the word null: no cell of it is missing.
            rows[name] = np.array(table.columns[name], object)
        for feature in self.binned_features:
            rows |= compute_feature(feature, table)
        for target in self.targets:
            rows[target.name] = target.read_values(table)
        if self.order:
            dates = self.date_formats.get(self.order, "each")
            rows[self.order] = parse_order_column(table, self.order, dates)
        if self.group:
            rows[self.group] = table.to_texts(self.group)
        return rows

    def compute_numbers(self, table: CsvTable) -> dict[str, np.ndarray]:
        """The number columns by name, computed features last."""
        numbers = {name: table.to_numbers(name) for name in self.numeric}
        for feature in self.features:
            # Bins are categories, whose edges are fitted on training rows only.
            if feature.transform != "bins":
                dates = self.date_formats.get(feature.columns[0], "each")
                numbers |= compute_feature(feature, table, dates)
        return numbers


def build_table_dataset(
    schema: TableSchema,
    dev: CsvTable,
    test: Callable[[], CsvTable] | None,
    *,
    scale: str,
    impute: str,
    indicator: bool,
    note: str = "",
    text: Any = None,
    levels: int | None = None,
    standardize_target: bool = False,
) -> Dataset:
    """The dataset of a table.

    Args:
        schema: What becomes of each column.
        dev: The development rows.
        test: Reads the test rows.
        scale: A key of SCALERS, for number columns.
        impute: The statistic that fills missing numbers, see `SimpleImputer`.
        indicator: Whether columns of missing numbers are appended.
        note: A line beside every result.
        text: The step for columns of texts; its `kind` is that of their inputs.
        levels: How many categories of a column are told apart; None for all.
        standardize_target: Whether number targets are learned in standard deviations.

    Raises:
        UserError: No input is left, or two columns would share a name.
    """
    number_names = tuple(schema.compute_numbers(dev))
    inputs = _input_kinds(schema, bool(number_names), text)
    _check_names(schema, dev, inputs)
    # Imputed first: a scaler would spread one NaN over its column.
    number_steps = (SimpleImputer(impute, indicator), *SCALERS[scale])  # type: ignore[arg-type]
    preprocessors = _build_preprocessing(schema, number_steps if number_names else ())
    preprocessors |= dict.fromkeys(schema.categorical, (OrdinalEncoder(max_levels=levels),))
    preprocessors |= dict.fromkeys(schema.text_columns, (text,))
    if standardize_target:
        numbers = [target.name for target in schema.targets if target.kind == "number"]
        preprocessors |= dict.fromkeys(numbers, (TargetScaler(),))
    labels = {target.name: target.class_names for target in schema.targets if target.class_names}
    return Dataset(
        dev=schema.build_rows(dev),
        inputs=inputs,
        targets={target.name: target.kind for target in schema.targets},
        preprocessors=preprocessors,
        test=None if test is None else lambda: schema.build_rows(test()),
        order=schema.order,
        group=schema.group,
        labels={NUMERIC_INPUT: number_names} | labels,
        note=note,
        read_new_rows=partial(read_table_rows, schema),
        rows_from_texts=make_text_row_builder(inputs, schema.text_columns),
    )


def _input_kinds(schema: TableSchema, has_numbers: bool, text: Any) -> dict[str, Kind]:
    inputs: dict[str, Kind] = {NUMERIC_INPUT: "number"} if has_numbers else {}
    inputs |= dict.fromkeys(schema.categorical, "category")
    inputs |= dict.fromkeys((feature.name for feature in schema.binned_features), "category")
    inputs |= dict.fromkeys(schema.text_columns, text.kind) if schema.text_columns else {}
    return inputs


def _check_names(schema: TableSchema, dev: CsvTable, inputs: dict[str, Kind]) -> None:
    if not inputs:
        raise UserError(
            f"{dev.source} has no input column left: all are targets, dropped, or left out "
            "(see above)"
        )
    names = [*inputs, *(target.name for target in schema.targets)]
    names += filter(None, (schema.order, schema.group))
    duplicates = {name for name in names if names.count(name) > 1}
    # A column called features would hide the input of the same name.
    duplicates |= {NUMERIC_INPUT} & {*schema.categorical, *schema.text_columns}
    if duplicates:
        raise UserError(
            f"the name '{min(duplicates)}' would stand for two columns; "
            f"rename that column in {dev.source}"
        )


def make_text_row_builder(
    inputs: dict[str, Kind], texts: tuple[str, ...]
) -> Callable[[Sequence[str]], RawColumns] | None:
    """A function that makes rows of new texts; None unless a row is one text and nothing else.

    Args:
        inputs: The dataset's inputs.
        texts: The columns of texts.
    """
    # With a second input, a text alone is no row.
    if len(inputs) > 1 or not texts:
        return None
    return lambda new_texts: {texts[0]: np.array(list(new_texts), object)}


def read_table_rows(schema: TableSchema, path: str, **reading: Any) -> tuple[RawColumns, list[int]]:
    """New rows from a CSV file with the schema's input columns.

    A target comes along unless a row lacks it, or has a value that the schema's does not, which is
    logged.

    Args:
        schema: What becomes of each column.
        path: The file.
        **reading: How to read it, see `read_csv`.

    Returns:
        The raw columns, and the line of each row.

    Raises:
        UserError: Input columns are absent; the message names them.
    """
    options = {"separator": None, "header": None} | reading
    # Numbers are written as in the training file: a few new rows cannot decide it.
    table = read_csv(path, **options, number_formats=schema.number_formats or None)
    targets = tuple(target for target in schema.targets if _has_target(target, table))
    # New rows need not have the columns that only split the data.
    schema = replace(schema, targets=targets, order=None, group=None)
    absent = [name for name in dict.fromkeys(schema.required_columns) if name not in table.columns]
    if absent:
        raise UserError(
            f"{path} lacks {format_names(absent)}, which the run was trained on; "
            f"it has: {format_names(table.columns, absent[0])}"
        )
    return schema.build_rows(table), table.lines


def _has_target(target: Target, table: CsvTable) -> bool:
    """Whether every row has this target, as the run knows it; logged where only some have."""
    if any(column not in table.columns for column in target.columns):
        return False
    missing = target.missing_mask(table)
    # New rows without any target are the usual case, and need no warning.
    if missing.all():
        return False
    if missing.any():
        rows = table.describe_rows(missing)
        log.warning("target '%s' is missing in %s of %s: no score", target.name, rows, table.source)
        return False
    try:
        values = target.read_values(table)
    except UserError as error:
        log.warning("no score: %s", error)
        return False
    return not (target.kind in CLASS_KINDS and target.class_names) or _has_known_classes(
        target, table, values
    )


def _has_known_classes(target: Target, table: CsvTable, values: np.ndarray) -> bool:
    """Whether all rows are of classes that the run knows; logged where some are not."""
    unknown = np.array([str(value) not in target.class_names for value in values], bool)
    if unknown.any():
        log.warning(
            "target '%s' is of a class that the run does not know in %s of %s ('%s'): no score",
            target.name,
            table.describe_rows(unknown),
            table.source,
            values[int(unknown.argmax())],
        )
    return not unknown.any()


def make_row_reader(
    numbers: tuple[str, ...],
    target: str,
    kind: Kind,
    classes: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
) -> Callable[..., tuple[RawColumns, list[int]]]:
    """A function that reads new rows of a dataset that was not made from a table.

    Args:
        numbers: Number columns, the dataset's input `features`.
        target: The target's column.
        kind: The target's kind.
        classes: The names of its classes, numbered from 0.
        texts: Text columns.
    """
    targets = (Target(target, kind, (target,), classes),)
    schema = TableSchema(numbers, (), (), targets, text_columns=texts)

    def read(path: str, **reading: Any) -> tuple[RawColumns, list[int]]:
        rows, lines = read_table_rows(schema, path, **reading)
        if classes and target in rows:
            # Other datasets have their classes numbered already; a file names them.
            rows[target] = LabelEncoder(target, classes)(rows[target])
        return rows, lines

    return read


def _build_preprocessing(
    schema: TableSchema, numbers: tuple[Preprocessor, ...]
) -> dict[str, tuple[Preprocessor, ...]]:
    steps: dict[str, tuple[Preprocessor, ...]] = {
        feature.name: (KBinsDiscretizer(feature.num_bins),) for feature in schema.binned_features
    }
    steps |= {target.name: target.preprocessing() for target in schema.targets}
    return steps | ({NUMERIC_INPUT: numbers} if numbers else {})


def parse_order_column(table: CsvTable, name: str, dates: DateOrder) -> np.ndarray:
    """A column that puts rows in time, as float64: numbers as they are, times in seconds.

    Args:
        table: The rows.
        name: The column.
        dates: How its dates are written.

    Raises:
        UserError: A cell is missing, or is neither a number nor a time.
    """
    missing = table.missing_mask(name)
    if missing.any():
        raise UserError(
            f"the order column '{name}' is missing in {table.describe_rows(missing)} "
            f"of {table.source}"
        )
    if table.is_numeric(name):
        return table.to_numbers(name)
    times = [parse_datetime(cell, dates) for cell in table.columns[name]]
    unreadable = np.array([time is None for time in times])
    if unreadable.any():
        raise UserError(
            f"the order column '{name}' has neither number nor time in "
            f"{table.describe_rows(unreadable)} of {table.source}"
        )
    # Not datetime.timestamp(), which depends on the machine's time zone.
    epoch = datetime(1970, 1, 1)
    return np.array([(time - epoch).total_seconds() for time in times if time is not None])
