"""DeepDream: change a photograph so that a network's layers respond to it more (book §8.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, Natural, Positive
from dlrun.core.objective import Artifact, Objective, ObjectiveContext, SampleGenerator
from dlrun.core.types import Batch, Step
from dlrun.models.pretrained.feature_extractor import FeatureExtractor
from dlrun.objectives.image_optimization import (
    load_input_images,
    morph_frames,
    resize_images,
    to_image_artifact,
)


class DeepDreamObjective(Objective):
    """One step a tick, up the activation energy of the layers: Σ weight · mean squared activation.

    Args:
        model: A frozen network; its layers of role 'dream' are excited.
        photo: (1, 3, H, W) in [0, 1], at its full size.
        size: Height and width of the canvas, at this octave.
        ticks: Steps of an epoch.
        edge: Positions at a layer's border that do not count; fewer where nothing would be left.
        jitter: The canvas is rolled by up to so many pixels each way before each step.
    """

    goals = {"loss": "min", "excitement": "max"}
    default_samples = ("picture",)
    photo: Tensor

    def __init__(
        self,
        model: FeatureExtractor,
        photo: Tensor,
        size: tuple[int, int],
        ticks: int,
        edge: int = 0,
        jitter: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.layers = model, model.layers("dream")
        self.ticks, self.edge, self.jitter = ticks, edge, jitter
        # Not persistent: it comes with the data.
        self.register_buffer("photo", photo, persistent=False)
        self.pictures = nn.Parameter(resize_images(photo, size).clone())
        self.groups = {"canvas": [self.pictures]}
        self.generators: dict[str, SampleGenerator] = {
            "picture": self.current_image,
            "frames": self.frames,
        }

    def steps(self, batch: Batch) -> Iterator[Step]:
        canvas: Tensor = self.pictures
        if self.jitter and self.training:
            # Rolling hides the grid of the network's strides, which would be amplified.
            canvas = canvas.roll(
                torch.randint(-self.jitter, self.jitter + 1, (2,)).tolist(), (2, 3)
            )
        activations = self.model(canvas, self.layers)
        energy = torch.stack(
            [
                weight * activation_energy(activations[name], self.edge)
                for name, weight in self.layers.items()
            ]
        ).sum()
        yield Step("canvas", -energy, measured={"excitement": energy})

    def begin_with(self, state: dict[str, Any]) -> None:
        """Go on from the canvas of a smaller octave, enlarged, with the detail that it has lost.

        Args:
            state: The checkpoint of the smaller octave's fit.
        """
        smaller_canvas = state["objective"]["pictures"].to(self.photo)
        size, smaller_size = self.pictures.shape[2:], smaller_canvas.shape[2:]
        detail = resize_images(self.photo, size) - resize_images(
            resize_images(self.photo, smaller_size), size
        )
        with torch.no_grad():
            self.pictures.copy_(resize_images(smaller_canvas, size) + detail)

    def current_image(self) -> Iterator[Artifact]:
        """The image as it is now."""
        yield to_image_artifact(
            self.pictures,
            f"what {self.model.name} sees in the photograph: {', '.join(self.layers)}",
        )

    def frames(
        self, *, count: Count = 24, width: Count = 320, zoom: Positive = 1.5
    ) -> Iterator[Artifact]:
        """An animation from the photograph to the dream, zooming in."""
        yield morph_frames(self.photo, self.pictures, count, width, zoom)


def activation_energy(activation: Tensor, edge: int) -> Tensor:
    """The sum of squares of an activation (1, C, h, w) without its edge, over all its numbers."""
    top, left = (min(edge, (side - 1) // 2) for side in activation.shape[2:])
    inner = activation[:, :, top : activation.shape[2] - top, left : activation.shape[3] - left]
    return inner.square().sum() / activation.numel()


def dream(
    context: ObjectiveContext,
    *,
    octave: Natural,
    scale: Positive,
    ticks: Count,
    edge: Natural,
    jitter: Natural,
) -> DeepDreamObjective:
    """DeepDream on the photograph of input `image`.

    Args:
        context: Its model is a `FeatureExtractor` with layers of role 'dream'.
        octave: How many times the canvas is smaller by `scale`; 0 is its full size.
        scale: From one octave to the next.
        ticks: Steps of an epoch.
        edge: Positions at a layer's border that do not count.
        jitter: Pixels by which the canvas is rolled at most, each way.

    Raises:
        UserError: if the canvas is too small for the network.
    """
    photo, *_ = load_input_images(context)
    # 169 / 1.3² is 99.99999999999999, which would lose a pixel.
    height, width = (round(side / scale**octave, 9) for side in photo.shape[2:])
    size = (max(1, int(height)), max(1, int(width)))
    model = context.model.to(context.device)
    assert isinstance(model, FeatureExtractor)
    objective = DeepDreamObjective(model, photo, size, ticks, edge, jitter)
    # Called once now: what the network cannot read is rejected before anything is written.
    with torch.no_grad():
        model(objective.pictures, objective.layers)
    return objective
