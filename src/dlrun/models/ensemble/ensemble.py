"""Several finished runs as one model, which predicts the mean of their predictions (book §7.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from dlrun.config import validation
from dlrun.core.dataset import Source
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, FitJob, Spec
from dlrun.models.ensemble import admission
from dlrun.models.model import Model, TotalLoss
from dlrun.models.pretrained.earlier_run import LoadedModel, get_main_job, load_run_model

log = logging.getLogger("dlrun")

BATCH_ROWS = 256  # rows that are predicted at once when weights are optimized
MIN_WEIGHT = 1e-8  # lower bound while weights are optimized: a logarithm of 0 has no gradient
ZERO_WEIGHT = 1e-5  # a smaller weight counts as 0


class Ensemble(Model):
    """Predicts the mean of its members' predictions. Nothing in it is trained by steps.

    Attributes:
        spec: Inputs and targets.
        runs: The finished runs.
        names: Their folders, as they were given.
        combine: mean, or weighted.
        members: Their models, which never leave evaluation mode.
        weights: (members,), from 0 up, sum 1; equal until `fit_weights`.
    """

    def __init__(
        self, spec: Spec, members: list[LoadedModel], names: list[str], combine: str
    ) -> None:
        super().__init__()
        self.spec, self.runs, self.names, self.combine = spec, members, names, combine
        self.members = nn.ModuleList(member.model for member in members)
        self.register_buffer("weights", torch.full((len(members),), 1 / len(members)))
        # the members are finished; only their weights are found, see `fit_weights`
        self.requires_grad_(False).eval()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = [member(batch) for member in self.members]
        weights = self.get_buffer("weights")
        return {
            name: average_outputs(field, torch.stack([output[name] for output in outputs]), weights)
            for name, field in self.spec.targets.items()
        }

    def train(self, mode: bool = True) -> Self:
        # a batch norm or dropout in training mode would change the members' predictions
        return super().train(False)

    def check_validation_rows(self, run: Path, job: FitJob, rows: np.ndarray | None) -> None:
        """Raise UserError unless every member may predict these rows, see `admission`."""
        for member in self.runs:
            admission.check_member(member.folder, member.job.name, run, job.name, rows)

    def fit_weights(self, held_out: Source | None, total: TotalLoss) -> dict[str, Any]:
        """Optimize the weights where that is asked for, and describe the members.

        Args:
            held_out: The validation rows; None where there are none.
            total: The loss of raw outputs and a batch, a mean over its rows.

        Returns:
            How members are combined; folder, fit, model and weight of each.

        Raises:
            UserError: combine=weighted without validation rows.
        """
        if self.combine == "weighted":
            if held_out is None:
                raise UserError(
                    "combine=weighted needs validation rows to find weights on: "
                    "use protocol=holdout"
                )
            self._optimize_weights(held_out, total)
        weights = self.get_buffer("weights").tolist()
        for name, weight in zip(self.names, weights, strict=True):
            log.info("member %s, weight %.4f", name, weight)
        members = zip(self.names, self.runs, weights, strict=True)
        return {
            "combine": self.combine,
            "members": [_describe_member(*member) for member in members],
        }

    def _optimize_weights(self, held_out: Source, total: TotalLoss) -> None:
        raw, targets = self._collect_outputs(held_out)
        device = self.get_buffer("weights").device

        def loss(weights: Tensor) -> Tensor:
            outputs = {
                name: average_outputs(field, raw[name], weights.to(device)).float()
                for name, field in self.spec.targets.items()
            }
            return total(outputs, targets)

        best = optimize_weights(loss, len(self.members))
        self.get_buffer("weights").copy_(torch.from_numpy(best))

    @torch.no_grad()
    def _collect_outputs(self, source: Source) -> tuple[dict[str, Tensor], Batch]:
        """Return target → every member's raw outputs (members, N, outputs), and the targets."""
        raw: dict[str, list[Tensor]] = {name: [] for name in self.spec.targets}
        targets: dict[str, list[Tensor]] = {name: [] for name in self.spec.targets}
        for batch in source.batches(BATCH_ROWS):
            outputs = [member(batch) for member in self.members]
            for name in self.spec.targets:
                # double precision, that of scipy's optimizer
                raw[name].append(torch.stack([output[name].double() for output in outputs]))
                targets[name].append(batch[name])
        joined = {name: torch.cat(batches, 1) for name, batches in raw.items()}
        return joined, {name: torch.cat(batches) for name, batches in targets.items()}


