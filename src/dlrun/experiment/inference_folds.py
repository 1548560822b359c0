"""Predictions of several fits for the same rows: their mean, and the scores of that mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Score, Spec, Step
from dlrun.data.loading.table import Table
from dlrun.experiment.builder import BuiltFit
from dlrun.training.meter import Meter, scores_with_intervals
from dlrun.training.monitors import get_loss_targets


@dataclass(frozen=True)
class Predictions:
    """What a run predicts for some rows.

    Attributes:
        spec: Inputs and targets of the run.
        names: (n,) the file, or the number of the line, of each row.
        outputs: Target → (n, outputs): probabilities, or numbers in the target's unit.
        truths: Target → true values, where the rows have them.
        scores: Of the predictions, where there are true values.
        skipped: File → why it gives no row.
        unknown_words: (n, 2) words of each text that the run does not know, and all words; None
            where that cannot be told.
        fits: Whose predictions these are; their mean where there are several.
        note: A remark on that choice.
    """

    spec: Spec
    names: list[str] | list[int]
    outputs: dict[str, np.ndarray]
    truths: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unknown_words: np.ndarray | None = None
    fits: tuple[str, ...] = ()
    note: str = ""


MIN_PROBABILITY = 1e-12  # a probability that is smaller has no logarithm to speak of


@dataclass(frozen=True)
class FitPrediction:
    """What one fit predicts.

    Attributes:
        fit: The fit.
        table: The rows as it has prepared them.
        outputs: Target → (n, outputs): probabilities, or numbers in the target's unit.
    """

    fit: BuiltFit
    table: Table
    outputs: dict[str, np.ndarray]


def load_output_spec(folder: Path, fit: BuiltFit) -> Spec:
    """Inputs and predicted targets of a fit.

    Raises:
        UserError: if it predicts none.
    """
    targets = get_loss_targets(fit.trainer.objective, fit.data.spec)
    if not targets:
        raise UserError(f"{folder} predicts no target, it generates: dlrun generate {folder}")
    return Spec(fit.data.spec.inputs, targets)


def average_predictions(predictions: Sequence[FitPrediction]) -> dict[str, np.ndarray]:
    """Target → the mean of all predictions.

    Raises:
        UserError: if the fits know different classes.
    """
    first = predictions[0]
    if len(predictions) == 1:
        return first.outputs
    for prediction in predictions[1:]:
        for name, target in first.fit.data.spec.targets.items():
            if prediction.fit.data.spec.targets[name].labels != target.labels:
                job, other_job = first.fit.job.name, prediction.fit.job.name
                raise UserError(
                    f"{job} and {other_job} know different classes of '{name}', "
                    f"so that their predictions have no mean: say fit={job}"
                )
    return {
        name: np.mean([prediction.outputs[name] for prediction in predictions], 0)
        for name in first.outputs
    }


def predictions_with_scores(
    predicted: Predictions, predictions: Sequence[FitPrediction], seed: int
) -> Predictions:
    """The same with truths and scores; those of a mean in the first fit's measures and units."""
    trainer, table = (
        predictions[0].fit.trainer,
        predictions[0].table.to(predictions[0].fit.trainer.device),
    )
    # A restored trainer may be amid an epoch.
    trainer.meter, trainer.position = None, 0
    if len(predictions) == 1:
        meter = trainer.run_epoch("val", table, keep=True)
    else:
        meter = _build_mean_meter(predicted, predictions[0].fit, table)
    truths = {name: truth for name, (_, truth) in meter.predictions().items()}
    return replace(predicted, truths=truths, scores=scores_with_intervals(meter, seed=seed))


def _build_mean_meter(predicted: Predictions, fit: BuiltFit, table: Table) -> Meter:
    """A meter that has seen the mean answers instead of a model's."""
    objective: Any = fit.trainer.objective
    fields = predicted.spec.targets
    raw_outputs = {
        name: to_raw_outputs(field, torch.from_numpy(predicted.outputs[name]))
        for name, field in fields.items()
    }
    meter, start = Meter(fit.trainer.metrics, fields, fit.trainer.device, keep=True), 0
    for batch in table.batches(fit.trainer.settings.get_inference_batch_size(fit.data.spec)):
        rows = len(next(iter(batch.values())))
        outputs: Batch = {
            name: values[start : start + rows].to(fit.trainer.device)
            for name, values in raw_outputs.items()
        }
        meter.add(Step("model", objective.total_loss(outputs, batch), outputs), batch, rows)
        start += rows
    meter.flush()
    return meter


def to_raw_outputs(field: Field, numbers: Tensor) -> Tensor:
    """The raw outputs of which `field.own(field.activate(raw))` would be these numbers."""
    if field.kind in ("category", "tokens"):
        # Softmax of the logarithms gives the probabilities back.
        return numbers.clamp(MIN_PROBABILITY).log()
    if field.kind in ("binary", "multilabel", "fraction"):
        return numbers.clamp(MIN_PROBABILITY, 1 - 1e-7).logit()
    if field.scale is None or field.shift is None:
        return numbers
    return (numbers - field.shift) / field.scale
