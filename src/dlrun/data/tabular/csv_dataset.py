"""Your own table: a CSV file, a target column, and everything else as inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from dlrun.config.constraints import Count, Fraction, Natural, Probability, TextPart
from dlrun.core.dataset import Raw
from dlrun.core.errors import Refused
from dlrun.data.fingerprints import fingerprint
from dlrun.data.tabular import csv_file, features, holdout, schema
from dlrun.data.tabular import targets as answers
from dlrun.data.tabular.csv_file import Cells
from dlrun.data.tabular.dates import Dates, decided
from dlrun.data.tabular.number_format import Numbers
from dlrun.data.tabular.targets import Classes, MissingTarget, Target

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
    numbers: Numbers = "plain",
    missing: list[str] | None = None,
    classes: Classes = "numbers",
    missing_target: MissingTarget = "refuse",
    dates: Dates = "each",
    unique: Fraction = 1.0,
    levels: Count | None = None,
    standardize_target: bool = False,
    check_test: bool = False,
    seed: Natural | None = None,
) -> Raw:
    """A table from a CSV file with one line of column names. The defaults are what dlrun 0.1.0 did.

    target: the column, or columns, to predict. kind: of the target; auto finds it out and says so. Number columns
    become one input `features` (N, F), each other column one input of kind category, or, where `texts` names it, one of
    texts, which the step `text` prepares. Test rows: test_path, or else the
    share `test` of the rows: the last in time with `order`, whole owners with `group`, else the same share of each
    class. features: see data/features.py. share_words: all columns of texts have one vocabulary, so that one reader can
    read them. numbers, missing: see `cells.read`. classes: see `Target`. missing_target: what becomes of rows without
    a target. dates: see `dates.decided`. unique, levels: see `table.split_columns`. standardize_target: see
    `table.dataset`. check_test: whether a file of test rows is looked at for what is wrong with it before it is opened,
    and for its classes. seed: see `aside`. Raises Refused for whatever is wrong with the file or the question.
    """
    if path is None:
        raise Refused("say which table: data.path=FILE.csv data.target=COLUMN")
    reading: dict[str, Any] = {"separator": separator, "header": header, "encoding": encoding}
    reading |= {"numbers": numbers, "missing": missing or ()}
    clean = partial(answers.with_target, target=target, kind=kind, missing=missing_target)
    whole = clean(csv_file.read(path, **reading))
    sealed = None if test_path is None else clean(test_file(test_path, whole, reading))
    targets = answers.find(whole, target, kind, classes, sealed if check_test else None)
    plan = _plan(whole, targets, drop, order, group, features, texts)
    plan = _with_dates(_with_inputs(plan, whole, drop, unique, levels), whole, dates)
    prepared = {"scale": scale, "impute": impute, "indicator": indicator, "text": text, "levels": levels}
    prepared |= {"standardize_target": standardize_target}
    raw = of_plan(whole, plan, sealed, (test, seed), reading, prepared, check_test)
    return replace(raw, shared=(tuple(texts),)) if share_words and texts else raw


def of_plan(
    whole: Cells,
    plan: schema.Plan,
    sealed: Cells | None,
    share: tuple[float, int | None],
    reading: dict[str, Any],
    prepared: dict[str, Any],
    check: bool,
) -> Raw:
    """The dataset of a table whose plan is made. reading, prepared: how files are read, and what `dataset` is told.

    sealed: the rows of a file of test rows. share: that of the test rows where there is none, and the seed of their
    draw. check: whether they are looked at for what is wrong with them, and for
    their classes: a fault must be found before a model is trained and the rows are opened.
    """
    dev, sealed = _divide(whole, plan, *share) if sealed is None else (whole, sealed)
    parts = (dev, sealed) if check else (dev,)
    named = tuple(answers.name_classes(one, parts) for one in plan.targets)
    plan = replace(plan, targets=named, written=whole.written)
    if sealed is not None and check:
        sealed.need(plan.columns, "column")
        plan.rows(sealed)
    later = None if sealed is None else lambda: sealed
    further = partial(schema.further, plan, **reading)
    others = {name: dev.texts(name) for name in dev.columns if name not in plan.columns}
    marks = mark(dev, plan), "" if sealed is None else mark(sealed, plan)
    return replace(schema.dataset(plan, dev, later, **prepared), further=further, identifiers=others, marks=marks)


def mark(rows: Cells, plan: schema.Plan) -> str:
    """What rows and their targets are known by: all cells as they are written, whichever of them are inputs."""
    asked = [column for target in plan.targets for column in target.columns]
    cells = {f"cells {name}": np.array(texts, object) for name, texts in rows.columns.items()}
    return fingerprint({**cells, "targets": np.array(sorted(asked), object)})


def test_file(path: str, whole: Cells, reading: dict[str, Any]) -> Cells:
    """The rows of a file of test rows, whose numbers are written as those of the others."""
    return csv_file.read(path, **reading, written=whole.written)


def _plan(
    whole: Cells,
    targets: tuple[Target, ...],
    drop: list[str],
    order: str | None,
    group: str | None,
    specs: _FeatureSpecs | None,
    texts: list[str],
) -> schema.Plan:
    whole.need(drop, "data.drop:")
    whole.need(texts, "data.texts:")
    roles = [name for name in (order, group) if name]
    whole.need(roles, "data.order or data.group:")
    asked = {column for one in targets for column in one.columns}
    if clash := asked & {*drop, *roles, *texts}:
        raise Refused(f"column '{min(clash)}' is the target and cannot be dropped, nor be a text, order or group")
    if clash := {*texts} & {*drop, *roles}:
        raise Refused(f"column '{min(clash)}' is a text in data.texts, and cannot be dropped, nor be order or group")
    made = features.parse(specs, whole)
    leaks = [one.name for one in made if asked & set(one.columns)]
    if leaks:
        raise Refused(f"feature '{leaks[0]}' is made from the target: the answer would be given away")
    return schema.Plan((), (), made, targets, order, group, tuple(texts))


def _with_inputs(plan: schema.Plan, whole: Cells, drop: list[str], unique: float, levels: int | None) -> schema.Plan:
    """The plan with the columns of numbers and of categories: all that nothing else is said of."""
    asked = {column for one in plan.targets for column in one.columns}
    skip = {*asked, *drop, *filter(None, (plan.order, plan.group)), *plan.texts}
    numeric, text = schema.split_columns(whole, skip, unique, levels)
    return replace(plan, numeric=numeric, text=text)


def _with_dates(plan: schema.Plan, whole: Cells, dates: Dates) -> schema.Plan:
    """The plan with how the dates are written in each column that says a time."""
    clocks = [feature.columns[0] for feature in plan.features if feature.how in features.TIMES]
    clocks += [plan.order] if plan.order and not whole.numeric(plan.order) else []
    found = {name: decided(whole.columns[name], dates, name, whole.place, whole.lines) for name in clocks}
    return replace(plan, dates=found)


def _divide(whole: Cells, plan: schema.Plan, share: float, seed: int | None) -> tuple[Cells, Cells | None]:
    if not share:
        return whole, None
    if plan.order:
        dev, test = holdout.latest(schema.times(whole, plan.order, plan.dates.get(plan.order, "each")), share)
    elif plan.group:
        dev, test = holdout.grouped(whole.texts(plan.group).astype(str), share, seed)
    else:
        dev, test = _by_class(whole, plan.targets[0], share, seed)
    if not len(dev):
        raise Refused(f"data.test={share:g} leaves none of the {len(whole)} rows of {whole.place} to learn from")
    return whole.take(dev), whole.take(test)


def _by_class(whole: Cells, target: Target, share: float, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    if target.kind in ("binary", "category"):
        return holdout.stratified(target.values(whole).astype(str), share, seed)
    return holdout.random(len(whole), share, seed)
