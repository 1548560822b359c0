"""Image encoders: from one image input to a vector, for models of several inputs."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count
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
    """The convolutions of one image (C, H, W), and their last feature map as a vector.

    Attributes:
        layers: The convolutions.
        width: Of the output.
    """

    def __init__(self, layers: nn.Sequential, width: int) -> None:
        super().__init__()
        self.layers, self.width = layers, width

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.layers(images)).flatten(1)


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
    """Blocks of convolution, activation and pooling.

    Args:
        filters: Of each block.
        kernel: Side of the kernels.
        pool: Factor after each block (1 = none), one for all or one a block.
        pooling: max or average.
        padding: same keeps the size of feature maps.
        ends: How the last feature map becomes a vector.
        activation: After each convolution.
        batch_norm: Whether there is one before each activation.

    Raises:
        UserError: The input is not an image.
    """

    def make(field: Field) -> nn.Module:
        if field.kind != "image":
            raise UserError(f"encoder=convnet reads an image, not {field.kind}")
        style = (kernel, padding, pooling, activation, batch_norm)
        layers = build_conv_blocks(
            field.shape[0], filters, expand_per_block(pool, len(filters)), style
        )
        if ends == "average":
            layers.append(nn.AdaptiveAvgPool2d(1))
        encoder = ConvImageEncoder(layers, count_features(layers, field.shape))
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return encoder

    return make
