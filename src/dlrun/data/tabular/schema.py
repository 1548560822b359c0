"""From cells to a dataset: which columns are numbers, which are categories, and what is learnt of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from dlrun.core.dataset import Preparation, Raw, Rows
from dlrun.core.errors import Refused, in_short
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import Bins, Categories, Impute, Labels, Standardise, Unit
from dlrun.data.preprocessing.series import StandardiseTarget
from dlrun.data.tabular import features as made
from dlrun.data.tabular.csv_file import Cells, read
from dlrun.data.tabular.dates import Dates, moment
from dlrun.data.tabular.features import Feature
from dlrun.data.tabular.number_format import Numerals
from dlrun.data.tabular.targets import CLASSES, Target

log = logging.getLogger("dlrun")

SCALING: dict[str, tuple[Preparation, ...]] = {"standardise": (Standardise(),), "unit": (Unit(),), "none": ()}
NUMBERS = "features"  # all number columns together are one input of this name
MANY = 20  # different texts, from which on it can be seen whether most of them come once
FEW = 0.5  # of a column's cells: where no more are no numbers, they may be slips


@dataclass(frozen=True)
class Plan:
    """What becomes of each column of a table. It is the same for development and test rows.

    text: columns of categories. texts: columns of texts, which are taken as they are. written: how the numbers of each
    column are written, and dates: how its dates are, by all rows of the file that the plan was made from.
    """

    numeric: tuple[str, ...]
    text: tuple[str, ...]
    features: tuple[Feature, ...]
    targets: tuple[Target, ...]
    order: str | None = None
    group: str | None = None
    texts: tuple[str, ...] = ()
    written: Mapping[str, Numerals | None] = field(default_factory=dict)
    dates: Mapping[str, Dates] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that rows must have."""
        made_from = [column for feature in self.features for column in feature.columns]
        asked = [column for target in self.targets for column in target.columns]
        return (*self.numeric, *self.text, *self.texts, *made_from, *asked, *filter(None, (self.order, self.group)))

    @property
    def bins(self) -> tuple[Feature, ...]:
        """The made features that become categories."""
        return tuple(feature for feature in self.features if feature.how == "bins")

    def rows(self, cells: Cells) -> Rows:
        """The raw columns: numbers (N, F), one column of texts a category, targets, and the order and group columns."""
        rows: Rows = {}
        numbers = self.numbers(cells)
        if numbers:
            rows[NUMBERS] = np.stack(list(numbers.values()), 1)
        for name in self.text:
            rows[name] = cells.texts(name)
        for name in self.texts:
            rows[name] = np.array(cells.columns[name], object)
        for feature in self.bins:
            rows |= made.values(feature, cells)
        for target in self.targets:
            rows[target.name] = target.values(cells)
        if self.order:
            rows[self.order] = times(cells, self.order, self.dates.get(self.order, "each"))
        if self.group:
            rows[self.group] = cells.texts(self.group)
        return rows

    def numbers(self, cells: Cells) -> dict[str, np.ndarray]:
        """The number columns by name, the made ones last."""
        numbers = {name: cells.numbers(name) for name in self.numeric}
        for feature in self.features:
            if feature.how != "bins":
                numbers |= made.values(feature, cells, self.dates.get(feature.columns[0], "each"))
        return numbers


