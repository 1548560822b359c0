"""What a finished run predicts for new rows: image files, texts, or the lines of a table."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dlrun.config.settings import Settings
from dlrun.core import checkpoint, files
from dlrun.core import device as runtime
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import Batch, Field, FitJob, Spec
from dlrun.data.images.archives import decode_name, read_bytes
from dlrun.data.images.decode import ImageDecodeError, Reading, decode_image
from dlrun.data.loading.images import ImageColumn
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.data.preprocessing.pipeline import describe_preprocessing, transform_rows
from dlrun.data.preprocessing.unseen_values import out_of_vocabulary_counts, warn_new_values
from dlrun.experiment.builder import BuiltFit, ExperimentBuilder
from dlrun.experiment.inference_folds import (
    FitPrediction,
    Predictions,
    average_predictions,
    load_output_spec,
    predictions_with_scores,
)
from dlrun.models.ensemble.ensemble import Ensemble
from dlrun.models.pretrained.earlier_run import (
    LoadedModel,
    get_fit_config,
    get_main_job,
    get_prediction_jobs,
    load_run_model,
)

NamedImagePath = tuple[
    Path, str
]  # a folder or an archive and the name of a file in it; or a file by itself, and ''


def predict_images(
    folder: Path, paths: Sequence[NamedImagePath], plugins: tuple[str, ...] = (), fit: str = ""
) -> Predictions:
    """The predictions of a run for image files, each resized and converted as the run's own were.

    Args:
        folder: Of the run.
        places: Files, see `NamedImagePath`.
        plugins: Packages whose parts may be named.
        fit: Name of the fit; '' for the one (or the mean of those) that stands for the run.

    Raises:
        UserError: if the run's inputs are not one image that a file alone gives.
    """
    jobs, note = get_prediction_jobs(folder, fit)
    models = [load_run_model(folder, plugins, job=job) for job in jobs]
    first_model, names = models[0], tuple(loaded.job.name for loaded in models)
    name, reading = _find_image_input(first_model)
    # As in training, so that predictions come out alike.
    runtime.flush_tiny_values()
    runtime.keep_freed_memory()
    device, settings = get_run_device(first_model.config), first_model.config["engine"]
    batch_size = 0 if settings["batch_size"] == "auto" else settings["batch_size"]
    size = settings["eval_batch_size"] or max(batch_size, 256)
    names_read: list[str] = []
    skipped: dict[str, str] = {}
    columns = (
        ImageColumn(torch.from_numpy(chunk)).to(device)
        for chunk in _iter_image_batches(paths, reading, size, names_read, skipped)
    )
    batches = ({name: next(pixels.batches(slice(None), len(pixels)))} for pixels in columns)
    model = (
        first_model.model
        if len(models) == 1
        else Ensemble(first_model.spec, models, list(names), "mean")
    )
    outputs = predict_batches(
        model.to(device), first_model.spec.targets, batches, device, settings["precision"]
    )
    return Predictions(
        first_model.spec, names_read, outputs, skipped=skipped, fits=names, note=note
    )


def predict_table(
    folder: Path, file: Path, plugins: tuple[str, ...] = (), fit: str = "", **reading: str
) -> Predictions:
    """The predictions of a run for the lines of a CSV file, prepared as its training rows were.

    Args:
        folder: Of the run.
        file: With the run's columns; where every line has the targets, it is scored, too.
        plugins: Packages whose parts may be named.
        fit: Name of the fit; '' for the one (or the mean of those) that stands for the run.
        **reading: Encoding of the file, where it is not the run's.

    Raises:
        UserError: if the run reads no table, its data have changed since, or the file lacks a
            column or a number.
    """
    jobs, note = get_prediction_jobs(folder, fit)
    predictions, lines = list[FitPrediction](), list[int]()
    for builder, built in load_fits(folder, jobs, plugins):
        if builder.dataset.read_new_rows is None:
            raise UserError(
                f"{folder} was not trained on a table: its rows cannot be read from {file}"
            )
        rows, lines = builder.dataset.read_new_rows(str(file), **reading)
        # No scores on rows that the run was trained or tested on.
        if is_file_of_run(builder.config, file):
            rows = {
                column: values
                for column, values in rows.items()
                if column not in builder.dataset.targets
            }
        if not predictions:
            warn_new_values(
                builder.dataset, built.data, rows, built.rows["train"], str(file), words=True
            )
        table = transform_rows(builder.dataset, built.data, rows)
        _check_missing_numbers(table, built.data.spec, lines, file)
        predictions.append(FitPrediction(built, table, predict_rows(built, table)))
    result = Predictions(
        load_output_spec(folder, predictions[0].fit),
        lines,
        average_predictions(predictions),
        fits=get_fit_names(jobs),
        note=note,
    )
    has_targets = all(name in predictions[0].table.columns for name in result.spec.targets)
    return (
        predictions_with_scores(result, predictions, builder.config["seed"])
        if has_targets
        else result
    )


def predict_texts(
    folder: Path, texts: Sequence[tuple[str, str]], plugins: tuple[str, ...] = (), fit: str = ""
) -> Predictions:
    """The predictions of a run for texts, prepared as its training rows were.

    Args:
        folder: Of the run.
        texts: Name and text of each.
        plugins: Packages whose parts may be named.
        fit: Name of the fit; '' for the one (or the mean of those) that stands for the run.

    Raises:
        UserError: if the run reads something else than one text, or its data have changed since.
    """
    jobs, note = get_prediction_jobs(folder, fit)
    predictions, unknown_words = list[FitPrediction](), None
    for builder, built in load_fits(folder, jobs, plugins):
        if builder.dataset.rows_from_texts is None:
            kinds = format_names(
                f"{input_field.kind} '{name}'"
                for name, input_field in built.data.spec.inputs.items()
            )
            hint = (
                f"; it writes texts: dlrun generate {folder}"
                if built.trainer.objective.generators
                else ""
            )
            raise UserError(
                f"{folder} reads {kinds}, and its data do not say how a text becomes that{hint}"
            )
        rows = builder.dataset.rows_from_texts([text for _, text in texts])
        ((name, column),) = rows.items()
        table = transform_rows(builder.dataset, built.data, rows)
        predictions.append(FitPrediction(built, table, predict_rows(built, table)))
        unknown_words = (
            out_of_vocabulary_counts(column, built.data.preprocessors[name])
            if unknown_words is None
            else unknown_words
        )
    input_field: dict[str, Any] = {
        "unknown_words": unknown_words,
        "fits": get_fit_names(jobs),
        "note": note,
    }
    return Predictions(
        load_output_spec(folder, predictions[0].fit),
        [name for name, _ in texts],
        average_predictions(predictions),
        **input_field,
    )


def load_fit(
    folder: Path, plugins: tuple[str, ...], fit: str = ""
) -> tuple[ExperimentBuilder, BuiltFit]:
    """A run, and the one fit that stands for it (`get_main_job`), with its best weights."""
    return next(load_fits(folder, [get_main_job(folder, fit, quiet=False)], plugins))


def load_fits(
    folder: Path, jobs: Sequence[FitJob], plugins: tuple[str, ...]
) -> Iterator[tuple[ExperimentBuilder, BuiltFit]]:
    """A run's data and its fits of one stage, with their best weights.

    The preprocessing is fitted again: it must come to the same.

    Args:
        folder: Of the run.
        jobs: The fits.
        plugins: Packages whose parts may be named.

    Yields:
        The builder and a fit, one after the other.

    Raises:
        UserError: if the data, or the preprocessing, are no longer the same.
    """
    config = get_fit_config(folder, jobs[0])
    # The builder writes what it prepares; the run's own folder is only read.
    with tempfile.TemporaryDirectory(prefix="dlrun-") as name:
        builder = ExperimentBuilder({**config, "test": False}, Path(name), plugins)
        for job in jobs:
            fit = builder.build_fit(replace(job, patch={}, start=""))
            check_same_data(RunFolder(folder), RunFolder(Path(name)), job.name, fit)
            _load_best_weights(fit, folder, job)
            yield builder, fit


def _load_best_weights(fit: BuiltFit, folder: Path, job: FitJob) -> None:
    try:
        fit.trainer.restore(checkpoint.load_best(RunFolder(folder).checkpoint_folder(job)))
    except (RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the checkpoint of {folder} is not of this model: another dlrun wrote it ({reason})"
        ) from error


def get_fit_names(jobs: Sequence[FitJob]) -> tuple[str, ...]:
    """The names of these fits."""
    return tuple(job.name for job in jobs)


def is_file_of_run(config: dict[str, Any], file: Path) -> bool:
    """Whether a file is the run's own table or test table: scores on it would break the seal."""
    names = [config["data"].get(key) for key in ("path", "test_path")]
    paths = [Path(name).expanduser() for name in names if isinstance(name, str)]
    return any(path.exists() and path.samefile(file) for path in paths)


