"""Losses: each builds, for a target's Field, a function (raw output, target) → mean loss.

The mean is over rows, whichever they are: a sum over batches of loss · rows is the loss of all
rows. A target may be shares instead of labels, as of mixed images: probabilities (B, size) for a
category.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrun.config.annotations import NonNegative, Positive, Probability
from dlrun.config.compatibility import PROBLEM_TYPES, get_loss_error
from dlrun.config.instantiate import build_part
from dlrun.config.parts import Plugins
from dlrun.config.signatures import is_custom
from dlrun.core.errors import UserError, format_names
from dlrun.core.objective import Loss
from dlrun.core.types import Field

# None is a default of bce and focal for configs of earlier versions, which do not name it.
ClassWeights = Literal["balanced"] | list[NonNegative] | None


def build_loss(node: Mapping[str, Any], field: Field, plugins: Plugins) -> Loss:
    """The loss that a node of the config describes, for one target.

    Args:
        node: `_target_` and settings.
        field: Of the target.
        plugins: Packages whose parts may be named.

    Raises:
        UserError: if the node describes nothing that can be called so.
    """
    loss = build_part(node, field, kind="loss", plugins=plugins)
    if not is_custom(node["_target_"]):
        return loss  # type: ignore[no-any-return]
    from dlrun.objectives.custom_loss import CustomLoss

    if not callable(loss):
        raise UserError(
            f"loss {node['_target_']} returns a {type(loss).__name__}; "
            "expected a function (prediction, target), or an nn.Module that is called so"
        )
    return CustomLoss(loss, node["_target_"])


def auto(field: Field, *, class_weights: ClassWeights = None) -> Loss:
    """The book's choice for this kind of target (§4.5, table 4.1).

    Args:
        field: Of the target.
        class_weights: As the chosen loss takes them.
    """
    name = PROBLEM_TYPES[field.kind].losses[0]
    if name == "bce":
        return bce(field, label_smoothing=0.0, class_weights=class_weights)
    if name == "cross_entropy":
        return cross_entropy(field, label_smoothing=0.0, class_weights=class_weights)
    if class_weights is not None:
        raise ValueError(f"class weights need classes, and the target is a {field.kind}")
    return mse(field)


def bce(field: Field, *, label_smoothing: Probability, class_weights: ClassWeights = None) -> Loss:
    """Binary cross-entropy on logits, for binary, multilabel and fraction targets.

    Args:
        field: Of the target.
        label_smoothing: Labels are moved toward ½ by this share.
        class_weights: Of no and yes, or one a label for the rows that have it; 'balanced' as for
            several classes.
    """
    _check_target_kind("bce", field)
    no_yes = _label_weight_tensor(field, class_weights)
    # The common case needs no wrapper.
    if not label_smoothing and no_yes is None:
        return F.binary_cross_entropy_with_logits

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        target = target * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else target
        if no_yes is None:
            return F.binary_cross_entropy_with_logits(outputs, target)
        # softplus(-x) and softplus(x) are -log p and -log(1 - p), without overflow.
        no, yes = no_yes.to(outputs.device)
        return (
            target * yes * F.softplus(-outputs) + (1 - target) * no * F.softplus(outputs)
        ).mean()

    return loss


def cross_entropy(
    field: Field, *, label_smoothing: Probability, class_weights: ClassWeights
) -> Loss:
    """Categorical cross-entropy on logits; of tokens the mean over all positions.

    Args:
        field: Of the target.
        label_smoothing: Share of a label that is spread over all classes.
        class_weights: One a class, or 'balanced' = 1 / (classes · frequency).
    """
    _check_target_kind("cross_entropy", field)
    weights = _class_weight_tensor(field, class_weights)

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        device_weights = None if weights is None else weights.to(outputs.device)
        if device_weights is None:
            return F.cross_entropy(outputs, target, label_smoothing=label_smoothing)
        # Divided by rows, not by the weights that happen to be in a batch, as torch would: so the
        # loss is one number however rows are batched.
        return F.cross_entropy(
            outputs, target, device_weights, label_smoothing=label_smoothing, reduction="sum"
        ) / len(outputs)

    plain = loss if weights is not None or label_smoothing else F.cross_entropy
    if field.kind != "tokens":
        return plain
    # All rows have the same number of positions: the mean over positions is one over rows.
    return lambda outputs, target: plain(outputs.flatten(0, 1), target.flatten())


def _class_weight_tensor(field: Field, weights: ClassWeights) -> Tensor | None:
    """The weight of each class (size,); None where none are given."""
    if weights is None:
        return None
    if isinstance(weights, str):
        return _balanced_weights(_prior(field))
    return _weight_tensor(weights, field.size, field.labels)


def _label_weight_tensor(field: Field, weights: ClassWeights) -> Tensor | None:
    """The weights of no and yes (2, outputs); None where none are given."""
    if weights is None:
        return None
    if field.kind == "fraction":
        raise ValueError("class weights need classes, and a fraction has none")
    if isinstance(weights, str):
        yes = _prior(field).reshape(-1)
        return torch.stack([_balanced_weights(torch.stack([1 - share, share])) for share in yes], 1)
    if field.kind == "multilabel":
        return torch.stack(
            [torch.ones(field.size), _weight_tensor(weights, field.size, field.labels)]
        )
    return _weight_tensor(weights, 2, field.labels)[:, None]


def _prior(field: Field) -> Tensor:
    if field.prior is None:
        raise ValueError("balanced class weights need class frequencies, and this target has none")
    return field.prior.float()


def _balanced_weights(shares: Tensor) -> Tensor:
    """1 / (classes · frequency), whose mean over training rows is 1.

    1 for a class that no training row has.
    """
    present = shares > 0
    return torch.where(present, 1 / (present.sum() * shares.clamp_min(1e-12)), 1.0)


def _weight_tensor(weights: list[float], count: int, labels: tuple[str, ...]) -> Tensor:
    if len(weights) != count:
        names = f": {format_names(labels)}" if labels else ""
        raise ValueError(f"{len(weights)} class weights for {count} classes{names}")
    if not any(weights):
        raise ValueError("class weights that are all 0 leave nothing to learn")
    return torch.tensor(weights, dtype=torch.float32)


def focal(field: Field, *, gamma: NonNegative, class_weights: ClassWeights = None) -> Loss:
    """Focal loss: cross-entropy that down-weights easy rows by (1 − p)^gamma (Lin et al. 2017).

    Args:
        field: Of the target.
        gamma: 0 is cross-entropy.
        class_weights: As in `cross_entropy` and `bce`; called alpha in the paper.
    """
    _check_target_kind("focal", field)
    # 1e-12: the power of 0 has no finite gradient for gamma below 1.
    focused = lambda entropy: (1 - torch.exp(-entropy)).clamp_min(1e-12) ** gamma * entropy  # noqa: E731
    make_weights = _class_weight_tensor if field.kind == "category" else _label_weight_tensor
    weights = make_weights(field, class_weights)

    def of_classes(outputs: Tensor, target: Tensor) -> Tensor:
        class_weight = 1.0 if weights is None else weights.to(outputs.device)
        if target.is_floating_point():
            return (target * class_weight * focused(-outputs.log_softmax(-1))).sum(-1).mean()
        entropy = focused(F.cross_entropy(outputs, target, reduction="none"))
        return (
            entropy.mean()
            if isinstance(class_weight, float)
            else (class_weight[target] * entropy).mean()
        )

    def of_labels(outputs: Tensor, target: Tensor) -> Tensor:
        no, yes = (1.0, 1.0) if weights is None else weights.to(outputs.device)
        return (
            target * yes * focused(F.softplus(-outputs))
            + (1 - target) * no * focused(F.softplus(outputs))
        ).mean()

    return of_classes if field.kind == "category" else of_labels


def mse(field: Field) -> Loss:
    """Mean squared error between prediction and target (one-hot for classes)."""
    return _elementwise_loss("mse", field, F.mse_loss)


def mae(field: Field) -> Loss:
    """Mean absolute error between prediction and target (one-hot for classes)."""
    return _elementwise_loss("mae", field, F.l1_loss)


def huber(field: Field, *, delta: Positive) -> Loss:
    """Squared error up to `delta`, absolute error beyond (Huber 1964)."""
    return _elementwise_loss(
        "huber", field, lambda prediction, target: F.huber_loss(prediction, target, delta=delta)
    )


def _elementwise_loss(name: str, field: Field, distance: Loss) -> Loss:
    _check_target_kind(name, field)
    if field.kind == "number":
        return distance
    if field.kind == "category":
        return lambda outputs, target: distance(
            field.apply_activation(outputs), field.to_probabilities(target).to(outputs.dtype)
        )
    return lambda outputs, target: distance(field.apply_activation(outputs), target)


def _check_target_kind(name: str, field: Field) -> None:
    if fault := get_loss_error(name, field.kind):
        raise UserError(fault)
