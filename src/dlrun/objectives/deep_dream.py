"""DeepDream: change a photograph so that what some layers of a network answer to it becomes more (book §8.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, Natural, Positive
from dlrun.core.artifacts import Artifact, Maker
from dlrun.core.types import Batch, Step
from dlrun.models.pretrained.feature_extractor import Layers
from dlrun.objectives.context import Given
from dlrun.objectives.image_optimization import pictures, resized, turning, whole


class Dream(nn.Module):
    """One step a tick: up the excitement of the layers, Σ weight · Σ answer² / numbers in the layer.

    photo (1, 3, H, W) in [0, 1], at its full size; size: height and width of the canvas, at this octave. edge: places
    at a layer's border that do not count, less where nothing would be left. jitter: the picture is rolled by up to so
    many pixels each way before each step.
    """

    goals = {"loss": "min", "excitement": "max"}
    shown = ("picture",)
    photo: Tensor

    def __init__(
        self, model: Layers, photo: Tensor, size: tuple[int, int], ticks: int, edge: int = 0, jitter: int = 0
    ) -> None:
        super().__init__()
        self.model, self.layers = model, model.layers("dream")
        self.ticks, self.edge, self.jitter = ticks, edge, jitter
        self.register_buffer("photo", photo, persistent=False)
        self.pictures = nn.Parameter(resized(photo, size).clone())
        self.groups = {"canvas": [self.pictures]}
        self.makes: dict[str, Maker] = {"picture": self.picture, "frames": self.frames}

    def steps(self, batch: Batch) -> Iterator[Step]:
        seen: Tensor = self.pictures
        if self.jitter and self.training:
            seen = seen.roll(torch.randint(-self.jitter, self.jitter + 1, (2,)).tolist(), (2, 3))
        answers = self.model(seen, self.layers)
        excited = torch.stack([weight * energy(answers[name], self.edge) for name, weight in self.layers.items()]).sum()
        yield Step("canvas", -excited, measured={"excitement": excited})

    def begin_with(self, state: dict[str, Any]) -> None:
        """Go on from the canvas of a smaller octave: enlarged, with the detail of the photograph that it lacks."""
        before = state["pictures"].to(self.photo)
        size, smaller = self.pictures.shape[2:], before.shape[2:]
        lost = resized(self.photo, size) - resized(resized(self.photo, smaller), size)
        with torch.no_grad():
            self.pictures.copy_(resized(before, size) + lost)

    def picture(self) -> Iterator[Artifact]:
        """The picture as it is now."""
        yield whole(self.pictures, f"what {self.model.name} sees in the photograph: {', '.join(self.layers)}")

    def frames(self, *, count: Count = 24, width: Count = 320, zoom: Positive = 1.5) -> Iterator[Artifact]:
        """From the photograph to the dream, coming nearer."""
        yield turning(self.photo, self.pictures, count, width, zoom)


def energy(answer: Tensor, edge: int) -> Tensor:
    """The squares of a layer's answer (1, C, h, w) without its edge, added up, over all numbers in it."""
    top, left = (min(edge, (side - 1) // 2) for side in answer.shape[2:])
    inner = answer[:, :, top : answer.shape[2] - top, left : answer.shape[3] - left]
    return inner.square().sum() / answer.numel()


def dream(given: Given, *, octave: Natural, scale: Positive, ticks: Count, edge: Natural, jitter: Natural) -> Dream:
    """The photograph of input `image` before the model's layers of role `dream`.

    octave: how many times it is smaller by `scale`; 0 is its full size. Raises Refused where it is too small then.
    """
    photo, *_ = pictures(given)
    height, width = (round(side / scale**octave, 9) for side in photo.shape[2:])  # 169 / 1.3² is 99.99999999999999
    size = (max(1, int(height)), max(1, int(width)))
    model = given.model.to(given.device)
    assert isinstance(model, Layers)
    found = Dream(model, photo, size, ticks, edge, jitter)
    with torch.no_grad():  # so that a picture which the network cannot read is refused before anything is written
        model(found.pictures, found.layers)
    return found
