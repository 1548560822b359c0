"""Losses of a GAN: standard, hinge and Wasserstein, and a gradient penalty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import relu

from dlrun.core.environment import ONE_PROCESS, ProcessGroup

GANLossKind = Literal["standard", "hinge", "wasserstein"]


@dataclass(frozen=True)
class GANLoss:
    """The losses of both networks.

    Attributes:
        kind: Which loss.
        label_noise: By how much labels of the standard loss are wrong at most.
        penalty: Weight of the gradient penalty.
        critic_steps: Steps of the discriminator for one of the generator.
    """

    kind: GANLossKind
    label_noise: float = 0.0
    penalty: float = 0.0
    critic_steps: int = 1

    def discriminator_loss(
        self,
        real: Tensor,
        generated: Tensor,
        noise: float = 0.0,
        processes: ProcessGroup = ONE_PROCESS,
    ) -> Tensor:
        """The discriminator's loss.

        standard is the mean cross-entropy over both (Goodfellow et al. 2014): not knowing is ln 2.
        hinge (Lim & Ye 2017) and wasserstein (Arjovsky et al. 2017) are the sum of both means.

        Args:
            real: Logits of real images (B,).
            generated: Logits of generated images (B,).
            noise: By how much labels are wrong at most.
            processes: For which the noise is drawn.
        """
        if self.kind == "hinge":
            return relu(1 - real).mean() + relu(1 + generated).mean()
        if self.kind == "wasserstein":
            return generated.mean() - real.mean()
        real_loss = label_noise_loss(real, 1.0, noise, processes)
        return (real_loss + label_noise_loss(generated, 0.0, noise, processes)) / 2

    def generator_loss(self, generated: Tensor) -> Tensor:
        """The generator's loss of the logits (B,) of generated images.

        Standard is non-saturating.
        """
        return (
            label_noise_loss(generated, 1.0, 0.0) if self.kind == "standard" else -generated.mean()
        )

    def mean_output(self, logits: Tensor) -> Tensor:
        """The mean output: the probability that an image is real, or the raw score."""
        return logits.sigmoid().mean() if self.kind == "standard" else logits.mean()


def label_noise_loss(
    logits: Tensor, label: float, noise: float, processes: ProcessGroup = ONE_PROCESS
) -> Tensor:
    """Cross-entropy against labels that are lowered by up to `noise`, each at random.

    Real is 1 and generated is 0, as usual. The book has it the other way round and raises its
    labels by the noise: that is the same loss, since -log(1 - p) of one is -log p of the other.
    """
    labels = torch.full_like(logits, label)
    if noise:
        draw = lambda count: torch.rand(count, dtype=labels.dtype, device=labels.device)  # noqa: E731
        labels = labels - noise * processes.draw_for_batch(draw, len(labels))
    return cross_entropy(logits, labels)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    generated: Tensor,
    processes: ProcessGroup = ONE_PROCESS,
) -> Tensor:
    """The squared distance of the critic's gradient norm from 1 (Gulrajani et al. 2017).

    Args:
        critic: Images (B, …) → logits (B,).
        real: (B, …).
        generated: (B, …); the gradient is taken at random points between both.
        processes: For which these points are drawn.
    """
    trailing = (1,) * (real.dim() - 1)
    share = processes.draw_for_batch(
        lambda count: torch.rand(count, *trailing, device=real.device), len(real)
    )
    # One share an image, drawn alike by any number of processes.
    between = (share * real + (1 - share) * generated).detach().requires_grad_()
    # create_graph: the penalty itself has to be differentiated.
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
