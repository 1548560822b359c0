"""Networks of depthwise separable convolutions: a small Xception, and the book's."""

from __future__ import annotations

from typing import Literal

from torch import nn

from dlrun.config.annotations import Count, Natural, NonNegative, Probability
from dlrun.core.types import Spec
from dlrun.models.layers import ACTIVATIONS, Activation, Init, build_convolution
from dlrun.models.vision.convnet import (
    HeadOptions,
    PoolingMode,
    build_convnet,
    expand_per_block,
    get_image_inputs,
)
from dlrun.models.vision.residual import ResidualBlock, build_max_pool, build_shortcut


def separable_convolution(
    channels: int, filters: int, kernel: int, padding: str, bias: bool
) -> nn.Sequential:
    """Return a convolution of each channel by itself, then a 1×1 over all (book §7.3).

    It has k²·C + C·filters (+ filters) weights. As in Keras, the bias comes after the second.

    Args:
        channels: Of the input.
        filters: Of the output.
        kernel: Side of the first kernel.
        padding: same keeps the size.
        bias: Whether there is one.
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels, bias=False),
        nn.Conv2d(channels, filters, 1, bias=bias),
    )


def separable_block(
    channels: int,
    filters: list[int],
    pool: int,
    style: tuple[int, str, str, bool],
    *,
    residual: bool,
) -> nn.Module:
    """Return separable convolutions, each with batch norm and activation, and pooling.

    Args:
        channels: Of the input.
        filters: Of each convolution.
        pool: Factor at the end; 1 for none.
        style: Kernel, padding, activation, batch norm.
        residual: Whether the input is added to the output.
    """
    kernel, padding, activation, batch_norm = style
    layers: list[nn.Module] = []
    for size, count in zip([channels, *filters], filters, strict=False):
        # a batch norm has a bias of its own, so the convolution needs none
        layers.append(separable_convolution(size, count, kernel, padding, not batch_norm))
        layers += [nn.BatchNorm2d(count)] if batch_norm else []
        layers.append(ACTIVATIONS[activation]())
    if not residual:
        return nn.Sequential(*layers, *([nn.MaxPool2d(pool)] if pool > 1 else []))
    return ResidualBlock(
        nn.Sequential(*layers, *build_max_pool(pool)), build_shortcut(channels, filters[-1], pool)
    )


def separable(
    spec: Spec,
    *,
    stem: Natural,
    filters: list[list[Count]],
    kernel: Count,
    pool: Count | list[Count],
    padding: Literal["valid", "same"],
    residual: bool,
    ends: PoolingMode,
    dense: list[Count],
    activation: Activation,
    dropout: Probability,
    batch_norm: bool,
    l1: NonNegative,
    l2: NonNegative,
    init: Init,
) -> nn.Module:
    """Blocks of depthwise separable convolutions, then dense layers (Chollet 2017; book §7.3).

    Args:
        spec: Inputs and targets.
        stem: Filters of a plain 3×3 convolution before them; 0 for none.
        filters: A list a block, one number a convolution.
        kernel: Side of the kernels.
        pool: Factor at the end of each block, one for all or one a block.
        padding: same keeps the size of feature maps.
        residual: Whether each block's input is added to its output.
        ends: How the last feature map becomes a vector.
        dense: Units of the hidden layers after it.
        activation: After each layer.
        dropout: Of the features, before the first hidden layer.
        batch_norm: Whether there is one before each activation.
        l1: Strength of the L1 penalty on kernels.
        l2: Strength of the L2 penalty on kernels.
        init: Whose starting weights.

    Raises:
        ValueError: Nothing is left of an image, or the settings do not fit each other.
    """
    if residual and padding != "same":
        raise ValueError(
            "residual=true needs padding=same: else a block's input is larger than what is added "
            "to it"
        )
    if not all(filters):
        raise ValueError(f"filters={filters}: each block needs a convolution at least")
    pools, style = expand_per_block(pool, len(filters)), (kernel, padding, activation, batch_norm)
    towers = {}
    for name, field in get_image_inputs(spec).items():
        first = build_convolution(field.shape[0], stem, 3, activation, batch_norm) if stem else []
        sizes = [stem or field.shape[0], *(counts[-1] for counts in filters)]
        blocks = [
            separable_block(size, counts, factor, style, residual=residual)
            for size, counts, factor in zip(sizes, filters, pools, strict=False)
        ]
        towers[name] = nn.Sequential(*first, *blocks)
    return build_convnet(
        spec, towers, HeadOptions(ends, dense, activation, dropout, batch_norm, l1, l2, init)
    )
