"""Your own table: a CSV file, a target column, and everything else as inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from dlrun.config.annotations import Count, Fraction, Natural, Probability, TextPart
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.data.cache import fingerprint
from dlrun.data.tabular import holdout
from dlrun.data.tabular.csv_file import CsvTable, read_csv
from dlrun.data.tabular.dates import DateOrder, resolve_date_order
from dlrun.data.tabular.features import TIME_FEATURES, parse_features, split_columns
from dlrun.data.tabular.number_format import DecimalStyle
from dlrun.data.tabular.schema import (
    TableSchema,
    build_table_dataset,
    parse_order_column,
    read_table_rows,
)
from dlrun.data.tabular.targets import (
    ClassNaming,
    MissingTarget,
    Target,
    drop_missing_targets,
    find_targets,
    with_class_names,
)


def csv(
    *,
    path: str | None,
    target: str | list[str] | None,
    test_path: str | None,
    kind: Literal["auto", "binary", "category", "multilabel", "number", "fraction"],
    test: Probability,
    drop: list[str],
    group: str | None,
    order: str | None,
    features: dict[str, Any] | None,
    scale: Literal["standardize", "unit", "none"],
    impute: Literal["mean", "median", "constant"],
    indicator: bool,
    separator: str | None,
    header: list[str] | None,
    encoding: str,
    texts: list[str],
    text: TextPart,
    share_words: bool,
    numbers: DecimalStyle = "plain",
    missing: list[str] | None = None,
    classes: ClassNaming = "numbers",
    missing_target: MissingTarget = "refuse",
    dates: DateOrder = "each",
    unique: Fraction = 1.0,
    levels: Count | None = None,
    standardize_target: bool = False,
    check_test: bool = False,
    seed: Natural | None = None,
) -> Dataset:
    """A table from a CSV file with one line of column names.

    Number columns become one input `features` (N, F), each other column one category input, or a
    text input where `texts` names it. The defaults are those of dlrun 0.1.0.

    Args:
        path: The file.
        target: The column, or columns, to predict.
        test_path: A file of test rows; without one, the share `test` of the rows is held out: the
            last in time with `order`, whole groups with `group`, else the same of each class.
        kind: The target's kind; "auto" infers and logs it.
        test: The share of test rows.
        drop: Columns to leave out.
        group: The column that names the group of a row.
        order: The column that puts rows in time.
        features: Features to compute, see `features.parse_features`.
        scale: How number columns are scaled.
        impute: How missing numbers are filled.
        indicator: Whether columns of missing numbers are appended.
        separator: See `read_csv`.
        header: See `read_csv`.
        encoding: The file's encoding.
        texts: Columns of texts.
        text: The step that prepares them.
        share_words: Whether all of them share one vocabulary, so that one encoder can read them.
        numbers: How numbers are written, see `infer_number_formats`.
        missing: Further words that mean a missing cell.
        classes: See `Target`.
        missing_target: What becomes of rows without a target.
        dates: The order of day and month, see `resolve_date_order`.
        unique: See `split_columns`.
        levels: See `split_columns`.
        standardize_target: Whether number targets are learned in standard deviations.
        check_test: Whether test rows are checked for faults and for further classes before the
            held-out evaluation.
        seed: Of another draw of test rows.

    Raises:
        UserError: The file or the question cannot be used.
    """
    if path is None:
        raise UserError("say which table: data.path=FILE.csv data.target=COLUMN")
    reading: dict[str, Any] = {
        "separator": separator,
        "header": header,
        "encoding": encoding,
        "numbers": numbers,
        "missing": missing or (),
    }
    clean = partial(drop_missing_targets, target=target, kind=kind, missing=missing_target)
    table = clean(read_csv(path, **reading))
    # The same words and number formats as the development rows: the parts must agree on them.
    test_table = None if test_path is None else clean(read_test_file(test_path, table, reading))
    targets = find_targets(table, target, kind, classes, test_table if check_test else None)
    schema = _build_schema(table, targets, drop, order, group, features, texts)
    schema = _add_input_columns(schema, table, drop, unique, levels)
    # Before rows are built: a time column decides on the order of day and month for the whole file.
    schema = _add_date_formats(schema, table, dates)
    preparing = {
        "scale": scale,
        "impute": impute,
        "indicator": indicator,
        "text": text,
        "levels": levels,
        "standardize_target": standardize_target,
    }
    dataset = build_from_schema(
        table, schema, test_table, (test, seed), reading, preparing, check_test
    )
    if share_words and texts:
        return replace(dataset, shared_vocabularies=(tuple(texts),))
    return dataset


def build_from_schema(
    table: CsvTable,
    schema: TableSchema,
    test: CsvTable | None,
    share: tuple[float, int | None],
    reading: dict[str, Any],
    preparing: dict[str, Any],
    check_test: bool,
) -> Dataset:
    """The dataset of a table whose schema is known.

    Args:
        table: The rows.
        schema: What becomes of each column.
        test: The rows of a test file, if there is one.
        share: The share of test rows to hold out otherwise, and the seed of their draw.
        reading: How files are read, see `read_csv`.
        preparing: How columns are prepared, see `build_table_dataset`.
        check_test: Whether test rows are checked for faults and for further classes now: a fault
            must be found before a model is trained and they are evaluated.
    """
    dev = table
    if test is None:
        dev, test = _split_test_rows(table, schema, *share)
    tables = (dev, test) if check_test else (dev,)
    targets = tuple(with_class_names(target, tables) for target in schema.targets)
    schema = replace(schema, targets=targets, number_formats=table.number_formats)
    if test is not None and check_test:
        test.require_columns(schema.required_columns, "column")
        schema.build_rows(test)
    # Columns that are no inputs stay as identifiers, to tell rows apart that look alike.
    required = schema.required_columns
    return replace(
        build_table_dataset(schema, dev, None if test is None else lambda: test, **preparing),
        read_new_rows=partial(read_table_rows, schema, **reading),
        identifiers={name: dev.to_texts(name) for name in dev.columns if name not in required},
        row_fingerprints=(
            fingerprint_table(dev, schema),
            "" if test is None else fingerprint_table(test, schema),
        ),
    )


def fingerprint_table(table: CsvTable, schema: TableSchema) -> str:
    """A fingerprint of rows and their targets: of all cells, whichever columns are inputs."""
    # A column as a target is another question than the same column as an input.
    targets = sorted(column for target in schema.targets for column in target.columns)
    cells = {f"cells {name}": np.array(texts, object) for name, texts in table.columns.items()}
    return fingerprint({**cells, "targets": np.array(targets, object)})


def read_test_file(path: str, dev: CsvTable, reading: dict[str, Any]) -> CsvTable:
    """The rows of a test file, whose numbers are written as those of the development rows."""
    return read_csv(path, **reading, number_formats=dev.number_formats)


def _build_schema(
    table: CsvTable,
    targets: tuple[Target, ...],
    drop: list[str],
    order: str | None,
    group: str | None,
    specs: dict[str, Any] | None,
    texts: list[str],
) -> TableSchema:
    """The schema without the columns that no setting names."""
    table.require_columns(drop, "data.drop:")
    table.require_columns(texts, "data.texts:")
    roles = [name for name in (order, group) if name]
    table.require_columns(roles, "data.order or data.group:")
    target_columns = _target_columns(targets)
    # A column has one role: naming it for two is a slip.
    if clash := target_columns & {*drop, *roles, *texts}:
        raise UserError(
            f"column '{min(clash)}' is the target and cannot be dropped, nor be a text, order or "
            "group"
        )
    if clash := {*texts} & {*drop, *roles}:
        raise UserError(
            f"column '{min(clash)}' is a text in data.texts, and cannot be dropped, nor be order "
            "or group"
        )
    features = parse_features(specs, table)
    # Computed features hide the target just as well.
    leaks = [feature.name for feature in features if target_columns & set(feature.columns)]
    if leaks:
        raise UserError(
            f"feature '{leaks[0]}' is made from the target: the answer would be given away"
        )
    return TableSchema((), (), features, targets, order, group, tuple(texts))


def _target_columns(targets: tuple[Target, ...]) -> set[str]:
    return {column for target in targets for column in target.columns}


def _add_input_columns(
    schema: TableSchema, table: CsvTable, drop: list[str], unique: float, levels: int | None
) -> TableSchema:
    """The schema with all columns that have no other role as numbers or categories."""
    roles = filter(None, (schema.order, schema.group))
    skip = {*_target_columns(schema.targets), *drop, *roles, *schema.text_columns}
    numeric, categorical = split_columns(table, skip, unique, levels)
    return replace(schema, numeric=numeric, categorical=categorical)


def _add_date_formats(schema: TableSchema, table: CsvTable, dates: DateOrder) -> TableSchema:
    """The schema with the order of day and month in each column of times."""
    columns = [
        feature.columns[0] for feature in schema.features if feature.transform in TIME_FEATURES
    ]
    # An order column may also hold numbers, which need no date order.
    if schema.order and not table.is_numeric(schema.order):
        columns.append(schema.order)
    date_formats = {
        name: resolve_date_order(table.columns[name], dates, name, table.source, table.lines)
        for name in columns
    }
    return replace(schema, date_formats=date_formats)


def _split_test_rows(
    table: CsvTable, schema: TableSchema, share: float, seed: int | None
) -> tuple[CsvTable, CsvTable | None]:
    if not share:
        return table, None
    if schema.order:
        dates = schema.date_formats.get(schema.order, "each")
        # Rows of the future must not tell about the past: test rows are the last ones.
        dev, test = holdout.time_holdout(parse_order_column(table, schema.order, dates), share)
    elif schema.group:
        # Rows of one owner resemble each other: they go to one side together.
        owners = table.to_texts(schema.group).astype(str)
        dev, test = holdout.group_holdout(owners, share, seed)
    else:
        dev, test = _split_by_class(table, schema.targets[0], share, seed)
    if not len(dev):
        raise UserError(
            f"data.test={share:g} leaves none of the {len(table)} rows of {table.source} "
            "to learn from"
        )
    return table.take(dev), table.take(test)


def _split_by_class(
    table: CsvTable, target: Target, share: float, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    # A random share might have no row of a rare class.
    if target.kind in ("binary", "category"):
        return holdout.stratified_holdout(target.read_values(table).astype(str), share, seed)
    return holdout.random_holdout(len(table), share, seed)
