"""Makes one model of several of one architecture: a rule for each kind of layer, and what became of their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.errors import Unstackable
from dlrun.experiment.parallel_fits.layers import StackedDense, StackedDropout, StackedJoin, StackedLinear, StackedNorm
from dlrun.models.dense import Dense
from dlrun.models.layers import ACTIVATIONS, Join, Named, safe
from dlrun.models.onednn_linear import Linear

Models = Sequence[Any]


class Stacking:
    """How a stacked model is made: a rule for each kind of layer, and what became of the members' weights.

    streams: a random stream for each member, which its dropout draws from. made: the first member's parameter, by
    identity → the stacked one. turned: stacked ones, by identity, whose last two axes are the other way round.
    seen: stacked buffers with those of the members that they hold.
    """

    def __init__(self, streams: Sequence[torch.Generator]) -> None:
        self.streams = streams
        self.made: dict[int, nn.Parameter] = {}
        self.turned: set[int] = set()
        self.seen: list[tuple[Tensor, list[Tensor]]] = []

    def __call__(self, layers: Models) -> nn.Module:
        """The layers of all members at one place as one. Raises Unstackable."""
        kind = type(layers[0])
        if any(type(layer) is not kind for layer in layers):
            raise Unstackable(f"their layers differ: {', '.join(sorted({type(each).__name__ for each in layers}))}")
        if kind not in RULES:
            raise Unstackable(f"{kind.__name__} is no layer that can be stacked")
        return RULES[kind](self, layers)

    def take(self, parameters: Sequence[nn.Parameter | None], turn: bool = False) -> nn.Parameter | None:
        """The members' parameters at one place as one, with their two axes the other way round where `turn`ed.

        Raises Unstackable.
        """
        first = parameters[0]
        found = [each for each in parameters if each is not None]
        if first is None and not found:
            return None
        if first is None or {each.shape for each in found} != {first.shape} or len(found) < len(parameters):
            shapes = sorted({str(tuple(each.shape)) for each in found})
            raise Unstackable(f"their weights have different shapes: {', '.join(shapes)}")
        if not all(each.requires_grad for each in found):
            raise Unstackable("some of their weights are frozen")
        if id(first) not in self.made:
            self.made[id(first)] = made = nn.Parameter(
                torch.stack([each.t() if turn else each for each in found]).detach()
            )
            self.turned |= {id(made)} if turn else set()
        return self.made[id(first)]

    def hold(self, buffers: Sequence[Tensor]) -> Tensor:
        """The members' buffers at one place as one."""
        self.seen.append((torch.stack(list(buffers)), list(buffers)))
        return self.seen[-1][0]

    def row(self, members: Sequence[nn.ModuleList]) -> nn.ModuleList:
        """Layers one after the other; a member may lack a dropout that others have."""
        parted = [list(parts(layers)) for layers in members]
        if len(set(map(len, parted))) > 1:
            raise Unstackable("they have different numbers of layers")
        found: list[nn.Module] = []
        for place in zip(*parted, strict=True):
            found.append(self([layer for layer, _ in place]))
            for rates in zip_longest(*(rates for _, rates in place)):
                found.append(StackedDropout(rates, self.streams))
        return nn.ModuleList(found)


def parts(layers: nn.ModuleList) -> list[tuple[nn.Module, list[float]]]:
    """Each layer that is no dropout, with the rates of the dropouts behind it."""
    found: list[tuple[nn.Module, list[float]]] = []
    for layer in layers:
        if type(layer) is not nn.Dropout:
            found.append((layer, []))
        elif not found:
            raise Unstackable("a dropout comes before all other layers")
        else:
            found[-1][1].append(layer.p)
    return found


def linear(make: Stacking, layers: Models) -> StackedLinear:
    """nn.Linear."""
    weight = make.take([layer.weight for layer in layers], turn=True)
    assert weight is not None
    return StackedLinear(weight, make.take([layer.bias for layer in layers]))


def norm(make: Stacking, layers: Models) -> StackedNorm:
    """nn.BatchNorm1d with running means, as dlrun has it."""
    first = layers[0]
    same = {(layer.momentum, layer.eps, layer.track_running_stats) for layer in layers}
    if len(same) > 1 or first.momentum is None or not first.track_running_stats:
        raise Unstackable("their batch norms differ, or keep no running mean")
    learnt = [make.take([getattr(layer, name) for layer in layers]) for name in ("weight", "bias")]
    names = ("running_mean", "running_var", "num_batches_tracked")
    return StackedNorm(first, learnt, [make.hold([getattr(layer, name) for layer in layers]) for name in names])


def join(make: Stacking, layers: Models) -> StackedJoin:
    """dlrun's first layer."""
    first: Join = layers[0]
    if any((x.flat, x.bags, x.lookups, list(x.rows), x.linear is None) != (
        first.flat, first.bags, first.lookups, list(first.rows), first.linear is None) for x in layers
    ):  # fmt: skip
        raise Unstackable("they read different inputs")
    inner = None if first.linear is None else linear(make, [layer.linear for layer in layers])
    rows = {name: make.take([layer.rows[name] for layer in layers]) for name in first.rows}
    found = StackedJoin(first, inner, rows, len(layers))  # type: ignore[arg-type]
    found.bias = make.take([layer.bias for layer in layers])
    for name in first.embeddings:
        found.vectors[safe(name)] = make.take([layer.embeddings[name].weight for layer in layers])
    return found


def dense(make: Stacking, models: Models) -> StackedDense:
    """dlrun's densely connected networks."""
    first: Dense = models[0]
    if len({(model.l1, model.l2) for model in models}) > 1:
        raise Unstackable("their penalties on weights (model.l1, model.l2) differ")
    if any(list(model.heads.keys()) != list(first.heads.keys()) for model in models):
        raise Unstackable("they answer different targets")
    hidden = make.row([model.hidden for model in models])
    heads = Named({name: make([model.heads[name] for model in models]) for name in first.heads})
    return StackedDense(hidden, heads, first.l1, first.l2)


RULES: dict[type, Callable[[Stacking, Models], nn.Module]] = {
    Dense: dense,
    Join: join,
    Linear: linear,
    nn.Linear: linear,
    nn.BatchNorm1d: norm,
    **{kind: lambda make, layers, kind=kind: kind() for kind in ACTIVATIONS.values()},  # type: ignore[misc]
}
