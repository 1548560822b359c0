"""Readers of pictures: what turns one image input into a vector, for models that read other inputs in other ways."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count
from dlrun.core.errors import UserError
from dlrun.core.types import Field
from dlrun.models.layers import Activation
from dlrun.models.sequence.encoders import InputEncoder
from dlrun.models.vision.convnet import (
    PoolingMode,
    build_conv_blocks,
    count_features,
    expand_per_block,
)


class ConvImageEncoder(nn.Module):
    """The convolutions of one picture (C, H, W), and their last feature map as a vector."""

    def __init__(self, layers: nn.Sequential, width: int) -> None:
        super().__init__()
        self.layers, self.width = layers, width

    def forward(self, pictures: Tensor) -> Tensor:
        return cast(Tensor, self.layers(pictures)).flatten(1)


def convnet(
    *,
    filters: list[Count],
    kernel: Count,
    pool: Count | list[Count],
    pooling: Literal["max", "average"],
    padding: Literal["valid", "same"],
    ends: PoolingMode,
    activation: Activation,
    batch_norm: bool,
) -> InputEncoder:
    """Blocks of convolution, activation and pooling; see `dlrun.models.vision.convnet`."""

    def read(field: Field) -> nn.Module:
        if field.kind != "image":
            raise UserError(f"reader=convnet reads an image, not {field.kind}")
        style = (kernel, padding, pooling, activation, batch_norm)
        layers = build_conv_blocks(
            field.shape[0], filters, expand_per_block(pool, len(filters)), style
        )
        if ends == "average":
            layers.append(nn.AdaptiveAvgPool2d(1))
        seen = ConvImageEncoder(layers, count_features(layers, field.shape))
        return seen.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    return read
