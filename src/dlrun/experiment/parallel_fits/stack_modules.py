"""One model of several of one architecture: a rule for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.errors import NotStackable
from dlrun.experiment.parallel_fits.layers import (
    StackedDense,
    StackedDropout,
    StackedInputProjection,
    StackedLinear,
    StackedNorm,
)
from dlrun.models.dense import DenseModel
from dlrun.models.layers import ACTIVATIONS, InputProjection, Linear, SafeModuleDict, escape_name

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
