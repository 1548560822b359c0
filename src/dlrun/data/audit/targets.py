"""Audit of the targets: rare classes, imbalance, and numbers that are capped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.data.audit.finding import Finding, Severity, format_row_share, format_share, list_names

MIN_CLASS_ROWS = 10  # training rows; a class with fewer can hardly be learned
MAX_SKEW = 2.0
MIN_CAPPED_SHARE = 0.01  # of the rows at an end of the range
MIN_REPEATED_SHARE = 0.1  # of the rows with one value within the range
# A value stands out with PEAK_RATIO times the rows of each of NUM_NEIGHBORS values beside it.
NUM_NEIGHBORS = 5
PEAK_RATIO = 3
MAJORITY_SHARE = 0.5  # of the rows in one class: beyond, accuracy alone says little
RARE_EFFECT = "they can hardly be learned, and what is measured of them is mostly chance"
# Rows of the largest class per row of the smallest: for a note, and for a warning.
IMBALANCE_RATIOS = (3, 10)


def iter_target_findings(
    dataset: Dataset, train: np.ndarray, val: np.ndarray | None
) -> Iterator[Finding]:
    """Yield class counts and ranges of every target, and what is wrong with them.

    Args:
        dataset: The dataset; only its training + validation rows are read.
        train: Indices of the training rows.
        val: Indices of the validation rows, None without any.
    """
    for name, kind in dataset.targets.items():
        column = dataset.dev[name]
        if kind in ("binary", "category"):
            names, codes = get_target_classes(dataset, name)
            yield from _class_findings(
                name,
                names,
                np.bincount(codes[train], minlength=len(names)),
                _count_classes(codes, val, names),
            )
        elif kind == "multilabel":
            yield from _label_findings(
                name, dataset.labels.get(name, ()), column[train].sum(0), len(train)
            )
        else:
            yield from _number_findings(name, np.asarray(column, np.float64).reshape(-1))


def get_target_classes(dataset: Dataset, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names of a target, and the class of every row, int64 (N,)."""
    column, names = np.asarray(dataset.dev[name]).reshape(-1), dataset.labels.get(name, ())
    if column.dtype.kind in "OU":
        levels, codes = np.unique(column.astype(str), return_inverse=True)
        # Declared names first, in their order; then what else the rows hold.
        names = tuple(dict.fromkeys([*names, *map(str, levels)]))
        indices = np.array([names.index(str(level)) for level in levels], np.int64)
        return names, indices[codes.reshape(-1)]
    codes = column.astype(np.int64)
    return names or tuple(map(str, range(int(codes.max()) + 1))), codes


def _count_classes(
    codes: np.ndarray, rows: np.ndarray | None, names: tuple[str, ...]
) -> np.ndarray | None:
    return None if rows is None else np.bincount(codes[rows], minlength=len(names))


def _class_findings(
    target: str, names: tuple[str, ...], train: np.ndarray, val: np.ndarray | None
) -> Iterator[Finding]:
    without_training: list[str] = []
    if val is not None:
        missing = (train == 0) & (val > 0)
        without_training = [names[index] for index in np.flatnonzero(missing)]
        if without_training:
            yield _untrained_finding(target, without_training, val[missing].sum() / val.sum())
    rare = [
        f"{name} ({count:,})"
        for name, count in zip(names, train, strict=True)
        if count < MIN_CLASS_ROWS and name not in without_training
    ]
    if rare:
        text = (
            f"{target}: {len(rare)} of {len(names)} classes have fewer than {MIN_CLASS_ROWS} "
            f"training rows: {list_names(rare)}"
        )
        yield Finding("warning", "classes with few rows", text, (target,), len(rare), RARE_EFFECT)
    if val is not None:
        unmeasured = [names[index] for index in np.flatnonzero((train > 0) & (val == 0))]
        if unmeasured:
            yield _unmeasured_finding(target, unmeasured)
    yield _balance_finding(target, names, train, val)


def _untrained_finding(target: str, names: list[str], share: float) -> Finding:
    """Report classes that cannot be predicted at all, in this share of the validation rows."""
    text = f"{target}: validation rows of {list_names(names)} have no training row of their class"
    effect = f"they count as wrong: {format_share(share)} of the validation rows"
    kind = "classes without training rows"
    return Finding("warning", kind, text, (target,), len(names), effect)


def _unmeasured_finding(target: str, names: list[str]) -> Finding:
    """Report classes that no score includes."""
    text = f"{target}: no validation row is of {list_names(names)}"
    effect = "no score says anything of these classes"
    kind = "classes without validation rows"
    return Finding("warning", kind, text, (target,), len(names), effect)


