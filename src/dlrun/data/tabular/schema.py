"""From cells to a dataset: which columns are numbers, which are categories, and what is learnt of each."""

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
from dlrun.data.tabular import features as made
from dlrun.data.tabular.csv_file import CsvTable, read_csv
from dlrun.data.tabular.dates import DateOrder, parse_datetime
from dlrun.data.tabular.features import Feature
from dlrun.data.tabular.number_format import NumberFormat
from dlrun.data.tabular.targets import CLASS_KINDS, Target

log = logging.getLogger("dlrun")

SCALERS: dict[str, tuple[Preprocessor, ...]] = {
    "standardise": (StandardScaler(),),
    "unit": (MinMaxScaler(),),
    "none": (),
}
NUMERIC_INPUT = "features"  # all number columns together are one input of this name
MIN_DISTINCT_TEXTS = (
    20  # different texts, from which on it can be seen whether most of them come once
)
MAX_NON_NUMERIC_SHARE = 0.5  # of a column's cells: where no more are no numbers, they may be slips


@dataclass(frozen=True)
class TableSchema:
    """What becomes of each column of a table. It is the same for development and test rows.

    text: columns of categories. texts: columns of texts, which are taken as they are. written: how the numbers of each
    column are written, and dates: how its dates are, by all rows of the file that the plan was made from.
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
        made_from = [column for feature in self.features for column in feature.columns]
        asked = [column for target in self.targets for column in target.columns]
        return (
            *self.numeric,
            *self.categorical,
            *self.text_columns,
            *made_from,
            *asked,
            *filter(None, (self.order, self.group)),
        )

    @property
    def binned_features(self) -> tuple[Feature, ...]:
        """The made features that become categories."""
        return tuple(feature for feature in self.features if feature.transform == "bins")

    def build_rows(self, cells: CsvTable) -> RawColumns:
        """The raw columns: numbers (N, F), one column of texts a category, targets, and the order and group columns."""
        rows: RawColumns = {}
        numbers = self.compute_numbers(cells)
        if numbers:
            rows[NUMERIC_INPUT] = np.stack(list(numbers.values()), 1)
        for name in self.categorical:
            rows[name] = cells.to_texts(name)
        for name in self.text_columns:
            rows[name] = np.array(cells.columns[name], object)
        for feature in self.binned_features:
            rows |= made.compute_feature(feature, cells)
        for target in self.targets:
            rows[target.name] = target.read_values(cells)
        if self.order:
            rows[self.order] = parse_order_column(
                cells, self.order, self.date_formats.get(self.order, "each")
            )
        if self.group:
            rows[self.group] = cells.to_texts(self.group)
        return rows

    def compute_numbers(self, cells: CsvTable) -> dict[str, np.ndarray]:
        """The number columns by name, the made ones last."""
        numbers = {name: cells.to_numbers(name) for name in self.numeric}
        for feature in self.features:
            if feature.transform != "bins":
                numbers |= made.compute_feature(
                    feature, cells, self.date_formats.get(feature.columns[0], "each")
                )
        return numbers


def split_columns(
    cells: CsvTable, skip: set[str], unique: float = 1.0, levels: int | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the number columns and of the text columns that inputs can be made of; says in the log what it drops.

    unique: the share of different texts from which on a column names rows. levels: so many categories a column has.
    """
    numeric, text = [], []
    for name in cells.columns:
        if name in skip:
            continue
        if cells.missing_mask(name).all():
            log.warning("column '%s' is left out: it is empty", name)
        elif cells.is_numeric(name):
            numeric.append(name)
            _warn_row_number_column(cells, name)
        else:
            _warn_non_numeric_cells(cells, name)
            text += [] if _is_identifier_column(cells, name, unique, levels) else [name]
    return tuple(numeric), tuple(text)


def _is_identifier_column(cells: CsvTable, name: str, unique: float, levels: int | None) -> bool:
    """Whether too many texts of this column come once, so that nothing can be learnt of it; says so."""
    texts = cells.to_texts(name)
    different, known = len(set(texts) - {""}), int((texts != "").sum())
    if different == known:
        why = "its texts all differ, as names of rows do"
    elif different > unique * known and different >= MIN_DISTINCT_TEXTS:
        why = f"{different:,} of its {known:,} texts differ, as names of rows do (data.unique={unique:g})"
    else:
        _log_date_column(name, texts)
        if levels is not None and different > levels:
            told = "column '%s' has %s different texts: those that are not among the %s most frequent ones are one"
            log.warning(
                told + " category; data.levels=… to change it", name, f"{different:,}", levels
            )
        return False
    when = parse_datetime(next(filter(None, texts)), "day_first") is not None
    hint = f"if it says when a row was made, name it: data.order={name}" if when else ""
    log.warning(
        "column '%s' is left out: %s; %s",
        name,
        why,
        hint or f"data.texts=[{name}] reads it as texts",
    )
    return True


