"""Inception-style networks: several views of the same feature map, side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, NonNegative, Probability
from dlrun.core.types import Spec
from dlrun.models.layers import Activation, Init, build_convolution
from dlrun.models.vision.convnet import HeadOptions, PoolingMode, build_convnet, get_image_inputs

NUM_BRANCHES = 4


class InceptionBlock(nn.Module):
    """Four branches over one feature map, concatenated (Szegedy et al. 2014; book §7.1).

    1×1 · 1×1, 3×3 · average pooling, 3×3 · 1×1, 3×3, 3×3: each answers `filters` channels, and each takes every
    `stride`-th place at its end (the pooling at its beginning), so that a side of n becomes ⌈n / stride⌉ in all.
    """

    def __init__(self, channels: int, filters: int, stride: int, style: tuple[str, bool]) -> None:
        super().__init__()
        one = lambda step=1: build_convolution(channels, filters, 1, *style, stride=step)  # noqa: E731
        three = lambda step=1, size=filters: build_convolution(  # noqa: E731
            size, filters, 3, *style, stride=step
        )
        pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        branches = (
            one(stride),
            [*one(), *three(stride)],
            [pool, *three(size=channels)],
            [*one(), *three(), *three(stride)],
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
    """A 3×3 convolution of `stem` filters, inception modules, then dense layers (Szegedy et al. 2014; book §7.1).

    filters: of each of the four branches, one module each. stride: of every module. ends: how the last feature map
    becomes a vector. dropout: of that vector, before the first dense layer.
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
