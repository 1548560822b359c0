"""Remarks beside a result: what a fit leaves out, its units, which baselines it does not beat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dlrun.core import device
from dlrun.core.dataset import Dataset
from dlrun.core.formatting import format_number
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import Score
from dlrun.evaluation.mean_scores import NO_INTERVAL
from dlrun.experiment.builder import BuiltFit, ExperimentBuilder
from dlrun.models.model import Model
from dlrun.training.schedules import is_better
from dlrun.training.trainer import Trainer

INTERVAL_WARNING = (
    "neighboring windows are alike, so the 95 % intervals are narrower than they should be"
)


def make_result_fields(
    builder: ExperimentBuilder,
    fit: BuiltFit,
    split: str,
    scores: dict[str, Score],
    baseline: dict[str, Score],
) -> dict[str, Any]:
    """What a result says besides its scores: its note, and the fields that others act on.

    Args:
        builder: Of the run.
        fit: Whose result it is.
        split: The split that was measured.
        scores: Of the fit.
        baseline: Of the baseline.

    Returns:
        The fields `note`, `synthetic`, `book_difference` and `exit_code` of a `Result`.
    """
    dataset = builder.dataset
    overfit_check, exit_code = check_overfit(fit, scores, baseline)
    notes = (
        dataset.note,
        *builder.messages,
        *(model.note for model in _get_models(fit)),
        *_describe_changed_settings(builder.run, fit.job.name),
        *describe_series(dataset),
        *describe_undefined_scores(scores, split),
        *describe_missing_intervals(scores),
        *describe_targets(fit, scores, baseline),
        overfit_check,
    )
    return {
        "note": "; ".join(filter(None, notes)),
        "synthetic": describe_synthetic(dataset, fit),
        "book_difference": dataset.note if dataset.differs_from_book else "",
        "exit_code": exit_code,
    }


def _describe_changed_settings(run: RunFolder, job: str) -> list[str]:
    if not run.exists(RunFile.CHANGES):
        return []
    from dlrun.core.changed_settings import list_change_messages

    return list_change_messages(run.folder, job)


def describe_synthetic(dataset: Dataset, fit: BuiltFit) -> str:
    """The notes that say that data or weights are made up; "" where none are."""
    notes = [dataset.note] if dataset.synthetic else []
    notes += [model.note for model in _get_models(fit) if model.synthetic]
    return "; ".join(dict.fromkeys(notes))


def _get_models(fit: BuiltFit) -> list[Model]:
    trainers = [trainer for trainer in (fit.trainer, fit.baseline) if trainer is not None]
    models = [trainer.objective.model for trainer in trainers]
    return [model for model in models if isinstance(model, Model)]


def describe_fit(trainer: Trainer) -> list[str]:
    """Warnings before a fit: a row that each epoch leaves out, a precision that costs time."""
    rows, messages = len(trainer.data.train), list[str]()
    # Nothing is left out where nothing is learned.
    if trainer.optimization.groups and trainer.count_training_rows(trainer.data.train) < rows:
        messages.append(
            "batch normalization needs two rows in a batch: each epoch leaves out one of "
            f"{rows:,}, at random"
        )
    if trainer.settings.precision == "bf16" and device.has_slow_bf16(trainer.device):
        messages.append(
            "this processor has no bf16 units: engine.precision=bf16 takes several times as long "
            "as fp32"
        )
    return messages


def describe_series(dataset: Dataset) -> list[str]:
    """The notes on the scores of a series: the target's unit, and a caution about intervals."""
    units = [
        f"{name} in {horizon.unit}" for name, horizon in dataset.forecast.items() if horizon.unit
    ]
    messages = [f"mae_unit: {', '.join(units)}"] if units else []
    return [*messages, INTERVAL_WARNING] if dataset.forecast else []


def describe_skipped_steps(trainer: Trainer) -> list[str]:
    """How many updates of a fit were none, because fp16 could not hold their gradients."""
    count = trainer.optimization.steps_skipped
    if not count:
        return []
    planned = count + sum(trainer.optimization.steps_taken.values())
    consequence = (
        ", so nothing was learned: use engine.precision=fp32 or bf16" if count == planned else ""
    )
    return [
        f"{count:,} of {planned:,} updates were skipped, their gradients were beyond "
        f"fp16{consequence}"
    ]


def describe_targets(
    fit: BuiltFit, scores: dict[str, Score], baseline: dict[str, Score]
) -> Iterator[str]:
    """Units in which targets are learned, and targets that do not beat their baseline."""
    fields = fit.data.spec.targets
    if names := [
        name for name, field in fields.items() if field.scale is not None and field.outlook is None
    ]:
        yield (
            f"loss: {', '.join(names)} in standard deviations (other scores are in the target's "
            "own unit)"
        )
    for target in fields if len(fields) > 1 and fit.trainer.optimization.groups else ():
        target_metrics = (
            (name, metric)
            for name, (metric_target, metric) in fit.trainer.metrics.items()
            if metric_target == target
        )
        name, metric = next(target_metrics, ("", None))
        if metric is None or name not in scores.keys() & baseline.keys():
            continue
        value, baseline_value = scores[name].value, baseline[name].value
        if not is_better(value, baseline_value, metric.goal):
            yield (
                f"{target} is no better than its baseline: {name} {format_number(value)}, "
                f"baseline {format_number(baseline_value)}"
            )


def describe_undefined_scores(scores: dict[str, Score], split: str) -> list[str]:
    """Which measures have no value on a split, and why."""
    undefined = [name for name, score in scores.items() if score.value != score.value]
    rows = {"val": "validation", "train": "training"}.get(split, split)
    return [f"{name} is not defined on these {rows} rows: {scores[name].why}" for name in undefined]


def describe_missing_intervals(scores: dict[str, Score]) -> list[str]:
    """Metrics that have no interval, or a rougher one, since resampling takes too long."""
    reasons = {
        name: score.why
        for name, score in scores.items()
        if score.low is not None or score.why.startswith(NO_INTERVAL)
    }
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason]


def check_overfit(
    fit: BuiltFit, scores: dict[str, Score], baseline: dict[str, Score]
) -> tuple[str, int]:
    """Whether the model can memorize the few rows of engine.overfit.

    Args:
        fit: Only an objective that predicts targets can be checked so.
        scores: Of the fit, on the same rows.
        baseline: Of the baseline, on the same rows.

    Returns:
        A remark, "" where the check was not asked for, and the exit code: 1 where it failed.
    """
    rows = fit.trainer.settings.overfit
    if not rows or not fit.trainer.objective.losses:
        return "", 0
    loss, limit = scores["loss"].value, baseline["loss"].value / 10
    passed = loss < limit
    outcome, relation = ("passed", "below") if passed else ("FAILED", "not below")
    text = (
        f"overfit check {outcome}: the loss on the same {rows} rows is {loss:.4g}, "
        f"{relation} a tenth of the baseline's ({limit:.4g})"
    )
    return text, int(not passed)
