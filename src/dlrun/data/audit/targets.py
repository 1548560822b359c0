"""The audit's look at what is to be predicted: classes with few rows, imbalance, and numbers that are capped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.data.audit.finding import Finding, Severity, format_row_share, format_share, list_names

MIN_CLASS_ROWS = 10  # training rows; a class with fewer can hardly be learnt
MAX_SKEW, MIN_CAPPED_SHARE, MIN_REPEATED_SHARE = 2.0, 0.01, 0.1
NUM_NEIGHBORS, PEAK_RATIO = (
    5,
    3,
)  # a value stands out that has so many times the rows of each of so many values next to it
MAJORITY_SHARE = 0.5  # of the rows in one class: from there on accuracy alone says little
RARE_EFFECT = "they can hardly be learned, and what is measured of them is mostly chance"
IMBALANCE_RATIOS = (
    3,
    10,
)  # times as many rows in the largest class as in the smallest: a note, a warning


def iter_target_findings(
    raw: Dataset, train: np.ndarray, val: np.ndarray | None
) -> Iterator[Finding]:
    """Class counts and ranges of every target, and what is wrong with them."""
    for name, kind in raw.targets.items():
        column = raw.dev[name]
        if kind in ("binary", "category"):
            names, codes = get_target_classes(raw, name)
            yield from _class_findings(
                name,
                names,
                np.bincount(codes[train], minlength=len(names)),
                _count_classes(codes, val, names),
            )
        elif kind == "multilabel":
            yield from _label_findings(
                name, raw.labels.get(name, ()), column[train].sum(0), len(train)
            )
        else:
            yield from _number_findings(name, np.asarray(column, np.float64).reshape(-1))


def get_target_classes(raw: Dataset, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of a target's classes, and the class of every development row (int64)."""
    column, names = np.asarray(raw.dev[name]).reshape(-1), raw.labels.get(name, ())
    if column.dtype.kind in "OU":
        found, codes = np.unique(column.astype(str), return_inverse=True)
        names = tuple(dict.fromkeys([*names, *map(str, found)]))
        place = np.array([names.index(str(one)) for one in found], np.int64)
        return names, place[codes.reshape(-1)]
    codes = column.astype(np.int64)
    return names or tuple(map(str, range(int(codes.max()) + 1))), codes


def _count_classes(
    codes: np.ndarray, rows: np.ndarray | None, names: tuple[str, ...]
) -> np.ndarray | None:
    return None if rows is None else np.bincount(codes[rows], minlength=len(names))


def _class_findings(
    target: str, names: tuple[str, ...], train: np.ndarray, val: np.ndarray | None
) -> Iterator[Finding]:
    only = [
        name
        for place, name in enumerate(names)
        if val is not None and not train[place] and val[place]
    ]
    if only:
        text = (
            f"{target}: validation rows of {list_names(only)} have no training row of their class"
        )
        assert val is not None
        lost = sum(int(val[place]) for place, name in enumerate(names) if name in only)
        effect = (
            f"they count as wrong: {format_share(lost / max(1, val.sum()))} of the validation rows"
        )
        yield Finding(
            "warning", "classes without training rows", text, (target,), len(only), effect
        )
    few = [
        f"{name} ({train[place]:,})"
        for place, name in enumerate(names)
        if train[place] < MIN_CLASS_ROWS and name not in only
    ]
    if few:
        text = f"{target}: {len(few)} of {len(names)} classes have fewer than {MIN_CLASS_ROWS} training rows: {list_names(few)}"
        yield Finding("warning", "classes with few rows", text, (target,), len(few), RARE_EFFECT)
    unseen = [
        name
        for place, name in enumerate(names)
        if val is not None and train[place] and not val[place]
    ]
    if unseen:
        text = f"{target}: no validation row is of {list_names(unseen)}"
        effect = "no score says anything of these classes"
        yield Finding(
            "warning", "classes without validation rows", text, (target,), len(unseen), effect
        )
    yield _balance_finding(target, names, train, val)


