"""Losses: what is minimised. Each is a function of a target's Field and answers (raw output, target) → mean loss.

A target may be shares instead of labels, as mixed pictures have: probabilities (B, size) for a category.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrun.errors import Refused
from dlrun.problems import PROBLEMS, loss_fault
from dlrun.ranges import NonNegative, Positive, Probability
from dlrun.types import Field

Loss = Callable[[Tensor, Tensor], Tensor]


def auto(field: Field) -> Loss:
    """The book's choice for this kind of target (§4.5, table 4.1)."""
    return _DEFAULTS[PROBLEMS[field.kind].losses[0]](field)


def bce(field: Field, *, label_smoothing: Probability) -> Loss:
    """Binary cross-entropy on logits, for binary, multilabel and fraction targets."""
    _check("bce", field)
    if not label_smoothing:
        return F.binary_cross_entropy_with_logits
    return lambda raw, target: F.binary_cross_entropy_with_logits(
        raw, target * (1 - label_smoothing) + label_smoothing / 2
    )


def cross_entropy(
    field: Field, *, label_smoothing: Probability, class_weights: Literal["balanced"] | list[float] | None
) -> Loss:
    """Categorical cross-entropy on logits; of tokens the mean over all places.

    class_weights: one a class, or 'balanced' = 1 / (classes · frequency).
    """
    _check("cross_entropy", field)
    weights = _weights(field, class_weights)

    def loss(raw: Tensor, target: Tensor) -> Tensor:
        nonlocal weights
        if weights is not None and weights.device != raw.device:
            weights = weights.to(raw.device)
        return F.cross_entropy(raw, target, weights, label_smoothing=label_smoothing)

    plain = loss if weights is not None or label_smoothing else F.cross_entropy
    if field.kind != "tokens":
        return plain
    return lambda raw, target: plain(raw.flatten(0, 1), target.flatten())  # all rows have the same number of places


def _weights(field: Field, weights: str | list[float] | None) -> Tensor | None:
    if weights is None:
        return None
    if isinstance(weights, str):
        if field.prior is None:
            raise ValueError("balanced class weights need class frequencies, and this target has none")
        return 1 / (field.size * field.prior.float().clamp_min(1e-7))
    if len(weights) != field.size:
        raise ValueError(f"{len(weights)} class weights for {field.size} classes: {', '.join(field.labels)}")
    return torch.tensor(weights)


def focal(field: Field, *, gamma: NonNegative) -> Loss:
    """Cross-entropy with easy rows turned down by (1 − p)^gamma (Lin et al. 2017); of shares, the mean so weighted."""
    _check("focal", field)
    turned_down = lambda entropy: (1 - torch.exp(-entropy)).clamp_min(1e-12) ** gamma * entropy  # noqa: E731

    def of_classes(raw: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return (target * turned_down(-raw.log_softmax(-1))).sum(-1).mean()
        return turned_down(F.cross_entropy(raw, target, reduction="none")).mean()

    def of_labels(raw: Tensor, target: Tensor) -> Tensor:
        return (target * turned_down(F.softplus(-raw)) + (1 - target) * turned_down(F.softplus(raw))).mean()

    return of_classes if field.kind == "category" else of_labels


def mse(field: Field) -> Loss:
    """Mean squared error between what the last layer answers and the target (one-hot for classes)."""
    return _distance("mse", field, F.mse_loss)


def mae(field: Field) -> Loss:
    """Mean absolute error between what the last layer answers and the target (one-hot for classes)."""
    return _distance("mae", field, F.l1_loss)


def huber(field: Field, *, delta: Positive) -> Loss:
    """Squared error up to `delta`, absolute error beyond (Huber 1964)."""
    return _distance("huber", field, lambda answer, target: F.huber_loss(answer, target, delta=delta))


def _distance(name: str, field: Field, distance: Loss) -> Loss:
    _check(name, field)
    if field.kind == "number":
        return distance
    if field.kind == "category":
        return lambda raw, target: distance(field.activate(raw), field.shares(target).to(raw.dtype))
    return lambda raw, target: distance(field.activate(raw), target)


def _check(name: str, field: Field) -> None:
    if fault := loss_fault(name, field.kind):
        raise Refused(fault)


_DEFAULTS: dict[str, Callable[[Field], Loss]] = {
    "bce": lambda field: bce(field, label_smoothing=0.0),
    "cross_entropy": lambda field: cross_entropy(field, label_smoothing=0.0, class_weights=None),
    "mse": mse,
}
