"""Moves of pictures: flip, rotate, shift, shear, zoom and crop, as one affine map a picture and one resampling a batch.

Ours, because torchvision does neither: given a batch, its transforms draw once for all of it; given single pictures, a
chain of them resamples as often as it has links, each time blurring; and none repeats the picture's edge into the gaps,
as the book does. A map takes a place in the new picture to the place in the old one where its value is found, in pixels
from the centre, x to the right and y down.
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

from dlrun.config.constraints import Fraction, NonNegative, Positive, Probability
from dlrun.core.errors import UserError

FillMode = Literal["nearest", "reflect", "black"]
PADDING_MODES = {"nearest": "border", "reflect": "reflection", "black": "zeros"}


@dataclass(frozen=True)
class RandomAffine:
    """A random move. draw: pictures (B, C, H, W) → maps (B, 3, 3), one a picture. fill: what gaps show; '' = none."""

    sample_matrix: Callable[[Tensor], Tensor]
    fill: str = ""


def flip(*, probability: Fraction, axis: Literal["horizontal", "vertical"]) -> RandomAffine:
    """Left and right changed, or top and bottom, in a share of the pictures."""
    place = 0 if axis == "horizontal" else 1

    def draw(pictures: Tensor) -> Tensor:
        return affine_matrix(
            pictures, {(place, place): 1.0 - 2.0 * (sample_uniform(pictures, 0, 1) < probability)}
        )

    return RandomAffine(draw)


def rotate(*, degrees: NonNegative, fill: FillMode) -> RandomAffine:
    """Turned about the centre by up to so many degrees, to either side."""
    return RandomAffine(
        lambda pictures: rotation_matrix(
            pictures, sample_uniform(pictures, -degrees, degrees).deg2rad()
        ),
        fill,
    )


def rotation_matrix(pictures: Tensor, angle: Tensor) -> Tensor:
    """Maps that turn pictures counter-clockwise by angles (B,) in radians."""
    cosine, sine = angle.cos(), angle.sin()
    return affine_matrix(pictures, {(0, 0): cosine, (0, 1): -sine, (1, 0): sine, (1, 1): cosine})


def shift(*, width: Fraction, height: Fraction, fill: FillMode) -> RandomAffine:
    """Moved to the side by up to a share of the width, and up or down by up to a share of the height."""

    def draw(pictures: Tensor) -> Tensor:
        right, down = width * pictures.shape[3], height * pictures.shape[2]
        return translation_matrix(
            pictures, sample_uniform(pictures, -right, right), sample_uniform(pictures, -down, down)
        )

    return RandomAffine(draw, fill)


def translation_matrix(pictures: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Maps that move pictures by so many pixels (B,)."""
    return affine_matrix(pictures, {(0, 2): -right, (1, 2): -down})


def shear(*, degrees: NonNegative, fill: FillMode) -> RandomAffine:
    """Columns slid along each other by up to this angle, as Keras does: y − sin(angle)·x and cos(angle)·x."""
    if degrees >= 90:
        raise ValueError(f"degrees={degrees:g} would make a line of a picture: less than 90")

    def draw(pictures: Tensor) -> Tensor:
        angle = sample_uniform(pictures, -degrees, degrees).deg2rad()
        return affine_matrix(pictures, {(0, 0): angle.cos(), (1, 0): -angle.sin()})

    return RandomAffine(draw, fill)


def zoom(*, amount: Probability, keep_ratio: bool, fill: FillMode) -> RandomAffine:
    """What fills the frame is 1 − amount to 1 + amount times the picture's width and height: below 1 is closer.

    keep_ratio: one draw for both; else each has its own, which also stretches.
    """

    def draw(pictures: Tensor) -> Tensor:
        across, down = (sample_uniform(pictures, 1 - amount, 1 + amount) for _ in range(2))
        return affine_matrix(pictures, {(0, 0): across, (1, 1): across if keep_ratio else down})

    return RandomAffine(draw, fill)


def crop(*, area: Fraction, ratio: Positive) -> RandomAffine:
    """A window of `area` to all of the picture's area, stretched to its size (Szegedy et al. 2015).

    ratio: the window is at most so many times wider, or narrower, than the picture's shape.
    """
    if area == 0 or ratio < 1:
        raise ValueError(f"area={area:g} ratio={ratio:g}: an area above 0 and a ratio from 1 up")

    def draw(pictures: Tensor) -> Tensor:
        side = sample_uniform(pictures, area, 1).sqrt()
        wider = sample_uniform(pictures, -math.log(ratio), math.log(ratio)).div(2).exp()
        width, height = (side * wider).clamp(max=1), (side / wider).clamp(max=1)
        right, down = (sample_uniform(pictures, -0.5, 0.5) * (1 - size) for size in (width, height))
        place = {(0, 2): right * pictures.shape[3], (1, 2): down * pictures.shape[2]}
        return affine_matrix(pictures, {(0, 0): width, (1, 1): height, **place})

    return RandomAffine(draw)


def sample_uniform(pictures: Tensor, low: float, high: float) -> Tensor:
    """Numbers (B,) from low to high, one a picture."""
    return torch.rand(len(pictures), device=pictures.device) * (high - low) + low


def affine_matrix(pictures: Tensor, entries: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """Maps (B, 3, 3) that leave pictures as they are, but for entries (B,) at some places (row, column)."""
    found = torch.eye(3, device=pictures.device).repeat(len(pictures), 1, 1)
    for (row, column), values in entries.items():
        found[:, row, column] = values
    return found


def get_fill_mode(moves: Mapping[str, RandomAffine]) -> str:
    """What fills the gaps of all these moves. Raises UserError where they do not agree."""
    fills = {name: move.fill for name, move in moves.items() if move.fill}
    if len(set(fills.values())) > 1:
        told = ", ".join(f"augment.{name}.fill={fill}" for name, fill in fills.items())
        raise UserError(
            f"{told}: all moves are made at once, so what fills the gaps must be the same for all"
        )
    return next(iter(fills.values()), "nearest")


def apply_affine(moves: tuple[RandomAffine, ...], fill: str, pictures: Tensor) -> Tensor:
    """Pictures (B, C, H, W) after these moves, one after the other."""
    return warp(
        pictures, reduce(torch.matmul, [move.sample_matrix(pictures) for move in moves]), fill
    )


def warp(pictures: Tensor, places: Tensor, fill: str) -> Tensor:
    """Pictures resampled, bilinearly, where these maps (B, 3, 3) say."""
    height, width = pictures.shape[2:]
    right = torch.arange(width, device=pictures.device) - (width - 1) / 2
    down = torch.arange(height, device=pictures.device)[:, None] - (height - 1) / 2

    def found(line: Tensor) -> Tensor:
        first, second, rest = line[:, :, None, None].unbind(1)
        return first * right + (second * down + rest)

    # grid_sample counts from -1 to 1 over each side. F.affine_grid makes the same, with a product that takes 10x longer
    grid = torch.stack([found(places[:, 0] * (2 / width)), found(places[:, 1] * (2 / height))], -1)
    return F.grid_sample(pictures, grid, "bilinear", PADDING_MODES[fill], align_corners=False)
