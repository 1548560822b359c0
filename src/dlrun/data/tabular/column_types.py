"""Which columns of a table are numbers, which are categories, and which are left out."""

from __future__ import annotations

import logging

import numpy as np

from dlrun.core.errors import format_names
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.dates import parse_datetime

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
