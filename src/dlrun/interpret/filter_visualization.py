"""What the filters of a layer respond to: images found by gradient ascent, and their weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dlrun.config.settings import Settings
from dlrun.core.dataset import PreparedData
from dlrun.core.errors import UserError
from dlrun.core.types import Spec
from dlrun.data.loading.table import EmptyBatches
from dlrun.interpret.attribution import run_with_layer_outputs
from dlrun.objectives.image_optimization import ImageOptimization
from dlrun.training.optimization import Optimization
from dlrun.training.optimizers import NormalizedGradientDescent
from dlrun.training.trainer import Trainer

# activations below zero count a little: without a gradient there, a filter that the noise does not
# activate would never find a pattern
LEAKY_SLOPE = 0.01
OPTIMIZATION_SETTINGS = Settings(
    epochs=1,
    batch_size=1,
    eval_batch_size=None,
    max_steps=None,
    epoch_batches=None,
    device="cpu",
    precision="fp32",
    accumulate=1,
    clip_norm=None,
    clip_value=None,
    ema=None,
    compile=False,
    deterministic=False,
    save_every=math.inf,
    overfit=None,
    devices=None,
    shard=False,
)


@dataclass(frozen=True)
class FilterPatterns:
    """Images that activate one filter each, and how strongly.

    Attributes:
        images: (N, C, H, W), not clipped to [0, 1].
        before: Mean activation of each filter on the first images (N,).
        after: Mean activation of each filter on these images (N,).
    """

    pictures: np.ndarray
    before: np.ndarray
    after: np.ndarray


def mean_filter_activation(
    run: Callable[[Tensor], object], layer: nn.Module
) -> Callable[[Tensor], Tensor]:
    """Return a function that measures how strongly image i activates filter i.

    Args:
        run: Runs the network, or a part of it, on images (N, C, H, W).
        layer: The layer with the filters.

    Returns:
        Images (N, C, H, W) → mean activation (N,) of filter i on image i, over its map.
    """

    def measure(images: Tensor) -> Tensor:
        _, outputs = run_with_layer_outputs(lambda: run(images), {"layer": layer})
        output = outputs["layer"]
        activations = output.flatten(2) if output.dim() > 2 else output[..., None]
        diagonal = torch.arange(len(images))
        filter_maps = activations[diagonal, diagonal]
        return nn.functional.leaky_relu(filter_maps, LEAKY_SLOPE).mean(1)

    return measure


def build_image_trainer(
    measure: Callable[[Tensor], Tensor], start: Tensor, steps: int, rate: float, folder: Path
) -> Trainer:
    """Return a trainer whose weights are images, which are optimized for a measure.

    Args:
        measure: Images (N, C, H, W) → what is maximized (N,).
        start: The first images (N, C, H, W).
        steps: Number of steps in an epoch.
        rate: Size of a step, in pixel values from 0 to 255.
        folder: Where a checkpoint would lie.
    """
    canvas = ImageOptimization(start, lambda images: -measure(images).mean())
    optimization = Optimization(
        canvas.groups,
        lambda pixels: NormalizedGradientDescent(pixels, rate / 255),
        OPTIMIZATION_SETTINGS,
        None,
        start.device,
    )
    return Trainer(
        canvas,
        PreparedData(Spec({}), EmptyBatches(steps)),
        OPTIMIZATION_SETTINGS,
        optimization,
        {},
        folder,
    )


def optimize_filter_images(
    measure: Callable[[Tensor], Tensor], start: Tensor, steps: int, rate: float
) -> FilterPatterns:
    """Return images that activate their filters (book §5.4: 40 steps of rate 1 from gray noise).

    Args:
        measure: See `mean_filter_activation`.
        start: The first images (N, C, H, W), values in [0, 1].
        steps: Number of gradient steps.
        rate: Size of a step, in pixel values from 0 to 255.

    Raises:
        UserError: The network is too deep for images of this size.
    """
    trainer = build_image_trainer(measure, start, steps, rate, Path())
    try:
        with torch.no_grad():
            start_activations = measure(start).cpu().numpy()
    except RuntimeError as error:
        size = " × ".join(map(str, start.shape[2:]))
        raise UserError(
            f"an image of {size} is too small for this layer: give a larger size=…"
        ) from error
    trainer.run_epoch("train", trainer.data.train, train=True)
    canvas: Any = trainer.objective
    images = canvas.pictures.detach()
    with torch.no_grad():
        return FilterPatterns(
            images.cpu().numpy(), start_activations, measure(images).cpu().numpy()
        )


def build_noise_images(count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return gray images with some noise: (20 · U(0, 1) + 128) / 255, the same at each call.

    Args:
        count: How many; all are alike, so that filters can be compared.
        shape: Of one image (C, H, W).
        device: Where they are made.
    """
    # a generator of its own: torch's is part of a run's state
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, *shape, generator=generator) * 20
    return ((noise + 128) / 255).repeat(count, 1, 1, 1).to(device)


def to_visible_images(images: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) as uint8, each with mean .5 and deviation .1 (book §5.4)."""
    centered = images - images.mean((1, 2, 3), keepdims=True)
    scaled = centered / (images.std((1, 2, 3), keepdims=True) + 1e-5) * 0.1 + 0.5
    return (scaled.clip(0, 1) * 255).astype(np.uint8)


def get_kernel_images(layer: nn.Module) -> np.ndarray:
    """Return the weights of a convolution as images.

    Args:
        layer: The convolution.

    Returns:
        uint8 (N, C, height, width), a weight of 0 at mid-gray, each image on its own scale. C is 3
        where the layer reads three channels, else each channel of each kernel is an image.
    """
    weights = cast(Tensor, layer.weight).detach().float().cpu()
    if weights.shape[1] != 3:
        weights = weights.flatten(0, 1)[:, None]
    # an all-zero kernel is mid-gray, not a division by zero
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return ((weights / largest + 1) * 127.5).round().numpy().astype(np.uint8)
