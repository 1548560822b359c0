"""Neural style transfer: a photograph keeps its content and takes the style of other images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, NonNegative, Positive
from dlrun.core.errors import UserError
from dlrun.core.objective import Artifact, Objective, ObjectiveContext, SampleGenerator
from dlrun.core.types import Batch, Step
from dlrun.models.pretrained.feature_extractor import FeatureExtractor
from dlrun.objectives.image_optimization import load_input_images, morph_frames, to_image_artifact

GRAYSCALE_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue (Rec. 601)
EPSILON = 1e-12


@dataclass(frozen=True)
class StyleTargets:
    """What the canvas is to approach.

    Attributes:
        content: Layer → activation (1, C, h, w) for the photograph.
        style: Layer → Gram matrix (C, C) of the styles.
    """

    content: dict[str, Tensor]
    style: dict[str, Tensor]


@dataclass(frozen=True)
class StyleLossWeights:
    """The weight of each term of the loss."""

    content: float
    style: float
    variation: float


class StyleTransfer(Objective):
    """One step a tick, down the distances to content and styles plus total variation (book §8.3).

    Measured as `remaining`: the share of the initial loss that is left.

    Args:
        model: A frozen network with layers of role 'content' and 'style'.
        photo: (1, 3, H, W) in [0, 1].
        start: The initial canvas (1, C, H, W); with C = 1 it is luminance, and the colors are the
            photograph's.
        targets: Of content and style.
        loss_weights: Of the terms.
        ticks: Steps of an epoch.
    """

    goals = dict.fromkeys(
        ("loss", "loss_content", "loss_style", "loss_variation", "remaining"), "min"
    )
    default_samples = ("picture",)
    photo: Tensor

    def __init__(
        self,
        model: FeatureExtractor,
        photo: Tensor,
        start: Tensor,
        targets: StyleTargets,
        loss_weights: StyleLossWeights,
        ticks: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.targets = targets
        self.loss_weights = loss_weights
        self.ticks = ticks
        self.layers = {role: normalize_weights(model.layers(role)) for role in ("content", "style")}
        # Not persistent: it comes with the data.
        self.register_buffer("photo", photo, persistent=False)
        self.pictures = nn.Parameter(start.clone())
        self.groups = {"canvas": [self.pictures]}
        self.generators: dict[str, SampleGenerator] = {
            "picture": self.current_image,
            "frames": self.frames,
        }
        with torch.no_grad():
            self.first = torch.stack([*self.loss_terms().values()]).sum()

    def steps(self, batch: Batch) -> Iterator[Step]:
        terms = self.loss_terms()
        loss = torch.stack([*terms.values()]).sum()
        yield Step(
            "canvas",
            loss,
            parts=terms,
            measured={"remaining": loss / self.first.clamp(min=EPSILON)},
        )

    def loss_terms(self) -> dict[str, Tensor]:
        """The terms of the loss; each distance is relative to the size of its target."""
        activations = self.model(self.pictures, {**self.layers["content"], **self.layers["style"]})
        content = [
            weight * relative_distance(activations[name], self.targets.content[name])
            for name, weight in self.layers["content"].items()
        ]
        style = [
            weight * relative_distance(gram_matrix(activations[name]), self.targets.style[name])
            for name, weight in self.layers["style"].items()
        ]
        return {
            "content": self.loss_weights.content * torch.stack(content).sum(),
            "style": self.loss_weights.style * torch.stack(style).sum(),
            "variation": self.loss_weights.variation * total_variation(self.pictures),
        }

    def render_image(self) -> Tensor:
        """The canvas as an image (1, 3, H, W), in colors."""
        if self.pictures.shape[1] == 3:
            return self.pictures
        # The difference in luminance is added to all channels, so the colors stay.
        return self.photo + (self.pictures - to_grayscale(self.photo))

    def current_image(self) -> Iterator[Artifact]:
        """The image as it is now."""
        yield to_image_artifact(
            self.render_image(), f"the photograph in another manner, by {self.model.name}"
        )

    def frames(
        self, *, count: Count = 24, width: Count = 320, zoom: Positive = 1.0
    ) -> Iterator[Artifact]:
        """An animation from the photograph to the image."""
        yield morph_frames(self.photo, self.render_image(), count, width, zoom)


def gram_matrix(activation: Tensor) -> Tensor:
    """The correlations (C, C) of the channels of an activation (1, C, h, w), over all positions."""
    flat = activation[0].flatten(1)
    # Over positions: the matrix does not depend on the size of the image.
    return flat @ flat.T / flat.shape[1]


def relative_distance(value: Tensor, target: Tensor) -> Tensor:
    """The mean squared distance over the target's mean square: layers of any scale count alike."""
    return (value - target).square().mean() / target.square().mean().clamp(min=EPSILON)


