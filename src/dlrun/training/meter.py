"""What is measured over a split: losses and metrics, summed on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.errors import TrainingDiverged
from dlrun.core.types import Batch, Field, Score, Step
from dlrun.evaluation.metrics import Metric, compute_mean_score, make_zero_accumulator

if TYPE_CHECKING:
    from dlrun.evaluation.bootstrap import Interval

TargetMetrics = dict[str, tuple[str, Metric]]  # name in the history → target column, metric
PendingStep = tuple[str, Tensor, int, dict[str, Tensor], Batch, dict[str, Tensor]]
# Steps and numbers that wait at most: each look at a loss waits for the device.
PENDING_STEPS = 256
PENDING_NUMBERS = 1 << 20


class Meter:
    """Sums over the batches of one split.

    `add` only remembers: metrics are computed for many steps at once, so that tiny steps stay tiny.

    Args:
        metrics: Name → target and metric.
        fields: Target → its field; what is stored is in its unit.
        device: Where the sums are.
        where: Begins the message of a loss that is not finite ('epoch 1, train, ').
        keep: Whether to store the metrics of every row, and all predictions and targets.
        several: Whether several processes share the split, and all have to stop at once.

    Attributes:
        sums: Metric → sum of its values and of their squares (2,), float64.
        row_values: Metric → its values row by row, one tensor a flush; only with keep.
        losses: Group → [sum over rows, rows].
        means: The same of the terms of a loss (`loss_<name>`), and of what else steps measure.
        rows: Rows whose outputs were measured.
        steps: Steps that were flushed.
        counts: Rows of each step whose predictions are stored.
        divergence: Among several processes, the first step whose loss is not finite, and a message.
        stored_outputs: Target → predictions and true values, one tensor a flush, on the CPU.
        pending: Steps that wait: group, loss, rows, outputs, targets, means.
        pending_numbers: How many numbers the outputs that wait have.
    """

    def __init__(
        self,
        metrics: TargetMetrics,
        fields: dict[str, Field],
        device: torch.device,
        where: str = "",
        keep: bool = False,
        several: bool = False,
    ) -> None:
        self.several = several
        self.metrics = metrics
        self.where = where
        self.fields = fields
        self.device = device
        # A metric of the whole split needs all predictions at once.
        self.keep = keep or any(metric.over_split for _, metric in metrics.values())
        self.sums = {
            name: make_zero_accumulator(1, device)[0]
            for name, (_, metric) in metrics.items()
            if metric.per_row
        }
        self.row_values: dict[str, list[Tensor]] = {name: [] for name in self.sums} if keep else {}
        self.losses: dict[str, list[Any]] = {}
        self.means: dict[str, list[Any]] = {}
        self.rows = 0
        self.steps = 0
        self.counts: list[int] = []
        self.divergence: tuple[int, str] | None = None
        self.stored_outputs: dict[str, tuple[list[Tensor], list[Tensor]]] = {
            name: ([], []) for name in fields
        }
        self.pending: list[PendingStep] = []
        self.pending_numbers = 0

    def add(self, step: Step, batch: Batch, rows: int) -> None:
        """Remember one step.

        Args:
            step: Its outputs, of (B, …), are measured against the batch's targets.
            batch: Column → values of B rows.
            rows: How many rows its means are over; 0 where all are another process's.
        """
        outputs = {
            name: step.outputs[name].detach() for name in self.fields if name in step.outputs
        }
        targets = {name: batch[name] for name in outputs}
        if not rows:
            outputs = {name: values[:0] for name, values in outputs.items()}
            targets = {name: values[:0] for name, values in targets.items()}
        means = {f"loss_{name}": mean.detach() for name, mean in step.parts.items()}
        means |= {name: mean.detach() for name, mean in step.measured.items()}
        self.pending.append((step.group, step.loss.detach(), rows, outputs, targets, means))
        self.pending_numbers += sum(map(torch.numel, outputs.values()))
        if len(self.pending) >= PENDING_STEPS or self.pending_numbers >= PENDING_NUMBERS:
            self.flush()

    def flush(self) -> None:
        """Measure all steps that wait.

        Raises:
            TrainingDiverged: if a loss is not finite.
        """
        if not self.pending:
            return
        self.check()
        accumulate_means(
            self.losses, [(group, loss, rows) for group, loss, rows, *_ in self.pending]
        )
        means: list[tuple[str, Tensor, int]] = []
        predicted: list[tuple[int, dict[str, Tensor], Batch]] = []
        for _, _, rows, outputs, targets, step_means in self.pending:
            means += [(name, mean, rows) for name, mean in step_means.items()]
            if outputs:
                predicted.append((rows, outputs, targets))
        accumulate_means(self.means, means)
        with torch.no_grad():
            self._update_metrics(predicted)
        self.steps += len(self.pending)
        self.pending, self.pending_numbers = [], 0

    def check(self) -> None:
        """Look at the losses of the steps that wait.

        Raises:
            TrainingDiverged: if one is nan or infinite; it names the first such step. Among several
                processes it is kept in `divergence` instead, for all have to stop at once.
        """
        if not self.pending:
            return
        finite = torch.stack([loss for _, loss, *_ in self.pending]).isfinite()
        if not bool(finite.all()):
            index = int((~finite).nonzero()[0, 0])
            step = self.steps + index + 1
            message = f"{self.where}step {step}: the loss is {float(self.pending[index][1])}"
            if not self.several:
                raise TrainingDiverged(message)
            self.divergence = self.divergence or (step, message)

    def _update_metrics(self, steps: list[tuple[int, dict[str, Tensor], Batch]]) -> None:
        if not steps:
            return
        counts = [rows for rows, _, _ in steps]
        self.rows += sum(counts)
        self.counts += counts if self.keep else []
        for target in self.fields if sum(counts) else ():
            raw_outputs = torch.cat([outputs[target] for _, outputs, _ in steps]).float()
            truths = torch.cat([targets[target] for _, _, targets in steps])
            self._update_sums(target, raw_outputs, truths)
            if self.keep:
                field = self.fields[target]
                # On the CPU: the predictions of a split may be larger than the device's memory.
                self.stored_outputs[target][0].append(field.to_prediction(raw_outputs).cpu())
                self.stored_outputs[target][1].append(field.to_original_units(truths).cpu())

    def _update_sums(self, target: str, outputs: Tensor, targets: Tensor) -> None:
        for name, (metric_target, metric) in self.metrics.items():
            if metric_target != target or not metric.per_row:
                continue
            values = metric.per_row(outputs, targets).to(self.sums[name].dtype)
            self.sums[name] += torch.stack([values.sum(), values.square().sum()])
            if name in self.row_values:
                self.row_values[name].append(values.cpu())

    def scores(self) -> dict[str, Score]:
        """Name → score of everything measured, losses first.

        Returns:
            Means with their 95 % interval where the metric is one per row; metrics of the whole
            split without one (see `scores_with_intervals`).
        """
        self.flush()
        scores: dict[str, Score] = {}
        for group, (total, rows) in self.losses.items():
            name = "loss" if len(self.losses) == 1 else f"loss_{group}"
            scores[name] = Score(total / rows, n=rows, goal="min")
        scores |= {name: Score(total / rows, n=rows) for name, (total, rows) in self.means.items()}
        for name, (target, metric) in self.metrics.items():
            if metric.per_row and self.rows:
                total, squares = self.sums[name].tolist()
                scores[name] = compute_mean_score(
                    total, squares, self.rows, metric.finish, metric.goal
                )
            elif metric.over_split:
                from dlrun.evaluation.split_metrics import compute_split_metric

                predictions, targets = self.predictions()[target]
                value, reason = compute_split_metric(metric.over_split, predictions, targets)
                scores[name] = Score(value, n=len(targets), goal=metric.goal, why=reason)
        return scores

    def predictions(self) -> dict[str, tuple[Any, Any]]:
        """Target → predictions and true values in its own unit, as numpy arrays; only with keep."""
        return {
            name: (torch.cat(predictions).numpy(), torch.cat(targets).numpy())
            for name, (predictions, targets) in self.stored_outputs.items()
            if predictions
        }

    def values(self) -> dict[str, Any]:
        """Metric → its value for every row, before `finish`, as arrays (n,); only with keep."""
        return {
            name: torch.cat(values).double().numpy()
            for name, values in self.row_values.items()
            if values
        }

    def state(self) -> dict[str, Any]:
        """Everything so far, as tensors and plain values, so that an epoch can go on where it was
        cut.
        """
        stored = {
            name: [list(predictions), list(targets)]
            for name, (predictions, targets) in self.stored_outputs.items()
        }
        # These are the keys of every version's checkpoints.
        return {
            "sums": self.sums,
            "losses": self.losses,
            "parts": self.means,
            "rows": self.rows,
            "steps": self.steps,
            "counts": self.counts,
            "pending_numbers": self.pending_numbers,
            "kept": stored,
            "each": {name: list(values) for name, values in self.row_values.items()},
            "pending": [list(step) for step in self.pending],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: As `state()` of this or an earlier version returned it.
        """
        self.losses, self.rows, self.steps = state["losses"], state["rows"], state["steps"]
        self.pending_numbers = state["pending_numbers"]
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.stored_outputs = {
            name: (predictions, targets) for name, (predictions, targets) in state["kept"].items()
        }
        # Earlier versions wrote no counts, parts and each, and no means in a pending step.
        self.counts = list(state.get("counts", [state["rows"]]))
        self.means = state.get("parts", {})
        self.row_values = state.get("each", {})
        entries = [(*entry, {})[:6] for entry in state["pending"]]
        self.pending = [
            tuple(move_to_device(value, self.device) for value in entry) for entry in entries
        ]  # type: ignore[misc]


