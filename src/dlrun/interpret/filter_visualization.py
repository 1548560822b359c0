"""What the filters of a layer look for: pictures that excite them, found by gradient ascent, and their own weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

LEAKY_SLOPE = 0.01  # of what is below zero counts, so that a filter that the noise leaves cold is led to what it looks for
OPTIMIZATION_SETTINGS = Settings(
    epochs=1, batch_size=1, eval_batch_size=None, max_steps=None, epoch_batches=None, device="cpu", precision="fp32",
    accumulate=1, clip_norm=None, clip_value=None, ema=None, compile=False, deterministic=False, save_every=math.inf,
    overfit=None, devices=None, shard=False,
)  # fmt: skip


@dataclass(frozen=True)
class FilterPatterns:
    """pictures: (N, C, H, W), as they came out. before, after: (N,) how much each excites its filter."""

    pictures: np.ndarray
    before: np.ndarray
    after: np.ndarray


def mean_filter_activation(
    run: Callable[[Tensor], object], layer: nn.Module
) -> Callable[[Tensor], Tensor]:
    """Pictures (N, C, H, W) → (N,): the mean answer of filter i to picture i, over its map. run: the network."""

    def measure(pictures: Tensor) -> Tensor:
        _, kept = run_with_layer_outputs(lambda: run(pictures), {"layer": layer})
        answers = kept["layer"].flatten(2) if kept["layer"].dim() > 2 else kept["layer"][..., None]
        own = answers[torch.arange(len(pictures)), torch.arange(len(pictures))]
        return nn.functional.leaky_relu(own, LEAKY_SLOPE).mean(1)

    return measure


def build_image_trainer(
    measure: Callable[[Tensor], Tensor], start: Tensor, steps: int, rate: float, folder: Path
) -> Trainer:
    """The engine over a canvas: `steps` steps up the measure. rate: of a step, in pixel values from 0 to 255."""
    canvas = ImageOptimization(start, lambda pictures: -measure(pictures).mean())
    learner = Optimization(
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
        learner,
        {},
        folder,
    )


def optimize_filter_images(
    measure: Callable[[Tensor], Tensor], start: Tensor, steps: int, rate: float
) -> FilterPatterns:
    """Pictures that excite their filters, from these on (book §5.4: 40 steps of rate 1 from grey noise).

    Raises UserError where the network is too deep for pictures of this size.
    """
    trainer = build_image_trainer(measure, start, steps, rate, Path())
    try:
        with torch.no_grad():
            before = measure(start).cpu().numpy()
    except RuntimeError as error:
        size = " × ".join(map(str, start.shape[2:]))
        raise UserError(
            f"a picture of {size} is too small for this layer: give a larger size=…"
        ) from error
    trainer.run_epoch("train", trainer.data.train, learn=True)
    canvas: Any = trainer.objective
    after = canvas.pictures.detach()
    with torch.no_grad():
        return FilterPatterns(after.cpu().numpy(), before, measure(after).cpu().numpy())


def build_noise_images(count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """So many grey pictures with some noise: (20 · U(0, 1) + 128) / 255, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    return (
        ((torch.rand(1, *shape, generator=generator) * 20 + 128) / 255)
        .repeat(count, 1, 1, 1)
        .to(device)
    )


def to_visible_images(pictures: np.ndarray) -> np.ndarray:
    """Pictures as uint8: each with its mean at .5 and a deviation of .1 (book §5.4)."""
    centred = pictures - pictures.mean((1, 2, 3), keepdims=True)
    scaled = centred / (pictures.std((1, 2, 3), keepdims=True) + 1e-5) * 0.1 + 0.5
    return (scaled.clip(0, 1) * 255).astype(np.uint8)


def get_kernel_images(layer: nn.Module) -> np.ndarray:
    """A convolution's weights as uint8 pictures (N, C, height, width), 0 at mid-grey, each on its own scale.

    C is 3 where the layer reads three channels, else 1: then each channel of each kernel is a picture.
    """
    weights: Tensor = layer.weight.detach().float().cpu()  # type: ignore[assignment, operator, union-attr]
    if weights.shape[1] != 3:
        weights = weights.flatten(0, 1)[:, None]
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return ((weights / largest + 1) * 127.5).round().numpy().astype(np.uint8)
