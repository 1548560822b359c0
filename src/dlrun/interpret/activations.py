"""What the layers of a network answer to one picture, channel by channel."""

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
    """Layer → its answer to a batch of one row: maps (channels, height, width); a vector as (units, 1, 1)."""
    modules = {name: model.get_submodule(name) for name in names}
    with torch.no_grad():
        _, kept = run_with_layer_outputs(lambda: model(batch), modules)
    arrays = {name: kept[name][0].float().cpu().numpy() for name in names}
    return {
        name: array if array.ndim == 3 else array[:, None, None] for name, array in arrays.items()
    }


def to_contrast_images(maps: np.ndarray) -> np.ndarray:
    """Maps as uint8: each channel's mean at 128, its deviation 64 (book §5.4); a vector's units share one scale.

    A channel that is the same everywhere, such as one that does not answer at all, is 0.
    """
    axes = (1, 2) if maps[0].size > 1 else (0, 1, 2)
    deviation = maps.std(axes, keepdims=True)
    scaled = (maps - maps.mean(axes, keepdims=True)) / np.where(
        deviation > 0, deviation, 1
    ) * 64 + 128
    return np.where(deviation > 0, scaled, 0).clip(0, 255).astype(np.uint8)


def count_zero_channels(maps: np.ndarray) -> int:
    """How many channels are zero everywhere."""
    return int((maps == 0).all((1, 2)).sum())
