"""Several finished runs as one model, which answers with the mean of their answers (book §7.3)."""

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
from dlrun.models.model import Model
from dlrun.models.pretrained.earlier_run import LoadedModel, get_main_job, load_run_model

log = logging.getLogger("dlrun")

BATCH_ROWS = 256  # answered at once when weights are looked for
MIN_WEIGHT = 1e-8  # share of a member while weights are looked for: a logarithm of 0 has no slope
ZERO_WEIGHT = 1e-5  # a share below it is none
TotalLoss = Callable[[dict[str, Tensor], Batch], Tensor]


class Ensemble(Model):
    """Answers target name → raw output (B, outputs) of the members' mean answer. Nothing in it learns.

    weights (members,): from 0 up, 1 together; equal ones until `weigh`. The members never leave evaluation mode.
    """

    def __init__(
        self, spec: Spec, found: list[LoadedModel], names: list[str], combine: str
    ) -> None:
        super().__init__()
        self.spec, self.found, self.names, self.combine = spec, found, names, combine
        self.members = nn.ModuleList(member.model for member in found)
        self.register_buffer("weights", torch.full((len(found),), 1 / len(found)))
        self.requires_grad_(False).eval()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        answers = [member(batch) for member in self.members]
        weights = self.get_buffer("weights")
        return {
            name: average_outputs(field, torch.stack([answer[name] for answer in answers]), weights)
            for name, field in self.spec.targets.items()
        }

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def check_validation_rows(self, run: Path, job: FitJob, rows: np.ndarray | None) -> None:
        """Raise UserError unless every member may answer for this job's validation rows; see `members.admit`."""
        for member in self.found:
            admission.check_member(member.folder, member.job.name, run, job.name, rows)

    def fit_weights(self, held_out: Source | None, total: TotalLoss) -> dict[str, Any]:
        """Find the weights where they are asked for, and answer with what a report needs to know of the members.

        held_out: validation rows. total: the loss of (outputs, batch), a mean over its rows. Raises UserError without
        validation rows.
        """
        if self.combine == "weighted":
            if held_out is None:
                raise UserError(
                    "combine=weighted needs validation rows to find weights on: use protocol=holdout"
                )
            raw, truth = self._collect_outputs(held_out)
            device = self.get_buffer("weights").device

            def loss(weights: Tensor) -> Tensor:
                mixed = {
                    n: average_outputs(f, raw[n], weights.to(device)).float()
                    for n, f in self.spec.targets.items()
                }
                return total(mixed, truth)

            self.get_buffer("weights").copy_(
                torch.from_numpy(optimize_weights(loss, len(self.members)))
            )
        weights = self.get_buffer("weights").tolist()
        for name, weight in zip(self.names, weights, strict=True):
            log.info("member %s, weight %.4f", name, weight)
        told = zip(self.names, self.found, weights, strict=True)
        return {"combine": self.combine, "members": [_describe_member(*member) for member in told]}

    @torch.no_grad()
    def _collect_outputs(self, source: Source) -> tuple[dict[str, Tensor], Batch]:
        """Target name → every member's raw outputs (members, N, outputs), and the truths."""
        raw: dict[str, list[Tensor]] = {name: [] for name in self.spec.targets}
        truth: dict[str, list[Tensor]] = {name: [] for name in self.spec.targets}
        for batch in source.batches(BATCH_ROWS):
            answers = [member(batch) for member in self.members]
            for name in self.spec.targets:
                raw[name].append(torch.stack([answer[name].double() for answer in answers]))
                truth[name].append(batch[name])
        joined = {name: torch.cat(parts, 1) for name, parts in raw.items()}
        return joined, {name: torch.cat(parts) for name, parts in truth.items()}


def average_outputs(field: Field, raw: Tensor, weights: Tensor) -> Tensor:
    """The raw output (B, outputs) of the members' weighted mean answer, from their raw outputs (members, B, outputs).

    Probabilities are averaged, not logits: for classes the logarithm of their mean comes out, for labels its log-odds,
    so that softmax and sigmoid give the mean back. Numbers are averaged as they are. One member's come out untouched.
    """
    if len(raw) == 1:
        return raw[0]
    raw = raw.to(torch.promote_types(raw.dtype, weights.dtype))
    weights = weights.to(raw.dtype).reshape(-1, *[1] * (raw.ndim - 1))
    if field.kind in ("category", "tokens"):
        return (raw.log_softmax(-1) + weights.log()).logsumexp(0)
    if field.kind in ("binary", "multilabel", "fraction"):
        yes, no = ((logsigmoid(sign * raw) + weights.log()).logsumexp(0) for sign in (1, -1))
        return yes - no
    return (raw * weights).sum(0)


def optimize_weights(loss: Callable[[Tensor], Tensor], count: int) -> np.ndarray:
    """The shares (count,), from 0 up and 1 together, of which a loss is least, looked for from equal ones.

    Sequential quadratic programming (Kraft 1988). Of what it finds, equal shares, and each one alone, the best.
    """
    from scipy.optimize import minimize

    def slope(at: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.tensor(at, requires_grad=True)
        with torch.enable_grad():
            value = loss(weights)
            (gradient,) = torch.autograd.grad(value, weights)
        return float(value.detach()), gradient.numpy()

    equal = np.full(count, 1 / count)
    together = {"type": "eq", "fun": lambda at: at.sum() - 1, "jac": lambda at: np.ones(count)}
    look = {
        "method": "SLSQP",
        "bounds": [(MIN_WEIGHT, 1)] * count,
        "constraints": together,
        "options": {"ftol": 1e-9},
    }
    found = minimize(slope, equal, jac=True, **look).x
    found = np.where(found < ZERO_WEIGHT, 0, found)
    with torch.no_grad():
        return min(
            (found / found.sum(), equal, *np.eye(count)),
            key=lambda at: float(loss(torch.from_numpy(at.copy()))),
        )


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
            f"{name} cannot be a member: it has {folds} folds, of which each was trained on other rows; "
            "train it with protocol=holdout"
        )
    found = load_run_model(Path(name))
    if found.config["engine"]["overfit"]:
        raise UserError(
            f"{name} cannot be a member: with engine.overfit it was validated on its training rows"
        )
    return found


def ensemble(spec: Spec, *, members: list[str], combine: Literal["mean", "weighted"]) -> nn.Module:
    """Finished runs that answer together (book §7.3). members: their folders.

    combine: the mean of their answers, or one weighted so that the loss on the validation rows is least. Raises UserError
    for a folder without a finished fit, and for fits of folds.
    """
    if wrong := list(validation.find_member_errors(members)):
        raise UserError("\n".join(wrong))
    return Ensemble(spec, list(map(_load_member, members)), members, combine)
