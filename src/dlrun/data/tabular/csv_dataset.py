"""Your own table: a CSV file, a target column, and everything else as inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from dlrun.config.constraints import Count, Fraction, Natural, Probability, TextPart
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.data.fingerprints import fingerprint
from dlrun.data.tabular import csv_file, features, holdout, schema
from dlrun.data.tabular import targets as answers
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.dates import DateOrder, resolve_date_order
from dlrun.data.tabular.number_format import DecimalStyle
from dlrun.data.tabular.targets import ClassNaming, MissingTarget, Target

_FeatureSpecs = dict[str, Any]


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
    scale: Literal["standardise", "unit", "none"],
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
    """A table from a CSV file with one line of column names. The defaults are what dlrun 0.1.0 did.

    target: the column, or columns, to predict. kind: of the target; auto finds it out and says so. Number columns
    become one input `features` (N, F), each other column one input of kind category, or, where `texts` names it, one of
    texts, which the step `text` prepares. Test rows: test_path, or else the
    share `test` of the rows: the last in time with `order`, whole owners with `group`, else the same share of each
    class. features: see data/features.py. share_words: all columns of texts have one vocabulary, so that one reader can
    read them. numbers, missing: see `cells.read`. classes: see `Target`. missing_target: what becomes of rows without
    a target. dates: see `dates.decided`. unique, levels: see `table.split_columns`. standardize_target: see
    `table.dataset`. check_test: whether a file of test rows is looked at for what is wrong with it before it is opened,
    and for its classes. seed: see `aside`. Raises UserError for whatever is wrong with the file or the question.
    """
    if path is None:
        raise UserError("say which table: data.path=FILE.csv data.target=COLUMN")
    reading: dict[str, Any] = {"separator": separator, "header": header, "encoding": encoding}
    reading |= {"numbers": numbers, "missing": missing or ()}
    clean = partial(answers.drop_missing_targets, target=target, kind=kind, missing=missing_target)
    whole = clean(csv_file.read_csv(path, **reading))
    sealed = None if test_path is None else clean(read_test_file(test_path, whole, reading))
    targets = answers.find_targets(whole, target, kind, classes, sealed if check_test else None)
    plan = _build_schema(whole, targets, drop, order, group, features, texts)
    plan = _add_date_formats(_add_input_columns(plan, whole, drop, unique, levels), whole, dates)
    prepared = {
        "scale": scale,
        "impute": impute,
        "indicator": indicator,
        "text": text,
        "levels": levels,
    }
    prepared |= {"standardize_target": standardize_target}
    raw = build_from_schema(whole, plan, sealed, (test, seed), reading, prepared, check_test)
    return replace(raw, shared_vocabularies=(tuple(texts),)) if share_words and texts else raw


def build_from_schema(
    whole: CsvTable,
    plan: schema.TableSchema,
    sealed: CsvTable | None,
    share: tuple[float, int | None],
    reading: dict[str, Any],
    prepared: dict[str, Any],
    check: bool,
) -> Dataset:
    """The dataset of a table whose plan is made. reading, prepared: how files are read, and what `dataset` is told.

    sealed: the rows of a file of test rows. share: that of the test rows where there is none, and the seed of their
    draw. check: whether they are looked at for what is wrong with them, and for
    their classes: a fault must be found before a model is trained and the rows are opened.
    """
    dev, sealed = _split_test_rows(whole, plan, *share) if sealed is None else (whole, sealed)
    parts = (dev, sealed) if check else (dev,)
    named = tuple(answers.with_class_names(one, parts) for one in plan.targets)
    plan = replace(plan, targets=named, number_formats=whole.number_formats)
    if sealed is not None and check:
        sealed.require_columns(plan.required_columns, "column")
        plan.build_rows(sealed)
    later = None if sealed is None else lambda: sealed
    further = partial(schema.read_table_rows, plan, **reading)
    others = {name: dev.to_texts(name) for name in dev.columns if name not in plan.required_columns}
    marks = fingerprint_table(dev, plan), "" if sealed is None else fingerprint_table(sealed, plan)
    return replace(
        schema.build_table_dataset(plan, dev, later, **prepared),
        read_new_rows=further,
        identifiers=others,
        row_fingerprints=marks,
    )


def fingerprint_table(rows: CsvTable, plan: schema.TableSchema) -> str:
    """What rows and their targets are known by: all cells as they are written, whichever of them are inputs."""
    asked = [column for target in plan.targets for column in target.columns]
    cells = {f"cells {name}": np.array(texts, object) for name, texts in rows.columns.items()}
    return fingerprint({**cells, "targets": np.array(sorted(asked), object)})


def read_test_file(path: str, whole: CsvTable, reading: dict[str, Any]) -> CsvTable:
    """The rows of a file of test rows, whose numbers are written as those of the others."""
    return csv_file.read_csv(path, **reading, written=whole.number_formats)


def _build_schema(
    whole: CsvTable,
    targets: tuple[Target, ...],
    drop: list[str],
    order: str | None,
    group: str | None,
    specs: _FeatureSpecs | None,
    texts: list[str],
) -> schema.TableSchema:
    whole.require_columns(drop, "data.drop:")
    whole.require_columns(texts, "data.texts:")
    roles = [name for name in (order, group) if name]
    whole.require_columns(roles, "data.order or data.group:")
    asked = {column for one in targets for column in one.columns}
    if clash := asked & {*drop, *roles, *texts}:
        raise UserError(
            f"column '{min(clash)}' is the target and cannot be dropped, nor be a text, order or group"
        )
    if clash := {*texts} & {*drop, *roles}:
        raise UserError(
            f"column '{min(clash)}' is a text in data.texts, and cannot be dropped, nor be order or group"
        )
    made = features.parse_features(specs, whole)
    leaks = [one.name for one in made if asked & set(one.columns)]
    if leaks:
        raise UserError(
            f"feature '{leaks[0]}' is made from the target: the answer would be given away"
        )
    return schema.TableSchema((), (), made, targets, order, group, tuple(texts))


def _add_input_columns(
    plan: schema.TableSchema, whole: CsvTable, drop: list[str], unique: float, levels: int | None
) -> schema.TableSchema:
    """The plan with the columns of numbers and of categories: all that nothing else is said of."""
    asked = {column for one in plan.targets for column in one.columns}
    skip = {*asked, *drop, *filter(None, (plan.order, plan.group)), *plan.text_columns}
    numeric, text = schema.split_columns(whole, skip, unique, levels)
    return replace(plan, numeric=numeric, categorical=text)


def _add_date_formats(
    plan: schema.TableSchema, whole: CsvTable, dates: DateOrder
) -> schema.TableSchema:
    """The plan with how the dates are written in each column that says a time."""
    clocks = [
        feature.columns[0]
        for feature in plan.features
        if feature.transform in features.TIME_FEATURES
    ]
    clocks += [plan.order] if plan.order and not whole.is_numeric(plan.order) else []
    found = {
        name: resolve_date_order(whole.columns[name], dates, name, whole.source, whole.lines)
        for name in clocks
    }
    return replace(plan, date_formats=found)


def _split_test_rows(
    whole: CsvTable, plan: schema.TableSchema, share: float, seed: int | None
) -> tuple[CsvTable, CsvTable | None]:
    if not share:
        return whole, None
    if plan.order:
        dev, test = holdout.time_holdout(
            schema.parse_order_column(whole, plan.order, plan.date_formats.get(plan.order, "each")),
            share,
        )
    elif plan.group:
        dev, test = holdout.group_holdout(whole.to_texts(plan.group).astype(str), share, seed)
    else:
        dev, test = _split_by_class(whole, plan.targets[0], share, seed)
    if not len(dev):
        raise UserError(
            f"data.test={share:g} leaves none of the {len(whole)} rows of {whole.source} to learn from"
        )
    return whole.take(dev), whole.take(test)


def _split_by_class(
    whole: CsvTable, target: Target, share: float, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    if target.kind in ("binary", "category"):
        return holdout.stratified_holdout(target.read_values(whole).astype(str), share, seed)
    return holdout.random_holdout(len(whole), share, seed)
