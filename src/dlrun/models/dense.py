"""Densely connected networks, and linear models, which have no hidden layer."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from dlrun.config.annotations import Count, NonNegative, Probability
from dlrun.core.types import Batch, Field, Spec
from dlrun.models.layers import (
    ACTIVATIONS,
    Activation,
    Init,
    InputProjection,
    Linear,
    SafeModuleDict,
    compute_penalty,
    initialize_weights,
)
from dlrun.models.model import Model


class DenseModel(Model):
    """Hidden layers over all inputs, and one linear head a target.

    Attributes:
        hidden: Layers one after the other; the first takes the batch.
        heads: Target → linear layer; without hidden layers it takes the batch.
        l1: Strength of the L1 penalty on hidden kernels.
        l2: Strength of the L2 penalty on hidden kernels.
    """

    # no layer depends on values, so a recorded step can be replayed
    steady = True

    def __init__(
        self, hidden: nn.ModuleList, heads: nn.ModuleDict, l1: float = 0, l2: float = 0
    ) -> None:
        super().__init__()
        self.hidden, self.heads = hidden, heads
        self.l1, self.l2 = l1, l2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        hidden: Any = batch
        for layer in self.hidden:
            hidden = layer(hidden)
        return {name: head(hidden) for name, head in self.heads.items()}

    def penalty(self) -> Tensor | None:
        """Return the L1 and L2 penalty on the hidden kernels; None when there is none."""
        if not (self.l1 or self.l2):
            return None
        modules = list(self.hidden.modules())
        projections = [layer for layer in modules if isinstance(layer, InputProjection)]
        kernels = [kernel for layer in projections for kernel in layer.kernels]
        # a projection has a linear layer inside, whose kernel counts once
        counted = {id(kernel) for kernel in kernels}
        kernels += [
            layer.weight
            for layer in modules
            if isinstance(layer, nn.Linear) and id(layer.weight) not in counted
        ]
        return compute_penalty(kernels, self.l1, self.l2) if kernels else None


def build_hidden_layers(
    units: list[int], first: nn.Module | int, activation: str, dropout: float, batch_norm: bool
) -> list[nn.Module]:
    """Return linear layer, batch norm, activation and dropout for each of `units`.

    Args:
        units: Width of each hidden layer.
        first: The first linear layer, or how many numbers it takes.
        activation: Name of it; none for no activation.
        dropout: Share that is dropped after each; 0 for no dropout.
        batch_norm: Whether there is one after each linear layer.
    """
    layers: list[nn.Module] = []
    previous: nn.Module | int = first
    for count in units:
        layers.append(previous if isinstance(previous, nn.Module) else Linear(previous, count))
        layers += [nn.BatchNorm1d(count)] if batch_norm else []
        layers += [] if activation == "none" else [ACTIVATIONS[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
        previous = count
    return layers


def dense(
    spec: Spec,
    *,
    units: list[Count],
    activation: Activation,
    dropout: Probability,
    batch_norm: bool,
    l1: NonNegative,
    l2: NonNegative,
    category: Literal["onehot", "embedding"],
    embedding: Count,
    init: Init,
) -> nn.Module:
    """A stack of fully connected layers (book §2.1, §3.5-3.7), over any mixture of inputs.

    Args:
        spec: Inputs and targets.
        units: Width of each hidden layer.
        activation: After each.
        dropout: After each.
        batch_norm: Before each activation.
        l1: Strength of the L1 penalty on hidden kernels.
        l2: Strength of the L2 penalty on hidden kernels.
        category: How categories are read, one-hot or as learned vectors.
        embedding: Width of a learned vector.
        init: Whose starting weights.
    """
    # 0 stands for one-hot
    width = embedding if category == "embedding" else 0
    hidden, heads = build_dense(spec, spec.inputs, units, width, (activation, dropout, batch_norm))
    model = DenseModel(hidden, heads, l1, l2)
    initialize_weights(model, init)
    return model


def build_dense(
    spec: Spec,
    inputs: dict[str, Field],
    units: list[int],
    embedding: int,
    style: tuple[str, float, bool],
) -> tuple[nn.ModuleList, nn.ModuleDict]:
    """Return hidden layers over the inputs, and a linear head for each target.

    Args:
        spec: Has the targets.
        inputs: What the first layer reads.
        units: Width of each hidden layer; none for linear heads over the inputs.
        embedding: Width of the vector of a category; 0 for one-hot.
        style: Activation, dropout and batch norm of the hidden layers.
    """
    if not units:
        heads = {
            name: InputProjection(inputs, field.num_outputs, embedding=embedding)
            for name, field in spec.targets.items()
        }
        # each head reads the inputs itself: there is no common layer
        return nn.ModuleList(), SafeModuleDict(heads)
    hidden = build_hidden_layers(
        units, InputProjection(inputs, units[0], embedding=embedding), *style
    )
    linear = {name: Linear(units[-1], field.num_outputs) for name, field in spec.targets.items()}
    return nn.ModuleList(hidden), SafeModuleDict(linear)


def linear(
    spec: Spec, *, category: Literal["onehot", "embedding"], embedding: Count, init: Init
) -> nn.Module:
    """One linear layer from the inputs to each target: logistic or linear regression.

    Args:
        spec: Inputs and targets.
        category: How categories are read, one-hot or as learned vectors.
        embedding: Width of a learned vector.
        init: Whose starting weights.
    """
    width = embedding if category == "embedding" else 0
    hidden, heads = build_dense(spec, spec.inputs, [], width, ("none", 0, False))
    model = DenseModel(hidden, heads)
    initialize_weights(model, init)
    return model
