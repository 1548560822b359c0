"""The rows that things are shown of: held out, or training rows where none are; never a test row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlrun.core.dataset import Data, Source
from dlrun.core.errors import Refused, in_short
from dlrun.core.types import Batch, Field

LABELLED = ("category", "binary")


@dataclass(frozen=True)
class Held:
    """table: the rows. of: what a model reads of a batch. fields: the targets of the data. what: the rows in words."""

    table: Any
    of: Callable[[Batch], Tensor]
    fields: dict[str, Field]
    what: str

    MANY: ClassVar[int] = 5000  # rows are enough for a mean code

    def spread(self, count: int) -> Tensor:
        """The numbers of so many rows, or all, evenly spread."""
        there = len(self.table)
        return torch.linspace(0, there - 1, min(count, there)).round().long()

    def numbered(self, rows: list[int]) -> Tensor:
        """The same numbers as a tensor. Raises Refused for one that is not there."""
        if wrong := [row for row in rows if row >= len(self.table)]:
            raise Refused(f"row {wrong[0]}: there are {len(self.table):,} {self.what}, 0 to {len(self.table) - 1}")
        return torch.tensor(rows)

    def read(self, rows: Tensor) -> Tensor:
        """What a model reads of these rows."""
        return self.of(self.batch(rows))

    def batch(self, rows: Tensor) -> Batch:
        """These rows as one batch."""
        columns = self.table.columns.items()
        return {name: next(iter(column.batches(rows.to(column.place), len(rows)))) for name, column in columns}

    def groups(self, name: str, rows: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Which label each of these rows has, and what the labels are called."""
        field, column = self.fields[name], self.table.columns[name]
        values = next(iter(column.batches(rows.to(column.place), len(rows)))).reshape(-1)
        return values.long(), field.labels or tuple(map(str, range(field.size or 2)))

    def numbers(self, name: str, rows: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Which third of its values each of these rows has of a target that is a number, in its own unit."""
        column = self.table.columns[name]
        values = next(iter(column.batches(rows.to(column.place), len(rows)))).reshape(len(rows), -1)
        values = self.fields[name].own(values)[:, 0]
        low, high = values.quantile(torch.tensor([1 / 3, 2 / 3], device=values.device)).tolist()
        names = (f"{name} up to {low:.4g}", f"up to {high:.4g}", "above")
        return (values > low).long() + (values > high).long(), names


def held(data: Data, of: Callable[[Batch], Tensor]) -> Held:
    """The held-out rows, or the training rows where nothing is held out."""
    source: Source = data.train if data.val is None else data.val
    return Held(source, of, data.spec.targets, "training rows" if data.val is None else "held-out rows")


def target_of(fields: dict[str, Field], target: str) -> str:
    """The target whose labels are meant: the one that is named, or the first that has some. Raises Refused."""
    there = [name for name, field in fields.items() if field.kind in LABELLED]
    if (target and target not in there) or not there:
        named = f"target '{target}' has no labels" if target else "no target has labels"
        raise Refused(f"{named}; there are: {in_short(there) or 'none'}")
    return target or there[0]


def named_groups(
    rows_of: Held, target: str, rows: Tensor, *, numbers: bool = True
) -> tuple[Tensor, tuple[str, ...], str]:
    """The groups that points are coloured by, their names, and a word on what they are.

    By the labels of a target; by thirds of one that is a number, with `numbers`; else all are one group. Raises Refused
    for a target that is named and has no labels.
    """
    fields = rows_of.fields
    if target or any(field.kind in LABELLED for field in fields.values()):
        name = target_of(fields, target)
        return *rows_of.groups(name, rows), f" by '{name}'"
    known = [name for name, field in fields.items() if field.kind == "number"]
    if known and numbers:
        return *rows_of.numbers(known[0], rows), f" by thirds of '{known[0]}'"
    return torch.zeros(len(rows), dtype=torch.long), ("rows",), ""
