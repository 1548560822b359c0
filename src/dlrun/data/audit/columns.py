"""Audit of single input columns: constant, missing, row names, not scaled, not finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Dataset, SlidingWindows
from dlrun.data.audit.finding import (
    Finding,
    InputColumn,
    Severity,
    format_row_share,
    format_share,
    list_input_columns,
    list_names,
)

MOSTLY_MISSING = 0.5
MOSTLY_UNIQUE = 0.9
MAX_SCALE = 10.0  # weights are initialized for inputs of about 1
CONSTANT_EFFECT = (
    "their other values stand in held-out rows alone, where the model cannot know them"
)
MISSING_EFFECT = "most of what the model sees of them is imputed; no score is inflated by that"
SCALE_EFFECT = (
    "networks learn slowly or not at all, so their scores come out too low; scale these columns"
)


def iter_column_findings(dataset: Dataset, train: np.ndarray) -> Iterator[Finding]:
    """Yield what is wrong with single columns, and with numbers as the model will see them.

    Args:
        dataset: The dataset; only its training + validation rows are read.
        train: Indices of the training rows.
    """
    columns = list_input_columns(dataset)
    yield from _find_constant(columns, train)
    yield from _find_missing(columns, len(dataset))
    yield from _find_unique_columns(columns, len(dataset))
    for name, kind in dataset.inputs.items():
        column = dataset.dev[name]
        # Images of whole numbers are scaled to 0..1 in any case.
        is_float_image = kind == "image" and column.dtype.kind == "f"
        if kind in ("number", "fraction", "series") or is_float_image:
            labels = dataset.labels.get(name, ()) if kind in ("number", "series") else ()
            yield from _find_non_finite(dataset, name, labels, train)


def _find_constant(columns: list[InputColumn], train: np.ndarray) -> Iterator[Finding]:
    constant = [column for column in columns if _count_values(column, train) <= 1]
    in_training_only = [column.name for column in constant if _count_values(column) > 1]
    everywhere = [column.name for column in constant if column.name not in in_training_only]
    if in_training_only:
        yield Finding(
            "warning",
            "constant columns",
            _describe_constant(in_training_only, train),
            tuple(in_training_only),
            len(in_training_only),
            CONSTANT_EFFECT,
        )
    if everywhere:
        text = f"{_describe_constant(everywhere, train)}: nothing can be learned from it"
        yield Finding("note", "constant columns", text, tuple(everywhere), len(everywhere))


def _count_values(column: InputColumn, rows: np.ndarray | slice = slice(None)) -> int:
    """Return how many different values some rows have, without missing ones."""
    return len(np.unique(column.codes[rows][~column.missing[rows]]))


def _describe_constant(names: list[str], train: np.ndarray) -> str:
    verb = "has the same value" if len(names) == 1 else "have the same value each"
    return f"{list_names(names)} {verb} in all {len(train):,} training rows"


def _find_missing(columns: list[InputColumn], total: int) -> Iterator[Finding]:
    shares = {
        column.name: float(column.missing.mean()) for column in columns if column.missing.any()
    }
    shares = dict(sorted(shares.items(), key=lambda pair: -pair[1]))
    bands: tuple[tuple[Severity, str, float, float], ...] = (
        ("warning", "mostly missing columns", MOSTLY_MISSING, 1.0),
        ("note", "missing values", 0.0, MOSTLY_MISSING),
    )
    for severity, kind, low, high in bands:
        selected = {name: share for name, share in shares.items() if low < share <= high}
        if selected:
            listed = list_names(
                [f"{name} in {format_share(share)}" for name, share in selected.items()]
            )
            text = f"missing: {listed} of the {total:,} development rows"
            effect = "" if severity == "note" else MISSING_EFFECT
            yield Finding(severity, kind, text, tuple(selected), len(selected), effect)


def _find_unique_columns(columns: list[InputColumn], total: int) -> Iterator[Finding]:
    """Yield text columns of which nearly every row has another value, as names have."""
    for column in columns:
        # Numbers may all differ; a text that differs in nearly every row is a name.
        levels = 0 if column.is_number else len(np.unique(column.codes[~column.missing]))
        if levels > MOSTLY_UNIQUE * total:
            text = f"{column.name} has {levels:,} different values in {total:,} rows: it names rows"
            effect = (
                "new rows have other names, so it helps training rows alone; "
                f"data.drop=[{column.name}]"
            )
            yield Finding("warning", "a column of names", text, (column.name,), levels, effect)


def _find_non_finite(
    dataset: Dataset, name: str, labels: tuple[str, ...], train: np.ndarray
) -> Iterator[Finding]:
    """Yield what is wrong with a number column as the model gets it: infinity, scale."""
    column = dataset.dev[name][train]
    # What becomes infinite is a finding below, not a warning of numpy's.
    with np.errstate(invalid="ignore", over="ignore"):
        # Fitted on training rows alone, as the run will do it.
        for step in dataset.preprocessors.get(name, ()):
            column = step.fit(column)(column)
    values = np.asarray(
        column.unique_rows() if isinstance(column, SlidingWindows) else column, np.float64
    )
    values = values.reshape(
        -1, values.shape[-1] if values.ndim > 1 and dataset.inputs[name] != "image" else 1
    )
    names = _name_columns(name, labels, values.shape[1])
    non_finite = ~np.isfinite(values)
    if non_finite.any():
        affected = [names[index] for index in np.flatnonzero(non_finite.any(0))]
        count = int(non_finite.any(1).sum())
        share = format_row_share(count, len(values), "training rows")
        text = f"{share} hold nan or infinity after preparation, in {list_names(affected)}"
        effect = "the loss will be nan, and training ends"
        yield Finding("warning", "not finite", text, tuple(affected), count, effect)
    # Constant columns have a finding of their own, and no spread to compare.
    varying = np.ptp(np.where(non_finite, 0, values), axis=0) > 0
    yield from _check_scales(names, values, ~non_finite.any(0) & varying)


def _name_columns(name: str, labels: tuple[str, ...], width: int) -> list[str]:
    """Return a name for each number of a row: those without a label are numbered."""
    names = [str(label) for label in labels] if 0 < len(labels) <= width else []
    return names + [f"{name}[{i}]" if width > 1 else name for i in range(len(names), width)]


def _check_scales(names: list[str], values: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    usable_names = [name for name, is_usable in zip(names, usable, strict=True) if is_usable]
    values = values[:, usable]
    if not usable_names:
        return
    spread, width = values.std(0), np.ptp(values, axis=0)
    far = (np.abs(values.mean(0)) > MAX_SCALE) | (spread > MAX_SCALE)
    if far.any():
        far_names = [usable_names[index] for index in np.flatnonzero(far)]
        low, high = values[:, far].min(), values[:, far].max()
        text = (
            f"{len(far_names):,} of {len(usable_names):,} number columns reach the model far from "
            f"0 ({low:g} to {high:g}): {list_names(far_names)}"
        )
        count = len(far_names)
        yield Finding("warning", "unscaled inputs", text, tuple(far_names), count, SCALE_EFFECT)
    elif min(spread.max() / spread.min(), width.max() / width.min()) > MAX_SCALE:
        large, small = usable_names[int(spread.argmax())], usable_names[int(spread.argmin())]
        ratio = spread.max() / spread.min()
        text = (
            f"number columns differ in scale: {large} varies {ratio:,.0f} times as much as {small}"
        )
        yield Finding(
            "warning", "unscaled inputs", text, (large, small), len(usable_names), SCALE_EFFECT
        )
