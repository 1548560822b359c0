"""The request of `dlrun visualize`, apart from the kinds of plots: it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class VisualizeRequest:
    """What the words of the command ask for.

    Attributes:
        kinds: The kinds of plots, or "all".
        layers: Names of layers.
        images: Image files.
        rows: Numbers of training and validation rows.
        label: The class that is explained; "" for the predicted one.
        target: The target that is explained; "" for the first one.
        input: The input that is looked at; "" for the first image.
        steps: Steps of gradient ascent.
        rate: How far a step goes, in pixel values from 0 to 255.
        size: Height and width of filters' images, where the network's own is larger.
        count: Filters of a layer that are shown.
    """

    kinds: tuple[str, ...]
    layers: tuple[str, ...]
    images: tuple[Path, ...]
    rows: tuple[int, ...]
    label: str
    target: str
    input: str
    steps: int
    rate: float
    size: int
    count: int