def accumulate_means(totals: dict[str, list[Any]], means: list[tuple[str, Tensor, int]]) -> None:
    """Add means to sums, in one transfer from the device.

    Args:
        totals: Name → [sum over rows, rows]; changed.
        means: Name, mean (a tensor of one number) and its rows.
    """
    values = torch.stack([mean for _, mean, _ in means]).tolist() if means else []
    for (name, _, rows), value in zip(means, values, strict=True):
        total = totals.setdefault(name, [0.0, 0])
        total[0] += value * rows
        total[1] += rows


def scores_with_intervals(meter: Meter, *, seed: int) -> dict[str, Score]:
    """The scores of a meter that kept its predictions, with bootstrap intervals for whole-split
    metrics.

    Args:
        meter: One with keep.
        seed: Of the resampling.

    Returns:
        Name → score. Its ends stay None where resampling says nothing: for fewer than 20 rows, or
        where all resamples come to the same.
    """
    scores, stored = meter.scores(), meter.predictions()
    for name, (target, metric) in meter.metrics.items():
        if metric.over_split and target in stored and not scores[name].why:
            interval = _resample(metric.over_split, *stored[target], seed)
            scores[name] = replace(
                scores[name], low=interval.low, high=interval.high, why=interval.why
            )
    return scores


def _resample(
    measure: Callable[[Any, Any], float], predictions: Any, targets: Any, seed: int
) -> Interval:
    """The bootstrap interval of a whole-split metric."""
    # Here, because most runs have means over rows alone, whose intervals need no resampling.
    from dlrun.evaluation import bootstrap
    from dlrun.evaluation.split_metrics import SplitMetric, make_row_metric

    telling, work = len(targets), 0
    if isinstance(measure, SplitMetric):
        telling, work = measure.count_small_class(targets), measure.get_cost(predictions)
    return bootstrap.compute_interval(
        make_row_metric(measure, predictions, targets),
        np.arange(len(targets)),
        telling=telling,
        seed=seed,
        work=work,
    )


def move_to_device(value: Any, device: torch.device) -> Any:
    """The same tensor, or mapping of tensors, on a device; other values as they are."""
    if isinstance(value, dict):
        return {name: move_to_device(item, device) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
