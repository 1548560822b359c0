"""Data of your own: what a dataset function may return, and how it becomes a Dataset.

`_target_` names a function (or class) whose arguments are settings. It returns one of:

- a `dlrun.core.dataset.Dataset`: `dev` has the columns of the rows for training and validation, as
  numpy arrays or tensors, `inputs` and `targets` say of which kind each column is, `test` is a
  function that reads the test rows;
- two arrays or tensors `(x, y)`: input and target of each row;
- a `torch.utils.data.Dataset` of pairs `(x, y)`, or of mappings of which `target`, `label` or `y`
  is the target;
- a pair of such datasets, of which the second holds the test rows.

Kinds that are not stated are inferred: of inputs, three axes are an image, other fractions are
numbers; of targets, whole numbers are classes (two: binary) and fractions are numbers.

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

from dlrun.config.custom_contract import describe_custom_error
from dlrun.core.dataset import Dataset, Preprocessor, RawColumns
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Kind

log = logging.getLogger("dlrun")
TARGET_NAMES = ("target", "label", "y")  # names of the target in items that are mappings
EXPECTED_RETURN = (
    "expected a dlrun.core.dataset.Dataset, a torch.utils.data.Dataset, or two arrays (x, y)"
)
KINDS: tuple[str, ...] = get_args(Kind)


def to_dataset(node: Mapping[str, Any], returned: Any) -> Dataset:
    """The dataset that your own function or class has returned, checked.

    Args:
        node: The node, whose `_target_` is named in messages.
        returned: What that returned.

    Raises:
        UserError: It is not one of the kinds above.
    """
    name = node["_target_"]
    if isinstance(returned, Dataset):
        return validate_dataset(name, tensors_to_arrays(returned))
    return validate_dataset(name, _infer_dataset(name, returned))


def tensors_to_arrays(dataset: Dataset) -> Dataset:
    """A copy with numpy arrays in place of tensors and lists."""
    read_test = dataset.test
    if read_test is None or not callable(read_test):  # refused by validate_dataset
        return replace(dataset, dev=_to_arrays(dataset.dev))
    return replace(dataset, dev=_to_arrays(dataset.dev), test=lambda: _to_arrays(read_test()))


def validate_dataset(name: str, dataset: Dataset) -> Dataset:
    """Check a dataset, and return it.

    Args:
        name: The function that made it, for messages.
        dataset: The dataset.

    Raises:
        UserError: Names the first thing that cannot be.
    """
    kinds = dataset.inputs | dataset.targets
    for column, kind in kinds.items():
        if column not in dataset.dev:
            raise UserError(
                f"{name}: '{column}' is not among the columns of dev: "
                f"{format_names(dataset.dev, column)}"
            )
        if kind not in KINDS:
            raise UserError(
                f"{name}: '{column}' is of kind {kind!r}; available: {', '.join(KINDS)}"
            )
    _check_lengths(name, dataset.dev)
    if not dataset.inputs or not dataset.targets:
        absent = "targets" if dataset.inputs else "inputs"
        raise UserError(f"{name}: no {absent} in its Dataset; expected {{name: kind}}")
    if dataset.test is not None and not callable(dataset.test):
        raise UserError(
            f"{name}: test is {type(dataset.test).__name__}; "
            "expected a function that returns the test rows: lambda: {…}"
        )
    for column, kind in kinds.items():
        _check_column(name, column, kind, dataset)
    return dataset


def _check_lengths(name: str, columns: RawColumns) -> None:
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{column} {length}" for column, length in lengths.items())
        raise UserError(f"{name}: the columns have different numbers of rows: {described}")


def _check_column(name: str, column: str, kind: str, dataset: Dataset) -> None:
    # Steps may make anything of a column: only one without steps must fit its kind.
    steps = dataset.preprocessors.get(column, ())
    for step in steps:
        if not isinstance(step, Preprocessor):
            raise UserError(
                f"{name}: a step of '{column}' is {_describe_type(step)}; "
                "expected a subclass of dlrun.core.dataset.Preprocessor"
            )
    if not steps and (problem := _find_kind_error(dataset.dev[column], kind)):
        raise UserError(f"{name}: '{column}' is of kind {kind}, {problem}")


def _find_kind_error(column: Any, kind: str) -> str:
    """What a column without steps lacks to be of its kind; '' if nothing."""
    if not isinstance(column, np.ndarray):
        return ""
    if column.dtype.kind not in "biuf":
        return f"and holds {column.dtype}; expected numbers"
    is_index = column.dtype.kind in "biu" and column.ndim == 1 and column.min(initial=0) >= 0
    if kind == "category" and not is_index:
        return (
            f"and is {column.dtype} {column.shape}; "
            "expected whole numbers from 0 up, one for each row"
        )
    if kind == "binary" and not np.isin(column, (0, 1)).all():
        return "and holds other numbers than 0 and 1"
    if kind == "image" and column.ndim != 4:
        return f"and has the shape {column.shape}; expected (rows, channels, height, width)"
    return ""


def _infer_dataset(name: str, returned: Any) -> Dataset:
    test = None
    is_pair = isinstance(returned, tuple | list) and len(returned) == 2
    if is_pair and isinstance(returned[0], TorchDataset):
        returned, test = returned
    dev = _to_columns(name, returned)
    target = _find_target(name, dev)
    labels = tuple(map(str, getattr(returned, "classes", ())))  # as torchvision's datasets have
    encode: Callable[[RawColumns], RawColumns] = lambda rows: rows  # noqa: E731
    # Class names become numbers here, for the classes of both parts must agree.
    if dev[target].dtype.kind in "OU":
        labels = tuple(sorted(set(dev[target].astype(str).tolist())))
        encode = partial(_encode_labels, name, target, labels)
    dev = encode(dev)
    kinds = {column: _infer_kind(values, column == target) for column, values in dev.items()}
    log.info(
        "%s: taken as %s", name, ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    )
    return Dataset(
        dev=dev,
        inputs={column: kind for column, kind in kinds.items() if column != target},
        targets={target: kinds[target]},
        preprocessors={},
        test=None if test is None else lambda: encode(_to_columns(name, test)),
        labels={target: labels} if labels and kinds[target] != "number" else {},
    )


def _find_target(name: str, dev: RawColumns) -> str:
    targets = [column for column in dev if column in TARGET_NAMES] or list(dev)[1:]
    if len(targets) != 1 or len(dev) < 2:
        raise UserError(
            f"{name}: items of {', '.join(dev) or 'nothing'}; which is the target? Call it target, "
            "label or y, or return a dlrun.core.dataset.Dataset"
        )
    return targets[0]


def _encode_labels(name: str, target: str, labels: tuple[str, ...], rows: RawColumns) -> RawColumns:
    """The same rows with indices in place of class names."""
    # Test rows are read late: an unknown class shows only then.
    names = rows[target].astype(str).tolist()
    if unknown := sorted(set(names) - set(labels)):
        raise UserError(
            f"{name}: '{unknown[0]}' is a class of the test rows alone; "
            f"the others: {', '.join(labels[:9])}"
        )
    return {**rows, target: np.array([labels.index(label) for label in names])}


def _to_columns(name: str, returned: Any) -> RawColumns:
    is_pair = isinstance(returned, tuple | list) and len(returned) == 2
    if is_pair and all(_is_array(values) for values in returned):
        return _to_arrays({"x": returned[0], "y": returned[1]})
    is_sized = isinstance(returned, TorchDataset) and hasattr(returned, "__len__")
    # Without a length there are no folds, and no epoch.
    if not is_sized or isinstance(returned, IterableDataset):
        raise UserError(f"{name} returns {_describe_type(returned)}; {EXPECTED_RETURN}")
    try:
        items = [returned[index] for index in range(len(returned))]
    except Exception as error:  # any: it is the user's code
        raise UserError(describe_custom_error(name, error)) from error
    if not items:
        raise UserError(f"{name}: the dataset has no rows")
    first = items[0]
    if isinstance(first, Mapping):
        return {str(key): _stack_items(name, str(key), [x[key] for x in items]) for key in first}
    if not isinstance(first, tuple | list) or len(first) != 2:
        raise UserError(
            f"{name}: an item is {_describe_type(first)}; "
            "expected a pair (x, y), or a mapping with a target"
        )
    return {
        key: _stack_items(name, key, [item[index] for item in items])
        for index, key in enumerate(("x", "y"))
    }


def _stack_items(name: str, column: str, values: Sequence[Any]) -> np.ndarray:
    arrays = [
        _image_to_array(value) if hasattr(value, "getbands") else np.asarray(value)
        for value in values
    ]
    shapes = list(dict.fromkeys(array.shape for array in arrays))
    if len(shapes) > 1:
        raise UserError(
            f"{name}: the items of '{column}' have different shapes: {shapes[0]} and {shapes[1]}; "
            "expected one shape"
        )
    return np.stack(arrays)


def _image_to_array(image: Any) -> np.ndarray:
    """A PIL image, channels first."""
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _infer_kind(values: np.ndarray, is_target: bool) -> Kind:
    is_whole = values.dtype.kind in "biu"
    if is_target:
        if is_whole and values.ndim == 1:
            return "binary" if set(np.unique(values)) == {0, 1} else "category"
        return "number"
    # The axis of the rows is one of them.
    if values.ndim == 4:
        return "image"
    if values.ndim == 3:
        return "series"
    return "tokens" if is_whole and values.ndim == 2 else "number"


def _to_arrays(rows: RawColumns) -> RawColumns:
    return {key: _to_array(value) for key, value in rows.items()}


def _to_array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value) if isinstance(value, list) else value


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _describe_type(value: Any) -> str:
    length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{length}"
