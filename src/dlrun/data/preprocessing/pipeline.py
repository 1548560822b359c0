"""From a dataset to prepared data: steps fitted on training rows alone, columns as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import (
    ColumnLike,
    Dataset,
    PreparedData,
    Preprocessor,
    RawColumn,
    RawColumns,
    SlidingWindows,
    Source,
    StoredColumn,
)
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Field, Kind, Spec
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.data.preprocessing.unseen_values import (
    clip_to_float32,
    warn_missing_classes,
    warn_new_values,
)


def store_column(name: str, kind: Kind, column: ColumnLike) -> StoredColumn:
    """Store a prepared column as tensors, without a copy where its type allows that.

    Args:
        name: The column's name, for messages.
        kind: What its values are.
        column: The column after its last step.

    Raises:
        UserError: Its rows still have different lengths.
    """
    if isinstance(column, StoredColumn):  # the last step has stored it
        return column
    if isinstance(column, SlidingWindows):
        return _store_windows(kind, column)
    if isinstance(column, RawColumn):
        return column.store(name, kind)
    # torch cannot share the memory of arrays that are read-only or not contiguous: "C", "W".
    if kind == "image" and column.dtype == np.uint8:
        from dlrun.data.loading.images import ImageColumn

        return ImageColumn(torch.from_numpy(np.require(column, requirements=["C", "W"])))
    if kind in ("category", "tokens"):
        return DenseColumn(torch.from_numpy(np.require(column, np.int64, ["C", "W"])))
    values = torch.from_numpy(np.require(clip_to_float32(name, column), np.float32, ["C", "W"]))
    return DenseColumn(values[:, None] if values.ndim == 1 else values)


def _store_windows(kind: Kind, column: SlidingWindows) -> StoredColumn:
    from dlrun.data.loading.sequences import WindowColumn

    # int32 halves the memory of a text; a batch becomes int64.
    dtype = np.int32 if kind == "tokens" else np.float32
    values = torch.from_numpy(np.require(column.values, dtype, ["C", "W"]))
    return WindowColumn(values, torch.from_numpy(column.first), torch.from_numpy(column.offsets))


def build_field(
    dataset: Dataset,
    name: str,
    kind: Kind,
    column: StoredColumn,
    steps: tuple[Preprocessor, ...],
) -> Field:
    """Describe a stored column to models: shape, size, names, and statistics of training rows.

    Args:
        dataset: The dataset that has the column.
        name: The column's name.
        kind: What its values are.
        column: Its prepared training rows.
        steps: Its fitted steps.
    """
    last = steps[-1] if steps else Preprocessor()
    # Names that the dataset states come before those of the last step.
    labels = dataset.labels.get(name) or last.labels
    shape = column.shape
    if column.num_ids:
        return Field(kind, shape, column.num_ids, labels)
    counts = column.count_tokens(len(labels)) if kind == "tokens" else None
    if counts is not None:
        return Field(kind, shape, len(labels), labels, (counts / counts.sum()).float())
    size = _count_classes(kind, column, labels)
    named_shape = shape[-1:] if kind == "series" else shape
    if kind in ("number", "series", "image") and labels and named_shape != (len(labels),):
        labels = ()  # the steps have added columns without a name
    median, target_prior = None, None
    if name in dataset.targets and column.reads_files:
        target_prior = last.prior  # no second pass over the files: the steps have counted
    if name in dataset.targets and isinstance(column, DenseColumn):
        target_prior = _compute_prior(kind, column.values, size)
        median = _compute_median(column.values) if kind in ("number", "fraction") else None
    shift, scale = last.shift_and_scale
    forecast = dataset.forecast.get(name)
    return Field(kind, shape, size, labels, target_prior, shift, scale, forecast, median)


def _count_classes(kind: Kind, column: StoredColumn, labels: tuple[str, ...]) -> int:
    if kind == "category":
        # Without names, the classes are numbered from 0 without a gap.
        return len(labels) or 1 + int(column.materialize().max())
    return column.shape[0] if kind == "multilabel" else 0


def _compute_prior(kind: Kind, values: Tensor, size: int) -> Tensor:
    """Class frequencies, label frequencies, or the mean, over the training rows."""
    if kind == "category":
        return torch.bincount(values.reshape(-1), minlength=size).to(torch.float32) / values.numel()
    return values.to(torch.float64).mean(0).to(torch.float32)


def _compute_median(values: Tensor) -> Tensor:
    return torch.from_numpy(np.median(values.numpy(), axis=0)).to(torch.float32)


Preprocessors = tuple[Preprocessor, ...]

# The name of each step in preparation/*.json, where earlier versions of dlrun look for it.
SAVED_NAMES = {
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
}


def prepare(dataset: Dataset, train: np.ndarray, val: np.ndarray | None) -> PreparedData:
    """Prepare a dataset with statistics, vocabularies and priors of its training rows.

    Args:
        dataset: The rows, and the unfitted steps of each column.
        train: Indices of the training rows in dataset.dev, used in their order.
        val: Indices of the validation rows; None for none.

    Raises:
        UserError: There is no training row, a target is missing, or all development rows are of
            one class.
    """
    _check_splits(dataset, train, val)
    warn_missing_classes(dataset, train, val)
    fitted: dict[str, Preprocessors] = {}
    columns: dict[str, StoredColumn] = {}
    # Inputs come first: a target may take over what was fitted on its input.
    for name, kind in (dataset.inputs | dataset.targets).items():
        unfitted = dataset.preprocessors.get(name, ())
        steps = tuple(step.with_fitted_inputs(fitted) for step in unfitted)
        fitted[name], column = _fit_shared_steps(dataset, name, steps, train, fitted)
        columns[name] = store_column(name, kind, column)
    inputs, targets = (
        {
            name: build_field(dataset, name, kind, columns[name], fitted[name])
            for name, kind in kinds.items()
        }
        for kinds in (dataset.inputs, dataset.targets)
    )
    data = PreparedData(Spec(inputs, targets), _make_source(columns), None, fitted)
    if val is None:
        return data
    # Validation rows go the way of any new rows: nothing is fitted on them.
    held_out = {name: dataset.dev[name][val] for name in columns}
    warn_new_values(dataset, data, held_out, train, "validation rows")
    return PreparedData(data.spec, data.train, transform_rows(dataset, data, held_out), fitted)


def transform_rows(dataset: Dataset, data: PreparedData, rows: RawColumns) -> Table:
    """Prepare other rows, such as dataset.test(), with what was fitted.

    Args:
        dataset: The dataset that was prepared.
        data: What `prepare` made of it.
        rows: Raw columns; rows without a target column stay without it.

    Returns:
        A table, or for rows that are read file by file a StreamingTable, which has what callers
        use of a Table.

    Raises:
        UserError: An input is absent, a target value is missing, or a class is unknown.
    """
    absent = [name for name in dataset.inputs if name not in rows]
    if absent:
        raise UserError(
            f"these rows lack the input column {', '.join(absent)}; "
            f"they have: {format_names(rows, absent[0])}"
        )
    columns: dict[str, StoredColumn] = {}
    for name, kind in (dataset.inputs | dataset.targets).items():
        if name not in rows:
            continue
        # Refused with the row's number rather than as NaN in the loss.
        if name in dataset.targets:
            _check_target(name, rows[name])
        column = rows[name]
        for step in data.preprocessors[name]:
            column = _apply_step(step, column)
        columns[name] = store_column(name, kind, column)
    return _make_source(columns)  # type: ignore[return-value]


def describe_preprocessing(fitted: dict[str, Preprocessors]) -> dict[str, list[dict[str, Any]]]:
    """What was fitted, as plain JSON values: column → its steps in order, each with its name."""
    return {
        name: [{"step": _get_saved_name(step), **step.state()} for step in steps]
        for name, steps in fitted.items()
    }


def _get_saved_name(step: Preprocessor) -> str:
    name = type(step).__name__
    return SAVED_NAMES.get(name, name)


def _fit_steps(steps: Preprocessors, column: ColumnLike) -> tuple[Preprocessors, ColumnLike]:
    fitted: list[Preprocessor] = []
    for step in steps:
        fitted.append(step.fit(column))
        column = _apply_step(fitted[-1], column)
    return tuple(fitted), column


def _apply_step(step: Preprocessor, column: ColumnLike) -> ColumnLike:
    """A column after a step: at once, or for shards whenever a file is read."""
    return column.apply(step) if isinstance(column, RawColumn) else step(column)


def _make_source(columns: dict[str, StoredColumn]) -> Source:
    if columns and all(column.reads_files for column in columns.values()):
        from dlrun.data.loading.streaming import StreamingTable

        return StreamingTable(columns)  # type: ignore[arg-type]
    return Table(columns)


def _fit_shared_steps(
    dataset: Dataset,
    name: str,
    steps: Preprocessors,
    train: np.ndarray,
    fitted: dict[str, Preprocessors],
) -> tuple[Preprocessors, ColumnLike]:
    """Fit on the training rows of all columns that share this one's steps, once for them all."""
    # Columns that share a vocabulary give the same word the same id.
    group = next((group for group in dataset.shared_vocabularies if name in group), None)
    if group is None:
        return _fit_steps(steps, dataset.dev[name][train])
    shared = next((fitted[column] for column in group if column in fitted), None)
    if shared is None:
        rows = np.concatenate([dataset.dev[column][train] for column in group])
        shared, _ = _fit_steps(steps, rows)
    column = dataset.dev[name][train]
    for step in shared:
        column = step(column)
    return shared, column


