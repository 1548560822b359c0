"""The audit's look at what is to be predicted: classes with few rows, imbalance, and numbers that are capped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Raw
from dlrun.data.audit.finding import Finding, Severity, listed, of, percent

FEW = 10  # training rows; a class with fewer can hardly be learnt
SKEWED, CAPPED, REPEATED = 2.0, 0.01, 0.1
NEAR, STANDS_OUT = 5, 3  # a value stands out that has so many times the rows of each of so many values next to it
FLATTERING = 0.5  # of the rows in one class: from there on accuracy alone says little
BARELY = "they can hardly be learned, and what is measured of them is mostly chance"
LOPSIDED = (3, 10)  # times as many rows in the largest class as in the smallest: a note, a warning


def findings(raw: Raw, train: np.ndarray, val: np.ndarray | None) -> Iterator[Finding]:
    """Class counts and ranges of every target, and what is wrong with them."""
    for name, kind in raw.targets.items():
        column = raw.dev[name]
        if kind in ("binary", "category"):
            names, codes = classes(raw, name)
            yield from _classes(name, names, np.bincount(codes[train], minlength=len(names)), _in(codes, val, names))
        elif kind == "multilabel":
            yield from _labels(name, raw.labels.get(name, ()), column[train].sum(0), len(train))
        else:
            yield from _numbers(name, np.asarray(column, np.float64).reshape(-1))


def classes(raw: Raw, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of a target's classes, and the class of every development row (int64)."""
    column, names = np.asarray(raw.dev[name]).reshape(-1), raw.labels.get(name, ())
    if column.dtype.kind in "OU":
        found, codes = np.unique(column.astype(str), return_inverse=True)
        names = tuple(dict.fromkeys([*names, *map(str, found)]))
        place = np.array([names.index(str(one)) for one in found], np.int64)
        return names, place[codes.reshape(-1)]
    codes = column.astype(np.int64)
    return names or tuple(map(str, range(int(codes.max()) + 1))), codes


def _in(codes: np.ndarray, rows: np.ndarray | None, names: tuple[str, ...]) -> np.ndarray | None:
    return None if rows is None else np.bincount(codes[rows], minlength=len(names))


def _classes(target: str, names: tuple[str, ...], train: np.ndarray, val: np.ndarray | None) -> Iterator[Finding]:
    only = [name for place, name in enumerate(names) if val is not None and not train[place] and val[place]]
    if only:
        text = f"{target}: validation rows of {listed(only)} have no training row of their class"
        assert val is not None
        lost = sum(int(val[place]) for place, name in enumerate(names) if name in only)
        effect = f"they count as wrong: {percent(lost / max(1, val.sum()))} of the validation rows"
        yield Finding("warning", "classes without training rows", text, (target,), len(only), effect)
    few = [f"{name} ({train[place]:,})" for place, name in enumerate(names) if train[place] < FEW and name not in only]
    if few:
        text = f"{target}: {len(few)} of {len(names)} classes have fewer than {FEW} training rows: {listed(few)}"
        yield Finding("warning", "classes with few rows", text, (target,), len(few), BARELY)
    unseen = [name for place, name in enumerate(names) if val is not None and train[place] and not val[place]]
    if unseen:
        text = f"{target}: no validation row is of {listed(unseen)}"
        effect = "no score says anything of these classes"
        yield Finding("warning", "classes without validation rows", text, (target,), len(unseen), effect)
    yield _balance(target, names, train, val)


def _balance(target: str, names: tuple[str, ...], train: np.ndarray, val: np.ndarray | None) -> Finding:
    """The class counts, largest first; how bad it is by how lopsided they are."""
    order = np.argsort(-train, kind="stable")
    counts = [f"{names[place]} {train[place]:,}" + ("" if val is None else f" + {val[place]:,}") for place in order]
    share = train.max() / max(1, train.sum())
    times = train.max() / max(1, train.min())
    rows = "training rows" if val is None else "training + validation rows"
    text = f"{target}: {listed(counts)} {rows}; always predicting {names[order[0]]} is right on {percent(share)}"
    severity: Severity = "warning" if times >= LOPSIDED[1] and share > FLATTERING else "note"
    effect = "" if severity == "note" else "accuracy looks good where nothing was learned; compare with the baseline"
    what = "imbalance" if times >= LOPSIDED[0] else "class counts"
    return Finding(severity, what, text, (target,), len(names), effect)


def _labels(target: str, names: tuple[str, ...], counts: np.ndarray, total: int) -> Iterator[Finding]:
    names = names or tuple(map(str, range(len(counts))))
    few = [f"{name} ({int(count):,})" for name, count in zip(names, counts, strict=True) if count < FEW]
    if few:
        text = f"{target}: {len(few)} of {len(names)} labels are set in fewer than {FEW} training rows: {listed(few)}"
        yield Finding("warning", "labels with few rows", text, (target,), len(few), BARELY)
    shares = [f"{names[place]} {percent(counts[place] / total)}" for place in np.argsort(-counts, kind="stable")]
    yield Finding("note", "label counts", f"{target}: set in {listed(shares)} of training rows", (target,), len(names))


def _numbers(target: str, values: np.ndarray) -> Iterator[Finding]:
    found, counts = np.unique(values, return_counts=True)
    yield from _capped(target, found, counts)
    common = int(counts.argmax())
    near = np.concatenate([counts[max(0, common - NEAR) : common], counts[common + 1 : common + 1 + NEAR]])
    apart = len(found) > 2 * FEW and counts[common] >= STANDS_OUT * near.max()
    if apart and counts[common] / len(values) > REPEATED and common not in (0, len(found) - 1):
        text = f"{of(int(counts[common]), len(values), 'rows')} have the very same {target}, {found[common]:g}"
        effect = f"predicting {found[common]:g} alone is exactly right on {percent(counts[common] / len(values))}; "
        effect += "if it stands for missing values, scores are about nothing there"
        yield Finding("warning", "one repeated value", text, (target,), int(counts[common]), effect)
    deviation = values.std()
    skew = float((((values - values.mean()) / deviation) ** 3).mean()) if deviation else 0.0
    if abs(skew) > SKEWED:
        text = f"{target} is heavily skewed ({skew:.1f}): few rows with extreme values dominate its squared error"
        yield Finding("note", "skew", text, (target,), len(values))
    text = f"{target}: {found[0]:g} to {found[-1]:g}, mean {values.mean():.4g}, standard deviation {deviation:.4g}"
    yield Finding("note", "range", text, (target,), len(values))


def _capped(target: str, found: np.ndarray, counts: np.ndarray) -> Iterator[Finding]:
    """The largest or the smallest value, where far more rows have it than have the values next to it."""
    if len(found) <= 2 * FEW:
        return
    for word, place, near in (("largest", -1, counts[-1 - NEAR : -1]), ("smallest", 0, counts[1 : 1 + NEAR])):
        count, value = int(counts[place]), found[place]
        if count < max(5, CAPPED * counts.sum()) or count < STANDS_OUT * near.max():
            continue
        text = f"{of(count, int(counts.sum()), 'rows')} have the {word} {target}, {value:g}"
        if value == 0:  # no rain, nothing sold: a value of its own, not an edge
            yield Finding("note", "many zeros", text, (target,), count)
            continue
        text += f": the target appears capped (censored) at {value:g}"
        effect = f"errors on {percent(count / counts.sum())} of the rows are measured against {value:g}, not the truth"
        yield Finding("warning", "capped target", text, (target,), count, effect)
