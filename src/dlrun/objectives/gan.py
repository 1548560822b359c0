"""Generative adversarial networks: a generator of images against a discriminator of real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, JudgePart, NonNegative, Positive
from dlrun.core.dataset import Source
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.errors import UserError
from dlrun.core.objective import ImageGrid, Objective, ObjectiveContext, SampleGenerator
from dlrun.core.types import Batch, Score, Step
from dlrun.models.generative.dcgan import DCGAN
from dlrun.objectives.frechet_distance import FrechetMetric
from dlrun.objectives.gan_losses import GANLoss, GANLossKind, gradient_penalty

NUM_TRACKED_POINTS = 36  # latent points whose images are shown after every epoch
GENERATION_CHUNK = 256  # images generated, or compared, together
BuildFrechetMetric = Callable[[ObjectiveContext, str], FrechetMetric]


class GANObjective(Objective):
    """Steps of the discriminator on real and generated images, then one of the generator, each
    batch.

    Measured beside the losses: answer_real and answer_made, the discriminator's mean output;
    diversity, the standard deviation of pixels across the generated images of a batch as a share of
    that across its real ones: near 0, all images are the same. The gradient penalty (loss_penalty)
    is of training alone: it needs gradients, which are off elsewhere.

    Args:
        model: Generator and discriminator.
        gan_loss: Losses of both, and steps of the discriminator for one of the generator.
        training_images: Among which `nearest` looks.
        frechet_metric: Scores generated images when a fit is scored; None: not at all.
        generator_rate: Factor on the generator's learning rate.
        augment: What is done to real images before they are learned from; generated ones will look
            like the result.
        processes: That share the fit: what is drawn for a batch is drawn for all of them.
    """

    model: DCGAN
    default_samples = ("followed",)

    def __init__(
        self,
        model: DCGAN,
        gan_loss: GANLoss,
        training_images: Source,
        frechet_metric: FrechetMetric | None = None,
        generator_rate: float = 1.0,
        augment: Callable[[Batch], Batch] | None = None,
        processes: ProcessGroup = ONE_PROCESS,
    ) -> None:
        super().__init__()
        self.processes = processes
        self.model, self.gan_loss, self.training_images = model, gan_loss, training_images
        self.frechet_metric = frechet_metric
        self.generator_rate = generator_rate
        self.augment = augment
        self.groups = {
            "discriminator": list(model.discriminator.parameters()),
            "generator": list(model.generator.parameters()),
        }
        self.goals = {"loss_discriminator": "min", "loss_generator": "min"}
        self.goals |= {"answer_real": "max", "answer_made": "min", "diversity": "max"}
        self.generators: dict[str, SampleGenerator] = {
            "samples": self.samples,
            "interpolation": self.interpolation,
            "nearest": self.nearest,
            "followed": self.tracked_samples,
        }

    def steps(self, batch: Batch) -> Iterator[Step]:
        if self.augment is not None and self.training:
            batch = self.augment(batch)
        real = self.model.normalize_images(batch[self.model.column])
        for _ in range(self.gan_loss.critic_steps):
            yield self._discriminator_step(real)
        generated = self._generate(len(real))
        loss = self.gan_loss.generator_loss(self.model.discriminator(generated))
        spread = mean_pixel_std(generated.detach(), self.processes)
        real_spread = mean_pixel_std(real, self.processes)
        yield Step("generator", loss, measured={"diversity": spread / real_spread})

    def _discriminator_step(self, real: Tensor) -> Step:
        with torch.no_grad():
            generated = self._generate(len(real))
        real_logits, generated_logits = self.model.discriminator(
            torch.cat([real, generated])
        ).split(len(real))
        loss = self.gan_loss.discriminator_loss(
            real_logits,
            generated_logits,
            self.gan_loss.label_noise if self.training else 0.0,
            self.processes,
        )
        terms = {}
        if self.gan_loss.penalty and torch.is_grad_enabled():
            terms["penalty"] = self.gan_loss.penalty * gradient_penalty(
                self.model.discriminator, real, generated, self.processes
            )
            loss = loss + terms["penalty"]
        mean_outputs = {
            "answer_real": self.gan_loss.mean_output(real_logits),
            "answer_made": self.gan_loss.mean_output(generated_logits),
        }
        return Step("discriminator", loss, parts=terms, measured=mean_outputs)

    def _generate(self, count: int) -> Tensor:
        return self.model.generator(self.processes.draw_for_batch(self.model.sample_latent, count))  # type: ignore[no-any-return]

    def rates(self) -> dict[nn.Parameter, float]:
        """The generator's weights change at `rate` times the learning rate."""
        return dict.fromkeys(self.groups["generator"], self.generator_rate)

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The Fréchet distance of generated images to these, where it is asked for."""
        if self.frechet_metric is None:
            return {}
        return self.frechet_metric(
            lambda count: self._decode(self.model.sample_latent(count)),
            (b[self.model.column] for b in batches),
        )

    def samples(self, *, count: Count = 36, columns: Count = 6) -> Iterator[ImageGrid]:
        """Images of random latent points."""
        yield ImageGrid(
            self._decode(self.model.sample_latent(count)),
            columns,
            f"{count} images of random latent points",
        )

    def tracked_samples(self, *, columns: Count = 6) -> Iterator[ImageGrid]:
        """Images of the same latent points every time, so that each can be followed over epochs."""
        # A generator of its own: the points are the same in every epoch and every run.
        noise = torch.randn(
            NUM_TRACKED_POINTS, self.model.latent, generator=torch.Generator().manual_seed(0)
        )
        points = noise.to(self.model.sample_latent(1).device)
        yield ImageGrid(
            self._decode(points), columns, f"the same {NUM_TRACKED_POINTS} latent points every time"
        )

    def interpolation(self, *, rows: Count = 4, steps: Count = 8) -> Iterator[ImageGrid]:
        """On each row, images along the way from one random latent point to another."""
        begin, end = self.model.sample_latent(rows), self.model.sample_latent(rows)
        points = torch.stack(
            [
                spherical_interpolation(begin, end, share)
                for share in torch.linspace(0, 1, steps).tolist()
            ],
            1,
        )
        description = "on each row, the way from one latent point to another"
        yield ImageGrid(self._decode(points.flatten(0, 1)), steps, description)

    def nearest(self, *, count: Count = 8) -> Iterator[ImageGrid]:
        """Generated images, and below each the nearest training image, which shows a copy."""
        generated = self._decode(self.model.sample_latent(count))
        neighbors, distances = find_nearest_images(
            generated,
            (batch[self.model.column] for batch in self.training_images.batches(GENERATION_CHUNK)),
        )
        description = (
            f"above: made; below: the nearest training images, {distances.mean():.3f} away "
            "(mean root of squared pixels)"
        )
        yield ImageGrid(torch.cat([generated, neighbors]), count, description)

    def _decode(self, points: Tensor) -> Tensor:
        return torch.cat(
            [
                self.model.to_images(self.model.generator(chunk))
                for chunk in points.split(GENERATION_CHUNK)
            ]
        )


def mean_pixel_std(pictures: Tensor, processes: ProcessGroup = ONE_PROCESS) -> Tensor:
    """The standard deviation of each pixel across a batch (B, …), averaged over the pixels.

    Never 0.
    """
    return processes.batch_std(pictures).mean().clamp_min(1e-12)


def spherical_interpolation(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Points (N, D) on the great circle between two.

    As far from the center as random ones (White 2016).
    """
    # Angles of 0 and π would divide by 0.
    angle = (
        torch.nn.functional.cosine_similarity(start, end)
        .clamp(-1 + 1e-6, 1 - 1e-6)
        .arccos()[:, None]
    )
    return (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()


def find_nearest_images(pictures: Tensor, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """For each image (N, …) the nearest in the batches, and its root mean squared distance (N,)."""
    flat = pictures.flatten(1)
    best, neighbors = torch.full((len(flat),), torch.inf, device=flat.device), pictures.clone()
    for batch in batches:
        distances, indices = torch.cdist(
            # The faster way by a matrix product loses small distances to rounding: a copy would not
            # be 0.
            flat,
            batch.flatten(1),
            compute_mode="donot_use_mm_for_euclid_dist",
        ).min(1)
        nearer = distances < best
        best[nearer], neighbors[nearer] = distances[nearer], batch[indices[nearer]]
    return neighbors, best / flat.shape[1] ** 0.5


def adversarial(
    context: ObjectiveContext,
    *,
    loss: GANLossKind,
    label_noise: NonNegative,
    penalty: NonNegative,
    critic_steps: Count,
    generator_rate: Positive,
    judge: JudgePart | None,
) -> GANObjective:
    """Generative adversarial networks (Goodfellow et al. 2014; book §8.5).

    Args:
        context: Its model is a `DCGAN`.
        loss: standard (cross-entropy, non-saturating), hinge, or wasserstein.
        label_noise: Labels of the standard loss are wrong by up to this.
        penalty: Weight of the gradient penalty.
        critic_steps: Steps of the discriminator for each of the generator, on the same real images.
        generator_rate: Factor on the generator's learning rate.
        judge: Builds the metric of generated images, taken when a fit is scored.

    Raises:
        UserError: if there is label noise where there are no labels.
    """
    assert isinstance(context.model, DCGAN)
    if label_noise and loss != "standard":
        raise UserError(
            f"objective.label_noise={label_noise:g}: objective.loss={loss} has no labels; say 0"
        )
    frechet_metric = None if judge is None else judge(context, context.model.column)
    context.model.note = "" if frechet_metric is None else frechet_metric.note
    gan_loss = GANLoss(loss, label_noise, penalty, critic_steps)
    return GANObjective(
        context.model,
        gan_loss,
        context.data.train,
        frechet_metric,
        generator_rate,
        context.augment,
        context.processes,
    )
