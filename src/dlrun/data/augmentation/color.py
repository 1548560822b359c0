"""Color jitter: brightness, contrast, saturation and hue, as one linear map per image.

torchvision's ColorJitter draws once for a whole batch, and called for one image at a time it
takes longer than training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlrun.config.annotations import Fraction, NonNegative
from dlrun.data.augmentation.geometric import sample_uniform

LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)


@dataclass(frozen=True)
class ColorJitter:
    """Changes the colors of images (B, C, H, W) in [0, 1], each with its own draw.

    Attributes:
        brightness: Largest change of the brightness factor, see `color`.
        contrast: Largest change of the contrast factor.
        saturation: Largest change of the saturation factor.
        hue: Largest rotation of the hue, as a fraction of a full turn.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, images: Tensor) -> Tensor:
        channels = images.shape[1]
        brightness = sample_factor(images, self.brightness)
        contrast = sample_factor(images, self.contrast)
        weights = images.new_tensor(LUMA if channels == 3 else [1 / channels] * channels)
        mean_gray = images.mean((2, 3)) @ weights * brightness
        matrix = torch.eye(channels, device=images.device) * (brightness * contrast)[:, None, None]
        if channels == 3:
            saturation = sample_factor(images, self.saturation)[:, None, None]
            matrix = matrix @ (
                torch.eye(3, device=images.device) * saturation + (1 - saturation) * weights
            )
            angle = sample_uniform(images, -self.hue, self.hue) * 2 * math.pi
            matrix = hue_rotation(angle) @ matrix
        # Contrast is about the mean gray of the image, which the offset keeps where it is.
        offset = ((1 - contrast) * mean_gray)[:, None, None]
        # One batched product for all four changes; clamping in place saves a copy of the batch.
        return torch.baddbmm(offset, matrix, images.flatten(2)).clamp_(0, 1).view(images.shape)


def color(
    *, brightness: NonNegative, contrast: NonNegative, saturation: NonNegative, hue: Fraction
) -> ColorJitter:
    """Change brightness, contrast, saturation and hue at random.

    Factors are drawn from 1 − x to 1 + x, but never below 0. Contrast is about the image's mean
    gray. Saturation and hue need three channels; other images keep theirs. Hue is rotated about
    the gray axis of the RGB cube: by a third of a turn red becomes green, as in HSV.

    Args:
        brightness: x of the brightness factor.
        contrast: x of the contrast factor.
        saturation: x of the saturation factor.
        hue: Largest rotation, as a fraction of a turn, at most 0.5.

    Raises:
        ValueError: `hue` is above 0.5.
    """
    if hue > 0.5:
        raise ValueError(f"hue={hue:g}: half a turn, 0.5, to either side is all there is")
    return ColorJitter(brightness, contrast, saturation, hue)


def sample_factor(images: Tensor, amount: float) -> Tensor:
    """Draw factors (B,) from 1 − amount (at least 0) to 1 + amount."""
    return sample_uniform(images, max(0.0, 1 - amount), 1 + amount)


def hue_rotation(angle: Tensor) -> Tensor:
    """Return matrices (B, 3, 3) that rotate colors about the axis from black to white.

    Args:
        angle: Angles in radians (B,).
    """
    # Rodrigues' formula for the unit vector (1, 1, 1) / √3.
    cosine, sine = angle.cos(), angle.sin() / math.sqrt(3)
    diagonal, average = (1 + 2 * cosine) / 3, (1 - cosine) / 3
    first, second = average - sine, average + sine
    rows = [diagonal, first, second, second, diagonal, first, first, second, diagonal]
    return torch.stack(rows, 1).view(-1, 3, 3)
