"""What a fit leaves in its run beside checkpoints: files, notes, the baseline's scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dlrun.core import device
from dlrun.core.dataset import Dataset, Source
from dlrun.core.files import optional_write
from dlrun.core.formatting import format_number
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import FitJob, Score
from dlrun.evaluation import worst_errors
from dlrun.evaluation.metrics import NO_INTERVAL
from dlrun.experiment.builder import BuiltFit, ExperimentBuilder
from dlrun.models.constant_model import ConstantKind, ConstantModel
from dlrun.models.model import Model
from dlrun.training.callbacks import BestCheckpoint, Callback
from dlrun.training.meter import Meter
from dlrun.training.schedules import is_better
from dlrun.training.trainer import Trainer, evaluation_mode

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
    from dlrun.core.checkpoint import list_change_messages

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


@dataclass(frozen=True)
class HistoryWriter(Callback):
    """Keeps the history of a fit on the disk up to date.

    Attributes:
        run: Folder of the run.
        job: The fit.
    """

    run: RunFolder
    job: FitJob

    def begin(self, trainer: Trainer) -> None:
        # An epoch that was cut is appended when it is complete.
        complete = [row for row in trainer.history if row.epoch <= trainer.epoch]
        self.run.write_history(self.job, complete)

    def __call__(self, trainer: Trainer) -> None:
        self.run.append_history(
            self.job, [row for row in trainer.history if row.epoch == trainer.epoch]
        )


def begin_callbacks(trainer: Trainer, run: RunFolder, job: FitJob) -> None:
    """Begin the callbacks of a fit, and have every epoch appended to its history on the disk."""
    for callback in trainer.callbacks:
        if isinstance(callback, Callback):
            callback.begin(trainer)
    writer = HistoryWriter(run, job)
    writer.begin(trainer)
    # Behind the best checkpoint: where the history cannot be written, no epoch is lost.
    position = sum(isinstance(callback, BestCheckpoint) for callback in trainer.callbacks)
    trainer.callbacks.insert(position, writer)


def write_predictions(builder: ExperimentBuilder, fit: BuiltFit, split: str, meter: Meter) -> None:
    """Store the predictions of a split, and its worst errors as images, texts and tables.

    Args:
        builder: Has the run folder and the dataset.
        fit: Whose predictions they are.
        split: 'train', 'val' or 'test'.
        meter: Has kept the predictions of all rows.
    """
    predictions, dataset = meter.predictions(), builder.dataset
    rows, row_numbers = builder.get_raw_rows(fit, split)
    run, name = builder.run, fit.job.name
    with optional_write(
        "predictions are", run.path(RunFile.PREDICTIONS, job=name, split=split).parent
    ):
        # Without predictions, too: other commands ask which rows a split holds.
        run.write_predictions(fit.job, split, predictions, row_numbers, meter.values())
    if not predictions:
        return
    with optional_write("the worst errors are", run.path(RunFile.ERROR_FOLDER)):
        worst_errors.write_largest_errors(
            run.folder, name, split, dataset, rows, row_numbers, predictions, fit.data.spec.targets
        )
        if dataset.forecast:
            from dlrun.evaluation.forecast_file import write_forecast

            write_forecast(run.folder, name, split, dataset, rows, row_numbers, predictions)


def solve_model(fit: BuiltFit, run: RunFolder) -> None:
    """Have a model that no step trains find its weights.

    On the training rows, an ensemble on the validation rows.
    """
    objective: Any = fit.trainer.objective
    model = objective.model
    if not isinstance(model, Model):
        return
    model.solve(fit.data.train)  # type: ignore[arg-type]
    total = lambda outputs, batch: objective.total_loss(outputs, batch)  # noqa: E731
    members = model.fit_weights(fit.data.val, total)
    if members is not None:
        run.write_json(RunFile.MEMBERS, members)


def compute_baseline_scores(baseline: Trainer, split: str, source: Source) -> dict[str, Score]:
    """Score the baseline: of a constant prediction, each metric takes the constant that is best by
    it.

    Args:
        baseline: A trainer that holds the baseline.
        split: 'train', 'val' or 'test'.
        source: Its rows.
    """
    model = baseline.objective.model
    scores = baseline.run_epoch(split, source).scores()
    if not isinstance(model, ConstantModel):
        return scores
    scores_by_output = {get_prediction_key(model, model.which): scores}
    for name, (_, metric) in baseline.metrics.items():
        key = get_prediction_key(model, metric.constant)
        if key not in scores_by_output:
            model.select_output(metric.constant)
            scores_by_output[key] = baseline.run_epoch(split, source).scores()
        scores = scores | {name: scores_by_output[key][name]}
    model.select_output("loss")
    return scores


def get_prediction_key(model: ConstantModel, kind: ConstantKind) -> tuple[int, ...]:
    """A key that is the same for two constants that are the same for every target."""
    return tuple(id(model.get_output(name, kind)) for name in model.targets)


def compute_objective_scores(trainer: Trainer, source: Source, seed: int) -> dict[str, Score]:
    """The objective's own scores of a whole split, drawn with the random numbers of this seed."""
    batch_rows = trainer.settings.get_inference_batch_size(trainer.data.spec)
    with evaluation_mode(trainer, seed):
        return trainer.objective.split_scores(source.batches(batch_rows))
