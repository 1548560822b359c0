"""The Fréchet distance of generated images to real ones, in a feature space that is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count
from dlrun.core.objective import ObjectiveContext
from dlrun.core.types import Score
from dlrun.models.pretrained.backbones import load_backbone
from dlrun.models.pretrained.transfer import build_image_encoder

IMAGES_AT_ONCE = 250  # images whose features are computed together
MIN_ROWS = 4  # rows of a split, below which nothing is measured
Features = Callable[[Tensor], Tensor]
BuildFeatures = Callable[[], Features]


@dataclass(frozen=True)
class FrechetMetric:
    """A distance between Gaussians fitted to the features of generated and of real images.

    Attributes:
        name: Of the score.
        note: What the score is, beside the results.
        rows: Real images that are looked at, at most.
        build_features: Builds images (B, C, H, W) → features (B, D); called when a split is scored.
    """

    name: str
    note: str
    rows: int
    build_features: BuildFeatures

    def __call__(
        self, generate: Callable[[int], Tensor], pictures: Iterable[Tensor]
    ) -> dict[str, Score]:
        """The distance of generated images to half of the real ones, and of this half to the other
        half.

        The latter is the floor that could be reached. All three sets are of one size, since the
        distance grows when sets are small.

        Args:
            generate: Count → so many images, pixels in [0, 1].
            images: Batches of real ones.

        Returns:
            Both scores; none for fewer than 4 real images.
        """
        real = sample_rows(pictures, self.rows)
        half = len(real) // 2
        # A covariance needs several rows.
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
    """The Fréchet distance between Gaussians fitted to features (Heusel et al. 2017).

    Only the distance in the features of Inception is called FID: these are other numbers.

    Args:
        features: 'pixels', a network of torchvision's, or the folder of an earlier run, whose
            convolutional part is averaged over the image.
        rows: Real images that are looked at, at most.
        components: Of pixels: principal components of the training images.

    Returns:
        A function of the objective's context and the image column that builds the metric.
    """

    def build(context: ObjectiveContext, column: str) -> FrechetMetric:
        if features == "pixels":

            def fit_features() -> Features:
                batches = context.data.train.batches(IMAGES_AT_ONCE)
                images = (batch[column] for batch in batches)
                return fit_pca_features(images, rows, components)

            description = f"{components} principal components of the training images"
            note = describe_frechet("frechet_pixels", description)
            return FrechetMetric("frechet_pixels", note, rows, fit_features)
        base = load_backbone(features, features if Path(features).is_dir() else "DEFAULT", column)
        name = "frechet_run" if base.run else f"frechet_{features}"
        network = build_image_encoder(
            base, context.data.spec.inputs[column], "weights", "average"
        ).append(nn.Flatten())
        network = network.eval().requires_grad_(False).to(context.device)
        note = describe_frechet(name, f"the averaged last feature map of {base.name}")
        return FrechetMetric(name, note, rows, lambda: network)

    return build


def describe_frechet(name: str, features: str) -> str:
    """The remark that stands beside the score."""
    return (
        f"{name} is no FID: its features are {features}; "
        f"{name}_floor is that between two halves of the real images"
    )


def fit_pca_features(pictures: Iterable[Tensor], rows: int, components: int) -> Features:
    """Images → principal components (N, components or fewer), fitted to a sample of `rows`."""
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
        # Keep memory bounded: only rows with low keys can be in the sample.
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

    The last trace is the sum of the square roots of the eigenvalues of √C₁ C₂ √C₁, which is
    symmetric.
    """
    features, others = features.double(), others.double()
    first, second = features.T.cov(correction=0), others.T.cov(correction=0)
    values, vectors = torch.linalg.eigh(first)
    # Rounding makes some eigenvalues slightly negative.
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (features.mean(0) - others.mean(0)).square().sum()
    return max(0.0, float(apart + first.trace() + second.trace() - 2 * mixed))