def average_outputs(field: Field, raw: Tensor, weights: Tensor) -> Tensor:
    """Return the raw output of the members' weighted mean prediction.

    Probabilities are averaged, not logits: for classes the result is the logarithm of their mean,
    for labels its log-odds, so that softmax and sigmoid give the mean back. Numbers are averaged as
    they are. The output of a single member is returned untouched.

    Args:
        field: The target.
        raw: The members' raw outputs (members, B, outputs).
        weights: (members,), sum 1.

    Returns:
        (B, outputs).
    """
    if len(raw) == 1:
        return raw[0]
    # weights may be double while they are optimized
    raw = raw.to(torch.promote_types(raw.dtype, weights.dtype))
    weights = weights.to(raw.dtype).reshape(-1, *[1] * (raw.ndim - 1))
    if field.kind in ("category", "tokens"):
        # a sum of probabilities, computed in logarithms for precision
        return (raw.log_softmax(-1) + weights.log()).logsumexp(0)
    if field.kind in ("binary", "multilabel", "fraction"):
        yes, no = ((logsigmoid(sign * raw) + weights.log()).logsumexp(0) for sign in (1, -1))
        # log-odds: log p - log (1 - p)
        return yes - no
    return (raw * weights).sum(0)


def optimize_weights(loss: Callable[[Tensor], Tensor], count: int) -> np.ndarray:
    """Return the weights with the least loss, searched from equal ones.

    Sequential quadratic programming (Kraft 1988). Of its result, equal weights, and each member
    alone, the best is returned.

    Args:
        loss: Of weights (count,), from 0 up and sum 1.
        count: Number of members.
    """
    from scipy.optimize import minimize

    def value_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.tensor(point, requires_grad=True)
        with torch.enable_grad():
            value = loss(weights)
            (gradient,) = torch.autograd.grad(value, weights)
        return float(value.detach()), gradient.numpy()

    equal = np.full(count, 1 / count)
    total, slope = (lambda point: point.sum() - 1), (lambda point: np.ones(count))
    best = minimize(
        value_and_gradient,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(MIN_WEIGHT, 1)] * count,
        constraints={"type": "eq", "fun": total, "jac": slope},
        options={"ftol": 1e-9},
    ).x
    best = np.where(best < ZERO_WEIGHT, 0, best)
    candidates = (best / best.sum(), equal, *np.eye(count))
    with torch.no_grad():
        # copied, as the rows of np.eye are views
        return min(candidates, key=lambda point: float(loss(torch.from_numpy(point.copy()))))


def _describe_member(name: str, member: LoadedModel, weight: float) -> dict[str, Any]:
    model = member.config["model"]["_target_"].rpartition(".")[2]
    return {
        "folder": str(Path(name).absolute()),
        "job": member.job.name,
        "model": model,
        "weight": weight,
    }


def _load_member(name: str) -> LoadedModel:
    if (folds := get_main_job(Path(name)).folds) > 1:
        raise UserError(
            f"{name} cannot be a member: it has {folds} folds, of which each was trained on other "
            "rows; train it with protocol=holdout"
        )
    member = load_run_model(Path(name))
    if member.config["engine"]["overfit"]:
        raise UserError(
            f"{name} cannot be a member: with engine.overfit it was validated on its training rows"
        )
    return member


def ensemble(spec: Spec, *, members: list[str], combine: Literal["mean", "weighted"]) -> nn.Module:
    """Finished runs that predict together (book §7.3).

    Args:
        spec: Inputs and targets.
        members: Folders of the runs.
        combine: mean of their predictions, or weighted for the least loss on the validation rows.

    Raises:
        UserError: A folder has no finished fit, or fits of several folds.
    """
    if errors := list(validation.find_member_errors(members)):
        raise UserError("\n".join(errors))
    return Ensemble(spec, list(map(_load_member, members)), members, combine)
