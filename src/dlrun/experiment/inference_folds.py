"""The mean of what several fits answer to the same rows, each with its own preparation, and the scores of that mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.errors import Refused
from dlrun.core.types import Batch, Field, Spec, Step
from dlrun.data.loading.table import Table
from dlrun.experiment.builder import Fit
from dlrun.training.meter import Meter, with_intervals
from dlrun.training.monitors import answered

if TYPE_CHECKING:
    from dlrun.experiment.answers import Answers


LEAST = 1e-12  # a probability that is smaller has no logarithm to speak of


@dataclass(frozen=True)
class Part:
    """One fit, the rows as it has prepared them, and what it answers: target → (n, outputs), as people read them."""

    fit: Fit
    table: Table
    outputs: dict[str, np.ndarray]


def spec_of(folder: Path, fit: Fit) -> Spec:
    """What a fit reads and answers. Raises Refused where it answers nothing."""
    targets = answered(fit.trainer.objective, fit.data.spec)
    if not targets:
        raise Refused(f"{folder} answers no target, it makes something: dlrun generate {folder}")
    return Spec(fit.data.spec.inputs, targets)


def mean_of(parts: Sequence[Part]) -> dict[str, np.ndarray]:
    """Target → the mean of all parts' answers. Raises Refused where they do not answer in the same classes."""
    first = parts[0]
    if len(parts) == 1:
        return first.outputs
    for part in parts[1:]:
        for name, field in first.fit.data.spec.targets.items():
            if part.fit.data.spec.targets[name].labels != field.labels:
                raise Refused(f"{first.fit.job.name} and {part.fit.job.name} know different classes of '{name}', so "
                              f"that their answers have no mean: say fit={first.fit.job.name}")  # fmt: skip
    return {name: np.mean([part.outputs[name] for part in parts], 0) for name in first.outputs}


def scored(found: Answers, parts: Sequence[Part], seed: int) -> Answers:
    """The same with truths and scores; those of a mean in the first fit's measures and units."""
    trainer, table = parts[0].fit.trainer, parts[0].table.to(parts[0].fit.trainer.device)
    trainer.meter, trainer.position = None, 0
    if len(parts) == 1:
        meter = trainer.sweep("val", table, keep=True)
    else:
        meter = _of_mean(found, parts[0].fit, table)
    truths = {name: truth for name, (_, truth) in meter.answers().items()}
    return replace(found, truths=truths, scores=with_intervals(meter, seed=seed))


def _of_mean(found: Answers, fit: Fit, table: Table) -> Meter:
    """A meter that has seen the mean answers instead of a model's."""
    objective: Any = fit.trainer.objective
    fields = found.spec.targets
    raw = {name: raw_of(field, torch.from_numpy(found.outputs[name])) for name, field in fields.items()}
    meter, start = Meter(fit.trainer.measures, fields, fit.trainer.device, keep=True), 0
    for batch in table.batches(fit.trainer.settings.rows_at_once(fit.data.spec)):
        rows = len(next(iter(batch.values())))
        part: Batch = {name: values[start : start + rows].to(fit.trainer.device) for name, values in raw.items()}
        meter.add(Step("model", objective.total(part, batch), part), batch, rows)
        start += rows
    meter.flush()
    return meter


def raw_of(field: Field, numbers: Tensor) -> Tensor:
    """The raw outputs of which `field.own(field.activate(raw))` would be these numbers."""
    if field.kind in ("category", "tokens"):
        return numbers.clamp(LEAST).log()
    if field.kind in ("binary", "multilabel", "fraction"):
        return numbers.clamp(LEAST, 1 - 1e-7).logit()
    if field.scale is None or field.shift is None:
        return numbers
    return (numbers - field.shift) / field.scale
