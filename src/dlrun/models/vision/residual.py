"""Residual networks: blocks whose input is added to their output."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from dlrun.config.annotations import Count, NonNegative, Probability
from dlrun.core.types import Spec
from dlrun.models.layers import Activation, Init, build_convolution, build_stride
from dlrun.models.vision.convnet import (
    HeadOptions,
    PoolingMode,
    build_convnet,
    expand_per_block,
    get_image_inputs,
)


class ResidualBlock(nn.Module):
    """body(x) + shortcut(x) (He et al. 2015; book §7.1).

    Attributes:
        body: The layers.
        shortcut: What makes x fit their output.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x) + self.shortcut(x))


def build_shortcut(channels: int, filters: int, pool: int) -> nn.Module:
    """Return the identity, or a 1×1 convolution over every `pool`-th pixel (book §7.1).

    Args:
        channels: Of the input.
        filters: Channels of the output.
        pool: Factor between the sides of input and output.
    """
    if channels == filters and pool == 1:
        return nn.Identity()
    return nn.Sequential(*build_stride(pool), nn.Conv2d(channels, filters, 1))


def build_max_pool(pool: int) -> list[nn.Module]:
    """Return max pooling as in Keras with padding=same: a side of n becomes ⌈n / pool⌉."""
    return [nn.MaxPool2d(pool, ceil_mode=True)] if pool > 1 else []


def residual_block(
    channels: int, filters: int, depth: int, pool: int, style: tuple[str, bool]
) -> ResidualBlock:
    """Return `depth` 3×3 convolutions and pooling, with a shortcut.

    Args:
        channels: Of the input.
        filters: Of each convolution.
        depth: Number of convolutions.
        pool: Factor at the end; 1 for none.
        style: Activation, batch norm.
    """
    sizes = [channels, *[filters] * (depth - 1)]
    layers = [layer for size in sizes for layer in build_convolution(size, filters, 3, *style)]
    return ResidualBlock(
        nn.Sequential(*layers, *build_max_pool(pool)), build_shortcut(channels, filters, pool)
    )


def residual(
    spec: Spec,
    *,
    filters: list[Count],
    depth: Count,
    pool: Count | list[Count],
    ends: PoolingMode,
    dense: list[Count],
    activation: Activation,
    dropout: Probability,
    batch_norm: bool,
    l1: NonNegative,
    l2: NonNegative,
    init: Init,
) -> nn.Module:
    """Residual blocks of 3×3 convolutions, then dense layers (He et al. 2015; book §7.1).

    Args:
        spec: Inputs and targets.
        filters: Of each block.
        depth: Convolutions of a block.
        pool: Factor at the end of each block (1 = none), one for all or one a block.
        ends: How the last feature map becomes a vector.
        dense: Units of the hidden layers after it.
        activation: After each layer.
        dropout: Of the features, before the first hidden layer.
        batch_norm: Whether there is one before each activation.
        l1: Strength of the L1 penalty on kernels.
        l2: Strength of the L2 penalty on kernels.
        init: Whose starting weights.
    """
    pools, style = expand_per_block(pool, len(filters)), (activation, batch_norm)
    towers = {}
    for name, field in get_image_inputs(spec).items():
        sizes = [field.shape[0], *filters]
        blocks = [
            residual_block(channels, count, depth, factor, style)
            for channels, count, factor in zip(sizes, filters, pools, strict=False)
        ]
        towers[name] = nn.Sequential(*blocks)
    return build_convnet(
        spec, towers, HeadOptions(ends, dense, activation, dropout, batch_norm, l1, l2, init)
    )
