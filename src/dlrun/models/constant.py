"""The common-sense baseline: the same answer for every row, which a model has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.models.named import safe
from dlrun.types import Batch, Field, Spec


class Constant(nn.Module):
    """Answers each target's prior for every row. Has nothing to learn."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        for name, field in spec.targets.items():
            self.register_buffer(f"answer_{safe(name)}", raw_prior(field))
        self.targets = spec.targets

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows = len(next(iter(batch.values())))
        answers = {name: self.get_buffer(f"answer_{safe(name)}") for name in self.targets}
        return {name: answer.expand(rows, *self.targets[name].answered) for name, answer in answers.items()}


def raw_prior(field: Field) -> Tensor:
    """The prior as a raw output (outputs,): log-odds or log-frequencies where the last layer squashes."""
    if field.prior is None:
        raise ValueError("a constant answer needs a prior, and this target has none")
    prior = field.prior.float().reshape(-1)
    if field.kind in ("category", "tokens"):
        return prior.clamp_min(1e-7).log()
    if field.kind in ("binary", "multilabel", "fraction"):
        return prior.clamp(1e-6, 1 - 1e-6).logit()
    return torch.as_tensor(prior)


def constant(spec: Spec) -> nn.Module:
    """The most frequent class, or the mean, of the training rows."""
    return Constant(spec)