def _log_date_column(name: str, texts: np.ndarray) -> None:
    if all(
        parse_datetime(text, "day_first") or parse_datetime(text, "month_first")
        for text in set(texts) - {""}
    ):
        log.info(
            "column '%s' holds dates, and is taken as categories; data.order=%s puts the rows in time, data.features="
            "{NAME: {weekday: %s}} makes numbers of them",
            name, name, name,
        )  # fmt: skip


def _warn_non_numeric_cells(cells: CsvTable, name: str) -> None:
    """Say when a column would be one of numbers but for some cells, or but for how they are written."""
    texts, missing = cells.non_numeric_mask(name), cells.missing_mask(name)
    if texts.sum() > MAX_NON_NUMERIC_SHARE * (~missing).sum():
        return
    if not texts.any():
        log.warning(
            "column '%s' is none of numbers, for they are written in several ways: data.numbers=… says how",
            name,
        )
        return
    words = sorted({cell for cell, text in zip(cells.columns[name], texts, strict=True) if text})
    told = format_names(f"'{word}'" for word in words)
    log.warning(
        "column '%s' is none of numbers, for %s in %s is no number; data.missing=[%s] takes that for missing numbers",
        name, told, cells.describe_rows(texts), ",".join(word if word.isalnum() else f'"{word}"' for word in words[:3]),
    )  # fmt: skip


