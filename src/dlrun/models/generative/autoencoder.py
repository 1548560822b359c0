"""Autoencoders: an encoder to a few numbers, and a decoder back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count
from dlrun.core.types import Batch, Spec
from dlrun.models.dense import build_hidden_layers
from dlrun.models.layers import (
    ACTIVATIONS,
    Activation,
    Init,
    SafeModuleDict,
    build_convolution,
    initialize_weights,
)
from dlrun.models.model import Model


@dataclass(frozen=True)
class Layout:
    """The layers of an autoencoder.

    Attributes:
        filters: Of each convolution of the encoder.
        strides: Of each convolution of the encoder.
        kernel: Side of all kernels, odd.
        dense: Units of the encoder's hidden layers, after the convolutions.
        decoder_dense: Units of the decoder's hidden layers.
        decoder_filters: Of a transposed convolution for each stride above 1, the last stride first.
        activation: Between layers.
    """

    filters: list[int]
    strides: list[int]
    kernel: int
    dense: list[int]
    decoder_dense: list[int]
    decoder_filters: list[int]
    activation: str


def check_layout(layout: Layout, shape: tuple[int, ...]) -> None:
    """Check that layers fit each other and rows of a shape.

    Raises:
        ValueError: They do not; the message says which.
    """
    downsampling = [stride for stride in layout.strides if stride > 1]
    if len(layout.filters) != len(layout.strides):
        raise ValueError(
            f"{len(layout.filters)} filters but {len(layout.strides)} strides: give one for each"
        )
    if len(downsampling) != len(layout.decoder_filters):
        raise ValueError(
            f"decoder_filters={layout.decoder_filters}: one for each stride above 1, "
            f"which are {downsampling}"
        )
    if layout.filters and len(shape) != 3:
        raise ValueError(
            "convolutions read images, and these are numbers: "
            "filters=[] strides=[] decoder_filters=[]"
        )
    # an even kernel has no padding that keeps the size
    if layout.kernel % 2 == 0:
        raise ValueError(f"kernel={layout.kernel}: it must be odd, so that an image keeps its size")


def build_conv_encoder(channels: int, layout: Layout) -> nn.Sequential:
    """Return the convolutions, each with its activation; an empty module where there are none."""
    layers: list[nn.Module] = []
    for filters, stride in zip(layout.filters, layout.strides, strict=True):
        layers += build_convolution(
            channels, filters, layout.kernel, layout.activation, False, stride
        )
        channels = filters
    return nn.Sequential(*layers)


def feature_map_shapes(shape: tuple[int, ...], layout: Layout) -> list[tuple[int, ...]]:
    """Return the shape of each convolution's input, and of the last output, for rows of a shape."""
    shapes = [shape]
    for filters, stride in zip(layout.filters, layout.strides, strict=True):
        _, *sides = shapes[-1]
        # a padded convolution makes a side of n to ⌈n / stride⌉
        shapes.append((filters, *(-(-side // stride) for side in sides)))
    return shapes


def build_decoder(latent: int, shape: tuple[int, ...], layout: Layout) -> nn.Sequential:
    """Return layers from codes (B, latent) to raw values (B, *shape): logits of pixels, or numbers.

    Args:
        latent: Width of a code.
        shape: Of one row.
        layout: Of encoder and decoder.
    """
    shapes, style = feature_map_shapes(shape, layout), (layout.activation, 0.0, False)
    width, map_shape = ([latent, *layout.decoder_dense])[-1], shapes[-1]
    layers: list[nn.Module] = []
    if layout.decoder_dense:
        layers += build_hidden_layers(layout.decoder_dense, latent, *style)
    layers.append(nn.Linear(width, count_values(map_shape)))
    if layout.filters:
        layers.append(ACTIVATIONS[layout.activation]())
    layers.append(nn.Unflatten(1, map_shape))
    channels = map_shape[0]
    downsampling = [index for index, stride in enumerate(layout.strides) if stride > 1]
    for filters, index in zip(layout.decoder_filters, reversed(downsampling), strict=True):
        sides = (shapes[index + 1][1:], shapes[index][1:])
        stride = layout.strides[index]
        layers += upsample_convolution(channels, filters, layout.kernel, stride, sides)
        layers.append(ACTIVATIONS[layout.activation]())
        channels = filters
    if layout.filters:
        layers.append(nn.Conv2d(channels, shape[0], layout.kernel, padding=layout.kernel // 2))
    return nn.Sequential(*layers)


def upsample_convolution(
    channels: int,
    filters: int,
    kernel: int,
    stride: int,
    sides: tuple[tuple[int, ...], tuple[int, ...]],
) -> list[nn.Module]:
    """Return the transposed convolution that undoes a stride, for odd and even sides.

    Args:
        channels: Of its input.
        filters: Of its output.
        kernel: Side of the kernel.
        stride: That is undone.
        sides: The image's sides before and after it.
    """
    # two sides of n and n - 1 may have become the same one; this tells them apart again
    extra_height, extra_width = (
        large - (small - 1) * stride - 1 for small, large in zip(*sides, strict=True)
    )
    padding = kernel // 2
    return [
        nn.ConvTranspose2d(channels, filters, kernel, stride, padding, (extra_height, extra_width))
    ]


def count_values(shape: Iterable[int]) -> int:
    """Return how many values a shape holds."""
    total = 1
    for side in shape:
        total *= side
    return total


class Autoencoder(Model):
    """An encoder to one or more heads, and a decoder back to the values of a row.

    Attributes:
        columns: Input → shape: one image, or numbers that are concatenated.
        latent: Width of a code.
        note: Which inputs are not reproduced.
        shape: Of the values of a row.
        towers: Image input → its convolutions, where there are some.
        dense: Hidden layers of the encoder.
        heads: Name → linear layer to (B, latent); the first is the code.
        decoder: From codes to raw values.
    """

    def __init__(
        self,
        columns: dict[str, tuple[int, ...]],
        layout: Layout,
        latent: int,
        heads: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.columns, self.latent, self.note = columns, latent, ""
        first, *more = columns.values()
        self.shape = first if not more else (sum(map(count_values, columns.values())),)
        check_layout(layout, self.shape)
        name = next(iter(columns))
        # a tower, so that a new model may start from these convolutions, see `Model.image_towers`
        self.towers = SafeModuleDict(
            {name: build_conv_encoder(self.shape[0], layout)} if layout.filters else {}
        )
        width = count_values(feature_map_shapes(self.shape, layout)[-1])
        dense: list[nn.Module] = []
        if layout.dense:
            dense = build_hidden_layers(layout.dense, width, layout.activation, 0.0, False)
        self.dense = nn.Sequential(nn.Flatten(), *dense)
        self.heads = nn.ModuleDict(
            {head: nn.Linear([width, *layout.dense][-1], latent) for head in heads}
        )
        self.decoder = build_decoder(latent, self.shape, layout)

    @property
    def is_image(self) -> bool:
        """Whether rows are images (C, H, W), whose pixels lie in [0, 1]."""
        return len(self.shape) == 3

    def read(self, batch: Batch) -> Tensor:
        """Return the values of a batch that are encoded and reproduced, (B, *shape)."""
        columns = [batch[name] for name in self.columns]
        if len(columns) == 1:
            return columns[0]
        return torch.cat([column.flatten(1) for column in columns], 1)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return each head's output (B, latent) for values (B, *shape); the first is the code."""
        for convolutions in self.towers.values():
            x = convolutions(x)
        features = self.dense(x)
        return tuple(head(features) for head in self.heads.values())

    def decode(self, codes: Tensor) -> Tensor:
        """Return raw values (B, *shape) of codes (B, latent)."""
        return self.decoder(codes)  # type: ignore[no-any-return]

    def values(self, raw: Tensor) -> Tensor:
        """Return raw values as values of rows: pixels in [0, 1], or numbers as they are."""
        return raw.sigmoid() if self.is_image else raw

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # the first head is the code: of a VAE the mean
        return {"+".join(self.columns): self.decode(self.encode(self.read(batch))[0])}


def autoencoder(
    spec: Spec,
    *,
    filters: list[Count],
    strides: list[Count],
    kernel: Count,
    dense: list[Count],
    latent: Count,
    decoder_dense: list[Count],
    decoder_filters: list[Count],
    activation: Activation,
    init: Init,
) -> nn.Module:
    """An encoder to `latent` numbers and a decoder back (Hinton & Salakhutdinov 2006).

    Args:
        spec: One image input, or inputs that are numbers.
        filters: Of each convolution of the encoder; none for dense layers alone.
        strides: Of each convolution of the encoder.
        kernel: Side of all kernels, odd.
        dense: Units of the encoder's hidden layers, after the convolutions.
        latent: Width of a code.
        decoder_dense: Units of the decoder's hidden layers.
        decoder_filters: Of a transposed convolution for each stride above 1, the last stride first.
        activation: Between layers.
        init: Whose starting weights.

    Raises:
        ValueError: The layers do not fit each other, or the data.
    """
    layout = Layout(filters, strides, kernel, dense, decoder_dense, decoder_filters, activation)
    return initialize_autoencoder(
        spec, Autoencoder(get_columns(spec), layout, latent, ("code",)), init
    )


def vae(
    spec: Spec,
    *,
    filters: list[Count],
    strides: list[Count],
    kernel: Count,
    dense: list[Count],
    latent: Count,
    decoder_dense: list[Count],
    decoder_filters: list[Count],
    activation: Activation,
    init: Init,
) -> nn.Module:
    """A network for objective=variational (book §8.4).

    The encoder returns mean and log-variance of `latent` numbers. Arguments: see `autoencoder`.

    Raises:
        ValueError: The data have no image, or the layers do not fit.
    """
    columns = get_columns(spec)
    if len(next(iter(columns.values()))) != 3:
        raise ValueError(
            f"it makes images, and the data give {describe_inputs(spec)}; "
            "objective=autoencoder reads numbers"
        )
    layout = Layout(filters, strides, kernel, dense, decoder_dense, decoder_filters, activation)
    return initialize_autoencoder(
        spec, Autoencoder(columns, layout, latent, ("mean", "log_var")), init
    )


def get_columns(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Return input → shape: the image of the data, or all inputs that are numbers.

    Raises:
        ValueError: There is neither, or more than one image.
    """
    images = {name: field.shape for name, field in spec.inputs.items() if field.kind == "image"}
    numbers = {name: field.shape for name, field in spec.inputs.items() if field.kind == "number"}
    if len(images) > 1:
        raise ValueError(f"it reads one image, and the data give {describe_inputs(spec)}")
    if not images and not numbers:
        raise ValueError(f"it reads an image or numbers, and the data give {describe_inputs(spec)}")
    return images or numbers


def describe_inputs(spec: Spec) -> str:
    """Return kind and name of each input, as text."""
    return ", ".join(f"{field.kind} '{name}'" for name, field in spec.inputs.items())


def initialize_autoencoder(spec: Spec, model: Autoencoder, init: Init) -> nn.Module:
    """Draw the starting weights of a model, and note the inputs that it leaves out.

    Args:
        spec: The inputs.
        model: The model.
        init: Whose starting weights.
    """
    initialize_weights(model, init)
    unread = [name for name in spec.inputs if name not in model.columns]
    model.note = f"inputs that are not reproduced: {', '.join(unread)}" if unread else ""
    if model.is_image:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