def predict_batches(
    model: nn.Module,
    targets: dict[str, Field],
    batches: Iterable[Batch],
    device: torch.device,
    precision: str,
) -> dict[str, np.ndarray]:
    """Target → what the model answers (n, outputs): probabilities, or numbers as they are."""
    outputs_by_target: dict[str, list[torch.Tensor]] = {name: [] for name in targets}
    # Dropout off, and batch norm by its running statistics.
    model.eval()
    with torch.no_grad():
        for batch in batches:
            with runtime.autocast(device, precision):
                outputs = model(batch)
            for name, field in targets.items():
                outputs_by_target[name].append(
                    field.to_original_units(field.apply_activation(outputs[name].float()).cpu())
                )
    return {name: torch.cat(chunks).numpy() for name, chunks in outputs_by_target.items() if chunks}


def _find_image_input(loaded: LoadedModel) -> tuple[str, Reading]:
    """The run's one image input, and how a file becomes such an image."""
    kinds = ", ".join(f"{field.kind} '{name}'" for name, field in loaded.spec.inputs.items())
    name, *other_inputs = loaded.spec.inputs
    reading = None if other_inputs else get_image_reader(loaded, name)
    if reading is None:
        raise UserError(f"{loaded.folder} reads {kinds}, which image files alone do not give")
    return name, reading