def _balance_finding(
    target: str, names: tuple[str, ...], train: np.ndarray, val: np.ndarray | None
) -> Finding:
    """The class counts, largest first; how bad it is by how lopsided they are."""
    order = np.argsort(-train, kind="stable")
    counts = [
        f"{names[place]} {train[place]:,}" + ("" if val is None else f" + {val[place]:,}")
        for place in order
    ]
    share = train.max() / max(1, train.sum())
    times = train.max() / max(1, train.min())
    rows = "training rows" if val is None else "training + validation rows"
    text = f"{target}: {list_names(counts)} {rows}; always predicting {names[order[0]]} is right on {format_share(share)}"
    severity: Severity = (
        "warning" if times >= IMBALANCE_RATIOS[1] and share > MAJORITY_SHARE else "note"
    )
    effect = (
        ""
        if severity == "note"
        else "accuracy looks good where nothing was learned; compare with the baseline"
    )
    what = "imbalance" if times >= IMBALANCE_RATIOS[0] else "class counts"
    return Finding(severity, what, text, (target,), len(names), effect)


def _label_findings(
    target: str, names: tuple[str, ...], counts: np.ndarray, total: int
) -> Iterator[Finding]:
    names = names or tuple(map(str, range(len(counts))))
    few = [
        f"{name} ({int(count):,})"
        for name, count in zip(names, counts, strict=True)
        if count < MIN_CLASS_ROWS
    ]
    if few:
        text = f"{target}: {len(few)} of {len(names)} labels are set in fewer than {MIN_CLASS_ROWS} training rows: {list_names(few)}"
        yield Finding("warning", "labels with few rows", text, (target,), len(few), RARE_EFFECT)
    shares = [
        f"{names[place]} {format_share(counts[place] / total)}"
        for place in np.argsort(-counts, kind="stable")
    ]
    yield Finding(
        "note",
        "label counts",
        f"{target}: set in {list_names(shares)} of training rows",
        (target,),
        len(names),
    )


def _number_findings(target: str, values: np.ndarray) -> Iterator[Finding]:
    found, counts = np.unique(values, return_counts=True)
    yield from _clipping_findings(target, found, counts)
    common = int(counts.argmax())
    near = np.concatenate(
        [
            counts[max(0, common - NUM_NEIGHBORS) : common],
            counts[common + 1 : common + 1 + NUM_NEIGHBORS],
        ]
    )
    apart = len(found) > 2 * MIN_CLASS_ROWS and counts[common] >= PEAK_RATIO * near.max()
    if (
        apart
        and counts[common] / len(values) > MIN_REPEATED_SHARE
        and common not in (0, len(found) - 1)
    ):
        text = f"{format_row_share(int(counts[common]), len(values), 'rows')} have the very same {target}, {found[common]:g}"
        effect = f"predicting {found[common]:g} alone is exactly right on {format_share(counts[common] / len(values))}; "
        effect += "if it stands for missing values, scores are about nothing there"
        yield Finding("warning", "one repeated value", text, (target,), int(counts[common]), effect)
    deviation = values.std()
    skew = float((((values - values.mean()) / deviation) ** 3).mean()) if deviation else 0.0
    if abs(skew) > MAX_SKEW:
        text = f"{target} is heavily skewed ({skew:.1f}): few rows with extreme values dominate its squared error"
        yield Finding("note", "skew", text, (target,), len(values))
    text = f"{target}: {found[0]:g} to {found[-1]:g}, mean {values.mean():.4g}, standard deviation {deviation:.4g}"
    yield Finding("note", "range", text, (target,), len(values))


def _clipping_findings(target: str, found: np.ndarray, counts: np.ndarray) -> Iterator[Finding]:
    """The largest or the smallest value, where far more rows have it than have the values next to it."""
    if len(found) <= 2 * MIN_CLASS_ROWS:
        return
    for word, place, near in (
        ("largest", -1, counts[-1 - NUM_NEIGHBORS : -1]),
        ("smallest", 0, counts[1 : 1 + NUM_NEIGHBORS]),
    ):
        count, value = int(counts[place]), found[place]
        if count < max(5, MIN_CAPPED_SHARE * counts.sum()) or count < PEAK_RATIO * near.max():
            continue
        text = f"{format_row_share(count, int(counts.sum()), 'rows')} have the {word} {target}, {value:g}"
        if value == 0:  # no rain, nothing sold: a value of its own, not an edge
            yield Finding("note", "many zeros", text, (target,), count)
            continue
        text += f": the target appears capped (censored) at {value:g}"
        effect = f"errors on {format_share(count / counts.sum())} of the rows are measured against {value:g}, not the truth"
        yield Finding("warning", "capped target", text, (target,), count, effect)
