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
from dlrun.core.dataset import Data
from dlrun.core.errors import Refused
from dlrun.core.types import Spec
from dlrun.data.loading.table import Ticks
from dlrun.interpret.attribution import heard
from dlrun.objectives.image_optimization import Canvas
from dlrun.training.optimization import Learner
from dlrun.training.optimizers import Normalised
from dlrun.training.trainer import Trainer

LEAK = 0.01  # of what is below zero counts, so that a filter that the noise leaves cold is led to what it looks for
ONCE = Settings(
    epochs=1, batch_size=1, eval_batch_size=None, max_steps=None, epoch_batches=None, device="cpu", precision="fp32",
    accumulate=1, clip_norm=None, clip_value=None, ema=None, compile=False, deterministic=False, save_every=math.inf,
    overfit=None, devices=None, shard=False,
)  # fmt: skip


@dataclass(frozen=True)
class Patterns:
    """pictures: (N, C, H, W), as they came out. before, after: (N,) how much each excites its filter."""

    pictures: np.ndarray
    before: np.ndarray
    after: np.ndarray


def excitement(run: Callable[[Tensor], object], layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Pictures (N, C, H, W) → (N,): the mean answer of filter i to picture i, over its map. run: the network."""

    def measure(pictures: Tensor) -> Tensor:
        _, kept = heard(lambda: run(pictures), {"layer": layer})
        answers = kept["layer"].flatten(2) if kept["layer"].dim() > 2 else kept["layer"][..., None]
        own = answers[torch.arange(len(pictures)), torch.arange(len(pictures))]
        return nn.functional.leaky_relu(own, LEAK).mean(1)

    return measure


def painter(measure: Callable[[Tensor], Tensor], start: Tensor, steps: int, rate: float, folder: Path) -> Trainer:
    """The engine over a canvas: `steps` steps up the measure. rate: of a step, in pixel values from 0 to 255."""
    canvas = Canvas(start, lambda pictures: -measure(pictures).mean())
    learner = Learner(canvas.groups, lambda pixels: Normalised(pixels, rate / 255), ONCE, None, start.device)
    return Trainer(canvas, Data(Spec({}), Ticks(steps)), ONCE, learner, {}, folder)


def patterns(measure: Callable[[Tensor], Tensor], start: Tensor, steps: int, rate: float) -> Patterns:
    """Pictures that excite their filters, from these on (book §5.4: 40 steps of rate 1 from grey noise).

    Raises Refused where the network is too deep for pictures of this size.
    """
    trainer = painter(measure, start, steps, rate, Path())
    try:
        with torch.no_grad():
            before = measure(start).cpu().numpy()
    except RuntimeError as error:
        size = " × ".join(map(str, start.shape[2:]))
        raise Refused(f"a picture of {size} is too small for this layer: give a larger size=…") from error
    trainer.sweep("train", trainer.data.train, learn=True)
    canvas: Any = trainer.objective
    after = canvas.pictures.detach()
    with torch.no_grad():
        return Patterns(after.cpu().numpy(), before, measure(after).cpu().numpy())


def noise(count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """So many grey pictures with some noise: (20 · U(0, 1) + 128) / 255, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    return ((torch.rand(1, *shape, generator=generator) * 20 + 128) / 255).repeat(count, 1, 1, 1).to(device)


def visible(pictures: np.ndarray) -> np.ndarray:
    """Pictures as uint8: each with its mean at .5 and a deviation of .1 (book §5.4)."""
    centred = pictures - pictures.mean((1, 2, 3), keepdims=True)
    scaled = centred / (pictures.std((1, 2, 3), keepdims=True) + 1e-5) * 0.1 + 0.5
    return (scaled.clip(0, 1) * 255).astype(np.uint8)


def kernels(layer: nn.Module) -> np.ndarray:
    """A convolution's weights as uint8 pictures (N, C, height, width), 0 at mid-grey, each on its own scale.

    C is 3 where the layer reads three channels, else 1: then each channel of each kernel is a picture.
    """
    weights: Tensor = layer.weight.detach().float().cpu()  # type: ignore[assignment, operator, union-attr]
    if weights.shape[1] != 3:
        weights = weights.flatten(0, 1)[:, None]
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return ((weights / largest + 1) * 127.5).round().numpy().astype(np.uint8)
