"""What a sweep adds up: losses and measures, kept on the device and looked at once in a while."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.errors import TrainingDiverged
from dlrun.core.types import Batch, Field, Score, Step
from dlrun.evaluation import bootstrap
from dlrun.evaluation.mean_scores import compute_mean_score, make_zero_accumulator
from dlrun.evaluation.metrics import Metric
from dlrun.evaluation.split_metrics import SplitMetric, compute_split_metric, make_row_metric
from dlrun.training.distributed.process_group import this_process

TargetMetrics = dict[str, tuple[str, Metric]]  # name in a row → target column, measure
PENDING_STEPS = 256
PENDING_NUMBERS = 1 << 20


class Meter:
    """Sums over one sweep. `add` only remembers; measures are taken for many steps at once, so tiny steps stay tiny.

    keep: remember every row's answers and values too.
    """

    def __init__(
        self,
        measures: TargetMetrics,
        fields: dict[str, Field],
        device: torch.device,
        where: str = "",
        keep: bool = False,
    ) -> None:
        self.metrics = measures
        self.where = where
        self.fields = fields
        self.device = device
        self.keep = keep or any(metric.over_split for _, metric in measures.values())
        self.sums = {
            name: make_zero_accumulator(1, device)[0]
            for name, (_, metric) in measures.items()
            if metric.per_row
        }
        self.each: dict[str, list[Tensor]] = {name: [] for name in self.sums} if keep else {}
        self.losses: dict[str, list[Any]] = {}  # group → [sum over rows, rows]
        self.parts: dict[
            str, list[Any]
        ] = {}  # the same of what a loss is the sum of, and of what else is measured
        self.rows = 0
        self.steps = 0
        self.counts: list[int] = []  # rows of each step that is kept
        self.divergence: tuple[int, str] | None = (
            None  # among several processes: the first loss that is no number
        )
        self.stored_outputs: dict[str, tuple[list[Tensor], list[Tensor]]] = {
            name: ([], []) for name in fields
        }
        self.pending: list[
            tuple[str, Tensor, int, dict[str, Tensor], Batch, dict[str, Tensor]]
        ] = []
        self.pending_numbers = 0

    def add(self, step: Step, batch: Batch, rows: int) -> None:
        """Remember one step over a batch of so many rows."""
        outputs = {
            name: step.outputs[name].detach() for name in self.fields if name in step.outputs
        }
        parts = {f"loss_{name}": part.detach() for name, part in step.parts.items()}
        parts |= {name: value.detach() for name, value in step.measured.items()}
        targets = {name: batch[name] for name in outputs}
        if not rows:  # they are another process's
            outputs, targets = (
                {name: part[:0] for name, part in parts.items()} for parts in (outputs, targets)
            )
        self.pending.append((step.group, step.loss.detach(), rows, outputs, targets, parts))
        self.pending_numbers += sum(map(torch.numel, outputs.values()))
        if len(self.pending) >= PENDING_STEPS or self.pending_numbers >= PENDING_NUMBERS:
            self.flush()

    def flush(self) -> None:
        """Take the measures of all remembered steps. Raises TrainingDiverged when a loss is not finite."""
        if not self.pending:
            return
        self.check()
        accumulate_means(
            self.losses, [(group, loss, rows) for group, loss, rows, *_ in self.pending]
        )
        parts = [
            (name, part, rows)
            for _, _, rows, _, _, found in self.pending
            for name, part in found.items()
        ]
        accumulate_means(self.parts, parts)
        with torch.no_grad():
            self._update_metrics(
                [
                    (rows, outputs, targets)
                    for _, _, rows, outputs, targets, _ in self.pending
                    if outputs
                ]
            )
        self.steps += len(self.pending)
        self.pending, self.pending_numbers = [], 0

    def check(self) -> None:
        """Raise TrainingDiverged, naming the first step since the last look whose loss is nan or infinite."""
        if not self.pending:
            return
        finite = torch.stack([loss for _, loss, *_ in self.pending]).isfinite()
        if not bool(finite.all()):
            first = int((~finite).nonzero()[0, 0])
            step = self.steps + first + 1
            told = f"{self.where}step {step}: the loss is {float(self.pending[first][1])}"
            if this_process.world_size == 1:
                raise TrainingDiverged(told)
            self.divergence = self.divergence or (step, told)

    def _update_metrics(self, seen: list[tuple[int, dict[str, Tensor], Batch]]) -> None:
        if not seen:
            return
        counts = [rows for rows, _, _ in seen]
        self.rows += sum(counts)
        self.counts += counts if self.keep else []
        for target in self.fields if sum(counts) else ():
            raw = torch.cat([outputs[target] for _, outputs, _ in seen]).float()
            truth = torch.cat([targets[target] for _, _, targets in seen])
            self._update_sums(target, raw, truth)
            if self.keep:
                field = self.fields[target]
                self.stored_outputs[target][0].append(field.to_prediction(raw).cpu())
                self.stored_outputs[target][1].append(field.to_original_units(truth).cpu())

    def _update_sums(self, target: str, raw: Tensor, truth: Tensor) -> None:
        for name, (of, metric) in self.metrics.items():
            if of != target or not metric.per_row:
                continue
            values = metric.per_row(raw, truth).to(self.sums[name].dtype)
            self.sums[name] += torch.stack([values.sum(), values.square().sum()])
            if name in self.each:
                self.each[name].append(values.cpu())

    def scores(self) -> dict[str, Score]:
        """Every measure of the sweep with its interval, losses first."""
        self.flush()
        found: dict[str, Score] = {}
        for group, (total, rows) in self.losses.items():
            found["loss" if len(self.losses) == 1 else f"loss_{group}"] = Score(
                total / rows, n=rows, goal="min"
            )
        found |= {name: Score(total / rows, n=rows) for name, (total, rows) in self.parts.items()}
        for name, (target, metric) in self.metrics.items():
            if metric.per_row and self.rows:
                total, squares = self.sums[name].tolist()
                found[name] = compute_mean_score(
                    total, squares, self.rows, metric.finish, metric.goal
                )
            elif metric.over_split:
                value, why = compute_split_metric(metric.over_split, *self.predictions()[target])
                found[name] = Score(
                    value, n=len(self.predictions()[target][1]), goal=metric.goal, why=why
                )
        return found

    def predictions(self) -> dict[str, tuple[Any, Any]]:
        """Target name → (what was answered, the truth), in its own unit, as numpy arrays; only with keep."""
        return {
            name: (torch.cat(a).numpy(), torch.cat(t).numpy())
            for name, (a, t) in self.stored_outputs.items()
            if a
        }

    def values(self) -> dict[str, Any]:
        """Measure → its value for every row, before `finish`, as numpy arrays (n,); only with keep."""
        return {
            name: torch.cat(parts).double().numpy() for name, parts in self.each.items() if parts
        }

    def state(self) -> dict[str, Any]:
        """Everything so far, as tensors and plain values, so that a sweep can go on where it was cut."""
        names = ("sums", "losses", "parts", "rows", "steps", "counts", "pending_numbers")
        kept = {
            name: [list(answers), list(truths)]
            for name, (answers, truths) in self.stored_outputs.items()
        }
        return {
            **{name: getattr(self, name) for name in names},
            "kept": kept,
            "each": {name: list(parts) for name, parts in self.each.items()},
            "pending": [list(p) for p in self.pending],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name in ("losses", "rows", "steps", "pending_numbers"):
            setattr(self, name, state[name])
        self.counts = list(
            state.get("counts", [state["rows"]])
        )  # checkpoints of older versions have none of these,
        self.parts = state.get("parts", {})
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.stored_outputs = {
            name: (answers, truths) for name, (answers, truths) in state["kept"].items()
        }
        self.each = state.get("each", {})  # nor these, nor parts in what is pending
        entries = [(*entry, {})[:6] for entry in state["pending"]]
        self.pending = [
            tuple(move_to_device(part, self.device) for part in entry) for entry in entries
        ]  # type: ignore[misc]


def accumulate_means(totals: dict[str, list[Any]], seen: list[tuple[str, Tensor, int]]) -> None:
    """Add means over so many rows, by name, to name → [sum over rows, rows]."""
    values = torch.stack([mean for _, mean, _ in seen]).tolist() if seen else []
    for (name, _, rows), value in zip(seen, values, strict=True):
        total = totals.setdefault(name, [0.0, 0])
        total[0] += value * rows
        total[1] += rows


def scores_with_intervals(meter: Meter, *, seed: int) -> dict[str, Score]:
    """The scores of a sweep that kept its answers, those of whole-split measures with a bootstrap interval too.

    A score keeps None for its ends where resampling says nothing: fewer than 20 rows, or no spread at all.
    """
    found, answers = meter.scores(), meter.predictions()
    for name, (target, metric) in meter.metrics.items():
        if metric.over_split and target in answers:
            if found[name].why:
                continue
            measure = make_row_metric(metric.over_split, *answers[target])
            rarer = getattr(metric.over_split, "count_small_class", len)(answers[target][1])
            work = (
                metric.over_split.get_cost(answers[target][0])
                if isinstance(metric.over_split, SplitMetric)
                else 0
            )
            known = bootstrap.compute_interval(
                measure, np.arange(found[name].n), telling=rarer, seed=seed, work=work
            )
            found[name] = replace(found[name], low=known.low, high=known.high, why=known.why)
    return found


def move_to_device(value: Any, device: torch.device) -> Any:
    """The same tensor, or mapping of tensors, on a device; other values as they are."""
    if isinstance(value, dict):
        return {name: move_to_device(part, device) for name, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
