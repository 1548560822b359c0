"""Inception-style networks: several branches over the same feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, NonNegative, Probability
from dlrun.core.types import Spec
from dlrun.models.layers import Activation, Init, build_convolution
from dlrun.models.vision.convnet import HeadOptions, PoolingMode, build_convnet, get_image_inputs

NUM_BRANCHES = 4


class InceptionBlock(nn.Module):
    """Four branches over one feature map, concatenated (Szegedy et al. 2014; book §7.1).

    1×1 · 1×1, 3×3 · average pooling, 3×3 · 1×1, 3×3, 3×3, each of `filters` channels. The stride is
    at the end of each branch (of the pooling one at its beginning): a side of n
    becomes ⌈n / stride⌉.

    Attributes:
        branches: The four.
    """

    def __init__(self, channels: int, filters: int, stride: int, style: tuple[str, bool]) -> None:
        super().__init__()

        def pointwise(step: int = 1) -> list[nn.Module]:
            return build_convolution(channels, filters, 1, *style, stride=step)

        def three(step: int = 1, size: int = filters) -> list[nn.Module]:
            return build_convolution(size, filters, 3, *style, stride=step)

        # padding is not counted, so that the mean at a border is that of real pixels
        pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        branches = (
            pointwise(stride),
            [*pointwise(), *three(stride)],
            [pool, *three(size=channels)],
            [*pointwise(), *three(), *three(stride)],
        )
        self.branches = nn.ModuleList(nn.Sequential(*layers) for layers in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception(
    spec: Spec,
    *,
    stem: Count,
    filters: list[Count],
    stride: Count,
    ends: PoolingMode,
    dense: list[Count],
    activation: Activation,
    dropout: Probability,
    batch_norm: bool,
    l1: NonNegative,
    l2: NonNegative,
    init: Init,
) -> nn.Module:
    """A 3×3 convolution, inception modules, then dense layers (Szegedy et al. 2014; book §7.1).

    Args:
        spec: Inputs and targets.
        stem: Filters of the first convolution.
        filters: Of each of the four branches, one number a module.
        stride: Of every module.
        ends: How the last feature map becomes a vector.
        dense: Units of the hidden layers after it.
        activation: After each layer.
        dropout: Of the features, before the first hidden layer.
        batch_norm: Whether there is one before each activation.
        l1: Strength of the L1 penalty on kernels.
        l2: Strength of the L2 penalty on kernels.
        init: Whose starting weights.
    """
    style = (activation, batch_norm)
    towers = {}
    for name, field in get_image_inputs(spec).items():
        sizes = [stem, *(NUM_BRANCHES * count for count in filters)]
        modules = [
            InceptionBlock(size, count, stride, style)
            for size, count in zip(sizes, filters, strict=False)
        ]
        towers[name] = nn.Sequential(*build_convolution(field.shape[0], stem, 3, *style), *modules)
    return build_convnet(
        spec, towers, HeadOptions(ends, dense, activation, dropout, batch_norm, l1, l2, init)
    )
