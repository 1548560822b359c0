"""Columns of a table: which are numbers or categories, and features computed from them by name.

Written as `area_log: {log: area}`, `age_group: {bins: [age, 5]}`, …
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlrun.core.errors import UserError, format_names
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.dates import DateOrder, parse_datetime
from dlrun.data.tabular.number_format import MISSING_WORDS

FEATURE_FORMS = {
    "log": "{log: column}",
    "ratio": "{ratio: [column, column]}",
    "bins": "{bins: [column, how many]}",
    "hour": "{hour: time column}",
    "weekday": "{weekday: time column}",
    "day": "{day: time column}",
}
TIME_FEATURES = ("hour", "weekday", "day")


@dataclass(frozen=True)
class Feature:
    """One computed feature.

    Attributes:
        name: The name of its input, or of the columns that come of it.
        transform: A key of FEATURE_FORMS.
        columns: The columns that it is computed from.
        num_bins: The number of bins, for "bins".
    """

    name: str
    transform: str
    columns: tuple[str, ...]
    num_bins: int = 0


def parse_features(specs: Mapping[str, Any] | None, table: CsvTable) -> tuple[Feature, ...]:
    """The features that a mapping describes.

    Args:
        specs: Feature name → one of the forms in FEATURE_FORMS.
        table: The table, for its column names.

    Raises:
        UserError: A spec is not one of the forms, or a name is taken.
    """
    features = tuple(_parse_feature(name, spec) for name, spec in (specs or {}).items())
    for feature in features:
        table.require_columns(feature.columns, f"feature '{feature.name}':")
        # Or one of the two would silently replace the other.
        if feature.name in table.columns:
            raise UserError(
                f"feature '{feature.name}' is called like a column of {table.source}; "
                "give it another name"
            )
    return features


def compute_feature(
    feature: Feature, table: CsvTable, dates: DateOrder = "each"
) -> dict[str, np.ndarray]:
    """The number columns (N,) of a feature, NaN where a cell that it is computed from is missing.

    `log` is the natural logarithm. `ratio` is first / second, missing where the second is 0.
    `hour` (of the day), `weekday` and `day` (of the year) are two columns, sine and cosine, so
    that 23 h and 0 h are neighbors. `bins` is the column itself: its edges are fitted later, on
    training rows.

    Args:
        feature: What to compute.
        table: The rows.
        dates: How the dates of its column are written.

    Returns:
        Column name → values.

    Raises:
        UserError: A logarithm is taken of a number not above 0, or a time cannot be read.
    """
    if feature.transform in TIME_FEATURES:
        positions = [_cycle_position(feature, table, row, dates) for row in range(len(table))]
        angle = 2 * math.pi * np.array(positions)
        # On a circle the end of a day lies beside its beginning, as on no line.
        return {f"{feature.name}_sin": np.sin(angle), f"{feature.name}_cos": np.cos(angle)}
    values = [table.to_numbers(column) for column in feature.columns]
    if feature.transform == "log":
        not_positive = values[0] <= 0
        if not_positive.any():
            raise UserError(
                f"feature '{feature.name}': no logarithm of {feature.columns[0]} ≤ 0 in "
                f"{table.describe_rows(not_positive)} of {table.source}"
            )
        return {feature.name: np.log(values[0])}
    if feature.transform == "ratio":
        numerator, denominator = values
        ratio = numerator / np.where(denominator == 0, np.nan, denominator)
        return {feature.name: table.mask_out_of_range(feature.name, ratio)}
    return {feature.name: values[0]}


def _parse_feature(name: str, spec: Any) -> Feature:
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in FEATURE_FORMS:
        raise UserError(f"feature '{name}': {spec} is none of {', '.join(FEATURE_FORMS.values())}")
    transform, value = next(iter(spec.items()))
    arguments: list[Any] = []
    if isinstance(value, str):
        arguments = [value]
    elif isinstance(value, list | tuple):
        arguments = list(value)
    is_bins = transform == "bins"
    num_bins: Any = arguments.pop() if is_bins and len(arguments) == 2 else 0
    # bool is an int in Python: {bins: [age, true]} is not one bin.
    is_count = isinstance(num_bins, int) and not isinstance(num_bins, bool) and num_bins >= 2
    num_columns = 2 if transform == "ratio" else 1
    are_columns = len(arguments) == num_columns and all(isinstance(c, str) for c in arguments)
    if not are_columns or (is_bins and not is_count):
        more = ", at least 2 bins" if is_bins else ""
        raise UserError(
            f"feature '{name}': {transform} is written {FEATURE_FORMS[transform]}{more}; "
            f"got {value}"
        )
    return Feature(name, transform, tuple(arguments), num_bins)


def _cycle_position(feature: Feature, table: CsvTable, row: int, dates: DateOrder) -> float:
    """The share of a day, week or year that has passed, 0 to 1."""
    cell = table.columns[feature.columns[0]][row]
    # NaN is imputed later, as in other number columns.
    if cell.lower() in MISSING_WORDS:
        return math.nan
    time = parse_datetime(cell, dates)
    if time is None:
        raise UserError(
            f"feature '{feature.name}': {table.source}, line {table.lines[row]}: '{cell}' in "
            f"{feature.columns[0]} is no time such as 2024-05-31 14:30"
        )
    day = (time.hour + time.minute / 60 + time.second / 3600) / 24
    if feature.transform == "hour":
        return day
    if feature.transform == "weekday":
        return (time.weekday() + day) / 7
    return (time.timetuple().tm_yday - 1 + day) / 366  # leap years have 366 days


log = logging.getLogger("dlrun")

# With fewer distinct texts, that most of them come once may be chance.
MIN_DISTINCT_TEXTS = 20
# Where no more of a column's cells are no numbers, they may be slips.
MAX_NON_NUMERIC_SHARE = 0.5


def split_columns(
    table: CsvTable, skip: set[str], unique: float = 1.0, levels: int | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that inputs can be made of; those that are left out are logged.

    Args:
        table: The rows.
        skip: Columns with another role.
        unique: The share of distinct texts above which a column is taken for names of rows.
        levels: How many categories of a column are told apart; None for all.

    Returns:
        Names of number columns, and of category columns.
    """
    numeric, categorical = [], []
    for name in table.columns:
        if name in skip:
            continue
        if table.missing_mask(name).all():
            log.warning("column '%s' is left out: it is empty", name)
        elif table.is_numeric(name):
            numeric.append(name)
            _warn_row_number_column(table, name)
        else:
            _warn_non_numeric_cells(table, name)
            if not _is_identifier_column(table, name, unique, levels):
                categorical.append(name)
    return tuple(numeric), tuple(categorical)