def _balance_finding(
    target: str, names: tuple[str, ...], train: np.ndarray, val: np.ndarray | None
) -> Finding:
    """Return the class counts, largest first; its severity depends on their imbalance."""
    order = np.argsort(-train, kind="stable")
    counts = [
        f"{names[index]} {train[index]:,}" + ("" if val is None else f" + {val[index]:,}")
        for index in order
    ]
    share = train.max() / max(1, train.sum())
    ratio = train.max() / max(1, train.min())
    rows = "training rows" if val is None else "training + validation rows"
    text = (
        f"{target}: {list_names(counts)} {rows}; "
        f"always predicting {names[order[0]]} is right on {format_share(share)}"
    )
    severity: Severity = (
        "warning" if ratio >= IMBALANCE_RATIOS[1] and share > MAJORITY_SHARE else "note"
    )
    effect = (
        ""
        if severity == "note"
        else "accuracy looks good where nothing was learned; compare with the baseline"
    )
    kind = "imbalance" if ratio >= IMBALANCE_RATIOS[0] else "class counts"
    return Finding(severity, kind, text, (target,), len(names), effect)


def _label_findings(
    target: str, names: tuple[str, ...], counts: np.ndarray, total: int
) -> Iterator[Finding]:
    names = names or tuple(map(str, range(len(counts))))
    rare = [
        f"{name} ({int(count):,})"
        for name, count in zip(names, counts, strict=True)
        if count < MIN_CLASS_ROWS
    ]
    if rare:
        text = (
            f"{target}: {len(rare)} of {len(names)} labels are set in fewer than "
            f"{MIN_CLASS_ROWS} training rows: {list_names(rare)}"
        )
        yield Finding("warning", "labels with few rows", text, (target,), len(rare), RARE_EFFECT)
    shares = [
        f"{names[index]} {format_share(counts[index] / total)}"
        for index in np.argsort(-counts, kind="stable")
    ]
    yield Finding(
        "note",
        "label counts",
        f"{target}: set in {list_names(shares)} of training rows",
        (target,),
        len(names),
    )


def _number_findings(target: str, values: np.ndarray) -> Iterator[Finding]:
    distinct, counts = np.unique(values, return_counts=True)
    yield from _clipping_findings(target, distinct, counts)
    yield from _repetition_findings(target, distinct, counts)
    deviation = values.std()
    # The third standardized moment; a constant target has none.
    skew = float((((values - values.mean()) / deviation) ** 3).mean()) if deviation else 0.0
    if abs(skew) > MAX_SKEW:
        text = (
            f"{target} is heavily skewed ({skew:.1f}): "
            "few rows with extreme values dominate its squared error"
        )
        yield Finding("note", "skew", text, (target,), len(values))
    text = (
        f"{target}: {distinct[0]:g} to {distinct[-1]:g}, mean {values.mean():.4g}, "
        f"standard deviation {deviation:.4g}"
    )
    yield Finding("note", "range", text, (target,), len(values))


def _repetition_findings(
    target: str, distinct: np.ndarray, counts: np.ndarray
) -> Iterator[Finding]:
    """Yield the most frequent value, where far more rows have it than its neighbors."""
    common, total = int(counts.argmax()), int(counts.sum())
    neighbor_counts = np.concatenate(
        [
            counts[max(0, common - NUM_NEIGHBORS) : common],
            counts[common + 1 : common + 1 + NUM_NEIGHBORS],
        ]
    )
    stands_out = (
        # Few distinct values are expected to repeat, and the ends of the range are judged above.
        len(distinct) > 2 * MIN_CLASS_ROWS
        and counts[common] >= PEAK_RATIO * neighbor_counts.max()
        and counts[common] / total > MIN_REPEATED_SHARE
        and common not in (0, len(distinct) - 1)
    )
    if stands_out:
        count, value = int(counts[common]), distinct[common]
        share = format_row_share(count, total, "rows")
        text = f"{share} have the very same {target}, {value:g}"
        right = format_share(count / total)
        effect = f"predicting {value:g} alone is exactly right on {right}; "
        effect += "if it stands for missing values, scores are about nothing there"
        yield Finding("warning", "one repeated value", text, (target,), count, effect)


def _clipping_findings(target: str, distinct: np.ndarray, counts: np.ndarray) -> Iterator[Finding]:
    """Yield the largest or smallest value, where far more rows have it than its neighbors."""
    # With few distinct values, many rows at an end are natural.
    if len(distinct) <= 2 * MIN_CLASS_ROWS:
        return
    for word, index, neighbor_counts in (
        ("largest", -1, counts[-1 - NUM_NEIGHBORS : -1]),
        ("smallest", 0, counts[1 : 1 + NUM_NEIGHBORS]),
    ):
        count, value = int(counts[index]), distinct[index]
        if (
            count < max(5, MIN_CAPPED_SHARE * counts.sum())
            or count < PEAK_RATIO * neighbor_counts.max()
        ):
            continue
        share = format_row_share(count, int(counts.sum()), "rows")
        text = f"{share} have the {word} {target}, {value:g}"
        # No rain, nothing sold: zero is a value of its own, not an edge.
        if value == 0:
            yield Finding("note", "many zeros", text, (target,), count)
            continue
        text += f": the target appears capped (censored) at {value:g}"
        capped = format_share(count / counts.sum())
        effect = f"errors on {capped} of the rows are measured against {value:g}, not the truth"
        yield Finding("warning", "capped target", text, (target,), count, effect)
