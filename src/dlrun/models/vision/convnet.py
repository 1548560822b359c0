"""Convolutional networks for pictures: the book's, and what all of them have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, NonNegative, Probability
from dlrun.core.types import Batch, Field, Spec
from dlrun.models.dense import DenseModel, build_dense
from dlrun.models.layers import (
    ACTIVATIONS,
    Activation,
    Init,
    SafeModuleDict,
    compute_penalty,
    initialize_weights,
)
from dlrun.models.model import Model

PoolingMode = Literal["flatten", "average"]


class ConvnetModel(Model):
    """A tower of convolutions for each image input; what comes out joins the other inputs in a dense tail."""

    def __init__(self, towers: nn.ModuleDict, tail: DenseModel, l1: float, l2: float) -> None:
        super().__init__()
        self.towers, self.tail = towers, tail
        self.l1, self.l2 = l1, l2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        seen = {name: tower(batch[name]).flatten(1) for name, tower in self.towers.items()}
        return cast(dict[str, Tensor], self.tail({**batch, **seen}))

    def penalty(self) -> Tensor | None:
        """The L1 and L2 penalty on convolution and hidden kernels; None when there is none."""
        if not (self.l1 or self.l2):
            return None
        kernels = [layer.weight for layer in self.towers.modules() if isinstance(layer, nn.Conv2d)]
        tail = self.tail.penalty()
        return compute_penalty(kernels, self.l1, self.l2) + (0 if tail is None else tail)


@dataclass(frozen=True)
class HeadOptions:
    """How feature maps become answers. dropout: of the features, before the first dense layer."""

    ends: str
    dense: list[int]
    activation: str
    dropout: float
    batch_norm: bool
    l1: float
    l2: float
    init: Init


def convnet(
    spec: Spec,
    *,
    filters: list[Count],
    kernel: Count,
    pool: Count | list[Count],
    pooling: Literal["max", "average"],
    padding: Literal["valid", "same"],
    ends: PoolingMode,
    dense: list[Count],
    activation: Activation,
    dropout: Probability,
    batch_norm: bool,
    l1: NonNegative,
    l2: NonNegative,
    init: Init,
) -> nn.Module:
    """Blocks of convolution, activation and pooling, then dense layers (book §5.1, §5.2).

    filters: one block each. pool: factor after each block (1 = none), one for all or one a block. ends: how the last
    feature map becomes a vector. dropout: of that vector, before the first dense layer. ValueError: nothing is left.
    """
    pools = expand_per_block(pool, len(filters))
    style = (kernel, padding, pooling, activation, batch_norm)
    towers = {
        name: build_conv_blocks(field.shape[0], filters, pools, style)
        for name, field in get_image_inputs(spec).items()
    }
    return build_convnet(
        spec, towers, HeadOptions(ends, dense, activation, dropout, batch_norm, l1, l2, init)
    )


def get_image_inputs(spec: Spec) -> dict[str, Field]:
    """The image inputs, whose shape is (channels, height, width)."""
    return {name: field for name, field in spec.inputs.items() if field.kind == "image"}


def expand_per_block(value: int | list[int], blocks: int) -> list[int]:
    """One number a block. ValueError where there are more or fewer."""
    found = list(value) if isinstance(value, list) else [value] * blocks
    if len(found) != blocks:
        raise ValueError(
            f"{blocks} blocks but {len(found)} pools: give one pool a block, or one for all"
        )
    return found


def build_convnet(spec: Spec, towers: dict[str, nn.Sequential], ending: HeadOptions) -> nn.Module:
    """The model of these towers (input name → layers over its pictures), with its starting weights."""
    if ending.ends == "average":
        towers = {
            name: nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)) for name, layers in towers.items()
        }
    seen = {
        name: replace(field, kind="number", shape=(count_features(towers[name], field.shape),))
        for name, field in get_image_inputs(spec).items()
    }
    style = (ending.activation, 0.0, ending.batch_norm)
    hidden, heads = build_dense(spec, {**spec.inputs, **seen}, ending.dense, 0, style)
    if (
        ending.dropout
    ):  # the book drops the features themselves, before the first dense layer (§5.2)
        towers = {
            name: nn.Sequential(*layers, nn.Dropout(ending.dropout))
            for name, layers in towers.items()
        }
    tail = DenseModel(hidden, heads, ending.l1, ending.l2)
    model = ConvnetModel(SafeModuleDict(towers), tail, ending.l1, ending.l2)
    initialize_weights(model, ending.init)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def build_conv_blocks(
    channels: int, filters: list[int], pools: list[int], style: tuple[int, str, str, str, bool]
) -> nn.Sequential:
    """The convolutions of one image input."""
    kernel, padding, pooling, activation, batch_norm = style
    layers: list[nn.Module] = []
    for count, factor in zip(filters, pools, strict=True):
        layers.append(nn.Conv2d(channels, count, kernel, padding=padding))
        layers += [nn.BatchNorm2d(count)] if batch_norm else []
        layers += [ACTIVATIONS[activation]()]
        if factor > 1:
            layers.append(nn.MaxPool2d(factor) if pooling == "max" else nn.AvgPool2d(factor))
        channels = count
    return nn.Sequential(*layers)


def count_features(layers: nn.Module, shape: tuple[int, ...]) -> int:
    """How many numbers come out of these layers for one image of this shape (C, H, W); ValueError when none do."""
    with torch.no_grad():
        try:
            return layers.eval()(torch.zeros(1, *shape)).numel()
        except RuntimeError as error:
            size = "×".join(str(side) for side in shape)
            raise ValueError(
                f"an image of {size} is too small for so many blocks: use fewer filters, less pooling or padding=same"
            ) from error
        finally:
            layers.train()
