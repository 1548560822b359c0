"""Autoencoders: an encoder to a few numbers, and a decoder back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count
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
    """filters, strides: one convolution each, of odd `kernel`. dense: after them. Back: `decoder_dense`, then a
    transposed convolution of `decoder_filters` for each stride above 1, the last stride first."""

    filters: list[int]
    strides: list[int]
    kernel: int
    dense: list[int]
    decoder_dense: list[int]
    decoder_filters: list[int]
    activation: str


def check_layout(layout: Layout, shape: tuple[int, ...]) -> None:
    """Raise ValueError where these layers do not fit together, or rows of this shape."""
    halved = [stride for stride in layout.strides if stride > 1]
    if len(layout.filters) != len(layout.strides):
        raise ValueError(
            f"{len(layout.filters)} filters but {len(layout.strides)} strides: give one for each"
        )
    if len(halved) != len(layout.decoder_filters):
        raise ValueError(
            f"decoder_filters={layout.decoder_filters}: one for each stride above 1, which are {halved}"
        )
    if layout.filters and len(shape) != 3:
        raise ValueError(
            "convolutions read pictures, and these are numbers: filters=[] strides=[] decoder_filters=[]"
        )
    if layout.kernel % 2 == 0:
        raise ValueError(
            f"kernel={layout.kernel}: it must be odd, so that a picture keeps its size"
        )


def build_conv_encoder(channels: int, layout: Layout) -> nn.Sequential:
    """The convolutions over pictures of so many channels, each with its activation; nothing where there are none."""
    layers: list[nn.Module] = []
    for filters, stride in zip(layout.filters, layout.strides, strict=True):
        layers += build_convolution(
            channels, filters, layout.kernel, layout.activation, False, stride
        )
        channels = filters
    return nn.Sequential(*layers)


def feature_map_shapes(shape: tuple[int, ...], layout: Layout) -> list[tuple[int, ...]]:
    """The shape of what goes into each convolution, and of what comes out of the last: a side becomes ⌈side/stride⌉."""
    found = [shape]
    for filters, stride in zip(layout.filters, layout.strides, strict=True):
        _, *sides = found[-1]
        found.append((filters, *(-(-side // stride) for side in sides)))
    return found


def build_decoder(latent: int, shape: tuple[int, ...], layout: Layout) -> nn.Sequential:
    """From codes (B, latent) to raw values (B, *shape): logits of pixels, or numbers."""
    through, style = feature_map_shapes(shape, layout), (layout.activation, 0.0, False)
    width, first = ([latent, *layout.decoder_dense])[-1], through[-1]
    layers = (
        build_hidden_layers(layout.decoder_dense, latent, *style) if layout.decoder_dense else []
    )
    layers += [
        nn.Linear(width, count_values(first)),
        *([ACTIVATIONS[layout.activation]()] if layout.filters else []),
    ]
    layers.append(nn.Unflatten(1, first))
    channels = first[0]
    places = [number for number, stride in enumerate(layout.strides) if stride > 1]
    for filters, number in zip(layout.decoder_filters, reversed(places), strict=True):
        small, large = through[number + 1], through[number]
        layers += upsample_convolution(
            channels, filters, layout.kernel, layout.strides[number], (small[1:], large[1:])
        )
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
    """The transposed convolution that undoes what this stride did to the sides of a picture, odd or even."""
    spare = tuple(large - (small - 1) * stride - 1 for small, large in zip(*sides, strict=True))
    return [nn.ConvTranspose2d(channels, filters, kernel, stride, kernel // 2, spare)]  # type: ignore[arg-type]


def count_values(numbers: Iterable[int]) -> int:
    """How many values a shape holds."""
    total = 1
    for number in numbers:
        total *= number
    return total


class Autoencoder(Model):
    """columns: what is read and answered, one picture or numbers side by side. heads: what is said of a code.

    towers: input name → its convolutions, where there are some. answers values (B, *shape): logits of pixels, or
    numbers. note: stands beside every result.
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
        first, *others = columns.values()
        self.shape = first if not others else (sum(map(count_values, columns.values())),)
        check_layout(layout, self.shape)
        name = next(iter(columns))
        self.towers = SafeModuleDict(
            {name: build_conv_encoder(self.shape[0], layout)} if layout.filters else {}
        )
        width = count_values(feature_map_shapes(self.shape, layout)[-1])
        dense = (
            build_hidden_layers(layout.dense, width, layout.activation, 0.0, False)
            if layout.dense
            else []
        )
        self.dense = nn.Sequential(nn.Flatten(), *dense)
        self.heads = nn.ModuleDict(
            {head: nn.Linear([width, *layout.dense][-1], latent) for head in heads}
        )
        self.decoder = build_decoder(latent, self.shape, layout)

    @property
    def is_image(self) -> bool:
        """Whether rows are pictures (C, H, W), whose pixels lie in [0, 1]."""
        return len(self.shape) == 3

    def read(self, batch: Batch) -> Tensor:
        """What is read of a batch, and is to be answered: (B, *shape)."""
        parts = [batch[name] for name in self.columns]
        return parts[0] if len(parts) == 1 else torch.cat([part.flatten(1) for part in parts], 1)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each head says of these rows (B, latent); the first head is the code."""
        for convolutions in self.towers.values():
            x = convolutions(x)
        features = self.dense(x)
        return tuple(head(features) for head in self.heads.values())

    def decode(self, codes: Tensor) -> Tensor:
        """Raw values (B, *shape) of codes (B, latent)."""
        return self.decoder(codes)  # type: ignore[no-any-return]

    def values(self, raw: Tensor) -> Tensor:
        """Raw values as those of the rows: pixels in [0, 1], or numbers as they are."""
        return raw.sigmoid() if self.is_image else raw

    def forward(self, batch: Batch) -> dict[str, Tensor]:
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
    """An encoder to `latent` numbers and a decoder back (Hinton & Salakhutdinov 2006), of a picture or all numbers.

    filters, strides: the encoder's convolutions, none for dense layers alone. dense: the layers after them.
    decoder_dense, decoder_filters: the decoder's, see `encoders.Layout`. ValueError where they do not fit together.
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
    """A network for objective=variational: the encoder says mean and log-variance of `latent` numbers (book §8.4).

    The settings are those of `autoencoder`. ValueError where the data give no picture, or the layers do not fit.
    """
    columns = get_columns(spec)
    if len(next(iter(columns.values()))) != 3:
        raise ValueError(
            f"it makes pictures, and the data give {describe_inputs(spec)}; objective=autoencoder reads numbers"
        )
    layout = Layout(filters, strides, kernel, dense, decoder_dense, decoder_filters, activation)
    return initialize_autoencoder(
        spec, Autoencoder(columns, layout, latent, ("mean", "log_var")), init
    )


