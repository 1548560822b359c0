"""Encoders and decoders: a picture, or a row of numbers, as a few numbers, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from dlrun.models.dense import stack
from dlrun.models.layers import ACTIVATIONS, convolution


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


def check(layout: Layout, shape: tuple[int, ...]) -> None:
    """Raise ValueError where these layers do not fit together, or rows of this shape."""
    halved = [stride for stride in layout.strides if stride > 1]
    if len(layout.filters) != len(layout.strides):
        raise ValueError(f"{len(layout.filters)} filters but {len(layout.strides)} strides: give one for each")
    if len(halved) != len(layout.decoder_filters):
        raise ValueError(f"decoder_filters={layout.decoder_filters}: one for each stride above 1, which are {halved}")
    if layout.filters and len(shape) != 3:
        raise ValueError("convolutions read pictures, and these are numbers: filters=[] strides=[] decoder_filters=[]")
    if layout.kernel % 2 == 0:
        raise ValueError(f"kernel={layout.kernel}: it must be odd, so that a picture keeps its size")


def tower(channels: int, layout: Layout) -> nn.Sequential:
    """The convolutions over pictures of so many channels, each with its activation; nothing where there are none."""
    layers: list[nn.Module] = []
    for filters, stride in zip(layout.filters, layout.strides, strict=True):
        layers += convolution(channels, filters, layout.kernel, layout.activation, False, stride)
        channels = filters
    return nn.Sequential(*layers)


def maps(shape: tuple[int, ...], layout: Layout) -> list[tuple[int, ...]]:
    """The shape of what goes into each convolution, and of what comes out of the last: a side becomes ⌈side/stride⌉."""
    found = [shape]
    for filters, stride in zip(layout.filters, layout.strides, strict=True):
        _, *sides = found[-1]
        found.append((filters, *(-(-side // stride) for side in sides)))
    return found


def decoder(latent: int, shape: tuple[int, ...], layout: Layout) -> nn.Sequential:
    """From codes (B, latent) to raw values (B, *shape): logits of pixels, or numbers."""
    through, style = maps(shape, layout), (layout.activation, 0.0, False)
    width, first = ([latent, *layout.decoder_dense])[-1], through[-1]
    layers = stack(layout.decoder_dense, latent, *style) if layout.decoder_dense else []
    layers += [nn.Linear(width, product(first)), *([ACTIVATIONS[layout.activation]()] if layout.filters else [])]
    layers.append(nn.Unflatten(1, first))
    channels = first[0]
    places = [number for number, stride in enumerate(layout.strides) if stride > 1]
    for filters, number in zip(layout.decoder_filters, reversed(places), strict=True):
        small, large = through[number + 1], through[number]
        layers += enlarged(channels, filters, layout.kernel, layout.strides[number], (small[1:], large[1:]))
        layers.append(ACTIVATIONS[layout.activation]())
        channels = filters
    if layout.filters:
        layers.append(nn.Conv2d(channels, shape[0], layout.kernel, padding=layout.kernel // 2))
    return nn.Sequential(*layers)


def enlarged(
    channels: int, filters: int, kernel: int, stride: int, sides: tuple[tuple[int, ...], tuple[int, ...]]
) -> list[nn.Module]:
    """The transposed convolution that undoes what this stride did to the sides of a picture, odd or even."""
    spare = tuple(large - (small - 1) * stride - 1 for small, large in zip(*sides, strict=True))
    return [nn.ConvTranspose2d(channels, filters, kernel, stride, kernel // 2, spare)]  # type: ignore[arg-type]


def product(numbers: Iterable[int]) -> int:
    """How many values a shape holds."""
    total = 1
    for number in numbers:
        total *= number
    return total
