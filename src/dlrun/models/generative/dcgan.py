"""Two convolutional networks that learn from each other: one makes pictures, one tells them from real ones (DCGAN)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as bounded

from dlrun.config.constraints import Count, NonNegative, Probability
from dlrun.core.errors import UserError
from dlrun.core.types import Spec
from dlrun.models.layers import Init, initialize_weights
from dlrun.models.model import Model
from dlrun.models.vision.convnet import count_features, get_image_inputs

OutputActivation = Literal["sigmoid", "tanh", "book"]
FIRST_SIZE, LAST_SIZE = (
    4,
    2,
)  # sides of the smallest feature maps of a generator and of a discriminator


class DCGAN(Model):
    """generator: latent points (B, latent) → pictures; discriminator: pictures → one logit each (B,), high for real.

    column: the image input of this shape. output: sigmoid makes pictures in [0, 1]; tanh in [-1, 1], and real ones are
    stretched to that; book is the book's mismatch: tanh against real pictures in [0, 1]. It answers no target.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        column: str,
        latent: int,
        output: OutputActivation,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.column, self.latent, self.output = column, latent, output
        self.note = ""

    def sample_latent(self, count: int) -> Tensor:
        """So many random latent points, standard normal (count, latent)."""
        return torch.randn(count, self.latent, device=next(self.generator.parameters()).device)

    def normalize_images(self, pictures: Tensor) -> Tensor:
        """Real pictures (B, C, H, W) in [0, 1] as the discriminator sees them."""
        return pictures * 2 - 1 if self.output == "tanh" else pictures

    def to_images(self, made: Tensor) -> Tensor:
        """What the generator made (B, C, H, W) as pictures in [0, 1]."""
        return (made + 1) / 2 if self.output == "tanh" else made.clamp(0, 1)


