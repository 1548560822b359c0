"""Inception-style networks: several views of the same feature map, side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, NonNegative, Probability
from dlrun.core.types import Spec
from dlrun.models.layers import Activation, Init, convolution
from dlrun.models.vision.convnet import Ending, Ends, images, joined

BRANCHES = 4


class Inception(nn.Module):
    """Four branches over one feature map, concatenated (Szegedy et al. 2014; book §7.1).

    1×1 · 1×1, 3×3 · average pooling, 3×3 · 1×1, 3×3, 3×3: each answers `filters` channels, and each takes every
    `stride`-th place at its end (the pooling at its beginning), so that a side of n becomes ⌈n / stride⌉ in all.
    """

    def __init__(self, channels: int, filters: int, stride: int, style: tuple[str, bool]) -> None:
        super().__init__()
        one = lambda step=1: convolution(channels, filters, 1, *style, stride=step)  # noqa: E731
        three = lambda step=1, size=filters: convolution(size, filters, 3, *style, stride=step)  # noqa: E731
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
    ends: Ends,
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
    for name, field in images(spec).items():
        sizes = [stem, *(BRANCHES * count for count in filters)]
        modules = [Inception(size, count, stride, style) for size, count in zip(sizes, filters, strict=False)]
        towers[name] = nn.Sequential(*convolution(field.shape[0], stem, 3, *style), *modules)
    return joined(spec, towers, Ending(ends, dense, activation, dropout, batch_norm, l1, l2, init))
