"""Layers of several models at once.

Weights and activations have the members on their first axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.types import Batch
from dlrun.models.layers import InputProjection, SafeModuleDict, SparseLinear, escape_name


class StackedLinear(nn.Module):
    """Each member's own linear layer: (members, B, in) → (members, B, out).

    Turned like this, its gradient is computed as it is stored.

    Args:
        weight: (members, in, out).
    """

    steady = True

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return (
            torch.bmm(x, self.weight)
            if self.bias is None
            else torch.baddbmm(self.bias[:, None], x, self.weight)
        )


class StackedDropout(nn.Module):
    """Each member's own dropout, drawn from a stream of its own: on the CPU the same bits that
    nn.Dropout draws alone.

    Args:
        rates: Of each member, None where it has no such layer.
    """

    steady = True
    kept: Tensor

    def __init__(self, rates: Sequence[float | None], streams: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.rates, self.streams = [rate or 0.0 for rate in rates], streams
        shares = [1 - rate if rate < 1 else 1.0 for rate in self.rates]
        self.register_buffer(
            "kept", torch.tensor(shares, device=streams[0].device)[:, None, None], persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = torch.empty_like(x, memory_format=torch.contiguous_format)
        for row, rate, stream in zip(noise.unbind(), self.rates, self.streams, strict=True):
            if 0 < rate < 1:
                row.bernoulli_(1 - rate, generator=stream)
            else:  # which takes nothing from the stream
                row.fill_(1 - rate)
        return x * noise.div_(self.kept)


class StackedNorm(nn.Module):
    """Each member's own batch norm: one over the features of all members side by side."""

    steady = True

    def __init__(
        self,
        first: nn.BatchNorm1d,
        affine: Sequence[nn.Parameter | None],
        running: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self.momentum, self.eps = first.momentum, first.eps
        self.weight, self.bias = affine
        for name, buffer in zip(("mean", "variance", "count"), running, strict=True):
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            # As nn.BatchNorm1d counts its batches.
            self.count.add_(1)  # type: ignore[operator,union-attr]
        # Features of different members never mix in a batch norm: it works feature by feature.
        side_by_side = x.transpose(0, 1).reshape(x.shape[1], -1)
        affine: Any = [
            None if tensor is None else tensor.reshape(-1) for tensor in (self.weight, self.bias)
        ]
        running: Any = [tensor.view(-1) for tensor in (self.mean, self.variance)]  # type: ignore[operator,union-attr]
        options: Any = (*affine, self.training, self.momentum or 0, self.eps)
        normalized = torch.nn.functional.batch_norm(side_by_side, running[0], running[1], *options)
        return normalized.view(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)


class StackedInputProjection(nn.Module):
    """Each member's own first layer, see `InputProjection`.

    Columns are (B, members, …); a bag of words is one block-diagonal matrix, see `stack_batches`.

    Args:
        first: The layer of one member.
        linear: The stacked linear layer; None where there are only bags and lookups.
        rows: Column → stacked weights (members, size, units).
        members: How many.
    """

    steady = True
    ids: Tensor

    def __init__(
        self,
        first: InputProjection,
        linear: StackedLinear | None,
        rows: dict[str, nn.Parameter],
        members: int,
    ) -> None:
        super().__init__()
        self.flat, self.bags, self.lookups = first.flat, first.bags, first.lookups
        self.linear, self.members = linear, members
        self.rows = nn.ParameterDict(rows)
        self.vectors = nn.ParameterDict()
        self.bias: nn.Parameter | None = None
        device = next(iter([*rows.values(), *first.parameters()])).device
        self.register_buffer("ids", torch.arange(members, device=device), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        total: Any = self.bias.unsqueeze(1) if self.bias is not None else None
        if self.linear is not None:
            total = self.linear(self._to_wide_input(batch))
        for name in self.bags:
            total = self._product(batch[name], self.rows[escape_name(name)], total)
        for name in self.lookups:
            total = total + self._embed_rows(batch[name], self.rows[escape_name(name)])
        return total  # type: ignore[no-any-return]

    def _product(self, bag: Tensor, rows: Tensor, total: Tensor) -> Tensor:
        count, units = bag.shape[0] // self.members, rows.shape[2]
        addend = total.expand(self.members, count, units).reshape(-1, units)
        product: Tensor = SparseLinear.apply(bag, rows.reshape(-1, units), addend)
        return product.view(self.members, count, units)

    def _embed_rows(self, row_numbers: Tensor, rows: Tensor) -> Tensor:
        """Rows (members, size, width) by numbers (B, members): (members, B, width)."""
        indices = (row_numbers + self.ids * rows.shape[1]).t()
        return nn.functional.embedding(indices, rows.reshape(-1, rows.shape[2]))

    def _to_wide_input(self, batch: Batch) -> Tensor:
        columns = [
            batch[name] if batch[name].dim() == 3 else batch[name].flatten(2) for name in self.flat
        ]
        inputs = [column.transpose(0, 1) for column in columns]
        inputs += [
            self._embed_rows(batch[name], self.vectors[escape_name(name)]) for name in self.vectors
        ]
        return inputs[0] if len(inputs) == 1 else torch.cat(inputs, 2)


class StackedDense(nn.Module):
    """The stacked `DenseModel`: target name → raw outputs (members, B, outputs)."""

    steady = True

    def __init__(self, hidden: nn.ModuleList, heads: SafeModuleDict, l1: float, l2: float) -> None:
        super().__init__()
        self.hidden, self.heads, self.l1, self.l2 = hidden, heads, l1, l2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x: Any = batch
        for layer in self.hidden:
            x = layer(x)
        return {name: head(x) for name, head in self.heads.items()}

    def penalty_per_member(self) -> Tensor | None:
        """Each member's own `DenseModel.compute_penalty` (members,); None when there is none."""
        modules = list(self.hidden.modules())
        kernels = [module.weight for module in modules if isinstance(module, StackedLinear)]
        kernels += [
            rows
            for module in modules
            if isinstance(module, StackedInputProjection)
            for rows in module.rows.values()
        ]
        if not kernels or not (self.l1 or self.l2):
            return None
        sums = [self.l1 * kernel.abs().sum((1, 2)) for kernel in kernels if self.l1]
        sums += [self.l2 * kernel.square().sum((1, 2)) for kernel in kernels if self.l2]
        return torch.stack(sums).sum(0)