def get_columns(spec: Spec) -> dict[str, tuple[int, ...]]:
    """The input that is a picture, or all that are numbers: name → shape. ValueError for none, or several pictures."""
    pictures = {name: field.shape for name, field in spec.inputs.items() if field.kind == "image"}
    numbers = {name: field.shape for name, field in spec.inputs.items() if field.kind == "number"}
    if len(pictures) > 1:
        raise ValueError(f"it reads one picture, and the data give {describe_inputs(spec)}")
    if not pictures and not numbers:
        raise ValueError(
            f"it reads a picture or numbers, and the data give {describe_inputs(spec)}"
        )
    return pictures or numbers


def describe_inputs(spec: Spec) -> str:
    """The inputs in words."""
    return ", ".join(f"{field.kind} '{name}'" for name, field in spec.inputs.items())


def initialize_autoencoder(spec: Spec, model: Autoencoder, init: Init) -> nn.Module:
    """The model with its starting weights, and a note of the inputs that it leaves out."""
    initialize_weights(model, init)
    left = [name for name in spec.inputs if name not in model.columns]
    model.note = f"inputs that are not reproduced: {', '.join(left)}" if left else ""
    return model.to(memory_format=torch.channels_last) if model.is_image else model  # type: ignore[call-overload,no-any-return]
