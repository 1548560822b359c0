"""Stores prepared columns as tensors, and describes each by a field."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import (
    ColumnLike,
    Dataset,
    Preprocessor,
    RawColumn,
    SlidingWindows,
    StoredColumn,
)
from dlrun.core.types import Field, Kind
from dlrun.data.loading.table import DenseColumn
from dlrun.data.preprocessing.unseen_values import clip_to_float32


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
