"""How far made pictures are from real ones as a whole: a Fréchet distance in a feature space that is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count
from dlrun.core.types import Score
from dlrun.models.pretrained.backbones import load_backbone
from dlrun.models.pretrained.transfer import build_image_encoder
from dlrun.objectives.context import ObjectiveContext

IMAGES_AT_ONCE = 250  # pictures that are looked at together
MIN_ROWS = 4  # rows of a split, below which nothing is measured
Features = Callable[[Tensor], Tensor]
BuildFeatures = Callable[[], Features]


@dataclass(frozen=True)
class FrechetMetric:
    """space: makes the features, when they are asked for. name: what the score is called; note: what it is."""

    name: str
    note: str
    rows: int
    build_features: BuildFeatures

    def __call__(
        self, generate: Callable[[int], Tensor], pictures: Iterable[Tensor]
    ) -> dict[str, Score]:
        """Distance of made pictures to half of the real ones, and of this half to the other: what is to be reached.

        make: so many → pictures in [0, 1]. All three sets are of one size, as the distance grows when sets are small.
        """
        real = sample_rows(pictures, self.rows)
        half = len(real) // 2
        if 2 * half < MIN_ROWS:
            return {}
        features = self.build_features()
        generated_features = [
            features(generate(len(chunk))) for chunk in real[:half].split(IMAGES_AT_ONCE)
        ]
        reference, second_half = (
            torch.cat([features(chunk) for chunk in real_half.split(IMAGES_AT_ONCE)])
            for real_half in real[: 2 * half].split(half)
        )
        return {
            self.name: Score(
                gaussian_distance(torch.cat(generated_features), reference), n=half, goal="min"
            ),
            f"{self.name}_floor": Score(
                gaussian_distance(second_half, reference), n=half, goal="min"
            ),
        }


def frechet(
    *, features: str, rows: Count, components: Count
) -> Callable[[ObjectiveContext, str], FrechetMetric]:
    """A judge of made pictures: the Fréchet distance between Gaussians fitted to features (Heusel et al. 2017).

    features: pixels (so many principal `components` of the training pictures), a network of torchvision's, or the
    folder of an earlier run: then the convolutional part of its model, averaged over the picture. Only the distance in
    the features of Inception is called FID: these are other numbers. rows: real pictures that are looked at.
    """

    def build(context: ObjectiveContext, column: str) -> FrechetMetric:
        if features == "pixels":
            training = lambda: (
                batch[column] for batch in context.data.train.batches(IMAGES_AT_ONCE)
            )  # noqa: E731
            description = f"{components} principal components of the training pictures"
            return FrechetMetric(
                "frechet_pixels",
                describe_frechet("frechet_pixels", description),
                rows,
                lambda: fit_pca_features(training(), rows, components),
            )
        base = load_backbone(features, features if Path(features).is_dir() else "DEFAULT", column)
        name = "frechet_run" if base.run else f"frechet_{features}"
        network = build_image_encoder(
            base, context.data.spec.inputs[column], "weights", "average"
        ).append(nn.Flatten())
        network = network.eval().requires_grad_(False).to(context.device)
        return FrechetMetric(
            name,
            describe_frechet(name, f"the averaged last feature map of {base.name}"),
            rows,
            lambda: network,
        )

    return build


def describe_frechet(name: str, features: str) -> str:
    """What stands beside the score."""
    return f"{name} is no FID: its features are {features}; {name}_floor is that between two halves of the real pictures"


def fit_pca_features(pictures: Iterable[Tensor], rows: int, components: int) -> Features:
    """Pictures → their principal components (N, components or fewer), learnt from some of these."""
    sample = sample_rows(pictures, rows).flatten(1)
    mean = sample.mean(0)
    _, _, axes = torch.pca_lowrank(sample, min(components, *sample.shape), center=True, niter=4)
    return lambda images: (images.flatten(1) - mean) @ axes


def sample_rows(batches: Iterable[Tensor], count: int) -> Tensor:
    """At most `count` rows of these batches, drawn at random and in a random order."""
    keys, rows = list[Tensor](), list[Tensor]()
    for batch in batches:
        keys.append(torch.rand(len(batch)))
        rows.append(batch)
        if sum(map(len, keys)) > 2 * count:
            keys, rows = take_lowest_keys(keys, rows, count)
    return take_lowest_keys(keys, rows, count)[1][0]


def take_lowest_keys(
    keys: list[Tensor], rows: list[Tensor], count: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The rows with the lowest keys, in the order of these."""
    together = torch.cat(keys)
    best = together.argsort()[:count]
    return [together[best]], [torch.cat(rows)[best.to(rows[0].device)]]


def gaussian_distance(features: Tensor, others: Tensor) -> float:
    """|μ₁ - μ₂|² + tr(C₁ + C₂ - 2 (C₁C₂)^½) of the Gaussians that fit features (N, D) best.

    The last trace is the sum of the square roots of the eigenvalues of √C₁ C₂ √C₁, which is symmetric.
    """
    features, others = features.double(), others.double()
    first, second = features.T.cov(correction=0), others.T.cov(correction=0)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (features.mean(0) - others.mean(0)).square().sum()
    return max(0.0, float(apart + first.trace() + second.trace() - 2 * mixed))
