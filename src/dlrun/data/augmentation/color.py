"""Colours of pictures: brightness, contrast, saturation and hue, as one linear map a picture and one product a batch.

torchvision's ColorJitter draws once for a whole batch, and called a picture at a time it takes longer than training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlrun.config.constraints import Fraction, NonNegative
from dlrun.data.augmentation.geometric import sample_uniform

LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)


@dataclass(frozen=True)
class ColorJitter:
    """A function of pictures (B, C, H, W) in [0, 1]; the ranges are those of `colour`."""

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, pictures: Tensor) -> Tensor:
        channels = pictures.shape[1]
        light, contrast = (
            sample_factor(pictures, self.brightness),
            sample_factor(pictures, self.contrast),
        )
        weights = pictures.new_tensor(LUMA if channels == 3 else [1 / channels] * channels)
        grey = pictures.mean((2, 3)) @ weights * light
        change = torch.eye(channels, device=pictures.device) * (light * contrast)[:, None, None]
        if channels == 3:
            pale = sample_factor(pictures, self.saturation)[:, None, None]
            change = change @ (torch.eye(3, device=pictures.device) * pale + (1 - pale) * weights)
            change = (
                hue_rotation(sample_uniform(pictures, -self.hue, self.hue) * 2 * math.pi) @ change
            )
        offset = ((1 - contrast) * grey)[:, None, None]
        return torch.baddbmm(offset, change, pictures.flatten(2)).clamp_(0, 1).view(pictures.shape)


def colour(
    *, brightness: NonNegative, contrast: NonNegative, saturation: NonNegative, hue: Fraction
) -> ColorJitter:
    """Brightness, contrast and saturation times 1 − x to 1 + x (never below 0), hue turned by up to a share of a turn.

    Contrast is about the picture's mean grey. Saturation and hue are for three channels; others have none. Hue is
    turned about the grey axis of the RGB cube, so by a third of a turn red is green, as in HSV. ValueError: hue > .5.
    """
    if hue > 0.5:
        raise ValueError(f"hue={hue:g}: half a turn, 0.5, to either side is all there is")
    return ColorJitter(brightness, contrast, saturation, hue)


def sample_factor(pictures: Tensor, amount: float) -> Tensor:
    """Factors (B,) around 1."""
    return sample_uniform(pictures, max(0.0, 1 - amount), 1 + amount)


def hue_rotation(angle: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn colours by angles (B,) in radians about the axis from black to white."""
    cosine, sine = angle.cos(), angle.sin() / math.sqrt(3)
    same, other = (1 + 2 * cosine) / 3, (1 - cosine) / 3
    first, second = other - sine, other + sine
    rows = [same, first, second, second, same, first, first, second, same]
    return torch.stack(rows, 1).view(-1, 3, 3)
