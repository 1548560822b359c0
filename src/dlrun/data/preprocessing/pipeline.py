"""From a dataset as found to what is trained on: every step is learnt on the training rows, and on no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.dataset import Column, Data, Preparation, Ragged, Raw, Rows, Windowed
from dlrun.core.errors import Refused, in_short
from dlrun.core.types import Field, Kind, Spec
from dlrun.data.images.image_column import Pictures
from dlrun.data.images.rotation_pretext import Turned
from dlrun.data.loading.images import Pixels, Streamed
from dlrun.data.loading.sequences import Sequences, Windows
from dlrun.data.loading.streaming import Paged, source_of
from dlrun.data.loading.table import Bag, Plain, Stored, Table
from dlrun.data.preprocessing.unseen_values import tell_new, tell_unlearnable, within_float32
from dlrun.data.shards.npz_column import Sharded

Steps = tuple[Preparation, ...]


def prepare(raw: Raw, train: np.ndarray, val: np.ndarray | None) -> Data:
    """Data whose statistics, vocabularies and priors come from the rows `train` of raw.dev.

    train, val: row indices, used in their order. Raises Refused when there is no training row, when a target is
    missing, or when all development rows are of one class.
    """
    _check(raw, train, val)
    tell_unlearnable(raw, train, val)
    learnt: dict[str, Steps] = {}
    columns: dict[str, Stored | Paged] = {}
    for name, kind in (raw.inputs | raw.targets).items():
        steps = tuple(step.beside(learnt) if hasattr(step, "beside") else step for step in raw.learn.get(name, ()))
        learnt[name], column = _learn_shared(raw, name, steps, train, learnt)
        columns[name] = _store(name, kind, column)
    inputs = {name: _field(raw, name, kind, columns[name], learnt[name]) for name, kind in raw.inputs.items()}
    targets = {name: _field(raw, name, kind, columns[name], learnt[name]) for name, kind in raw.targets.items()}
    data = Data(Spec(inputs, targets), source_of(columns), None, learnt)
    if val is None:
        return data
    held_out = {name: raw.dev[name][val] for name in columns}
    tell_new(raw, data, held_out, train, "validation rows")
    return Data(data.spec, data.train, apply(raw, data, held_out), learnt)


def apply(raw: Raw, data: Data, rows: Rows) -> Table:
    """Other rows, such as raw.test(), prepared with what was learnt. Rows without a target column go without it.

    Rows that are read file by file are a Stream, which has what callers ask of a Table.

    Raises Refused when an input is absent, when a target value is missing, or when a class is unknown.
    """
    absent = [name for name in raw.inputs if name not in rows]
    if absent:
        raise Refused(f"these rows lack the input column {', '.join(absent)}; they have: {in_short(rows, absent[0])}")
    columns: dict[str, Stored | Paged] = {}
    for name, kind in (raw.inputs | raw.targets).items():
        if name not in rows:
            continue
        if name in raw.targets:
            _check_target(name, rows[name])
        column = rows[name]
        for step in data.learnt[name]:
            column = _done(step, column)
        columns[name] = _store(name, kind, column)
    return source_of(columns)  # type: ignore[return-value]


def state(learnt: dict[str, Steps]) -> dict[str, list[dict[str, Any]]]:
    """What was learnt, as plain JSON values: column → its steps in order, each with its name."""
    return {name: [{"step": type(step).__name__, **step.state()} for step in steps] for name, steps in learnt.items()}


def _learn(steps: Steps, column: Column) -> tuple[Steps, Column]:
    fitted: list[Preparation] = []
    for step in steps:
        fitted.append(step.fit(column))
        column = _done(fitted[-1], column)
    return tuple(fitted), column


def _done(step: Preparation, column: Column) -> Column:
    """A column after a step: at once, or file by file whenever it is read."""
    return column.then(step) if isinstance(column, Sharded) else step(column)


def _learn_shared(
    raw: Raw, name: str, steps: Steps, train: np.ndarray, learnt: dict[str, Steps]
) -> tuple[Steps, Column]:
    """The same, learnt from the training rows of all columns that share the steps of this one."""
    group = next((group for group in raw.shared if name in group), None)
    if group is None:
        return _learn(steps, raw.dev[name][train])
    known = [learnt[other] for other in group if other in learnt]
    steps = known[0] if known else _learn(steps, np.concatenate([raw.dev[other][train] for other in group]))[0]
    column = raw.dev[name][train]
    for step in steps:
        column = step(column)
    return steps, column


def _store(name: str, kind: Kind, column: Column) -> Stored | Paged:
    if isinstance(column, Bag | Sequences):
        return column
    if isinstance(column, Windowed):
        dtype = np.int32 if kind == "tokens" else np.float32
        values = torch.from_numpy(np.require(column.values, dtype, ["C", "W"]))
        return Windows(values, torch.from_numpy(column.first), torch.from_numpy(column.offsets))
    if isinstance(column, Ragged):
        raise Refused(
            f"'{name}' has rows of different lengths: a column of kind {kind} needs a step that evens them out"
        )
    if isinstance(column, Sharded):
        return Paged(column, column.rows, kind)
    if isinstance(column, Turned):
        return Streamed(column, torch.from_numpy(column.rows))
    if isinstance(column, Pictures):
        kept, rows = column.store.values, torch.from_numpy(np.ascontiguousarray(column.rows))
        return Streamed(column, rows) if kept is None else Pixels(torch.from_numpy(kept), rows)
    if kind == "image" and column.dtype == np.uint8:
        return Pixels(torch.from_numpy(np.require(column, requirements=["C", "W"])))
    if kind in ("category", "tokens"):
        return Plain(torch.from_numpy(np.require(column, np.int64, ["C", "W"])))
    values = torch.from_numpy(np.require(within_float32(name, column), np.float32, ["C", "W"]))
    return Plain(values[:, None] if values.ndim == 1 else values)


def _field(raw: Raw, name: str, kind: Kind, column: Stored | Paged, steps: Steps) -> Field:
    learnt: tuple[str, ...] = getattr(steps[-1], "labels", ()) if steps else ()
    labels = raw.labels.get(name) or learnt
    if isinstance(column, Bag):
        return Field(kind, (column.width,), column.width, labels)
    if isinstance(column, Sequences):
        return Field(kind, column.shape, column.size, labels)
    if isinstance(column, Windows) and kind == "tokens":
        return Field(kind, column.shape, len(labels), labels, _shares(column, len(labels)))
    shape = column.shape
    if kind == "category":
        assert isinstance(column, Plain | Paged)
        size = len(labels) or 1 + int(column.values.max())
    else:
        size = shape[0] if kind == "multilabel" else 0
    named = shape[-1:] if kind == "series" else shape
    if kind in ("number", "series", "image") and labels and named != (len(labels),):
        labels = ()  # the steps have added columns that have no name
    median = None
    prior = getattr(steps[-1], "prior", None) if isinstance(column, Paged) and name in raw.targets else None
    if name in raw.targets and isinstance(column, Plain):
        prior = _prior(kind, column.values, size)
        median = _median(column.values) if kind in ("number", "fraction") else None
    shift, scale = getattr(steps[-1], "unscaled", (None, None)) if steps else (None, None)
    return Field(kind, shape, size, labels, prior, shift, scale, raw.outlook.get(name), median)


def _prior(kind: Kind, values: Tensor, size: int) -> Tensor:
    """Class frequencies, label frequencies, or the mean, over the training rows."""
    if kind == "category":
        return torch.bincount(values.reshape(-1), minlength=size).to(torch.float32) / values.numel()
    return values.to(torch.float64).mean(0).to(torch.float32)


def _median(values: Tensor) -> Tensor:
    return torch.from_numpy(np.median(values.numpy(), axis=0)).to(torch.float32)


def _shares(column: Windows, size: int) -> Tensor:
    """How often each token stands in the windows, as a share of all that stand there."""
    counts = torch.bincount(column.values, column.counts.double(), size)
    return (counts / counts.sum()).float()


def _check(raw: Raw, train: np.ndarray, val: np.ndarray | None) -> None:
    if not len(train) or (val is not None and not len(val)):
        held_out = 0 if val is None else len(val)
        raise Refused(f"{len(raw)} rows leave {len(train)} training and {held_out} validation rows: there are too few")
    for name, kind in raw.targets.items():
        _check_target(name, raw.dev[name])
        if isinstance(raw.dev[name], Sharded):
            continue  # its steps look at it while they learn
        if kind in ("binary", "category") and (raw.dev[name] == raw.dev[name][0]).all():
            raise Refused(f"target '{name}' has one class only, '{raw.dev[name][0]}', in all {len(raw)} rows")


def _check_target(name: str, column: Column) -> None:
    if isinstance(column, Windowed | Sharded):
        return  # of tokens, of which none is missing; or looked at whenever it is read
    if column.dtype.kind == "f":
        missing = ~np.isfinite(column)
    else:
        missing = column == "" if column.dtype.kind in "OU" else np.zeros(len(column), bool)
    rows = np.flatnonzero(missing.reshape(len(column), -1).any(axis=1))
    if len(rows):
        some = ", ".join(str(row + 1) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        raise Refused(f"target '{name}' is missing in {len(rows)} rows (number {some}): take them out, or fill them in")
