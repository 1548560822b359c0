"""From a dataset as found to what is trained on: every step is learnt on the training rows, and on no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import (
    Dataset,
    PreparedData,
    Preprocessor,
    Ragged,
    RawColumn,
    RawColumns,
    SlidingWindows,
)
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Field, Kind, Spec
from dlrun.data.images.image_column import ImageFileColumn
from dlrun.data.images.rotation_pretext import RotatedImages
from dlrun.data.loading.images import ImageColumn, LazyImageColumn
from dlrun.data.loading.sequences import SequenceColumn, WindowColumn
from dlrun.data.loading.streaming import ShardedColumn, make_source
from dlrun.data.loading.table import DenseColumn, SparseCounts, StoredColumn, Table
from dlrun.data.preprocessing.unseen_values import (
    clip_to_float32,
    warn_missing_classes,
    warn_new_values,
)
from dlrun.data.shards.npz_column import ShardedArray

Preprocessors = tuple[Preprocessor, ...]

SAVED_NAMES = {  # step → what it is called in preparation/*.json, where earlier versions of dlrun look for it
    "StandardScaler": "Standardise",
    "MinMaxScaler": "Unit",
    "SimpleImputer": "Impute",
    "OrdinalEncoder": "Categories",
    "KBinsDiscretizer": "Bins",
    "LabelEncoder": "Labels",
    "BagOfWords": "Bagged",
    "HashedBagOfWords": "Hashed",
    "TokenSequence": "Numbered",
    "PaddedSequence": "Padded",
    "TokenEncoder": "Tokens",
    "SeriesScaler": "StandardiseSeries",
    "TargetScaler": "StandardiseTarget",
    "StreamingLabelEncoder": "Counted",
    "StreamingScaler": "Spread",
    "BinaryTarget": "Yes",
    "IdentityTarget": "Mean",
    "TokenUnit": "Unit",
}


def prepare(raw: Dataset, train: np.ndarray, val: np.ndarray | None) -> PreparedData:
    """Data whose statistics, vocabularies and priors come from the rows `train` of raw.dev.

    train, val: row indices, used in their order. Raises UserError when there is no training row, when a target is
    missing, or when all development rows are of one class.
    """
    _check_splits(raw, train, val)
    warn_missing_classes(raw, train, val)
    learnt: dict[str, Preprocessors] = {}
    columns: dict[str, StoredColumn | ShardedColumn] = {}
    for name, kind in (raw.inputs | raw.targets).items():
        steps = tuple(
            step.with_fitted_inputs(learnt) if hasattr(step, "with_fitted_inputs") else step
            for step in raw.preprocessors.get(name, ())
        )
        learnt[name], column = _fit_shared_steps(raw, name, steps, train, learnt)
        columns[name] = _store_column(name, kind, column)
    inputs = {
        name: _build_field(raw, name, kind, columns[name], learnt[name])
        for name, kind in raw.inputs.items()
    }
    targets = {
        name: _build_field(raw, name, kind, columns[name], learnt[name])
        for name, kind in raw.targets.items()
    }
    data = PreparedData(Spec(inputs, targets), make_source(columns), None, learnt)
    if val is None:
        return data
    held_out = {name: raw.dev[name][val] for name in columns}
    warn_new_values(raw, data, held_out, train, "validation rows")
    return PreparedData(data.spec, data.train, transform_rows(raw, data, held_out), learnt)


def transform_rows(raw: Dataset, data: PreparedData, rows: RawColumns) -> Table:
    """Other rows, such as raw.test(), prepared with what was learnt. Rows without a target column go without it.

    Rows that are read file by file are a Stream, which has what callers ask of a Table.

    Raises UserError when an input is absent, when a target value is missing, or when a class is unknown.
    """
    absent = [name for name in raw.inputs if name not in rows]
    if absent:
        raise UserError(
            f"these rows lack the input column {', '.join(absent)}; they have: {format_names(rows, absent[0])}"
        )
    columns: dict[str, StoredColumn | ShardedColumn] = {}
    for name, kind in (raw.inputs | raw.targets).items():
        if name not in rows:
            continue
        if name in raw.targets:
            _check_target(name, rows[name])
        column = rows[name]
        for step in data.preprocessors[name]:
            column = _apply_step(step, column)
        columns[name] = _store_column(name, kind, column)
    return make_source(columns)  # type: ignore[return-value]


def describe_preprocessing(learnt: dict[str, Preprocessors]) -> dict[str, list[dict[str, Any]]]:
    """What was learnt, as plain JSON values: column → its steps in order, each with its name."""
    return {
        name: [{"step": _get_saved_name(step), **step.state()} for step in steps]
        for name, steps in learnt.items()
    }


def _get_saved_name(step: Preprocessor) -> str:
    name = type(step).__name__
    return SAVED_NAMES.get(name, name)


def _fit_steps(steps: Preprocessors, column: RawColumn) -> tuple[Preprocessors, RawColumn]:
    fitted: list[Preprocessor] = []
    for step in steps:
        fitted.append(step.fit(column))
        column = _apply_step(fitted[-1], column)
    return tuple(fitted), column


def _apply_step(step: Preprocessor, column: RawColumn) -> RawColumn:
    """A column after a step: at once, or file by file whenever it is read."""
    return column.with_step(step) if isinstance(column, ShardedArray) else step(column)


def _fit_shared_steps(
    raw: Dataset,
    name: str,
    steps: Preprocessors,
    train: np.ndarray,
    learnt: dict[str, Preprocessors],
) -> tuple[Preprocessors, RawColumn]:
    """The same, learnt from the training rows of all columns that share the steps of this one."""
    group = next((group for group in raw.shared_vocabularies if name in group), None)
    if group is None:
        return _fit_steps(steps, raw.dev[name][train])
    known = [learnt[other] for other in group if other in learnt]
    steps = (
        known[0]
        if known
        else _fit_steps(steps, np.concatenate([raw.dev[other][train] for other in group]))[0]
    )
    column = raw.dev[name][train]
    for step in steps:
        column = step(column)
    return steps, column


def _store_column(name: str, kind: Kind, column: RawColumn) -> StoredColumn | ShardedColumn:
    if isinstance(column, SparseCounts | SequenceColumn):
        return column
    if isinstance(column, SlidingWindows):
        dtype = np.int32 if kind == "tokens" else np.float32
        values = torch.from_numpy(np.require(column.values, dtype, ["C", "W"]))
        return WindowColumn(
            values, torch.from_numpy(column.first), torch.from_numpy(column.offsets)
        )
    if isinstance(column, Ragged):
        raise UserError(
            f"'{name}' has rows of different lengths: a column of kind {kind} needs a step that evens them out"
        )
    if isinstance(column, ShardedArray):
        return ShardedColumn(column, column.rows, kind)
    if isinstance(column, RotatedImages):
        return LazyImageColumn(column, torch.from_numpy(column.rows))
    if isinstance(column, ImageFileColumn):
        kept, rows = column.store.pixels, torch.from_numpy(np.ascontiguousarray(column.rows))
        return (
            LazyImageColumn(column, rows)
            if kept is None
            else ImageColumn(torch.from_numpy(kept), rows)
        )
    if kind == "image" and column.dtype == np.uint8:
        return ImageColumn(torch.from_numpy(np.require(column, requirements=["C", "W"])))
    if kind in ("category", "tokens"):
        return DenseColumn(torch.from_numpy(np.require(column, np.int64, ["C", "W"])))
    values = torch.from_numpy(np.require(clip_to_float32(name, column), np.float32, ["C", "W"]))
    return DenseColumn(values[:, None] if values.ndim == 1 else values)


def _build_field(
    raw: Dataset, name: str, kind: Kind, column: StoredColumn | ShardedColumn, steps: Preprocessors
) -> Field:
    learnt: tuple[str, ...] = getattr(steps[-1], "labels", ()) if steps else ()
    labels = raw.labels.get(name) or learnt
    if isinstance(column, SparseCounts):
        return Field(kind, (column.width,), column.width, labels)
    if isinstance(column, SequenceColumn):
        return Field(kind, column.shape, column.size, labels)
    if isinstance(column, WindowColumn) and kind == "tokens":
        return Field(
            kind, column.shape, len(labels), labels, _compute_token_prior(column, len(labels))
        )
    shape = column.shape
    if kind == "category":
        assert isinstance(column, DenseColumn | ShardedColumn)
        size = len(labels) or 1 + int(column.values.max())
    else:
        size = shape[0] if kind == "multilabel" else 0
    named = shape[-1:] if kind == "series" else shape
    if kind in ("number", "series", "image") and labels and named != (len(labels),):
        labels = ()  # the steps have added columns that have no name
    median = None
    prior = (
        getattr(steps[-1], "prior", None)
        if isinstance(column, ShardedColumn) and name in raw.targets
        else None
    )
    if name in raw.targets and isinstance(column, DenseColumn):
        prior = _compute_prior(kind, column.values, size)
        median = _compute_median(column.values) if kind in ("number", "fraction") else None
    shift, scale = getattr(steps[-1], "shift_and_scale", (None, None)) if steps else (None, None)
    return Field(kind, shape, size, labels, prior, shift, scale, raw.forecast.get(name), median)


def _compute_prior(kind: Kind, values: Tensor, size: int) -> Tensor:
    """Class frequencies, label frequencies, or the mean, over the training rows."""
    if kind == "category":
        return torch.bincount(values.reshape(-1), minlength=size).to(torch.float32) / values.numel()
    return values.to(torch.float64).mean(0).to(torch.float32)


def _compute_median(values: Tensor) -> Tensor:
    return torch.from_numpy(np.median(values.numpy(), axis=0)).to(torch.float32)


def _compute_token_prior(column: WindowColumn, size: int) -> Tensor:
    """How often each token stands in the windows, as a share of all that stand there."""
    counts = torch.bincount(column.values, column.counts.double(), size)
    return (counts / counts.sum()).float()


def _check_splits(raw: Dataset, train: np.ndarray, val: np.ndarray | None) -> None:
    if not len(train) or (val is not None and not len(val)):
        held_out = 0 if val is None else len(val)
        raise UserError(
            f"{len(raw)} rows leave {len(train)} training and {held_out} validation rows: there are too few"
        )
    for name, kind in raw.targets.items():
        _check_target(name, raw.dev[name])
        if isinstance(raw.dev[name], ShardedArray):
            continue  # its steps look at it while they learn
        if kind in ("binary", "category") and (raw.dev[name] == raw.dev[name][0]).all():
            raise UserError(
                f"target '{name}' has one class only, '{raw.dev[name][0]}', in all {len(raw)} rows"
            )


def _check_target(name: str, column: RawColumn) -> None:
    if isinstance(column, SlidingWindows | ShardedArray):
        return  # of tokens, of which none is missing; or looked at whenever it is read
    if column.dtype.kind == "f":
        missing = ~np.isfinite(column)
    else:
        missing = column == "" if column.dtype.kind in "OU" else np.zeros(len(column), bool)
    rows = np.flatnonzero(missing.reshape(len(column), -1).any(axis=1))
    if len(rows):
        some = ", ".join(str(row + 1) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        raise UserError(
            f"target '{name}' is missing in {len(rows)} rows (number {some}): take them out, or fill them in"
        )
