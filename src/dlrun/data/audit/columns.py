"""The audit's look at single input columns: constant, missing, mere row numbers, not scaled, not finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Raw, Windowed
from dlrun.data.audit.finding import Finding, Single, listed, of, percent, singles

MOSTLY, ALMOST_ALL = 0.5, 0.9
FAR = 10.0  # a network starts with weights for numbers about 1
ELSEWHERE = "their other values stand in held-out rows alone, where the model cannot know them"
IMPUTED = "most of what the model sees of them is imputed; no score is inflated by that"
SLOWED = "networks learn slowly or not at all, so their scores come out too low; scale these columns"


def findings(raw: Raw, train: np.ndarray) -> Iterator[Finding]:
    """What is wrong with single columns, and with number columns as the model will see them."""
    columns = singles(raw)
    yield from _constant(columns, train)
    yield from _missing(columns, len(raw))
    yield from _names(columns, len(raw))
    for name, kind in raw.inputs.items():
        column = raw.dev[name]
        if kind in ("number", "fraction", "series") or (kind == "image" and column.dtype.kind == "f"):
            labels = raw.labels.get(name, ()) if kind in ("number", "series") else ()
            yield from _prepared(raw, name, labels, train)


def _constant(columns: list[Single], train: np.ndarray) -> Iterator[Finding]:
    dead = [one for one in columns if len(np.unique(one.codes[train][~one.missing[train]])) <= 1]
    moving = [one.name for one in dead if len(np.unique(one.codes[~one.missing])) > 1]
    still = [one.name for one in dead if one.name not in moving]
    if moving:
        yield Finding("warning", "constant columns", _same(moving, train), tuple(moving), len(moving), ELSEWHERE)
    if still:
        text = f"{_same(still, train)}: nothing can be learned from it"
        yield Finding("note", "constant columns", text, tuple(still), len(still))


def _same(names: list[str], train: np.ndarray) -> str:
    verb = "has the same value" if len(names) == 1 else "have the same value each"
    return f"{listed(names)} {verb} in all {len(train):,} training rows"


def _missing(columns: list[Single], total: int) -> Iterator[Finding]:
    shares = {one.name: float(one.missing.mean()) for one in columns if one.missing.any()}
    shares = dict(sorted(shares.items(), key=lambda pair: -pair[1]))
    for severity, what, low, high in (
        ("warning", "mostly missing columns", MOSTLY, 1.0),
        ("note", "missing values", 0.0, MOSTLY),
    ):
        chosen = {name: share for name, share in shares.items() if low < share <= high}
        if chosen:
            told = listed([f"{name} in {percent(share)}" for name, share in chosen.items()])
            text = f"missing: {told} of the {total:,} development rows"
            effect = "" if severity == "note" else IMPUTED
            yield Finding(severity, what, text, tuple(chosen), len(chosen), effect)  # type: ignore[arg-type]


def _names(columns: list[Single], total: int) -> Iterator[Finding]:
    """Text columns that tell nearly every row from every other."""
    for one in columns:
        levels = 0 if one.number else len(np.unique(one.codes[~one.missing]))
        if levels > ALMOST_ALL * total:
            text = f"{one.name} has {levels:,} different values in {total:,} rows: it names rows"
            effect = f"new rows have other names, so it helps training rows alone; data.drop=[{one.name}]"
            yield Finding("warning", "a column of names", text, (one.name,), levels, effect)


def _prepared(raw: Raw, name: str, labels: tuple[str, ...], train: np.ndarray) -> Iterator[Finding]:
    """What the model gets of a number column: it must be finite, and of one scale."""
    column = raw.dev[name][train]
    with np.errstate(invalid="ignore", over="ignore"):  # what is infinite is told below
        for step in raw.learn.get(name, ()):
            column = step.fit(column)(column)
    values = np.asarray(column.seen() if isinstance(column, Windowed) else column, np.float64)
    values = values.reshape(-1, values.shape[-1] if values.ndim > 1 and raw.inputs[name] != "image" else 1)
    names = [str(one) for one in labels] if 0 < len(labels) <= values.shape[1] else []
    names += [f"{name}[{place}]" if values.shape[1] > 1 else name for place in range(len(names), values.shape[1])]
    wrong = ~np.isfinite(values)
    if wrong.any():
        bad = [names[place] for place in np.flatnonzero(wrong.any(0))]
        count = int(wrong.any(1).sum())
        text = f"{of(count, len(values), 'training rows')} hold nan or infinity after preparation, in {listed(bad)}"
        yield Finding("warning", "not finite", text, tuple(bad), count, "the loss will be nan, and training ends")
    yield from _scales(names, values, ~wrong.any(0) & (np.ptp(np.where(wrong, 0, values), axis=0) > 0))


def _scales(names: list[str], values: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    named, values = [name for name, use in zip(names, usable, strict=True) if use], values[:, usable]
    if not named:
        return
    spread, width = values.std(0), np.ptp(values, axis=0)
    far = (np.abs(values.mean(0)) > FAR) | (spread > FAR)
    if far.any():
        told = [named[place] for place in np.flatnonzero(far)]
        low, high = values[:, far].min(), values[:, far].max()
        text = f"{len(told):,} of {len(named):,} number columns reach the model far from 0 ({low:g} to {high:g}): "
        yield Finding("warning", "unscaled inputs", text + listed(told), tuple(told), len(told), SLOWED)
    elif min(spread.max() / spread.min(), width.max() / width.min()) > FAR:
        large, small = named[int(spread.argmax())], named[int(spread.argmin())]
        times = spread.max() / spread.min()
        text = f"number columns differ in scale: {large} varies {times:,.0f} times as much as {small}"
        yield Finding("warning", "unscaled inputs", text, (large, small), len(named), SLOWED)
