"""Which places and which pixels of a picture speak for an answer of a network: Grad-CAM and saliency."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dlrun.core.types import Batch
from dlrun.inspect.maps import heard
from dlrun.inspect.question import Question


def heatmap(model: nn.Module, batch: Batch, image: str, layer: str, asked: Question) -> np.ndarray:
    """Grad-CAM: (height, width) of the picture, from 0 to 1; zero everywhere where nothing speaks for the answer.

    The maps of a layer, each weighted by the mean gradient of the answer's raw score, added up, below zero cut off,
    and enlarged to the picture's size. batch: one row. Source: Selvaraju et al. 2017; book §5.4.
    """
    batch = followed(batch, image)
    with torch.enable_grad():
        outputs, kept = heard(lambda: model(batch), {layer: model.get_submodule(layer)})
        (gradient,) = torch.autograd.grad(asked.score(outputs), kept[layer])
    weights = gradient.mean((2, 3), keepdim=True)
    warmth = (weights * kept[layer].detach()).sum(1, keepdim=True).relu()
    size = batch[image].shape[2:]
    return unit(functional.interpolate(warmth, size, mode="bilinear", align_corners=False)[0, 0])


def saliency(model: nn.Module, batch: Batch, image: str, asked: Question) -> np.ndarray:
    """How much a pixel's change changes the answer's raw score: (height, width) from 0 to 1, the largest over channels.

    batch: one row. Source: Simonyan, Vedaldi & Zisserman 2014.
    """
    batch = followed(batch, image)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(asked.score(model(batch)), batch[image])
    return unit(gradient[0].abs().amax(0))


def followed(batch: Batch, image: str) -> Batch:
    """The batch with a picture whose gradient is kept, whether or not the network's weights learn."""
    return {**batch, image: batch[image].detach().clone().requires_grad_()}


def unit(values: torch.Tensor) -> np.ndarray:
    """Values from 0 up, divided by the largest."""
    top = float(values.max())
    found: np.ndarray = (values / top if top > 0 else values).detach().float().cpu().numpy()
    return found