def total_variation(pictures: Tensor) -> Tensor:
    """How much neighboring pixels differ: the mean of (down² + right²)^1.25 (book §8.3)."""
    down = pictures[:, :, 1:, :-1] - pictures[:, :, :-1, :-1]
    right = pictures[:, :, :-1, 1:] - pictures[:, :, :-1, :-1]
    return (down.square() + right.square()).pow(1.25).mean()


def to_grayscale(pictures: Tensor) -> Tensor:
    """Images (N, 3, H, W) in gray: (N, 1, H, W)."""
    return (pictures * pictures.new_tensor(GRAYSCALE_WEIGHTS).reshape(3, 1, 1)).sum(1, keepdim=True)


def match_brightness(image: Tensor, photo: Tensor) -> Tensor:
    """An image's luminance with a photograph's mean and deviation (Gatys et al. 2016)."""
    luminance, photo_luminance = to_grayscale(image), to_grayscale(photo)
    return (luminance - luminance.mean()) * (
        photo_luminance.std() / luminance.std().clamp(min=1e-6)
    ) + photo_luminance.mean()


def style(
    context: ObjectiveContext,
    *,
    content_weight: NonNegative,
    style_weight: NonNegative,
    variation_weight: NonNegative,
    style_weights: list[NonNegative] | None,
    start: Literal["content", "noise"],
    keep_colors: bool,
    ticks: Count,
) -> StyleTransfer:
    """The photograph of input `content` in the style of the other inputs.

    Args:
        context: Its model is a `FeatureExtractor` with layers of role content and style.
        content_weight: Of the distance to the content.
        style_weight: Of the distance to the styles.
        variation_weight: Of the total variation.
        style_weights: How much each style counts; null: all the same.
        start: The initial canvas: the photograph, or noise.
        keep_colors: Whether only the luminance is changed.
        ticks: Steps of an epoch.

    Raises:
        UserError: if there is no style, or the weights do not fit.
    """
    photo, *styles = load_input_images(context)
    if not styles:
        raise UserError(
            "objective=style needs a second image, the style: data=content_style has one"
        )
    model = context.model.to(context.device)
    assert isinstance(model, FeatureExtractor)
    content = to_grayscale(photo) if keep_colors else photo
    styles = (
        [match_brightness(style_image, photo) for style_image in styles] if keep_colors else styles
    )
    with torch.no_grad():
        grams = [
            {
                name: gram_matrix(activation)
                for name, activation in model(style_image, model.layers("style")).items()
            }
            for style_image in styles
        ]
        targets = StyleTargets(
            model(content, model.layers("content")),
            average_gram_matrices(grams, get_style_weights(style_weights, len(styles))),
        )
    canvas = content if start == "content" else torch.rand(content.shape).to(content)
    loss_weights = StyleLossWeights(content_weight, style_weight, variation_weight)
    return StyleTransfer(model, photo, canvas, targets, loss_weights, ticks)


def normalize_weights(weights: dict[str, float]) -> dict[str, float]:
    """Weights whose sum is 1."""
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def get_style_weights(weights: list[float] | None, count: int) -> list[float]:
    """The share of each style.

    Raises:
        UserError: if there are more or fewer weights than styles, or all are 0.
    """
    weights = [1.0] * count if weights is None else weights
    if len(weights) != count or not sum(weights):
        owners = "the one style" if count == 1 else f"each of {count} styles"
        raise UserError(
            f"objective.style_weights={weights}: give {owners} a weight, not all of them 0"
        )
    return [weight / sum(weights) for weight in weights]


def average_gram_matrices(grams: list[dict[str, Tensor]], shares: list[float]) -> dict[str, Tensor]:
    """The weighted mean of several styles' Gram matrices, layer by layer: nearest to them all."""
    return {
        name: torch.stack(
            [
                share * gram_by_layer[name]
                for gram_by_layer, share in zip(grams, shares, strict=True)
            ]
        ).sum(0)
        for name in grams[0]
    }
