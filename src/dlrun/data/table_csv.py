"""Your own table: a CSV file, a target column, and everything else as inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from dlrun.data import answers, aside, cells, features, table
from dlrun.data.answers import Target
from dlrun.data.cells import Cells
from dlrun.errors import Refused
from dlrun.ranges import Probability
from dlrun.types import Raw

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
) -> Raw:
    """A table from a CSV file in UTF-8 with one line of column names.

    target: the column, or columns, to predict. kind: of the target; auto finds it out and says so. Number columns
    become one input `features` (N, F), each text column one input of kind category. Test rows: test_path, or else the
    share `test` of the rows: the last in time with `order`, whole owners with `group`, else the same share of each
    class. features: see data/features.py. Raises Refused for whatever is wrong with the file or the question.
    """
    if path is None:
        raise Refused("say which table: data.path=FILE.csv data.target=COLUMN")
    whole = cells.read(path, separator=separator, header=header)
    plan = _plan(whole, target, kind, drop, order, group, features)
    dev, sealed = _divide(whole, plan, 0.0 if test_path else test)
    named = tuple(answers.name_classes(one, dev, sealed) for one in plan.targets)
    plan = replace(plan, targets=named)
    later = _later(test_path, plan, separator, header, sealed)
    raw = table.dataset(plan, dev, later, scale=scale, impute=impute, indicator=indicator)
    return replace(raw, further=partial(table.further, plan, separator=separator, header=header))


def _plan(
    whole: Cells,
    target: str | list[str] | None,
    kind: str,
    drop: list[str],
    order: str | None,
    group: str | None,
    specs: _FeatureSpecs | None,
) -> table.Plan:
    targets = answers.find(whole, target, kind)
    whole.need(drop, "data.drop:")
    roles = [name for name in (order, group) if name]
    whole.need(roles, "data.order or data.group:")
    asked = {column for one in targets for column in one.columns}
    clash = asked & {*drop, *roles}
    if clash:
        raise Refused(f"column '{min(clash)}' is the target and cannot be dropped, nor be order or group")
    made = features.parse(specs, whole)
    leaks = [one.name for one in made if asked & set(one.columns)]
    if leaks:
        raise Refused(f"feature '{leaks[0]}' is made from the target: the answer would be given away")
    numeric, text = table.split_columns(whole, {*asked, *drop, *roles})
    return table.Plan(numeric, text, made, targets, order, group)


def _divide(whole: Cells, plan: table.Plan, share: float) -> tuple[Cells, Cells | None]:
    if not share:
        return whole, None
    if plan.order:
        dev, test = aside.latest(table.times(whole, plan.order), share)
    elif plan.group:
        dev, test = aside.grouped(whole.texts(plan.group).astype(str), share)
    else:
        dev, test = _by_class(whole, plan.targets[0], share)
    if not len(dev):
        raise Refused(f"data.test={share:g} leaves none of the {len(whole)} rows of {whole.place} to learn from")
    return whole.take(dev), whole.take(test)


def _by_class(whole: Cells, target: Target, share: float) -> tuple[np.ndarray, np.ndarray]:
    if target.kind in ("binary", "category"):
        return aside.stratified(target.values(whole).astype(str), share)
    return aside.random(len(whole), share)


def _later(
    test_path: str | None,
    plan: table.Plan,
    separator: str | None,
    header: list[str] | None,
    sealed: Cells | None,
) -> Callable[[], Cells] | None:
    """What reads the test rows when they are asked for."""
    if test_path is None:
        return None if sealed is None else lambda: sealed

    cells.peek(test_path, separator=separator).need(() if header else plan.columns, "column")

    def read() -> Cells:
        found = cells.read(test_path, separator=separator, header=header)
        found.need(plan.columns, "column")
        return found

    return read