def _is_identifier_column(table: CsvTable, name: str, unique: float, levels: int | None) -> bool:
    """Whether too many texts come only once to generalize from them; logged."""
    texts = table.to_texts(name)
    distinct, present = len(set(texts) - {""}), int((texts != "").sum())
    if distinct == present:
        reason = "its texts all differ, as names of rows do"
    elif distinct > unique * present and distinct >= MIN_DISTINCT_TEXTS:
        reason = (
            f"{distinct:,} of its {present:,} texts differ, as names of rows do "
            f"(data.unique={unique:g})"
        )
    else:
        _log_date_column(name, texts)
        _log_rare_levels(name, distinct, levels)
        return False
    # Free texts differ in every row, too; so do times.
    hint = f"data.texts=[{name}] reads it as texts"
    if parse_datetime(next(filter(None, texts)), "day_first") is not None:
        hint = f"if it says when a row was made, name it: data.order={name}"
    log.warning("column '%s' is left out: %s; %s", name, reason, hint)
    return True


def _log_rare_levels(name: str, distinct: int, levels: int | None) -> None:
    if levels is not None and distinct > levels:
        log.warning(
            "column '%s' has %s different texts: those that are not among the %s most frequent "
            "ones are one category; data.levels=… to change it",
            name,
            f"{distinct:,}",
            levels,
        )


def _log_date_column(name: str, texts: np.ndarray) -> None:
    if all(
        parse_datetime(text, "day_first") or parse_datetime(text, "month_first")
        for text in set(texts) - {""}
    ):
        log.info(
            "column '%s' holds dates, and is taken as categories; data.order=%s puts the rows in "
            "time, data.features={NAME: {weekday: %s}} makes numbers of them",
            name,
            name,
            name,
        )


def _warn_non_numeric_cells(table: CsvTable, name: str) -> None:
    """Warn when only some cells, or how they are written, keep a column from being numeric."""
    is_text, missing = table.non_numeric_mask(name), table.missing_mask(name)
    if is_text.sum() > MAX_NON_NUMERIC_SHARE * (~missing).sum():
        return
    if not is_text.any():
        log.warning(
            "column '%s' is none of numbers, for they are written in several ways: "
            "data.numbers=… says how",
            name,
        )
        return
    # The words that keep the column from being numeric, such as 'none' or 'n. a.'.
    words = sorted({cell for cell, text in zip(table.columns[name], is_text, strict=True) if text})
    quoted = [word if word.isalnum() else f'"{word}"' for word in words[:3]]
    log.warning(
        "column '%s' is none of numbers, for %s in %s is no number; data.missing=[%s] takes that "
        "for missing numbers",
        name,
        format_names(f"'{word}'" for word in words),
        table.describe_rows(is_text),
        ",".join(quoted),
    )


def _warn_row_number_column(table: CsvTable, name: str) -> None:
    values = table.to_numbers(name)
    # In a few rows, counting up may be chance.
    if len(values) > 10 and (np.diff(values) == 1).all():
        log.warning(
            "column '%s' counts the rows; if it is a mere number of the row, say data.drop=[%s]",
            name,
            name,
        )
