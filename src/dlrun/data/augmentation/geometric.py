"""Flip, rotate, shift, shear, zoom and crop: one affine map per image, one resampling per batch.

Ours, because torchvision does neither: given a batch, its transforms draw once for all of it;
given single images, a chain of them resamples once per transform, blurring each time; and none
repeats the image's edge into the gaps, as the book does. A map takes a point of the new image
to the point of the old one where its value is read, in pixels from the center, x to the right
and y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrun.config.annotations import Fraction, NonNegative, Positive, Probability
from dlrun.core.errors import UserError

FillMode = Literal["nearest", "reflect", "black"]
# Our names → those of torch.nn.functional.grid_sample.
PADDING_MODES = {"nearest": "border", "reflect": "reflection", "black": "zeros"}


@dataclass(frozen=True)
class RandomAffine:
    """A random affine transform.

    Attributes:
        sample_matrix: Images (B, C, H, W) → maps (B, 3, 3), one per image.
        fill: What fills the gaps; '' where there are none.
    """

    sample_matrix: Callable[[Tensor], Tensor]
    fill: str = ""


def flip(*, probability: Fraction, axis: Literal["horizontal", "vertical"]) -> RandomAffine:
    """Mirror a fraction of the images.

    Args:
        probability: The fraction of images.
        axis: `horizontal` swaps left and right, `vertical` top and bottom.
    """
    coordinate = 0 if axis == "horizontal" else 1

    def draw(images: Tensor) -> Tensor:
        sign = 1.0 - 2.0 * (sample_uniform(images, 0, 1) < probability)
        return affine_matrix(images, {(coordinate, coordinate): sign})

    return RandomAffine(draw)


def rotate(*, degrees: NonNegative, fill: FillMode) -> RandomAffine:
    """Rotate about the center by up to so many degrees, to either side.

    Args:
        degrees: Largest angle.
        fill: What fills the gaps.
    """

    def draw(images: Tensor) -> Tensor:
        return rotation_matrix(images, sample_uniform(images, -degrees, degrees).deg2rad())

    return RandomAffine(draw, fill)


def rotation_matrix(images: Tensor, angle: Tensor) -> Tensor:
    """Return maps that rotate images counter-clockwise by angles (B,) in radians."""
    cosine, sine = angle.cos(), angle.sin()
    return affine_matrix(images, {(0, 0): cosine, (0, 1): -sine, (1, 0): sine, (1, 1): cosine})


def shift(*, width: Fraction, height: Fraction, fill: FillMode) -> RandomAffine:
    """Move images sideways, and up or down.

    Args:
        width: Largest distance sideways, as a fraction of the width.
        height: Largest distance up or down, as a fraction of the height.
        fill: What fills the gaps.
    """

    def draw(images: Tensor) -> Tensor:
        right, down = width * images.shape[3], height * images.shape[2]
        return translation_matrix(
            images, sample_uniform(images, -right, right), sample_uniform(images, -down, down)
        )

    return RandomAffine(draw, fill)


def translation_matrix(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Return maps that move images by so many pixels (B,) to the right and down."""
    # Negative: a map says where a new pixel is read in the old image.
    return affine_matrix(images, {(0, 2): -right, (1, 2): -down})


def shear(*, degrees: NonNegative, fill: FillMode) -> RandomAffine:
    """Slide columns along each other by up to this angle, as Keras does.

    Keras maps a point to (cos(angle)·x, y − sin(angle)·x).

    Args:
        degrees: Largest angle, below 90.
        fill: What fills the gaps.

    Raises:
        ValueError: `degrees` is 90 or more.
    """
    if degrees >= 90:
        raise ValueError(f"degrees={degrees:g} would make a line of an image: less than 90")

    def draw(images: Tensor) -> Tensor:
        angle = sample_uniform(images, -degrees, degrees).deg2rad()
        return affine_matrix(images, {(0, 0): angle.cos(), (1, 0): -angle.sin()})

    return RandomAffine(draw, fill)


