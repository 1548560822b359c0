"""Data of one's own: what a dataset function may return, and how that becomes a Raw.

The contract. `_target_` names a function (or class) whose arguments are settings. It returns one of:

- a `dlrun.core.dataset.Dataset`: `dev` has the columns of the rows for training and validation, as numpy arrays or tensors,
  `inputs` and `targets` say of which kind each column is, `test` is a function that reads the test rows;
- two arrays or tensors `(x, y)`: input and target of each row;
- a `torch.utils.data.Dataset` of pairs `(x, y)`, or of mappings of which `target`, `label` or `y` is the target;
- a pair of such datasets, of which the second holds the test rows.

Kinds that are not said are inferred: of inputs, three axes are an image, other fractions are numbers; of targets, whole
numbers are classes (two: binary) and fractions are numbers.

Example:
    def points(rows=200):
        x = torch.rand(rows, 2)
        return x, (x.sum(1) > 1).long()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from dlrun.config.custom_contract import describe_custom_error, is_custom
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Kind

log = logging.getLogger("dlrun")
TARGET_NAMES = ("target", "label", "y")  # what the target is called in items that are mappings
EXPECTED_RETURN = (
    "expected a dlrun.core.dataset.Dataset, a torch.utils.data.Dataset, or two arrays (x, y)"
)
KINDS: tuple[str, ...] = get_args(Kind)


def to_dataset(node: Mapping[str, Any], found: Any) -> Dataset:
    """The dataset that the target of a node has returned; one that is not dlrun's is looked at first."""
    if not is_custom(node["_target_"]):
        return found  # type: ignore[no-any-return]
    name = node["_target_"]
    if isinstance(found, Dataset):
        return validate_dataset(name, tensors_to_arrays(found))
    return validate_dataset(name, _infer_dataset(name, found))


def tensors_to_arrays(raw: Dataset) -> Dataset:
    """The same, with numpy arrays where there were tensors or lists."""
    test = raw.test
    later: Callable[[], RawColumns] | None = (
        None if test is None or not callable(test) else lambda: _to_arrays(test())
    )
    return replace(raw, dev=_to_arrays(raw.dev), test=later if callable(test) else test)


def validate_dataset(name: str, raw: Dataset) -> Dataset:
    """Raise UserError with the first thing in a dataset that cannot be."""
    for column, kind in (raw.inputs | raw.targets).items():
        if column not in raw.dev:
            raise UserError(
                f"{name}: '{column}' is not among the columns of dev: {format_names(raw.dev, column)}"
            )
        if kind not in KINDS:
            raise UserError(
                f"{name}: '{column}' is of kind {kind!r}; available: {', '.join(KINDS)}"
            )
    lengths = {column: len(values) for column, values in raw.dev.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{column} {length}" for column, length in lengths.items())
        raise UserError(f"{name}: the columns have different numbers of rows: {told}")
    if not raw.inputs or not raw.targets:
        raise UserError(
            f"{name}: no {'targets' if raw.inputs else 'inputs'} in its Raw; expected {{name: kind}}"
        )
    if raw.test is not None and not callable(raw.test):
        raise UserError(f"{name}: test is {type(raw.test).__name__}; expected a function that returns the test "
                      "rows: lambda: {…}")  # fmt: skip
    for column, kind in (raw.inputs | raw.targets).items():
        if not raw.preprocessors.get(column) and (fault := _find_kind_error(raw.dev[column], kind)):
            raise UserError(f"{name}: '{column}' is of kind {kind}, {fault}")
    return raw


def _find_kind_error(column: Any, kind: str) -> str:
    if not isinstance(column, np.ndarray):
        return ""
    if column.dtype.kind not in "biuf":
        return f"and holds {column.dtype}; expected numbers"
    if kind == "category" and (
        column.dtype.kind not in "biu" or column.ndim != 1 or column.min(initial=0) < 0
    ):
        return f"and is {column.dtype} {column.shape}; expected whole numbers from 0 up, one for each row"
    if kind == "binary" and not np.isin(column, (0, 1)).all():
        return "and holds other numbers than 0 and 1"
    if kind == "image" and column.ndim != 4:
        return f"and has the shape {column.shape}; expected (rows, channels, height, width)"
    return ""


def _infer_dataset(name: str, found: Any) -> Dataset:
    test = None
    if isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[0], TorchDataset):
        found, test = found
    dev = _to_columns(name, found)
    targets = [column for column in dev if column in TARGET_NAMES] or list(dev)[1:]
    if len(targets) != 1 or len(dev) < 2:
        raise UserError(f"{name}: items of {', '.join(dev) or 'nothing'}; which is the target? Call it target, label or "
                      "y, or return a dlrun.core.dataset.Dataset")  # fmt: skip
    labels = tuple(map(str, getattr(found, "classes", ())))
    if named := dev[targets[0]].dtype.kind in "OU":
        labels = tuple(sorted(set(dev[targets[0]].astype(str).tolist())))
    read = partial(_encode_labels, name, targets[0], labels) if named else lambda rows: rows
    dev = read(dev)
    kinds = {column: _infer_kind(values, column in targets) for column, values in dev.items()}
    raw = Dataset(
        dev=dev,
        inputs={column: kind for column, kind in kinds.items() if column not in targets},
        targets={column: kinds[column] for column in targets},
        preprocessors={},
        test=None if test is None else lambda: read(_to_columns(name, test)),
        labels={targets[0]: labels} if labels and kinds[targets[0]] != "number" else {},
    )
    log.info(
        "%s: taken as %s", name, ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    )
    return raw