def build_table_dataset(
    plan: TableSchema,
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
    """The dataset of a table. Raises UserError when no input column is left, or when two columns would share a name.

    text: the step that columns of texts are prepared by; its `kind` is theirs. levels: see `split_columns`.
    standardize_target: number targets are learned in standard deviations, each in its own.
    """
    columns = dict.fromkeys(plan.compute_numbers(dev))
    inputs: dict[str, Kind] = {NUMERIC_INPUT: "number"} if columns else {}
    inputs |= dict.fromkeys(
        (*plan.categorical, *(feature.name for feature in plan.binned_features)), "category"
    )
    inputs |= dict.fromkeys(plan.text_columns, text.kind) if plan.text_columns else {}
    if not inputs:
        raise UserError(
            f"{dev.source} has no input column left: all are targets, dropped, or left out (see above)"
        )
    names = [
        *inputs,
        *(target.name for target in plan.targets),
        *filter(None, (plan.order, plan.group)),
    ]
    twice = {name for name in names if names.count(name) > 1} | (
        {NUMERIC_INPUT} & {*plan.categorical, *plan.text_columns}
    )
    if twice:
        raise UserError(
            f"the name '{min(twice)}' would stand for two columns; rename that column in {dev.source}"
        )
    imputer = SimpleImputer(impute, indicator)  # type: ignore[arg-type]
    learn = _build_preprocessing(plan, (imputer, *SCALERS[scale]) if columns else ())
    learn |= dict.fromkeys(plan.categorical, (OrdinalEncoder(max_levels=levels),)) | dict.fromkeys(
        plan.text_columns, (text,)
    )
    if standardize_target:
        learn |= {
            target.name: (TargetScaler(),) for target in plan.targets if target.kind == "number"
        }
    labels = {NUMERIC_INPUT: tuple(columns)} | {
        target.name: target.class_names for target in plan.targets if target.class_names
    }
    sealed = None if test is None else lambda: plan.build_rows(test())
    kinds = {target.name: target.kind for target in plan.targets}
    raw = Dataset(
        plan.build_rows(dev), inputs, kinds, learn, sealed, plan.order, plan.group, labels, note
    )
    return replace(
        raw,
        read_new_rows=partial(read_table_rows, plan),
        rows_from_texts=make_text_row_builder(inputs, plan.text_columns),
    )


def make_text_row_builder(
    inputs: dict[str, Kind], texts: tuple[str, ...]
) -> Callable[[Sequence[str]], RawColumns] | None:
    """What makes rows of new texts, where a row is one text and nothing else."""
    if len(inputs) > 1 or not texts:
        return None
    return lambda found: {texts[0]: np.array(list(found), object)}


def read_table_rows(plan: TableSchema, path: str, **reading: Any) -> tuple[RawColumns, list[int]]:
    """New rows from a CSV file with the plan's input columns, and the line of each. reading: see `cells.read`.

    A target comes along unless a row misses it, or has a value that the plan's targets do not have, which is said.
    Raises UserError, naming the input columns that are not there.
    """
    found = read_csv(
        path, **({"separator": None, "header": None} | reading), written=plan.number_formats or None
    )
    known = tuple(target for target in plan.targets if _has_target(target, found))
    asked = replace(plan, targets=known, order=None, group=None)
    if absent := [
        name for name in dict.fromkeys(asked.required_columns) if name not in found.columns
    ]:
        there = format_names(found.columns, absent[0])
        raise UserError(
            f"{path} lacks {format_names(absent)}, which the run was trained on; it has: {there}"
        )
    return asked.build_rows(found), found.lines


def _has_target(target: Target, found: CsvTable) -> bool:
    """Whether every row has this target, as the run knows it; says so where only some have."""
    if any(column not in found.columns for column in target.columns):
        return False
    missing = target.missing_mask(found)
    if missing.any():
        if not missing.all():
            log.warning(
                "target '%s' is missing in %s of %s: no score",
                target.name,
                found.describe_rows(missing),
                found.source,
            )
        return False
    try:
        values = target.read_values(found)
    except UserError as error:
        log.warning("no score: %s", error)
        return False
    strange = np.array(
        [bool(target.class_names) and str(value) not in target.class_names for value in values],
        bool,
    )
    if target.kind in CLASS_KINDS and strange.any():
        log.warning(
            "target '%s' is of a class that the run does not know in %s of %s ('%s'): no score",
            target.name, found.describe_rows(strange), found.source, values[int(strange.argmax())],
        )  # fmt: skip
        return False
    return True


def make_row_reader(
    numbers: tuple[str, ...],
    target: str,
    kind: Kind,
    classes: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
) -> Callable[..., tuple[RawColumns, list[int]]]:
    """What reads new rows of a dataset whose inputs are these number and text columns, its classes numbered from 0."""
    plan = TableSchema(
        numbers, (), (), (Target(target, kind, (target,), classes),), text_columns=texts
    )

    def more(path: str, **reading: Any) -> tuple[RawColumns, list[int]]:
        rows, lines = read_table_rows(plan, path, **reading)
        if classes and target in rows:
            rows[target] = LabelEncoder(target, classes)(rows[target])
        return rows, lines

    return more


def _build_preprocessing(
    plan: TableSchema, numbers: tuple[Preprocessor, ...]
) -> dict[str, tuple[Preprocessor, ...]]:
    learn: dict[str, tuple[Preprocessor, ...]] = {
        feature.name: (KBinsDiscretizer(feature.num_bins),) for feature in plan.binned_features
    }
    learn |= {target.name: target.preprocessing() for target in plan.targets}
    return learn | ({NUMERIC_INPUT: numbers} if numbers else {})


def parse_order_column(cells: CsvTable, name: str, dates: DateOrder) -> np.ndarray:
    """A column that puts rows in time, as float64: numbers as they are, times in seconds. Raises UserError otherwise."""
    missing = cells.missing_mask(name)
    if missing.any():
        raise UserError(
            f"the order column '{name}' is missing in {cells.describe_rows(missing)} of {cells.source}"
        )
    if cells.is_numeric(name):
        return cells.to_numbers(name)
    moments = [parse_datetime(cell, dates) for cell in cells.columns[name]]
    strange = np.array([when is None for when in moments])
    if strange.any():
        raise UserError(
            f"the order column '{name}' has neither number nor time in {cells.describe_rows(strange)} of {cells.source}"
        )
    epoch = datetime(1970, 1, 1)
    return np.array([(when - epoch).total_seconds() for when in moments if when is not None])


def _warn_row_number_column(cells: CsvTable, name: str) -> None:
    values = cells.to_numbers(name)
    if len(values) > 10 and (np.diff(values) == 1).all():
        log.warning(
            "column '%s' counts the rows; if it is a mere number of the row, say data.drop=[%s]",
            name,
            name,
        )
