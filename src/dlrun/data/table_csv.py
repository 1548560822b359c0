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
    encoding: str,
    texts: list[str],
    text: Any,
    share_words: bool,
) -> Raw:
    """A table from a CSV file with one line of column names.

    target: the column, or columns, to predict. kind: of the target; auto finds it out and says so. Number columns
    become one input `features` (N, F), each other column one input of kind category, or, where `texts` names it, one of
    texts, which the step `text` prepares. Test rows: test_path, or else the
    share `test` of the rows: the last in time with `order`, whole owners with `group`, else the same share of each
    class. features: see data/features.py. share_words: all columns of texts have one vocabulary, so that one reader can
    read them. Raises Refused for whatever is wrong with the file or the question.
    """
    if path is None:
        raise Refused("say which table: data.path=FILE.csv data.target=COLUMN")
    reading: dict[str, Any] = {"separator": separator, "header": header, "encoding": encoding}
    whole = cells.read(path, **reading)
    plan = _plan(whole, target, kind, drop, order, group, features, texts)
    prepared = {"scale": scale, "impute": impute, "indicator": indicator, "text": text}
    raw = of_plan(whole, plan, test_path, test, reading, prepared)
    return replace(raw, shared=(tuple(texts),)) if share_words and texts else raw


def of_plan(
    whole: Cells,
    plan: table.Plan,
    test_path: str | None,
    test: float,
    reading: dict[str, Any],
    prepared: dict[str, Any],
    clean: Callable[[Cells], Cells] = lambda found: found,
) -> Raw:
    """The dataset of a table whose plan is made. reading, prepared: how files are read, and what `dataset` is told.

    clean: what is done to the rows of test_path when they are read.
    """
    dev, sealed = _divide(whole, plan, 0.0 if test_path else test)
    named = tuple(answers.name_classes(one, dev, sealed) for one in plan.targets)
    plan = replace(plan, targets=named)
    later = _later(test_path, plan, reading, sealed, clean)
    further = partial(table.further, plan, **reading)
    others = {name: dev.texts(name) for name in dev.columns if name not in plan.columns}
    return replace(table.dataset(plan, dev, later, **prepared), further=further, identifiers=others)


def _plan(
    whole: Cells,
    target: str | list[str] | None,
    kind: str,
    drop: list[str],
    order: str | None,
    group: str | None,
    specs: _FeatureSpecs | None,
    texts: list[str],
) -> table.Plan:
    targets = answers.find(whole, target, kind)
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
    numeric, text = table.split_columns(whole, {*asked, *drop, *roles, *texts})
    return table.Plan(numeric, text, made, targets, order, group, tuple(texts))


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
    reading: dict[str, Any],
    sealed: Cells | None,
    clean: Callable[[Cells], Cells],
) -> Callable[[], Cells] | None:
    """What reads the test rows when they are asked for."""
    if test_path is None:
        return None if sealed is None else lambda: sealed

    peeked = cells.peek(test_path, separator=reading["separator"], encoding=reading["encoding"])
    peeked.need(() if reading["header"] else plan.columns, "column")

    def read() -> Cells:
        found = cells.read(test_path, **reading)
        found.need(plan.columns, "column")
        return clean(found)

    return read
