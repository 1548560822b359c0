"""Autoencoders of images or numbers: plain, denoising or with sparse codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrun.config.annotations import Count, NonNegative
from dlrun.core.objective import Objective, ObjectiveContext, SampleGenerator
from dlrun.core.types import Batch, Score, Step
from dlrun.evaluation.metrics import score_from_rows
from dlrun.models.generative.autoencoder import Autoencoder, count_values
from dlrun.objectives.corruption import Noise, NoiseKind
from dlrun.objectives.display_rows import get_display_rows
from dlrun.objectives.latent_space import LatentCodes
from dlrun.objectives.reconstruction_baselines import (
    MAX_PCA_FEATURES,
    MeanReconstruction,
    PCAReconstruction,
    fit_pca,
)

ReconstructionLossKind = Literal["auto", "mse", "bce"]


class AutoencoderObjective(Objective):
    """One step a batch: corrupted rows are encoded and decoded, and compared with the clean rows.

    Args:
        context: Its model is an `Autoencoder`.
        loss: Of a value; its mean is minimized. mse is always measured.
        noise: What corrupts the rows, in training and in validation alike.
        sparsity: Weight of the sum of a code's absolute values in the loss.
    """

    model: Autoencoder

    def __init__(
        self, context: ObjectiveContext, loss: Literal["mse", "bce"], noise: Noise, sparsity: float
    ) -> None:
        super().__init__()
        self.model = cast(Autoencoder, context.model)
        self.loss, self.noise, self.sparsity = loss, noise, sparsity
        self.augment, self.data = context.augment, context.data
        self.groups = {"model": list(self.model.parameters())}
        terms = ("loss_reconstruction", "loss_sparsity") if sparsity else ()
        self.goals = dict.fromkeys(("loss", *terms, "mse"), "min")
        decode_to_values = lambda code: self.model.values(self.model.decode(code))  # noqa: E731
        corrupt = None if noise.kind == "none" else noise
        codes = LatentCodes(
            get_display_rows(context.data, self.model.read),
            lambda x: self.model.encode(x)[0],
            decode_to_values,
            corrupt,
        )
        image_kinds = ("reconstructions", "interpolation") if self.model.is_image else ()
        self.generators: dict[str, SampleGenerator] = {
            kind: getattr(codes, kind) for kind in image_kinds
        }
        self.generators |= {"codes": codes.plane, "clusters": codes.clusters}
        self.default_samples = ("reconstructions", "codes") if self.model.is_image else ("codes",)

    def steps(self, batch: Batch) -> Iterator[Step]:
        if self.augment is not None and self.training:
            batch = self.augment(batch)
        rows = self.model.read(batch)
        # The clean rows are the target, in validation too: else its loss would measure another
        # task.
        codes = self.model.encode(self.noise(rows))[0]
        sparsity = self.sparsity * codes.abs().sum(1).mean() if self.sparsity else None
        yield self.build_step(self.model.decode(codes), rows, sparsity)

    def build_step(self, outputs: Tensor, rows: Tensor, sparsity: Tensor | None) -> Step:
        """The step of a reconstruction.

        Args:
            outputs: Raw, of the decoder (B, *shape).
            rows: Clean, (B, *shape).
            sparsity: The penalty on the codes; None for no such term.
        """
        squared_error = F.mse_loss(self.model.values(outputs), rows)
        loss = squared_error
        if self.loss == "bce":
            loss = F.binary_cross_entropy_with_logits(outputs, rows)
        measured = {"mse": squared_error}
        if sparsity is None:
            return Step("model", loss, measured=measured)
        terms = {"reconstruction": loss, "sparsity": sparsity}
        return Step("model", loss + sparsity, parts=terms, measured=measured)

    def baseline_objective(self) -> MeanReconstruction:
        """The mean of the training rows, as the reconstruction of every row."""
        # The same terms as the model's own steps, so that the history has the same columns.
        zero_sparsity = lambda rows: rows.new_zeros(()) if self.sparsity else None  # noqa: E731
        step = lambda outputs, rows: self.build_step(outputs, rows, zero_sparsity(rows))  # noqa: E731
        return MeanReconstruction(
            self.data.train, self.model.read, self.model.shape, self.model.is_image, step
        )

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The mean squared error on clean rows, and that of PCA with as many components as a code.

        PCA has the lowest error that a linear autoencoder can have on the training rows (Baldi &
        Hornik 1989); it is left out for rows of more than 4,096 numbers.
        """
        reconstruct: dict[str, Callable[[Tensor], Tensor]] = {
            "mse_undamaged": lambda x: self.model.values(
                self.model.decode(self.model.encode(x)[0])
            ),
        }
        if count_values(self.model.shape) <= MAX_PCA_FEATURES:
            reconstruct["mse_pca"] = self.fit_components()
        errors: dict[str, list[Tensor]] = {name: [] for name in reconstruct}
        for rows in map(self.model.read, batches):
            for name, function in reconstruct.items():
                errors[name].append((function(rows) - rows).square().flatten(1).mean(1))
        return {name: score_from_rows(torch.cat(row_errors)) for name, row_errors in errors.items()}

    def fit_components(self) -> PCAReconstruction:
        """PCA of the training rows, with as many components as a code has numbers."""
        return fit_pca(
            (self.model.read(batch) for batch in self.data.train.batches(512)), self.model.latent
        )


def autoencoder(
    context: ObjectiveContext,
    *,
    loss: ReconstructionLossKind,
    noise: NoiseKind,
    amount: NonNegative,
    patch: Count,
    sparsity: NonNegative,
) -> AutoencoderObjective:
    """An autoencoder of images or numbers; with noise, a denoising one (Vincent et al. 2008).

    Args:
        context: Its model is an `Autoencoder`.
        loss: 'auto' is bce for pixels and mse for numbers.
        noise: Kind of corruption, see `Noise`.
        amount: Of the corruption.
        patch: Side of the squares that are masked.
        sparsity: Weight of the L1 penalty on codes.

    Raises:
        ValueError: if the loss or the patches do not fit the rows.
    """
    model = cast(Autoencoder, context.model)
    if loss == "bce" and not model.is_image:
        raise ValueError("loss=bce wants values in [0, 1], and these are numbers: use mse")
    if patch > 1 and not (noise == "mask" and model.is_image):
        raise ValueError(f"patch={patch}: patches are masked in images, with noise=mask")
    default_loss: Literal["mse", "bce"] = "bce" if model.is_image else "mse"
    return AutoencoderObjective(
        context, default_loss if loss == "auto" else loss, Noise(noise, amount, patch), sparsity
    )