def split_columns(
    cells: Cells, skip: set[str], unique: float = 1.0, levels: int | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the number columns and of the text columns that inputs can be made of; says in the log what it drops.

    unique: the share of different texts from which on a column names rows. levels: so many categories a column has.
    """
    numeric, text = [], []
    for name in cells.columns:
        if name in skip:
            continue
        if cells.missing(name).all():
            log.warning("column '%s' is left out: it is empty", name)
        elif cells.numeric(name):
            numeric.append(name)
            _warn_of_row_numbers(cells, name)
        else:
            _warn_of_few_texts(cells, name)
            text += [] if _names_rows(cells, name, unique, levels) else [name]
    return tuple(numeric), tuple(text)


def _names_rows(cells: Cells, name: str, unique: float, levels: int | None) -> bool:
    """Whether too many texts of this column come once, so that nothing can be learnt of it; says so."""
    texts = cells.texts(name)
    different, known = len(set(texts) - {""}), int((texts != "").sum())
    if different == known:
        why = "its texts all differ, as names of rows do"
    elif different > unique * known and different >= MANY:
        why = f"{different:,} of its {known:,} texts differ, as names of rows do (data.unique={unique:g})"
    else:
        _tell_dates(name, texts)
        if levels is not None and different > levels:
            told = "column '%s' has %s different texts: those that are not among the %s most frequent ones are one"
            log.warning(told + " category; data.levels=… to change it", name, f"{different:,}", levels)
        return False
    when = moment(next(filter(None, texts)), "day_first") is not None
    hint = f"if it says when a row was made, name it: data.order={name}" if when else ""
    log.warning("column '%s' is left out: %s; %s", name, why, hint or f"data.texts=[{name}] reads it as texts")
    return True


def _tell_dates(name: str, texts: np.ndarray) -> None:
    if all(moment(text, "day_first") or moment(text, "month_first") for text in set(texts) - {""}):
        log.info(
            "column '%s' holds dates, and is taken as categories; data.order=%s puts the rows in time, data.features="
            "{NAME: {weekday: %s}} makes numbers of them",
            name, name, name,
        )  # fmt: skip


def _warn_of_few_texts(cells: Cells, name: str) -> None:
    """Say when a column would be one of numbers but for some cells, or but for how they are written."""
    texts, missing = cells.no_numbers(name), cells.missing(name)
    if texts.sum() > FEW * (~missing).sum():
        return
    if not texts.any():
        log.warning(
            "column '%s' is none of numbers, for they are written in several ways: data.numbers=… says how", name
        )
        return
    words = sorted({cell for cell, text in zip(cells.columns[name], texts, strict=True) if text})
    told = in_short(f"'{word}'" for word in words)
    log.warning(
        "column '%s' is none of numbers, for %s in %s is no number; data.missing=[%s] takes that for missing numbers",
        name, told, cells.where(texts), ",".join(word if word.isalnum() else f'"{word}"' for word in words[:3]),
    )  # fmt: skip


def dataset(
    plan: Plan,
    dev: Cells,
    test: Callable[[], Cells] | None,
    *,
    scale: str,
    impute: str,
    indicator: bool,
    note: str = "",
    text: Any = None,
    levels: int | None = None,
    standardize_target: bool = False,
) -> Raw:
    """The dataset of a table. Raises Refused when no input column is left, or when two columns would share a name.

    text: the step that columns of texts are prepared by; its `kind` is theirs. levels: see `split_columns`.
    standardize_target: number targets are learned in standard deviations, each in its own.
    """
    columns = dict.fromkeys(plan.numbers(dev))
    inputs: dict[str, Kind] = {NUMBERS: "number"} if columns else {}
    inputs |= dict.fromkeys((*plan.text, *(feature.name for feature in plan.bins)), "category")
    inputs |= dict.fromkeys(plan.texts, text.kind) if plan.texts else {}
    if not inputs:
        raise Refused(f"{dev.place} has no input column left: all are targets, dropped, or left out (see above)")
    names = [*inputs, *(target.name for target in plan.targets), *filter(None, (plan.order, plan.group))]
    twice = {name for name in names if names.count(name) > 1} | ({NUMBERS} & {*plan.text, *plan.texts})
    if twice:
        raise Refused(f"the name '{min(twice)}' would stand for two columns; rename that column in {dev.place}")
    learn = _steps(plan, (Impute(impute, indicator), *SCALING[scale]) if columns else ())  # type: ignore[arg-type]
    learn |= dict.fromkeys(plan.text, (Categories(most=levels),)) | dict.fromkeys(plan.texts, (text,))
    if standardize_target:
        learn |= {target.name: (StandardiseTarget(),) for target in plan.targets if target.kind == "number"}
    labels = {NUMBERS: tuple(columns)} | {target.name: target.names for target in plan.targets if target.names}
    sealed = None if test is None else lambda: plan.rows(test())
    kinds = {target.name: target.kind for target in plan.targets}
    raw = Raw(plan.rows(dev), inputs, kinds, learn, sealed, plan.order, plan.group, labels, note)
    return replace(raw, further=partial(further, plan), of_texts=of_texts(inputs, plan.texts))


def of_texts(inputs: dict[str, Kind], texts: tuple[str, ...]) -> Callable[[Sequence[str]], Rows] | None:
    """What makes rows of new texts, where a row is one text and nothing else."""
    if len(inputs) > 1 or not texts:
        return None
    return lambda found: {texts[0]: np.array(list(found), object)}


def further(plan: Plan, path: str, **reading: Any) -> tuple[Rows, list[int]]:
    """New rows from a CSV file with the plan's input columns, and the line of each. reading: see `cells.read`.

    A target comes along unless a row misses it, or has a value that the plan's targets do not have, which is said.
    Raises Refused, naming the input columns that are not there.
    """
    found = read(path, **({"separator": None, "header": None} | reading), written=plan.written or None)
    known = tuple(target for target in plan.targets if _scored(target, found))
    asked = replace(plan, targets=known, order=None, group=None)
    if absent := [name for name in dict.fromkeys(asked.columns) if name not in found.columns]:
        there = in_short(found.columns, absent[0])
        raise Refused(f"{path} lacks {in_short(absent)}, which the run was trained on; it has: {there}")
    return asked.rows(found), found.lines


def _scored(target: Target, found: Cells) -> bool:
    """Whether every row has this target, as the run knows it; says so where only some have."""
    if any(column not in found.columns for column in target.columns):
        return False
    missing = target.missing(found)
    if missing.any():
        if not missing.all():
            log.warning("target '%s' is missing in %s of %s: no score", target.name, found.where(missing), found.place)
        return False
    try:
        values = target.values(found)
    except Refused as error:
        log.warning("no score: %s", error)
        return False
    strange = np.array([bool(target.names) and str(value) not in target.names for value in values], bool)
    if target.kind in CLASSES and strange.any():
        log.warning(
            "target '%s' is of a class that the run does not know in %s of %s ('%s'): no score",
            target.name, found.where(strange), found.place, values[int(strange.argmax())],
        )  # fmt: skip
        return False
    return True


def columns_only(
    numbers: tuple[str, ...], target: str, kind: Kind, classes: tuple[str, ...] = (), texts: tuple[str, ...] = ()
) -> Callable[..., tuple[Rows, list[int]]]:
    """What reads new rows of a dataset whose inputs are these number and text columns, its classes numbered from 0."""
    plan = Plan(numbers, (), (), (Target(target, kind, (target,), classes),), texts=texts)

    def more(path: str, **reading: Any) -> tuple[Rows, list[int]]:
        rows, lines = further(plan, path, **reading)
        if classes and target in rows:
            rows[target] = Labels(target, classes)(rows[target])
        return rows, lines

    return more


def _steps(plan: Plan, numbers: tuple[Preparation, ...]) -> dict[str, tuple[Preparation, ...]]:
    learn: dict[str, tuple[Preparation, ...]] = {feature.name: (Bins(feature.count),) for feature in plan.bins}
    learn |= {target.name: target.steps() for target in plan.targets}
    return learn | ({NUMBERS: numbers} if numbers else {})


def times(cells: Cells, name: str, dates: Dates) -> np.ndarray:
    """A column that puts rows in time, as float64: numbers as they are, times in seconds. Raises Refused otherwise."""
    missing = cells.missing(name)
    if missing.any():
        raise Refused(f"the order column '{name}' is missing in {cells.where(missing)} of {cells.place}")
    if cells.numeric(name):
        return cells.numbers(name)
    moments = [moment(cell, dates) for cell in cells.columns[name]]
    strange = np.array([when is None for when in moments])
    if strange.any():
        raise Refused(
            f"the order column '{name}' has neither number nor time in {cells.where(strange)} of {cells.place}"
        )
    epoch = datetime(1970, 1, 1)
    return np.array([(when - epoch).total_seconds() for when in moments if when is not None])


def _warn_of_row_numbers(cells: Cells, name: str) -> None:
    values = cells.numbers(name)
    if len(values) > 10 and (np.diff(values) == 1).all():
        log.warning("column '%s' counts the rows; if it is a mere number of the row, say data.drop=[%s]", name, name)
