"""Two convolutional networks that learn from each other: generator and discriminator (DCGAN)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as bound_spectral_norm

from dlrun.config.annotations import Count, NonNegative, Probability
from dlrun.core.errors import UserError
from dlrun.core.types import Spec
from dlrun.models.layers import Init, initialize_weights
from dlrun.models.model import Model
from dlrun.models.vision.convnet import count_features, get_image_inputs

OutputActivation = Literal["sigmoid", "tanh", "book"]
FIRST_SIZE = 4  # side of the smallest feature map of a generator
LAST_SIZE = 2  # side of the smallest feature map of a discriminator


class DCGAN(Model):
    """A generator and a discriminator. It predicts no target.

    Attributes:
        generator: Latent points (B, latent) → images.
        discriminator: Images → one logit each (B,), high for real ones.
        column: Name of the image input.
        latent: Width of a latent point.
        output: sigmoid generates in [0, 1]; tanh in [-1, 1], to which real images are scaled; book
            is the book's mismatch: tanh against real images in [0, 1].
        note: Where the scores come from.
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
        """Return random latent points, standard normal (count, latent)."""
        return torch.randn(count, self.latent, device=next(self.generator.parameters()).device)

    def normalize_images(self, images: Tensor) -> Tensor:
        """Return real images (B, C, H, W) in [0, 1] as the discriminator sees them."""
        return images * 2 - 1 if self.output == "tanh" else images

    def to_images(self, generated: Tensor) -> Tensor:
        """Return generated images (B, C, H, W) with values in [0, 1]."""
        return (generated + 1) / 2 if self.output == "tanh" else generated.clamp(0, 1)


class Crop2d(nn.Module):
    """The first rows and columns of a feature map: doubled sides may be one too many."""

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
    """Convolutions between doublings of the sides, against convolutions that halve them.

    After Radford et al. 2016. Sides are doubled by repeating pixels, as transposed convolutions
    leave a pattern (Odena et al. 2016). Small images have only the first widths of the generator
    and the last filters of the discriminator: the former begins with 4×4, the latter ends with 2×2.

    Args:
        spec: One image input.
        latent: Width of a latent point.
        generator: Channels of its feature maps, each with twice the sides of the one before; the
            last is as large as the image, which one more convolution makes of it.
        discriminator: Filters of its convolutions.
        slope: Of the discriminator's leaky ReLU.
        dropout: Of the discriminator's last feature map.
        batch_norm: Whether the generator has them.
        spectral_norm: Whether all layers of the discriminator are bounded (Miyato et al. 2018).
        output: See `DCGAN`.
        init: Whose starting weights.

    Raises:
        UserError: There is not exactly one image input.
    """
    column, (channels, *sides) = get_image_input(spec)
    widths = generator[: 1 + count_downsampling(sides, FIRST_SIZE)]
    generator_net = nn.Sequential(
        *build_generator(latent, widths, (channels, sides[0], sides[1]), batch_norm),
        output_activation(output),
    )
    layers: list[nn.Module] = []
    # small images have the last filters only
    filters = discriminator[max(0, len(discriminator) - count_downsampling(sides, LAST_SIZE)) :]
    for previous, count in zip([channels, *filters], filters, strict=False):
        layers += [nn.Conv2d(previous, count, 4, 2, 1), nn.LeakyReLU(slope)]
    discriminator_net = nn.Sequential(
        *layers, *build_logit_head(layers, (channels, *sides), dropout)
    )
    return initialize_dcgan(
        DCGAN(generator_net, discriminator_net, column, latent, output), init, spectral_norm
    )


