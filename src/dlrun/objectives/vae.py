"""Variational autoencoders: images as distributions of codes, random codes as images (§8.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrun.config.annotations import Natural, NonNegative
from dlrun.core.objective import Objective, ObjectiveContext, SampleGenerator
from dlrun.core.types import Batch, Score, Step
from dlrun.evaluation.metrics import score_from_rows
from dlrun.models.generative.autoencoder import Autoencoder
from dlrun.objectives.display_rows import get_display_rows
from dlrun.objectives.latent_space import LatentCodes, LatentSampler
from dlrun.objectives.reconstruction_baselines import MeanReconstruction

KL_WEIGHT = 5e-4  # the book's weight of the mean divergence of one number of a code
VAELossKind = Literal["book", "elbo"]
SamplingKind = Literal["book", "standard"]


@dataclass(frozen=True)
class VAELoss:
    """What is minimized.

    Attributes:
        loss: 'book' is the mean cross-entropy of a pixel
            + beta · -5e-4 · mean(1 + log_var - mean² - e^log_var);
            'elbo' is the cross-entropy of an image + beta · its KL divergence, in nats.
        beta: Weight of the divergence.
    """

    loss: VAELossKind
    beta: float

    def build_step(
        self, logits: Tensor, pixels: Tensor, posterior: tuple[Tensor, Tensor, Tensor]
    ) -> Step:
        """The step of a reconstruction.

        Measured beside it is the negative evidence lower bound, nats an image: the lower, the
        better.

        Args:
            logits: Of the decoder (B, C, H, W).
            pixels: Of the images (B, C, H, W), in [0, 1].
            posterior: Means (B, latent), log-variances as the encoder has them, KL divergences
                (B,).
        """
        mean, log_var, divergences = posterior
        pixel, num_pixels = F.binary_cross_entropy_with_logits(logits, pixels), pixels[0].numel()
        # A mean over pixels becomes a sum over those of an image.
        nats = pixel * num_pixels
        if self.loss == "book":
            terms = (
                pixel,
                -KL_WEIGHT * self.beta * (1 + log_var - mean.square() - log_var.exp()).mean(),
            )
        else:
            terms = (nats, self.beta * divergences.mean())
        named_terms = {"reconstruction": terms[0], "divergence": terms[1]}
        return Step(
            "model",
            terms[0] + terms[1],
            {},
            named_terms,
            {"negative_elbo": nats + divergences.mean()},
        )


class VAEObjective(Objective):
    """One step a batch: a code is drawn from the posterior of each image, and decoded.

    Args:
        context: Its model is an `Autoencoder` with mean and log-variance.
        vae_loss: What is minimized.
        sampling: What the encoder's second output means: the log of the variance ('standard'), or
            of the standard deviation ('book'), which the book calls log_var all the same.
        importance: Codes an image for a tighter bound when a fit is scored; 0: none.
    """

    model: Autoencoder

    goals = dict.fromkeys(
        ("loss", "loss_reconstruction", "loss_divergence", "negative_elbo"), "min"
    )

    def __init__(
        self, context: ObjectiveContext, vae_loss: VAELoss, sampling: SamplingKind, importance: int
    ) -> None:
        super().__init__()
        self.model = model = cast(Autoencoder, context.model)
        self.measure, self.sampling, self.importance = vae_loss, sampling, importance
        self.augment, self.train_rows = context.augment, context.data.train
        self.processes = context.processes
        self.groups = {"model": list(model.parameters())}
        decode_to_images = lambda codes: model.values(model.decode(codes))  # noqa: E731
        sampler = LatentSampler(decode_to_images, model.latent, context.device)
        codes = LatentCodes(
            get_display_rows(context.data, model.read),
            lambda x: model.encode(x)[0],
            decode_to_images,
        )
        self.generators: dict[str, SampleGenerator] = {
            "samples": sampler.samples,
            "grid": sampler.grid,
            "latent": codes.plane,
        }
        self.generators |= {
            kind: getattr(codes, kind) for kind in ("reconstructions", "interpolation", "concept")
        }
        self.default_samples = ("reconstructions", "grid" if self.model.latent == 2 else "samples")

    def steps(self, batch: Batch) -> Iterator[Step]:
        if self.augment is not None and self.training:
            batch = self.augment(batch)
        pixels = self.model.read(batch)
        mean, log_var = self.model.encode(pixels)
        log_std = compute_log_std(log_var, self.sampling)
        logits = self.model.decode(mean + log_std.exp() * self.processes.randn_for_batch(mean))
        yield self.measure.build_step(
            logits, pixels, (mean, log_var, standard_normal_kl(mean, log_std))
        )

    def baseline_objective(self) -> MeanReconstruction:
        """The mean training image, as the reconstruction of all.

        It needs no code, so the KL is 0.
        """

        def step(logits: Tensor, pixels: Tensor) -> Step:
            zero_code = pixels.new_zeros(1, 1)
            return self.measure.build_step(logits, pixels, (zero_code, zero_code, zero_code[0]))

        return MeanReconstruction(self.train_rows, self.model.read, self.model.shape, True, step)

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """With `importance`, a tighter upper bound of -log p(image) than the negative evidence
        lower bound.

        It weights so many codes an image by their likelihood (Burda, Grosse & Salakhutdinov 2016).
        """
        if not self.importance:
            return {}
        nats = torch.cat([self.nll_bound(self.model.read(batch)) for batch in batches])
        return {f"negative_bound_of_{self.importance}": score_from_rows(nats)}

    def nll_bound(self, pixels: Tensor) -> Tensor:
        """-log of the mean of p(x|z) p(z) / q(z|x) over codes z drawn from q, (B,)."""
        mean, log_var = self.model.encode(pixels)
        log_std, weights = compute_log_std(log_var, self.sampling), []
        for _ in range(self.importance):
            noise = torch.randn_like(mean)
            # log w = log p(x|z) + log p(z) - log q(z|x); the constants of both normals cancel.
            code = mean + log_std.exp() * noise
            pixel = F.binary_cross_entropy_with_logits(
                self.model.decode(code), pixels, reduction="none"
            )
            weights.append(
                (noise.square() / 2 - code.square() / 2 + log_std).sum(1) - pixel.flatten(1).sum(1)
            )
        return math.log(self.importance) - torch.stack(weights).logsumexp(0)


def compute_log_std(log_var: Tensor, sampling: SamplingKind) -> Tensor:
    """The log of the standard deviations that codes are drawn with."""
    return log_var if sampling == "book" else log_var / 2


def standard_normal_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL divergence (B,) of normal distributions (B, latent) from the standard one, in nats."""
    return (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1) / 2


def variational(
    context: ObjectiveContext,
    *,
    loss: VAELossKind,
    beta: NonNegative,
    sampling: SamplingKind,
    importance: Natural,
) -> VAEObjective:
    """A variational autoencoder of images (Kingma & Welling 2014; book §8.4).

    Args:
        context: Its model is an `Autoencoder` with mean and log-variance.
        loss: 'book' or 'elbo', see `VAELoss`.
        beta: Weight of the divergence.
        sampling: 'standard' or 'book', see `VAEObjective`.
        importance: Codes an image for a tighter bound when a fit is scored.
    """
    return VAEObjective(context, VAELoss(loss, beta), sampling, importance)
