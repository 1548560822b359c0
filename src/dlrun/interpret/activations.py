"""What the layers of a network compute for one image, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from dlrun.core.types import Batch
from dlrun.interpret.attribution import run_with_layer_outputs


def get_layer_activations(
    model: nn.Module, batch: Batch, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return what named layers compute for one row.

    Args:
        model: The network.
        batch: One row.
        names: Names of its layers, as in `named_modules`.

    Returns:
        Layer → maps (channels, height, width); the units of a vector as (units, 1, 1).
    """
    modules = {name: model.get_submodule(name) for name in names}
    with torch.no_grad():
        _, outputs = run_with_layer_outputs(lambda: model(batch), modules)
    arrays = {name: outputs[name][0].float().cpu().numpy() for name in names}
    return {
        name: array if array.ndim == 3 else array[:, None, None] for name, array in arrays.items()
    }


def to_contrast_images(maps: np.ndarray) -> np.ndarray:
    """Return maps as uint8 images in which every channel can be seen (book §5.4).

    Each channel gets a mean of 128 and a standard deviation of 64. Constant channels, such as those
    that are never active, are 0.

    Args:
        maps: (channels, height, width); a vector's units (units, 1, 1) share one scale.

    Returns:
        Images of the same shape.
    """
    # one unit has no deviation of its own
    axes = (1, 2) if maps[0].size > 1 else (0, 1, 2)
    deviation = maps.std(axes, keepdims=True)
    centered = maps - maps.mean(axes, keepdims=True)
    scaled = centered / np.where(deviation > 0, deviation, 1) * 64 + 128
    return np.where(deviation > 0, scaled, 0).clip(0, 255).astype(np.uint8)


def count_zero_channels(maps: np.ndarray) -> int:
    """Return how many of the channels (channels, height, width) are zero everywhere."""
    return int((maps == 0).all((1, 2)).sum())
