"""The rows of which samples are shown: held out, or training rows; never test rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlrun.core.dataset import PreparedData, Source
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Batch, Field

LABELED_KINDS = ("category", "binary")


@dataclass(frozen=True)
class DisplayRows:
    """Rows of a table, by number.

    Attributes:
        table: The rows.
        read_inputs: Batch → what the model reads of it (B, …).
        fields: The targets of the data.
        description: The rows in words.
    """

    table: Any
    read_inputs: Callable[[Batch], Tensor]
    fields: dict[str, Field]
    description: str

    MAX_ROWS: ClassVar[int] = 5000  # enough for a mean code

    def pick_evenly(self, count: int) -> Tensor:
        """The numbers of so many rows, or all, evenly spread."""
        num_rows = len(self.table)
        return torch.linspace(0, num_rows - 1, min(count, num_rows)).round().long()

    def to_indices(self, rows: list[int]) -> Tensor:
        """The same numbers as a tensor.

        Raises:
            UserError: for one that is not there.
        """
        if wrong := [row for row in rows if row >= len(self.table)]:
            last = len(self.table) - 1
            raise UserError(
                f"row {wrong[0]}: there are {len(self.table):,} {self.description}, 0 to {last}"
            )
        return torch.tensor(rows)

    def get_inputs(self, rows: Tensor) -> Tensor:
        """What a model reads of these rows."""
        return self.read_inputs(self.get_batch(rows))

    def get_batch(self, rows: Tensor) -> Batch:
        """These rows as one batch."""
        columns = self.table.columns.items()
        return {
            name: next(iter(column.batches(rows.to(column.device), len(rows))))
            for name, column in columns
        }

    def get_label_groups(self, name: str, rows: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Which label each of these rows has, and what the labels are called."""
        field, column = self.fields[name], self.table.columns[name]
        values = next(iter(column.batches(rows.to(column.device), len(rows)))).reshape(-1)
        return values.long(), field.labels or tuple(map(str, range(field.size or 2)))

    def get_value_groups(self, name: str, rows: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Which third of a number target each of these rows is in, and the thirds in its unit."""
        column = self.table.columns[name]
        values = next(iter(column.batches(rows.to(column.device), len(rows)))).reshape(
            len(rows), -1
        )
        # Of a target with several numbers, the first one.
        values = self.fields[name].to_original_units(values)[:, 0]
        low, high = values.quantile(torch.tensor([1 / 3, 2 / 3], device=values.device)).tolist()
        names = (f"{name} up to {low:.4g}", f"up to {high:.4g}", "above")
        return (values > low).long() + (values > high).long(), names


def get_display_rows(data: PreparedData, read_inputs: Callable[[Batch], Tensor]) -> DisplayRows:
    """The held-out rows, or the training rows where nothing is held out."""
    source: Source = data.train if data.val is None else data.val
    return DisplayRows(
        source,
        read_inputs,
        data.spec.targets,
        "training rows" if data.val is None else "held-out rows",
    )


def find_target_with_labels(fields: dict[str, Field], target: str) -> str:
    """The target that is named, or the first that has labels.

    Raises:
        UserError: if it has none.
    """
    labeled = [name for name, field in fields.items() if field.kind in LABELED_KINDS]
    if (target and target not in labeled) or not labeled:
        named = f"target '{target}' has no labels" if target else "no target has labels"
        raise UserError(f"{named}; there are: {format_names(labeled) or 'none'}")
    return target or labeled[0]


def build_point_groups(
    display: DisplayRows, target: str, rows: Tensor, *, numbers: bool = True
) -> tuple[Tensor, tuple[str, ...], str]:
    """The groups that points are colored by: the labels of a target, thirds of a number, or one
    group.

    Args:
        display: Where the rows are.
        target: Whose labels; '' for the first target that has some.
        rows: Numbers of the rows (N,).
        numbers: Whether thirds of a number target may be groups.

    Returns:
        The group of each row (N,), the names of the groups, and a phrase on what they are.

    Raises:
        UserError: if a target is named that has no labels.
    """
    fields = display.fields
    if target or any(field.kind in LABELED_KINDS for field in fields.values()):
        name = find_target_with_labels(fields, target)
        return *display.get_label_groups(name, rows), f" by '{name}'"
    numeric = [name for name, field in fields.items() if field.kind == "number"]
    if numeric and numbers:
        return *display.get_value_groups(numeric[0], rows), f" by thirds of '{numeric[0]}'"
    return torch.zeros(len(rows), dtype=torch.long), ("rows",), ""
