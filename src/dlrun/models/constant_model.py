"""Constant predictions: the prior, the median, or the one with the least loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from dlrun.core.types import Batch, Field, Spec
from dlrun.models.layers import escape_name
from dlrun.models.model import Model

ConstantKind = Literal["prior", "median", "yes", "loss"]
ConstantOutputs = dict[ConstantKind, Tensor]  # what they are best by → raw output (outputs,)
LossFunction = Callable[[Tensor, Tensor], Tensor]

MIN_RELATIVE_GAIN = 1e-4  # of the loss: below it, the prior stays the baseline
# steps from the mean to the median: the best constant of a loss between squared and absolute
# error (Huber) lies between the two
INTERPOLATION_STEPS = 20


class ConstantModel(Model):
    """Predicts the same for every row. There is nothing to learn.

    Attributes:
        targets: The targets by name.
        outputs: Target → its constants; the prior stands for one that is missing.
        which: The constant that is predicted now.
    """

    def __init__(
        self, spec: Spec, outputs: Mapping[str, ConstantOutputs], kind: ConstantKind
    ) -> None:
        super().__init__()
        self.targets, self.outputs, self.which = spec.targets, outputs, kind
        for name in spec.targets:
            self.register_buffer(f"answer_{escape_name(name)}", self.get_output(name, kind).clone())

    def get_output(self, target: str, kind: ConstantKind) -> Tensor:
        """Return the raw output (outputs,) of a target that is best by something."""
        constants = self.outputs[target]
        return constants.get(kind, constants["prior"])

    def select_output(self, kind: ConstantKind) -> None:
        """Predict another constant from now on.

        Args:
            kind: What it is best by: the loss, squared error (prior), absolute error (median), or
                recall (yes).
        """
        self.which = kind
        for name in self.targets:
            # in place, so that the buffer stays on its device
            self.get_buffer(f"answer_{escape_name(name)}").copy_(self.get_output(name, kind))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows = len(next(iter(batch.values())))
        # buffers, as a constant moves to the device with the model and stands in its checkpoint
        outputs = {name: self.get_buffer(f"answer_{escape_name(name)}") for name in self.targets}
        return {
            name: output.expand(rows, *self.targets[name].output_shape)
            for name, output in outputs.items()
        }


def build_best_constant(
    spec: Spec, losses: Mapping[str, LossFunction], values: Mapping[str, Tensor]
) -> ConstantModel:
    """Return the constant model with the least loss on the training rows.

    Args:
        spec: The targets.
        losses: Target → loss of (raw output, target).
        values: Target → its training values (N, …), where they are in memory.
    """
    constants = {name: constant_outputs(field) for name, field in spec.targets.items()}
    for name, loss in losses.items():
        constants[name]["loss"] = find_best_constant(
            loss, spec.targets[name], constants[name], values.get(name)
        )
    return ConstantModel(spec, constants, "loss")


def constant_outputs(field: Field) -> ConstantOutputs:
    """Return the constants that are best by some metric.

    The mean is best by squared error, the median by absolute error; predicting every label is best
    by precision, recall and F1.
    """
    constants: ConstantOutputs = {"prior": prior_output(field)}
    if field.median is not None:
        constants["median"] = to_raw_output(field, field.median)
    if field.kind in ("binary", "multilabel"):
        # a positive logit is a yes; the order of labels by frequency is kept
        constants["yes"] = constants["prior"].clamp_min(1e-3)
    return constants


def prior_output(field: Field) -> Tensor:
    """Return the prior of a target as a raw output (outputs,).

    Raises:
        ValueError: The target has no prior.
    """
    if field.prior is None:
        raise ValueError("a constant prediction needs a prior, and this target has none")
    return to_raw_output(field, field.prior)


def to_raw_output(field: Field, values: Tensor) -> Tensor:
    """Return probabilities or numbers as a raw output (outputs,).

    Args:
        field: The target.
        values: Probabilities, where the target's activation is a softmax or sigmoid, or numbers.

    Returns:
        Log-frequencies, log-odds, or the numbers.
    """
    values = values.float().reshape(-1)
    if field.kind in ("category", "tokens"):
        # a class without a training row would have a logarithm of minus infinity
        return values.clamp_min(1e-7).log()
    if field.kind in ("binary", "multilabel", "fraction"):
        return values.clamp(1e-6, 1 - 1e-6).logit()
    return values


def find_best_constant(
    loss: LossFunction, field: Field, constants: ConstantOutputs, values: Tensor | None
) -> Tensor:
    """Return the constant with the least loss: the prior, unless another one is clearly better.

    Args:
        loss: Of (raw output, target).
        field: The target.
        constants: Its prior, and its median where there is one.
        values: Its training values (N, …), where they are in memory.

    Returns:
        A raw output (outputs,).
    """
    prior = constants["prior"]
    is_number = field.kind in ("number", "fraction")
    if field.kind == "tokens" or (is_number and values is None):
        return prior
    if is_number:
        assert values is not None
        return _interpolate_constant(loss, prior, constants.get("median", prior), values)
    assert field.prior is not None
    # a loss of frequencies equals the mean loss over the rows, without going through them
    frequencies, start = field.prior.float().reshape(1, -1), prior[None]
    best = minimize_loss(lambda raw: loss(raw, frequencies), start)
    limit = float(loss(start, frequencies)) * (1 - MIN_RELATIVE_GAIN)
    return best[0] if float(loss(best, frequencies)) < limit else prior


def _interpolate_constant(
    loss: LossFunction, mean: Tensor, median: Tensor, values: Tensor
) -> Tensor:
    """Return the point between mean and median with the least loss over the rows."""
    ends = (mean.to(values.device), median.to(values.device))
    steps = range(INTERPOLATION_STEPS, 0, -1)
    candidates = [torch.lerp(*ends, step / INTERPOLATION_STEPS) for step in steps]

    def mean_loss(output: Tensor) -> float:
        return float(loss(output.expand(len(values), -1), values))

    best = min(candidates, key=mean_loss)
    if not mean_loss(best) < mean_loss(ends[0]) * (1 - MIN_RELATIVE_GAIN):
        return mean
    best = best.to(mean.device)
    # the very same tensor tells callers that both are one prediction, which is scored once
    return median if torch.equal(best, median) else best


def minimize_loss(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return where a smooth loss is least, searched from a start by BFGS (Liu & Nocedal 1989)."""
    # the prior itself must not change: it is a constant of its own
    raw = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([raw], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(raw)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]
    # a loss without a minimum may drive logits to infinity
    return raw.detach() if bool(raw.isfinite().all()) else start