def count_downsampling(sides: list[int], least: int) -> int:
    """Return how often both sides can be halved, rounded up, before one is below `least`."""
    side, count = min(sides), 0
    while -(-side // 2) >= least:
        side, count = -(-side // 2), count + 1
    return count


def build_generator(
    latent: int, widths: list[int], shape: tuple[int, int, int], batch_norm: bool
) -> Iterator[nn.Module]:
    """Yield the layers from a latent point to an image, without the last activation.

    Args:
        latent: Width of a latent point.
        widths: Channels of each feature map.
        shape: Of the image (C, H, W).
        batch_norm: Whether there is one after each feature map.
    """
    channels, *sides = shape
    # sides of each feature map, from the smallest to the image's
    maps = [
        [-(-side // 2**remaining) for side in sides] for remaining in reversed(range(len(widths)))
    ]

    def norm_and_relu(width: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]

    yield nn.Linear(latent, widths[0] * maps[0][0] * maps[0][1])
    yield nn.Unflatten(1, (widths[0], *maps[0]))
    for previous, following, sides_after in zip(widths, widths[1:], maps[1:], strict=False):
        yield from norm_and_relu(previous)
        # pixels are repeated, as transposed convolutions leave a pattern
        yield nn.Upsample(tuple(sides_after))
        yield nn.Conv2d(previous, following, 3, padding=1)
    yield from norm_and_relu(widths[-1])
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
    """The book's two networks (§8.5): 6,264,579 and 790,913 parameters for 32×32 color images.

    Args:
        spec: One image input.
        latent: Width of a latent point.
        filters: Of the generator's convolutions; its first map has half as many.
        discriminator: Filters of each of its convolutions.
        slope: Of all leaky ReLUs.
        dropout: Of the discriminator's last feature map.
        spectral_norm: Whether all layers of the discriminator are bounded (Miyato et al. 2018).
        output: See `DCGAN`.
        init: Whose starting weights.

    Raises:
        UserError: There is not exactly one image input.
        ValueError: Images are too small.
    """
    column, (channels, *sides) = get_image_input(spec)
    half = [-(-side // 2) for side in sides]

    def same(channels_in: int, channels_out: int, kernel: int) -> nn.Conv2d:
        return nn.Conv2d(channels_in, channels_out, kernel, padding="same")

    generator_net = nn.Sequential(
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
    discriminator_net = nn.Sequential(
        *layers, *build_logit_head(layers, (channels, *sides), dropout)
    )
    return initialize_dcgan(
        DCGAN(generator_net, discriminator_net, column, latent, output), init, spectral_norm
    )


def get_image_input(spec: Spec) -> tuple[str, tuple[int, ...]]:
    """Return the name of the image input, and its shape (C, H, W).

    Raises:
        UserError: There is not exactly one.
    """
    images = get_image_inputs(spec)
    if len(images) != 1:
        listed = ", ".join(f"{name} ({field.kind})" for name, field in spec.inputs.items())
        raise UserError(f"a GAN makes images like those of one image input; the data give {listed}")
    ((column, field),) = images.items()
    return column, field.shape


def output_activation(output: OutputActivation) -> nn.Module:
    """Return the generator's last activation."""
    return nn.Sigmoid() if output == "sigmoid" else nn.Tanh()


def build_logit_head(
    layers: list[nn.Module], shape: tuple[int, ...], dropout: float
) -> list[nn.Module]:
    """Return the layers that make one logit of a feature map.

    Args:
        layers: What makes the feature map.
        shape: Of an image (C, H, W).
        dropout: Of the feature map; 0 for none.
    """
    width = count_features(nn.Sequential(*layers), shape)
    return [
        nn.Flatten(),
        *([nn.Dropout(dropout)] if dropout else []),
        nn.Linear(width, 1),
        nn.Flatten(0),
    ]


def initialize_dcgan(model: DCGAN, init: Init, spectral_norm: bool) -> nn.Module:
    """Draw the starting weights of a model.

    Args:
        model: The model.
        init: Whose starting weights.
        spectral_norm: Whether the layers of the discriminator are bounded.
    """
    initialize_weights(model, init)
    if spectral_norm:
        # a list, as bounding a layer adds modules to it
        for layer in list(model.discriminator.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound_spectral_norm(layer)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