def _encode_labels(name: str, target: str, labels: tuple[str, ...], rows: RawColumns) -> RawColumns:
    """The same rows with numbers for the names of classes."""
    texts = rows[target].astype(str).tolist()
    if strange := sorted(set(texts) - set(labels)):
        raise UserError(
            f"{name}: '{strange[0]}' is a class of the test rows alone; the others: {', '.join(labels[:9])}"
        )
    return {**rows, target: np.array([labels.index(text) for text in texts])}


def _to_columns(name: str, found: Any) -> RawColumns:
    if (
        isinstance(found, tuple | list)
        and len(found) == 2
        and all(_is_array(each) for each in found)
    ):
        return _to_arrays({"x": found[0], "y": found[1]})
    if (
        isinstance(found, IterableDataset)
        or not isinstance(found, TorchDataset)
        or not hasattr(found, "__len__")
    ):
        raise UserError(f"{name} returns {_describe_type(found)}; {EXPECTED_RETURN}")
    try:
        items = [found[index] for index in range(len(found))]  # type: ignore[arg-type]
    except Exception as error:
        raise UserError(describe_custom_error(name, error)) from error
    if not items:
        raise UserError(f"{name}: the dataset has no rows")
    first = items[0]
    if isinstance(first, Mapping):
        return {
            str(key): _stack_items(name, str(key), [item[key] for item in items]) for key in first
        }
    if not isinstance(first, tuple | list) or len(first) != 2:
        raise UserError(
            f"{name}: an item is {_describe_type(first)}; expected a pair (x, y), or a mapping with a target"
        )
    return {
        key: _stack_items(name, key, [item[at] for item in items])
        for at, key in enumerate(("x", "y"))
    }


def _stack_items(name: str, column: str, values: Sequence[Any]) -> np.ndarray:
    arrays = [
        _image_to_array(value) if hasattr(value, "getbands") else np.asarray(value)
        for value in values
    ]
    if len({each.shape for each in arrays}) > 1:
        shapes = " and ".join(
            str(shape) for shape in list(dict.fromkeys(each.shape for each in arrays))[:2]
        )
        raise UserError(
            f"{name}: the items of '{column}' have different shapes: {shapes}; expected one shape"
        )
    return np.stack(arrays)


def _image_to_array(picture: Any) -> np.ndarray:
    """A PIL image, channels first."""
    values = np.asarray(picture)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _infer_kind(values: np.ndarray, target: bool) -> Kind:
    whole = values.dtype.kind in "biu"
    if target:
        if whole and values.ndim == 1:
            return "binary" if set(np.unique(values)) == {0, 1} else "category"
        return "number"
    if values.ndim == 4:
        return "image"
    if values.ndim == 3:
        return "series"
    return "tokens" if whole and values.ndim == 2 else "number"


def _to_arrays(rows: RawColumns) -> RawColumns:
    plain = lambda value: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value  # noqa: E731
    return {
        key: np.asarray(value) if isinstance(value, list) else plain(value)
        for key, value in rows.items()
    }


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _describe_type(value: Any) -> str:
    return f"a {type(value).__name__}" + (
        f" of {len(value)}" if isinstance(value, tuple | list) else ""
    )