def zoom(*, amount: Probability, keep_ratio: bool, fill: FillMode) -> RandomAffine:
    """Zoom in or out: the frame shows 1 − amount to 1 + amount times the image's width and height.

    Args:
        amount: Largest change; factors below 1 are closer.
        keep_ratio: Draw one factor for both sides; else one for each, which also stretches.
        fill: What fills the gaps.
    """

    def draw(images: Tensor) -> Tensor:
        # Both are drawn in any case: keep_ratio leaves later random numbers as they are.
        width, height = (sample_uniform(images, 1 - amount, 1 + amount) for _ in range(2))
        return affine_matrix(images, {(0, 0): width, (1, 1): width if keep_ratio else height})

    return RandomAffine(draw, fill)


def crop(*, area: Fraction, ratio: Positive) -> RandomAffine:
    """Cut a random window and stretch it to the image's size (Szegedy et al. 2015).

    Args:
        area: Smallest area of the window, as a fraction of the image's.
        ratio: The window is at most so many times wider, or narrower, than the image's shape.

    Raises:
        ValueError: `area` is 0, or `ratio` is below 1.
    """
    if area == 0 or ratio < 1:
        raise ValueError(f"area={area:g} ratio={ratio:g}: an area above 0 and a ratio from 1 up")

    def draw(images: Tensor) -> Tensor:
        side = sample_uniform(images, area, 1).sqrt()
        # Uniform in the logarithm: twice as wide is as likely as half as wide.
        aspect = sample_uniform(images, -math.log(ratio), math.log(ratio)).div(2).exp()
        width, height = (side * aspect).clamp(max=1), (side / aspect).clamp(max=1)
        right, down = (sample_uniform(images, -0.5, 0.5) * (1 - size) for size in (width, height))
        offset = {(0, 2): right * images.shape[3], (1, 2): down * images.shape[2]}
        return affine_matrix(images, {(0, 0): width, (1, 1): height, **offset})

    return RandomAffine(draw)


def sample_uniform(images: Tensor, low: float, high: float) -> Tensor:
    """Draw numbers (B,) from low to high, one per image."""
    return torch.rand(len(images), device=images.device) * (high - low) + low


def affine_matrix(images: Tensor, entries: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """Return maps (B, 3, 3) that are the identity, except for some entries.

    Args:
        images: The images (B, C, H, W) that are to be mapped.
        entries: (row, column) → values (B,).
    """
    matrices = torch.eye(3, device=images.device).repeat(len(images), 1, 1)
    for (row, column), values in entries.items():
        matrices[:, row, column] = values
    return matrices


def get_fill_mode(transforms: Mapping[str, RandomAffine]) -> str:
    """Return what fills the gaps of all these transforms.

    Raises:
        UserError: They do not agree.
    """
    fills = {name: transform.fill for name, transform in transforms.items() if transform.fill}
    if len(set(fills.values())) > 1:
        listed = ", ".join(f"augment.{name}.fill={fill}" for name, fill in fills.items())
        raise UserError(
            f"{listed}: all moves are made at once, so what fills the gaps must be the same for all"
        )
    return next(iter(fills.values()), "nearest")


def apply_affine(transforms: tuple[RandomAffine, ...], fill: str, images: Tensor) -> Tensor:
    """Apply these transforms, one after the other, to images (B, C, H, W)."""
    # The product of all maps is one map: pixels are interpolated once, not once per transform.
    matrices = [transform.sample_matrix(images) for transform in transforms]
    return warp(images, reduce(torch.matmul, matrices), fill)


def warp(images: Tensor, matrices: Tensor, fill: str) -> Tensor:
    """Resample images bilinearly.

    Args:
        images: Images (B, C, H, W).
        matrices: One map per image (B, 3, 3).
        fill: What fills the gaps, a key of PADDING_MODES.
    """
    height, width = images.shape[2:]
    right = torch.arange(width, device=images.device) - (width - 1) / 2
    down = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2

    def coordinates(row: Tensor) -> Tensor:
        by_right, by_down, offset = row[:, :, None, None].unbind(1)
        return by_right * right + (by_down * down + offset)

    # grid_sample counts from -1 to 1 over each side. F.affine_grid makes the same grid, with a
    # matrix product that takes 10 times as long.
    across = coordinates(matrices[:, 0] * (2 / width))
    along = coordinates(matrices[:, 1] * (2 / height))
    grid = torch.stack([across, along], -1)
    return F.grid_sample(images, grid, "bilinear", PADDING_MODES[fill], align_corners=False)