def _check_splits(dataset: Dataset, train: np.ndarray, val: np.ndarray | None) -> None:
    if not len(train) or (val is not None and not len(val)):
        held_out = 0 if val is None else len(val)
        raise UserError(
            f"{len(dataset)} rows leave {len(train)} training and {held_out} validation rows: "
            "there are too few"
        )
    for name, kind in dataset.targets.items():
        column = dataset.dev[name]
        _check_target(name, column)
        if isinstance(column, RawColumn):
            continue  # its steps check it while they are fitted
        if kind in ("binary", "category") and (column == column[0]).all():
            raise UserError(
                f"target '{name}' has one class only, '{column[0]}', in all {len(dataset)} rows"
            )


def _check_target(name: str, column: ColumnLike) -> None:
    if isinstance(column, RawColumn):
        return  # no token is missing; shards are checked whenever they are read
    if column.dtype.kind == "f":
        # Infinite targets are as useless as missing ones.
        missing = ~np.isfinite(column)
    elif column.dtype.kind in "OU":
        missing = column == ""
    else:
        return
    rows = np.flatnonzero(missing.reshape(len(column), -1).any(axis=1))
    if len(rows):
        examples = ", ".join(str(row + 1) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        raise UserError(
            f"target '{name}' is missing in {len(rows)} rows (number {examples}): "
            "take them out, or fill them in"
        )
