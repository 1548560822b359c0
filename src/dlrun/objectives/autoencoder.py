"""Rows as a few numbers, and back: pictures, or the numbers of a table, with noise to undo or codes that are sparse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrun.config.constraints import Count, NonNegative
from dlrun.core.artifacts import Maker
from dlrun.core.types import Batch, Score, Step
from dlrun.evaluation.metrics import over_rows
from dlrun.models.generative.autoencoder import Autoencoder, product
from dlrun.objectives.context import Given
from dlrun.objectives.corruption import Noise, NoiseKind
from dlrun.objectives.display_rows import held
from dlrun.objectives.latent_space import Codes
from dlrun.objectives.reconstruction_baselines import WIDEST, MeanRow, Principal, principal

LossKind = Literal["auto", "mse", "bce"]


class Autoencoding(nn.Module):
    """One step a batch: damaged rows are encoded, and what is decoded is compared with the rows as they were.

    loss: of a value, mse or bce, whose mean is minimised; mse is always measured. sparsity: times the sum of a code's
    absolute numbers, added to the loss.
    """

    def __init__(self, given: Given, loss: Literal["mse", "bce"], noise: Noise, sparsity: float) -> None:
        super().__init__()
        self.model, self.loss, self.noise, self.sparsity = cast(Autoencoder, given.model), loss, noise, sparsity
        self.augment, self.data = given.augment, given.data
        self.groups = {"model": list(self.model.parameters())}
        parts = ("loss_reconstruction", "loss_sparsity") if sparsity else ()
        self.goals = dict.fromkeys(("loss", *parts, "mse"), "min")
        values = lambda code: self.model.values(self.model.decode(code))  # noqa: E731
        damage = None if noise.kind == "none" else noise
        codes = Codes(held(given.data, self.model.read), lambda x: self.model.encode(x)[0], values, damage)
        drawn = ("reconstructions", "interpolation") if self.model.pictures else ()
        self.makes: dict[str, Maker] = {kind: getattr(codes, kind) for kind in drawn}
        self.makes |= {"codes": codes.plane, "clusters": codes.clusters}
        self.shown = ("reconstructions", "codes") if self.model.pictures else ("codes",)

    def steps(self, batch: Batch) -> Iterator[Step]:
        if self.augment is not None and self.training:
            batch = self.augment(batch)
        rows = self.model.read(batch)
        codes = self.model.encode(self.noise(rows))[0]
        sparse = self.sparsity * codes.abs().sum(1).mean() if self.sparsity else None
        yield self.measure(self.model.decode(codes), rows, sparse)

    def measure(self, raw: Tensor, rows: Tensor, sparse: Tensor | None) -> Step:
        """The step of these answers, with what the codes add to the loss."""
        squares = F.mse_loss(self.model.values(raw), rows)
        loss = squares if self.loss == "mse" else F.binary_cross_entropy_with_logits(raw, rows)
        parts = {} if sparse is None else {"reconstruction": loss, "sparsity": sparse}
        return Step("model", loss if sparse is None else loss + sparse, {}, parts, {"mse": squares})

    def bar(self) -> MeanRow:
        """The mean of the training rows as the answer to all."""
        none = lambda rows: rows.new_zeros(()) if self.sparsity else None  # noqa: E731
        step = lambda raw, rows: self.measure(raw, rows, none(rows))  # noqa: E731
        return MeanRow(self.data.train, self.model.read, self.model.shape, self.model.pictures, step)

    def judge(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The mean squared error on rows without noise, and that of as many principal components of the training rows,
        which is the least that a linear autoencoder can have there; the latter for rows of up to 4,096 numbers."""
        answers: dict[str, Callable[[Tensor], Tensor]] = {
            "mse_undamaged": lambda x: self.model.values(self.model.decode(self.model.encode(x)[0])),
        }
        if product(self.model.shape) <= WIDEST:
            answers["mse_pca"] = self.components()
        errors: dict[str, list[Tensor]] = {name: [] for name in answers}
        for rows in map(self.model.read, batches):
            for name, answer in answers.items():
                errors[name].append((answer(rows) - rows).square().flatten(1).mean(1))
        return {name: over_rows(torch.cat(found)) for name, found in errors.items()}

    def components(self) -> Principal:
        """As many principal components of the training rows as a code has numbers."""
        return principal((self.model.read(batch) for batch in self.data.train.batches(512)), self.model.latent)


def autoencoder(
    given: Given, *, loss: LossKind, noise: NoiseKind, amount: NonNegative, patch: Count, sparsity: NonNegative
) -> Autoencoding:
    """An autoencoder of pictures or numbers.

    loss: auto is bce for pixels and mse for numbers. noise, amount, patch: see `Noise`; it is undone in training and in
    validation alike (Vincent et al. 2008). sparsity: L1 on codes. Raises ValueError for what makes no sense together.
    """
    model = cast(Autoencoder, given.model)
    if loss == "bce" and not model.pictures:
        raise ValueError("loss=bce wants values in [0, 1], and these are numbers: use mse")
    if patch > 1 and not (noise == "mask" and model.pictures):
        raise ValueError(f"patch={patch}: patches are masked in pictures, with noise=mask")
    usual: Literal["mse", "bce"] = "bce" if model.pictures else "mse"
    return Autoencoding(given, usual if loss == "auto" else loss, Noise(noise, amount, patch), sparsity)