def get_image_reader(loaded: LoadedModel, name: str) -> Reading | None:
    """How a file becomes an image of this input; None where files alone do not give it."""
    field = loaded.spec.inputs[name]
    run = RunFolder(loaded.folder)
    steps = (run.read_json(RunFile.PREPARATION, job=loaded.job.name) or {}).get(name)
    if field.kind != "image" or steps or field.shape[0] not in (1, 3):
        return None
    channels, height, width = field.shape
    data = loaded.config["data"]
    return Reading((height, width), channels, data.get("of", data).get("fit", "stretch"))  # type: ignore[arg-type]


def _iter_image_batches(
    paths: Sequence[NamedImagePath],
    reading: Reading,
    size: int,
    names_read: list[str],
    skipped: dict[str, str],
) -> Iterator[np.ndarray]:
    """Images as uint8 (B, C, H, W), `size` at a time.

    Their names are added to `names_read`, the others' to `skipped`.
    """
    waiting: list[np.ndarray] = []
    for path, inner in paths:
        name = decode_name(str(path / inner) if inner else str(path))
        try:
            waiting.append(decode_image(read_bytes(path, inner) if inner else path, reading))
            names_read.append(name)
        except ImageDecodeError as error:
            skipped[name] = str(error)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def get_run_device(config: dict[str, Any]) -> torch.device:
    """The device of the run, or the best one here."""
    name = config["engine"]["device"]
    return runtime.choose_device(name if name in runtime.available_devices() else "auto")


def check_same_data(run: RunFolder, rebuilt: RunFolder, job: str, fit: BuiltFit) -> None:
    """Compare data and preprocessing with those of the run: other ones would make its predictions
    wrong.

    Raises:
        UserError: if they are not the same.
    """
    recorded, present = (record.read_json(RunFile.DATA) for record in (run, rebuilt))
    if recorded["fingerprint"] != present["fingerprint"]:
        raise UserError(
            f"the data that {run.folder} was trained on have changed since: {recorded} then, "
            f"{present} now"
        )
    steps = json.loads(files.to_json(describe_preprocessing(fit.data.preprocessors)))
    if steps != run.read_json(RunFile.PREPARATION, job=job):
        file = run.path(RunFile.PREPARATION, job=job)
        raise UserError(f"the preparation is no longer the one in {file}")


def _check_missing_numbers(table: Table, spec: Spec, lines: list[int], file: Path) -> None:
    """Refuse rows with missing numbers where the run has no step that fills them."""
    for name in spec.inputs:
        column = table.columns[name]
        if isinstance(column, DenseColumn) and column.values.is_floating_point():
            missing = ~torch.isfinite(column.values).reshape(len(column), -1).all(1)
            if missing.any():
                line_numbers = ", ".join(
                    str(lines[row]) for row in missing.nonzero()[:5, 0].tolist()
                )
                raise UserError(
                    f"{file} misses numbers (line {line_numbers}), or has ones that are too "
                    "large, and this run was not told "
                    "how to fill them in"
                )


def predict_rows(fit: BuiltFit, table: Table) -> dict[str, np.ndarray]:
    """What a fit answers for the rows of a table: target → (n, outputs), see `predict_batches`."""
    objective: Any = fit.trainer.objective
    settings: Settings = fit.trainer.settings
    batches = table.to(fit.trainer.device).batches(settings.get_inference_batch_size(fit.data.spec))
    # As the validation of the fit was measured.
    with fit.trainer.optimization.ema_weights():
        targets = fit.data.spec.targets
        return predict_batches(
            objective.model, targets, batches, fit.trainer.device, settings.precision
        )
