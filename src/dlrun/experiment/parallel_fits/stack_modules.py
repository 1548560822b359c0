"""One model of several of one architecture: a rule and a stacked layer for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.errors import NotStackable
from dlrun.core.types import Batch
from dlrun.models.dense import DenseModel
from dlrun.models.layers import (
    ACTIVATIONS,
    InputProjection,
    Linear,
    SafeModuleDict,
    SparseLinear,
    escape_name,
)


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


Models = Sequence[Any]


class ModuleStack:
    """Stacks the layers of several models, and remembers what became of their weights.

    Args:
        streams: A random generator for each member, from which its dropout draws.

    Attributes:
        made: Identity of the first member's parameter → the stacked one.
        transposed: Identities of stacked parameters whose last two axes are swapped.
        buffers: Stacked buffers with those of the members.
    """

    def __init__(self, streams: Sequence[torch.Generator]) -> None:
        self.streams = streams
        self.made: dict[int, nn.Parameter] = {}
        self.transposed: set[int] = set()
        self.buffers: list[tuple[Tensor, list[Tensor]]] = []

    def __call__(self, layers: Models) -> nn.Module:
        """The layers of all members at one place as one. Raises Unstackable."""
        kind = type(layers[0])
        if any(type(layer) is not kind for layer in layers):
            raise NotStackable(
                "their layers differ: "
                f"{', '.join(sorted({type(each).__name__ for each in layers}))}"
            )
        if kind not in STACK_RULES:
            raise NotStackable(f"{kind.__name__} is no layer that can be stacked")
        return STACK_RULES[kind](self, layers)

    def stack_parameters(
        self, parameters: Sequence[nn.Parameter | None], transpose: bool = False
    ) -> nn.Parameter | None:
        """The members' parameters at one place as one, with their two axes the other way round
        where `turn`ed.

        Raises:
            NotStackable: see the message.
        """
        first = parameters[0]
        present = [parameter for parameter in parameters if parameter is not None]
        if first is None and not present:
            return None
        if (
            first is None
            or {parameter.shape for parameter in present} != {first.shape}
            or len(present) < len(parameters)
        ):
            shapes = sorted({str(tuple(parameter.shape)) for parameter in present})
            raise NotStackable(f"their weights have different shapes: {', '.join(shapes)}")
        if not all(parameter.requires_grad for parameter in present):
            raise NotStackable("some of their weights are frozen")
        # Tied weights are one parameter, here too.
        if id(first) not in self.made:
            self.made[id(first)] = stacked = nn.Parameter(
                torch.stack(
                    [parameter.t() if transpose else parameter for parameter in present]
                ).detach()
            )
            self.transposed |= {id(stacked)} if transpose else set()
        return self.made[id(first)]

    def stack_buffers(self, buffers: Sequence[Tensor]) -> Tensor:
        """The members' buffers at one place as one."""
        self.buffers.append((torch.stack(list(buffers)), list(buffers)))
        return self.buffers[-1][0]

    def stack_sequence(self, members: Sequence[nn.ModuleList]) -> nn.ModuleList:
        """Layers one after the other; a member may lack a dropout that others have."""
        paired = [list(pair_with_dropout_rates(layers)) for layers in members]
        if len(set(map(len, paired))) > 1:
            raise NotStackable("they have different numbers of layers")
        stacked: list[nn.Module] = []
        for position in zip(*paired, strict=True):
            stacked.append(self([layer for layer, _ in position]))
            # A member without this dropout has the rate None.
            for rates in zip_longest(*(rates for _, rates in position)):
                stacked.append(StackedDropout(rates, self.streams))
        return nn.ModuleList(stacked)


def pair_with_dropout_rates(layers: nn.ModuleList) -> list[tuple[nn.Module, list[float]]]:
    """Each layer that is no dropout, with the rates of the dropouts behind it."""
    pairs: list[tuple[nn.Module, list[float]]] = []
    for layer in layers:
        if type(layer) is not nn.Dropout:
            pairs.append((layer, []))
        elif not pairs:
            raise NotStackable("a dropout comes before all other layers")
        else:
            pairs[-1][1].append(layer.p)
    return pairs


def stack_linear(stack: ModuleStack, layers: Models) -> StackedLinear:
    """nn.Linear."""
    weight = stack.stack_parameters([layer.weight for layer in layers], transpose=True)
    assert weight is not None
    return StackedLinear(weight, stack.stack_parameters([layer.bias for layer in layers]))


def stack_batch_norm(stack: ModuleStack, layers: Models) -> StackedNorm:
    """nn.BatchNorm1d with running means, as dlrun has it."""
    first = layers[0]
    same = {(layer.momentum, layer.eps, layer.track_running_stats) for layer in layers}
    if len(same) > 1 or first.momentum is None or not first.track_running_stats:
        raise NotStackable("their batch norms differ, or keep no running mean")
    affine = [
        stack.stack_parameters([getattr(layer, name) for layer in layers])
        for name in ("weight", "bias")
    ]
    names = ("running_mean", "running_var", "num_batches_tracked")
    return StackedNorm(
        first,
        affine,
        [stack.stack_buffers([getattr(layer, name) for layer in layers]) for name in names],
    )


def stack_input_projection(stack: ModuleStack, layers: Models) -> StackedInputProjection:
    """dlrun's first layer."""
    first: InputProjection = layers[0]
    if any(describe_inputs(layer) != describe_inputs(first) for layer in layers):
        raise NotStackable("they read different inputs")
    linear = (
        None if first.linear is None else stack_linear(stack, [layer.linear for layer in layers])
    )
    rows = {
        name: stack.stack_parameters([layer.rows[name] for layer in layers]) for name in first.rows
    }
    projection = StackedInputProjection(first, linear, rows, len(layers))  # type: ignore[arg-type]
    projection.bias = stack.stack_parameters([layer.bias for layer in layers])
    for name in first.embeddings:
        projection.vectors[escape_name(name)] = stack.stack_parameters(
            [layer.embeddings[name].weight for layer in layers]
        )
    return projection


def describe_inputs(layer: InputProjection) -> tuple[Any, ...]:
    """What a first layer reads; equal where two read the same."""
    return layer.flat, layer.bags, layer.lookups, list(layer.rows), layer.linear is None


def stack_dense(stack: ModuleStack, models: Models) -> StackedDense:
    """dlrun's densely connected networks."""
    first: DenseModel = models[0]
    if len({(model.l1, model.l2) for model in models}) > 1:
        raise NotStackable("their penalties on weights (model.l1, model.l2) differ")
    if any(list(model.heads.keys()) != list(first.heads.keys()) for model in models):
        raise NotStackable("they predict different targets")
    hidden = stack.stack_sequence([model.hidden for model in models])
    heads = SafeModuleDict(
        {name: stack([model.heads[name] for model in models]) for name in first.heads}
    )
    return StackedDense(hidden, heads, first.l1, first.l2)


STACK_RULES: dict[type, Callable[[ModuleStack, Models], nn.Module]] = {
    DenseModel: stack_dense,
    InputProjection: stack_input_projection,
    Linear: stack_linear,
    nn.Linear: stack_linear,
    nn.BatchNorm1d: stack_batch_norm,
    **{kind: lambda stack, layers, kind=kind: kind() for kind in ACTIVATIONS.values()},  # type: ignore[misc]
}
