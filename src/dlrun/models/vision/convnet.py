"""Convolutional networks for images: the book's, and what all of them have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, NonNegative, Probability
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
    """A tower of convolutions for each image input; features and other inputs join in a dense tail.

    Attributes:
        towers: Image input → convolutions.
        tail: Dense layers.
        l1: Strength of the L1 penalty on kernels.
        l2: Strength of the L2 penalty on kernels.
    """

    def __init__(self, towers: nn.ModuleDict, tail: DenseModel, l1: float, l2: float) -> None:
        super().__init__()
        self.towers, self.tail = towers, tail
        self.l1, self.l2 = l1, l2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # a vector takes the place of the image in the batch of the tail
        features = {name: tower(batch[name]).flatten(1) for name, tower in self.towers.items()}
        return cast(dict[str, Tensor], self.tail({**batch, **features}))

    def penalty(self) -> Tensor | None:
        """Return the penalty on convolution and hidden kernels; None when there is none."""
        if not (self.l1 or self.l2):
            return None
        kernels = [layer.weight for layer in self.towers.modules() if isinstance(layer, nn.Conv2d)]
        tail_penalty = self.tail.penalty()
        return compute_penalty(kernels, self.l1, self.l2) + (
            0 if tail_penalty is None else tail_penalty
        )


@dataclass(frozen=True)
class HeadOptions:
    """How feature maps become predictions.

    Attributes:
        ends: How the last feature map becomes a vector, flatten or average.
        dense: Units of the hidden layers after it.
        activation: Of the hidden layers.
        dropout: Of the features, before the first hidden layer.
        batch_norm: Whether hidden layers have them.
        l1: Strength of the L1 penalty on kernels.
        l2: Strength of the L2 penalty on kernels.
        init: Whose starting weights.
    """

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

    Args:
        spec: Inputs and targets.
        filters: Of each block.
        kernel: Side of the kernels.
        pool: Factor after each block (1 = none), one for all or one a block.
        pooling: max or average.
        padding: same keeps the size of feature maps.
        ends: How the last feature map becomes a vector.
        dense: Units of the hidden layers after it.
        activation: After each layer.
        dropout: Of the features, before the first hidden layer.
        batch_norm: Whether there is one before each activation.
        l1: Strength of the L1 penalty on kernels.
        l2: Strength of the L2 penalty on kernels.
        init: Whose starting weights.

    Raises:
        ValueError: Nothing is left of an image.
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
    """Return the image inputs, whose shape is (channels, height, width)."""
    return {name: field for name, field in spec.inputs.items() if field.kind == "image"}


def expand_per_block(value: int | list[int], blocks: int) -> list[int]:
    """Return one number a block.

    Raises:
        ValueError: There are more or fewer.
    """
    values = list(value) if isinstance(value, list) else [value] * blocks
    if len(values) != blocks:
        raise ValueError(
            f"{blocks} blocks but {len(values)} pools: give one pool a block, or one for all"
        )
    return values


def build_convnet(spec: Spec, towers: dict[str, nn.Sequential], options: HeadOptions) -> nn.Module:
    """Return the model of these towers, with its starting weights.

    Args:
        spec: Inputs and targets.
        towers: Image input → convolutions.
        options: What comes after them.
    """
    if options.ends == "average":
        towers = {
            name: nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)) for name, layers in towers.items()
        }
    features = {
        name: replace(field, kind="number", shape=(count_features(towers[name], field.shape),))
        for name, field in get_image_inputs(spec).items()
    }
    style = (options.activation, 0.0, options.batch_norm)
    hidden, heads = build_dense(spec, {**spec.inputs, **features}, options.dense, 0, style)
    if options.dropout:
        # the book drops the features themselves, before the first dense layer (§5.2)
        towers = {
            name: nn.Sequential(*layers, nn.Dropout(options.dropout))
            for name, layers in towers.items()
        }
    tail = DenseModel(hidden, heads, options.l1, options.l2)
    model = ConvnetModel(SafeModuleDict(towers), tail, options.l1, options.l2)
    initialize_weights(model, options.init)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def build_conv_blocks(
    channels: int, filters: list[int], pools: list[int], style: tuple[int, str, str, str, bool]
) -> nn.Sequential:
    """Return the convolutions of one image input.

    Args:
        channels: Of the images.
        filters: Of each block.
        pools: Factor after each block; 1 for none.
        style: Kernel, padding, pooling, activation, batch norm.
    """
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
    """Return how many features these layers have for one image (C, H, W).

    Raises:
        ValueError: The image is too small.
    """
    with torch.no_grad():
        try:
            # evaluation mode: a batch norm cannot be trained on a single row
            return layers.eval()(torch.zeros(1, *shape)).numel()
        except RuntimeError as error:
            size = "×".join(str(side) for side in shape)
            raise ValueError(
                f"an image of {size} is too small for so many blocks: "
                "use fewer filters, less pooling or padding=same"
            ) from error
        finally:
            # the mode that new modules are in
            layers.train()