class Crop2d(nn.Module):
    """The first rows and columns of a feature map, so that doubled sides become what they are wanted to be."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.height, : self.width]

    def extra_repr(self) -> str:
        return f"{self.height}, {self.width}"


def dcgan(
    spec: Spec,
    *,
    latent: Count,
    generator: list[Count],
    discriminator: list[Count],
    slope: NonNegative,
    dropout: Probability,
    batch_norm: bool,
    spectral_norm: bool,
    output: OutputActivation,
    init: Init,
) -> nn.Module:
    """Convolutions between doublings of the sides, against convolutions that halve them (after Radford et al. 2016).

    generator: channels of its feature maps, each with twice the sides of the one before; the last is as large as the
    picture, which one more convolution makes of it. Sides are doubled by repeating pixels, as transposed convolutions
    leave a pattern (Odena et al. 2016). discriminator: filters of its convolutions. Of small pictures only the first of
    the former and the last of the latter are there: the generator begins with 4×4, the discriminator ends with 2×2.
    slope: of its leaky ReLU. dropout: of its last feature map. batch_norm: in the generator. spectral_norm: bounds all
    layers of the discriminator (Miyato et al. 2018). Raises UserError unless there is one image input.
    """
    column, (channels, *sides) = get_image_input(spec)
    widths = generator[: 1 + count_downsampling(sides, FIRST_SIZE)]
    maker = nn.Sequential(
        *build_generator(latent, widths, (channels, sides[0], sides[1]), batch_norm),
        output_activation(output),
    )
    layers: list[nn.Module] = []
    filters = discriminator[max(0, len(discriminator) - count_downsampling(sides, LAST_SIZE)) :]
    for before, count in zip([channels, *filters], filters, strict=False):
        layers += [nn.Conv2d(before, count, 4, 2, 1), nn.LeakyReLU(slope)]
    judge = nn.Sequential(*layers, *build_logit_head(layers, (channels, *sides), dropout))
    return initialize_dcgan(DCGAN(maker, judge, column, latent, output), init, spectral_norm)


def count_downsampling(sides: list[int], least: int) -> int:
    """How often both sides can be halved, rounded up, before one is below `least`."""
    side, count = min(sides), 0
    while -(-side // 2) >= least:
        side, count = -(-side // 2), count + 1
    return count


def build_generator(
    latent: int, widths: list[int], shape: tuple[int, int, int], batch_norm: bool
) -> Iterator[nn.Module]:
    """The layers from a latent point to a picture of this shape (C, H, W), the last activation aside."""
    channels, *sides = shape
    maps = [[-(-side // 2**left) for side in sides] for left in reversed(range(len(widths)))]
    rest = lambda width: [*([nn.BatchNorm2d(width)] if batch_norm else []), nn.ReLU()]  # noqa: E731
    yield nn.Linear(latent, widths[0] * maps[0][0] * maps[0][1])
    yield nn.Unflatten(1, (widths[0], *maps[0]))
    for before, after, high in zip(widths, widths[1:], maps[1:], strict=False):
        yield from rest(before)
        yield nn.Upsample(tuple(high))
        yield nn.Conv2d(before, after, 3, padding=1)
    yield from rest(widths[-1])
    yield nn.Conv2d(widths[-1], channels, 3, padding=1)


def dcgan_book(
    spec: Spec,
    *,
    latent: Count,
    filters: Count,
    discriminator: Count,
    slope: NonNegative,
    dropout: Probability,
    spectral_norm: bool,
    output: OutputActivation,
    init: Init,
) -> nn.Module:
    """The book's two networks (§8.5): 6,264,579 and 790,913 parameters for 32×32 pictures in colour.

    filters: of the generator's convolutions, half as many in its first map. discriminator: of each of its convolutions.
    slope: of all leaky ReLUs. Raises UserError unless there is one image input, ValueError for one that is too small.
    """
    column, (channels, *sides) = get_image_input(spec)
    half = [-(-side // 2) for side in sides]
    same = lambda before, after, kernel: nn.Conv2d(before, after, kernel, padding="same")  # noqa: E731
    maker = nn.Sequential(
        *(nn.Linear(latent, filters // 2 * half[0] * half[1]), nn.LeakyReLU(slope)),
        nn.Unflatten(1, (filters // 2, *half)),
        *(same(filters // 2, filters, 5), nn.LeakyReLU(slope)),
        *(nn.ConvTranspose2d(filters, filters, 4, 2, 1), Crop2d(*sides), nn.LeakyReLU(slope)),
        *(same(filters, filters, 5), nn.LeakyReLU(slope)),
        *(same(filters, filters, 5), nn.LeakyReLU(slope)),
        *(same(filters, channels, 7), output_activation(output)),
    )
    layers: list[nn.Module] = [nn.Conv2d(channels, discriminator, 3), nn.LeakyReLU(slope)]
    for _ in range(3):
        layers += [nn.Conv2d(discriminator, discriminator, 4, 2), nn.LeakyReLU(slope)]
    judge = nn.Sequential(*layers, *build_logit_head(layers, (channels, *sides), dropout))
    return initialize_dcgan(DCGAN(maker, judge, column, latent, output), init, spectral_norm)


def get_image_input(spec: Spec) -> tuple[str, tuple[int, ...]]:
    """The image input and its shape (C, H, W). Raises UserError unless there is exactly one."""
    found = get_image_inputs(spec)
    if len(found) != 1:
        there = ", ".join(f"{name} ({field.kind})" for name, field in spec.inputs.items())
        raise UserError(
            f"a GAN makes pictures like those of one image input; the data give {there}"
        )
    ((column, field),) = found.items()
    return column, field.shape


def output_activation(output: OutputActivation) -> nn.Module:
    """The generator's last activation."""
    return nn.Sigmoid() if output == "sigmoid" else nn.Tanh()


def build_logit_head(
    layers: list[nn.Module], shape: tuple[int, ...], dropout: float
) -> list[nn.Module]:
    """What makes one logit of the last feature map of these layers."""
    width = count_features(nn.Sequential(*layers), shape)
    return [
        nn.Flatten(),
        *([nn.Dropout(dropout)] if dropout else []),
        nn.Linear(width, 1),
        nn.Flatten(0),
    ]


def initialize_dcgan(model: DCGAN, init: Init, spectral_norm: bool) -> nn.Module:
    """The model with its starting weights, and its discriminator's layers bounded where that is asked for."""
    initialize_weights(model, init)
    if spectral_norm:
        for part in list(model.discriminator.modules()):
            if isinstance(part, nn.Conv2d | nn.Linear):
                bounded(part)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
