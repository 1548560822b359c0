"""The audit's look at single input columns: constant, missing, mere row numbers, not scaled, not finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Dataset, SlidingWindows
from dlrun.data.audit.finding import (
    Finding,
    InputColumn,
    format_row_share,
    format_share,
    list_input_columns,
    list_names,
)

MOSTLY_MISSING, MOSTLY_UNIQUE = 0.5, 0.9
MAX_SCALE = 10.0  # a network starts with weights for numbers about 1
CONSTANT_EFFECT = (
    "their other values stand in held-out rows alone, where the model cannot know them"
)
MISSING_EFFECT = "most of what the model sees of them is imputed; no score is inflated by that"
SCALE_EFFECT = (
    "networks learn slowly or not at all, so their scores come out too low; scale these columns"
)


def iter_column_findings(raw: Dataset, train: np.ndarray) -> Iterator[Finding]:
    """What is wrong with single columns, and with number columns as the model will see them."""
    columns = list_input_columns(raw)
    yield from _find_constant(columns, train)
    yield from _find_missing(columns, len(raw))
    yield from _find_unique_columns(columns, len(raw))
    for name, kind in raw.inputs.items():
        column = raw.dev[name]
        if kind in ("number", "fraction", "series") or (
            kind == "image" and column.dtype.kind == "f"
        ):
            labels = raw.labels.get(name, ()) if kind in ("number", "series") else ()
            yield from _find_non_finite(raw, name, labels, train)


def _find_constant(columns: list[InputColumn], train: np.ndarray) -> Iterator[Finding]:
    dead = [one for one in columns if len(np.unique(one.codes[train][~one.missing[train]])) <= 1]
    moving = [one.name for one in dead if len(np.unique(one.codes[~one.missing])) > 1]
    still = [one.name for one in dead if one.name not in moving]
    if moving:
        yield Finding(
            "warning",
            "constant columns",
            _describe_constant(moving, train),
            tuple(moving),
            len(moving),
            CONSTANT_EFFECT,
        )
    if still:
        text = f"{_describe_constant(still, train)}: nothing can be learned from it"
        yield Finding("note", "constant columns", text, tuple(still), len(still))


def _describe_constant(names: list[str], train: np.ndarray) -> str:
    verb = "has the same value" if len(names) == 1 else "have the same value each"
    return f"{list_names(names)} {verb} in all {len(train):,} training rows"


def _find_missing(columns: list[InputColumn], total: int) -> Iterator[Finding]:
    shares = {one.name: float(one.missing.mean()) for one in columns if one.missing.any()}
    shares = dict(sorted(shares.items(), key=lambda pair: -pair[1]))
    for severity, what, low, high in (
        ("warning", "mostly missing columns", MOSTLY_MISSING, 1.0),
        ("note", "missing values", 0.0, MOSTLY_MISSING),
    ):
        chosen = {name: share for name, share in shares.items() if low < share <= high}
        if chosen:
            told = list_names(
                [f"{name} in {format_share(share)}" for name, share in chosen.items()]
            )
            text = f"missing: {told} of the {total:,} development rows"
            effect = "" if severity == "note" else MISSING_EFFECT
            yield Finding(severity, what, text, tuple(chosen), len(chosen), effect)  # type: ignore[arg-type]


def _find_unique_columns(columns: list[InputColumn], total: int) -> Iterator[Finding]:
    """Text columns that tell nearly every row from every other."""
    for one in columns:
        levels = 0 if one.is_number else len(np.unique(one.codes[~one.missing]))
        if levels > MOSTLY_UNIQUE * total:
            text = f"{one.name} has {levels:,} different values in {total:,} rows: it names rows"
            effect = f"new rows have other names, so it helps training rows alone; data.drop=[{one.name}]"
            yield Finding("warning", "a column of names", text, (one.name,), levels, effect)


def _find_non_finite(
    raw: Dataset, name: str, labels: tuple[str, ...], train: np.ndarray
) -> Iterator[Finding]:
    """What the model gets of a number column: it must be finite, and of one scale."""
    column = raw.dev[name][train]
    with np.errstate(invalid="ignore", over="ignore"):  # what is infinite is told below
        for step in raw.preprocessors.get(name, ()):
            column = step.fit(column)(column)
    values = np.asarray(
        column.unique_rows() if isinstance(column, SlidingWindows) else column, np.float64
    )
    values = values.reshape(
        -1, values.shape[-1] if values.ndim > 1 and raw.inputs[name] != "image" else 1
    )
    names = [str(one) for one in labels] if 0 < len(labels) <= values.shape[1] else []
    names += [
        f"{name}[{place}]" if values.shape[1] > 1 else name
        for place in range(len(names), values.shape[1])
    ]
    wrong = ~np.isfinite(values)
    if wrong.any():
        bad = [names[place] for place in np.flatnonzero(wrong.any(0))]
        count = int(wrong.any(1).sum())
        text = f"{format_row_share(count, len(values), 'training rows')} hold nan or infinity after preparation, in {list_names(bad)}"
        yield Finding(
            "warning",
            "not finite",
            text,
            tuple(bad),
            count,
            "the loss will be nan, and training ends",
        )
    yield from _check_scales(
        names, values, ~wrong.any(0) & (np.ptp(np.where(wrong, 0, values), axis=0) > 0)
    )


def _check_scales(names: list[str], values: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    named, values = (
        [name for name, use in zip(names, usable, strict=True) if use],
        values[:, usable],
    )
    if not named:
        return
    spread, width = values.std(0), np.ptp(values, axis=0)
    far = (np.abs(values.mean(0)) > MAX_SCALE) | (spread > MAX_SCALE)
    if far.any():
        told = [named[place] for place in np.flatnonzero(far)]
        low, high = values[:, far].min(), values[:, far].max()
        text = f"{len(told):,} of {len(named):,} number columns reach the model far from 0 ({low:g} to {high:g}): "
        yield Finding(
            "warning",
            "unscaled inputs",
            text + list_names(told),
            tuple(told),
            len(told),
            SCALE_EFFECT,
        )
    elif min(spread.max() / spread.min(), width.max() / width.min()) > MAX_SCALE:
        large, small = named[int(spread.argmax())], named[int(spread.argmin())]
        times = spread.max() / spread.min()
        text = (
            f"number columns differ in scale: {large} varies {times:,.0f} times as much as {small}"
        )
        yield Finding("warning", "unscaled inputs", text, (large, small), len(named), SCALE_EFFECT)
