"""Densely connected networks, and the linear model that is one without hidden layers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dlrun.config.constraints import Count, NonNegative, Probability
from dlrun.core.types import Batch, Field, Spec
from dlrun.models.layers import (
    ACTIVATIONS,
    Activation,
    Init,
    InputProjection,
    SafeModuleDict,
    compute_penalty,
    initialize_weights,
)
from dlrun.models.model import Model
from dlrun.models.onednn_linear import Linear


class DenseModel(Model):
    """Hidden layers over all inputs, and one linear head a target. Answers target name → raw output (B, outputs)."""

    steady = True

    def __init__(
        self, hidden: nn.ModuleList, heads: nn.ModuleDict, l1: float = 0, l2: float = 0
    ) -> None:
        super().__init__()
        self.hidden, self.heads = hidden, heads
        self.l1, self.l2 = l1, l2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if not self.hidden:
            return {name: head(batch) for name, head in self.heads.items()}
        x = batch
        for layer in self.hidden:
            x = layer(x)
        return {name: head(x) for name, head in self.heads.items()}

    def penalty(self) -> Tensor | None:
        """The L1 and L2 penalty on the hidden kernels; None when there is none."""
        if not (self.l1 or self.l2):
            return None
        kernels = [
            k
            for layer in self.hidden.modules()
            if isinstance(layer, InputProjection)
            for k in layer.kernels
        ]
        inside = {id(k) for k in kernels}
        kernels += [
            layer.weight
            for layer in self.hidden.modules()
            if isinstance(layer, nn.Linear) and id(layer.weight) not in inside
        ]
        return compute_penalty(kernels, self.l1, self.l2) if kernels else None


def build_hidden_layers(
    units: list[int], first: nn.Module | int, activation: str, dropout: float, batch_norm: bool
) -> list[nn.Module]:
    """Linear, batch norm, activation and dropout for each of `units`; the first linear layer is given or sized."""
    layers: list[nn.Module] = []
    width: nn.Module | int = first
    for count in units:
        layers.append(width if isinstance(width, nn.Module) else Linear(width, count))
        layers += [nn.BatchNorm1d(count)] if batch_norm else []
        layers += [] if activation == "none" else [ACTIVATIONS[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
        width = count
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
    """A stack of fully connected layers of `units` (book §2.1, §3.5–3.7), over any mixture of inputs.

    category: how category inputs are read; embedding: width of a learnt vector. l1, l2: penalty on hidden kernels.
    """
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
    """Hidden layers over `inputs` and a linear head for each target."""
    if not units:
        heads = {
            name: InputProjection(inputs, field.num_outputs, embedding=embedding)
            for name, field in spec.targets.items()
        }
        return nn.ModuleList(), SafeModuleDict(heads)
    hidden = build_hidden_layers(
        units, InputProjection(inputs, units[0], embedding=embedding), *style
    )
    linear = {name: Linear(units[-1], field.num_outputs) for name, field in spec.targets.items()}
    return nn.ModuleList(hidden), SafeModuleDict(linear)


def linear(
    spec: Spec, *, category: Literal["onehot", "embedding"], embedding: Count, init: Init
) -> nn.Module:
    """One linear layer from the inputs to each target: logistic or linear regression."""
    width = embedding if category == "embedding" else 0
    hidden, heads = build_dense(spec, spec.inputs, [], width, ("none", 0, False))
    model = DenseModel(hidden, heads)
    initialize_weights(model, init)
    return model
