"""Make pictures that a network cannot tell from real ones, while that network learns to tell them (GAN)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, JudgePart, NonNegative, Positive
from dlrun.core.artifacts import Maker, Pictures
from dlrun.core.dataset import Source
from dlrun.core.errors import Refused
from dlrun.core.types import Batch, Score, Step
from dlrun.models.generative.dcgan import Dcgan
from dlrun.objectives.context import Given
from dlrun.objectives.frechet_distance import Judge
from dlrun.objectives.gan_losses import Contest, Kind, gradient_penalty
from dlrun.training.distributed import process_group

FOLLOWED = 36  # latent points whose pictures are shown after every epoch
CHUNK = 256  # pictures made, or compared, together
Judging = Callable[[Given, str], Judge]


class Adversarial(nn.Module):
    """Two steps a batch: the discriminator's on real and made pictures (`contest.turns` times, each on others made),
    then the generator's, on yet others.

    pictures: those among which `nearest` looks. rate: factor on the generator's learning rate. augment: what is done to
    real pictures before they are learnt from; made ones will be like that. Rows, beside the losses: answer_real and
    answer_made, what the discriminator says on average; diversity, the standard deviation of pixels across the made
    pictures of a batch as a share of that across its real ones: near 0, all are the same. The gradient penalty
    (loss_penalty) is of training alone: it needs gradients, which are off elsewhere.
    """

    shown = ("followed",)

    def __init__(
        self,
        model: Dcgan,
        contest: Contest,
        pictures: Source,
        judging: Judge | None = None,
        rate: float = 1.0,
        augment: Callable[[Batch], Batch] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.contest, self.pictures = model, contest, pictures
        self.judging, self.rate, self.augment = judging, rate, augment
        self.groups = {
            "discriminator": list(model.discriminator.parameters()),
            "generator": list(model.generator.parameters()),
        }
        self.goals = {"loss_discriminator": "min", "loss_generator": "min"}
        self.goals |= {"answer_real": "max", "answer_made": "min", "diversity": "max"}
        self.makes: dict[str, Maker] = {
            "samples": self.samples,
            "interpolation": self.interpolation,
            "nearest": self.nearest,
            "followed": self.followed,
        }

    def steps(self, batch: Batch) -> Iterator[Step]:
        if self.augment is not None and self.training:
            batch = self.augment(batch)
        real = self.model.seen(batch[self.model.column])
        for _ in range(self.contest.turns):
            yield self._told_apart(real)
        made = self._made(len(real))
        passing = self.contest.passing(self.model.discriminator(made))
        yield Step("generator", passing, measured={"diversity": spread(made.detach()) / spread(real)})

    def _told_apart(self, real: Tensor) -> Step:
        with torch.no_grad():
            made = self._made(len(real))
        of_real, of_made = self.model.discriminator(torch.cat([real, made])).split(len(real))
        loss = self.contest.apart(of_real, of_made, self.contest.label_noise if self.training else 0.0)
        parts = {}
        if self.contest.penalty and torch.is_grad_enabled():
            parts["penalty"] = self.contest.penalty * gradient_penalty(self.model.discriminator, real, made)
            loss = loss + parts["penalty"]
        answers = {"answer_real": self.contest.answer(of_real), "answer_made": self.contest.answer(of_made)}
        return Step("discriminator", loss, parts=parts, measured=answers)

    def _made(self, count: int) -> Tensor:
        return self.model.generator(process_group.drawn(self.model.points, count))  # type: ignore[no-any-return]

    def rates(self) -> dict[nn.Parameter, float]:
        """The generator's weights change at `rate` times the learning rate."""
        return dict.fromkeys(self.groups["generator"], self.rate)

    def judge(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The Fréchet distance of made pictures to these, where it is asked for."""
        if self.judging is None:
            return {}
        return self.judging(
            lambda count: self._shown(self.model.points(count)), (b[self.model.column] for b in batches)
        )

    def samples(self, *, count: Count = 36, columns: Count = 6) -> Iterator[Pictures]:
        """Pictures of random latent points."""
        yield Pictures(self._shown(self.model.points(count)), columns, f"{count} pictures of random latent points")

    def followed(self, *, columns: Count = 6) -> Iterator[Pictures]:
        """Pictures of the same latent points every time, so that it can be seen what becomes of each."""
        fixed = torch.randn(FOLLOWED, self.model.latent, generator=torch.Generator().manual_seed(0))
        points = fixed.to(self.model.points(1).device)
        yield Pictures(self._shown(points), columns, f"the same {FOLLOWED} latent points every time")

    def interpolation(self, *, rows: Count = 4, steps: Count = 8) -> Iterator[Pictures]:
        """On each row, pictures along the way from one random latent point to another."""
        begin, end = self.model.points(rows), self.model.points(rows)
        ways = torch.stack([between(begin, end, share) for share in torch.linspace(0, 1, steps).tolist()], 1)
        about = "on each row, the way from one latent point to another"
        yield Pictures(self._shown(ways.flatten(0, 1)), steps, about)

    def nearest(self, *, count: Count = 8) -> Iterator[Pictures]:
        """Made pictures, and below each the training picture that is nearest to it: a copy would be the same."""
        made = self._shown(self.model.points(count))
        found, far = nearest_of(made, (batch[self.model.column] for batch in self.pictures.batches(CHUNK)))
        told = f"above: made; below: the nearest training pictures, {far.mean():.3f} away (mean root of squared pixels)"
        yield Pictures(torch.cat([made, found]), count, told)

    def _shown(self, points: Tensor) -> Tensor:
        return torch.cat([self.model.shown(self.model.generator(part)) for part in points.split(CHUNK)])


def spread(pictures: Tensor) -> Tensor:
    """The standard deviation of each pixel across a batch (B, …), averaged over the pixels; never 0."""
    return process_group.deviation(pictures).mean().clamp_min(1e-12)


def between(begin: Tensor, end: Tensor, share: float) -> Tensor:
    """Points (N, D) on the great circle from one to the other: as far from the centre as random ones (White 2016)."""
    angle = torch.nn.functional.cosine_similarity(begin, end).clamp(-1 + 1e-6, 1 - 1e-6).arccos()[:, None]
    return (((1 - share) * angle).sin() * begin + (share * angle).sin() * end) / angle.sin()


def nearest_of(pictures: Tensor, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """For each picture (N, …) the nearest in the batches, and how far it is (N,): the root of the mean square."""
    wanted = pictures.flatten(1)
    best, found = torch.full((len(wanted),), torch.inf, device=wanted.device), pictures.clone()
    for batch in batches:
        far, which = torch.cdist(wanted, batch.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").min(1)
        nearer = far < best
        best[nearer], found[nearer] = far[nearer], batch[which[nearer]]
    return found, best / wanted.shape[1] ** 0.5


def adversarial(
    given: Given,
    *,
    loss: Kind,
    label_noise: NonNegative,
    penalty: NonNegative,
    critic_steps: Count,
    generator_rate: Positive,
    judge: JudgePart | None,
) -> Adversarial:
    """Generative adversarial networks (Goodfellow et al. 2014; book §8.5).

    loss: standard (cross-entropy, non-saturating), hinge, or wasserstein. label_noise: labels of the standard loss are
    wrong by up to this. penalty: weight of the gradient penalty. critic_steps: of the discriminator for each of the
    generator, on the same real pictures. generator_rate: factor on the generator's learning rate. judge: measures made
    pictures when the fit is scored. Raises Refused for label noise where there are no labels.
    """
    assert isinstance(given.model, Dcgan)
    if label_noise and loss != "standard":
        raise Refused(f"objective.label_noise={label_noise:g}: objective.loss={loss} has no labels; say 0")
    judging = None if judge is None else judge(given, given.model.column)
    given.model.note = "" if judging is None else judging.note
    contest = Contest(loss, label_noise, penalty, critic_steps)
    return Adversarial(given.model, contest, given.data.train, judging, generator_rate, given.augment)
