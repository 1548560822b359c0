"""What a fit leaves in its run folder besides checkpoints.

Its history, predictions and worst errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlrun.core.files import optional_write
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import FitJob
from dlrun.evaluation import worst_errors
from dlrun.experiment.builder import BuiltFit, ExperimentBuilder
from dlrun.models.model import Model
from dlrun.training.callbacks import BestCheckpoint, Callback
from dlrun.training.meter import Meter
from dlrun.training.trainer import Trainer


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
