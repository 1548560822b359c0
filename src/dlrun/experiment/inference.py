"""What a finished run answers for new rows: pictures from files, texts, or the lines of a table."""

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
from dlrun.core import checkpoint, json_text
from dlrun.core import device as runtime
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import Batch, Field, FitJob, Spec
from dlrun.data.images.archives import decode_name, read_bytes
from dlrun.data.images.decode import ImageDecodeError, Reading, decode_image
from dlrun.data.loading.images import ImageColumn
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.data.preprocessing.out_of_vocabulary import out_of_vocabulary_counts
from dlrun.data.preprocessing.pipeline import describe_preprocessing, transform_rows
from dlrun.data.preprocessing.unseen_values import warn_new_values
from dlrun.experiment.answers import Predictions
from dlrun.experiment.builder import BuiltFit, ExperimentBuilder
from dlrun.experiment.inference_folds import (
    FitPrediction,
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
    folder: Path, places: Sequence[NamedImagePath], plugins: tuple[str, ...] = (), fit: str = ""
) -> Predictions:
    """The answers of a run for picture files, each brought to the size and the channels of the run's own.

    Raises UserError where the run's inputs are not one picture that comes from a file alone.
    """
    jobs, told = get_prediction_jobs(folder, fit)
    nets = [load_run_model(folder, plugins, job=job) for job in jobs]
    net, names = nets[0], tuple(each.job.name for each in nets)
    name, reading = _find_image_input(net)
    runtime.flush_tiny_values()
    runtime.keep_freed_memory()
    device, settings = get_run_device(net.config), net.config["engine"]
    own = 0 if settings["batch_size"] == "auto" else settings["batch_size"]
    size = settings["eval_batch_size"] or max(own, 256)
    seen: list[str] = []
    skipped: dict[str, str] = {}
    pieces = (
        ImageColumn(torch.from_numpy(piece)).to(device)
        for piece in _iter_image_batches(places, reading, size, seen, skipped)
    )
    batches = ({name: next(pixels.batches(slice(None), len(pixels)))} for pixels in pieces)
    model = net.model if len(nets) == 1 else Ensemble(net.spec, nets, list(names), "mean")
    outputs = predict_batches(
        model.to(device), net.spec.targets, batches, device, settings["precision"]
    )
    return Predictions(net.spec, seen, outputs, skipped=skipped, fits=names, note=told)


def predict_table(
    folder: Path, file: Path, plugins: tuple[str, ...] = (), fit: str = "", **reading: str
) -> Predictions:
    """The answers of a run for the lines of a CSV file, prepared with what the run has learnt on its training rows.

    Where every line has the targets, the scores too. reading: its encoding, where that is another than the run's.
    Raises UserError where the run reads no table, where its data have changed since, and where the file lacks a column
    or a number.
    """
    jobs, told = get_prediction_jobs(folder, fit)
    parts, lines = list[FitPrediction](), list[int]()
    for assembly, one in load_fits(folder, jobs, plugins):
        if assembly.dataset.read_new_rows is None:
            raise UserError(
                f"{folder} was not trained on a table: its rows cannot be read from {file}"
            )
        rows, lines = assembly.dataset.read_new_rows(str(file), **reading)
        if is_file_of_run(assembly.config, file):
            rows = {
                column: values
                for column, values in rows.items()
                if column not in assembly.dataset.targets
            }
        if not parts:
            warn_new_values(
                assembly.dataset, one.data, rows, one.rows["train"], str(file), words=True
            )
        table = transform_rows(assembly.dataset, one.data, rows)
        _check_missing_numbers(table, one.data.spec, lines, file)
        parts.append(FitPrediction(one, table, predict_rows(one, table)))
    found = Predictions(
        load_output_spec(folder, parts[0].fit),
        lines,
        average_predictions(parts),
        fits=get_fit_names(jobs),
        note=told,
    )
    labelled = all(name in parts[0].table.columns for name in found.spec.targets)
    return predictions_with_scores(found, parts, assembly.config["seed"]) if labelled else found


def predict_texts(
    folder: Path, texts: Sequence[tuple[str, str]], plugins: tuple[str, ...] = (), fit: str = ""
) -> Predictions:
    """The answers of a run for texts (name, text), prepared with what the run has learnt on its training rows.

    Raises UserError where the run reads something else than one text, and where its data have changed since.
    """
    jobs, told = get_prediction_jobs(folder, fit)
    parts, known = list[FitPrediction](), None
    for assembly, one in load_fits(folder, jobs, plugins):
        if assembly.dataset.rows_from_texts is None:
            kinds = format_names(
                f"{about.kind} '{name}'" for name, about in one.data.spec.inputs.items()
            )
            makes = (
                f"; it writes texts: dlrun generate {folder}"
                if one.trainer.objective.generators
                else ""
            )
            raise UserError(
                f"{folder} reads {kinds}, and its data do not say how a text becomes that{makes}"
            )
        rows = assembly.dataset.rows_from_texts([text for _, text in texts])
        ((name, column),) = rows.items()
        table = transform_rows(assembly.dataset, one.data, rows)
        parts.append(FitPrediction(one, table, predict_rows(one, table)))
        known = (
            out_of_vocabulary_counts(column, one.data.preprocessors[name])
            if known is None
            else known
        )
    about: dict[str, Any] = {"unknown_words": known, "fits": get_fit_names(jobs), "note": told}
    return Predictions(
        load_output_spec(folder, parts[0].fit),
        [name for name, _ in texts],
        average_predictions(parts),
        **about,
    )


def load_fit(
    folder: Path, plugins: tuple[str, ...], fit: str = ""
) -> tuple[ExperimentBuilder, BuiltFit]:
    """A run, its data and the one fit that stands for it (see `get_main_job`) as they were, with its best weights."""
    return next(load_fits(folder, [get_main_job(folder, fit, quiet=False)], plugins))


def load_fits(
    folder: Path, jobs: Sequence[FitJob], plugins: tuple[str, ...]
) -> Iterator[tuple[ExperimentBuilder, BuiltFit]]:
    """A run's data and fits of one stage as they were, with their best weights; what has been learnt is learnt again.

    Raises UserError where the data, or what is learnt from them, are no longer the same.
    """
    config = get_fit_config(folder, jobs[0])
    with tempfile.TemporaryDirectory(prefix="dlrun-") as name:
        assembly = ExperimentBuilder({**config, "test": False}, Path(name), plugins)
        for job in jobs:
            fit = assembly.build_fit(replace(job, patch={}, start=""))
            check_same_data(RunFolder(folder), RunFolder(Path(name)), job.name, fit)
            _load_best_weights(fit, folder, job)
            yield assembly, fit


def _load_best_weights(fit: BuiltFit, folder: Path, job: FitJob) -> None:
    try:
        fit.trainer.restore(checkpoint.load_best(RunFolder(folder).checkpoint_folder(job)))
    except (RuntimeError, KeyError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise UserError(
            f"the checkpoint of {folder} is not of this model: another dlrun wrote it ({what})"
        ) from error


def get_fit_names(jobs: Sequence[FitJob]) -> tuple[str, ...]:
    """The names of these fits."""
    return tuple(job.name for job in jobs)


def is_file_of_run(config: dict[str, Any], file: Path) -> bool:
    """Whether a file is the table, or the test table, that a run was made from: scores on it would break the seal."""
    named = [config["data"].get(key) for key in ("path", "test_path")]
    places = [Path(name).expanduser() for name in named if isinstance(name, str)]
    return any(place.exists() and place.samefile(file) for place in places)


def predict_batches(
    model: nn.Module,
    targets: dict[str, Field],
    batches: Iterable[Batch],
    device: torch.device,
    precision: str,
) -> dict[str, np.ndarray]:
    """Target → what the model answers (n, outputs): probabilities, or numbers as they are."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in targets}
    model.eval()
    with torch.no_grad():
        for batch in batches:
            with runtime.autocast(device, precision):
                outputs = model(batch)
            for name, about in targets.items():
                found[name].append(
                    about.to_original_units(about.apply_activation(outputs[name].float()).cpu())
                )
    return {name: torch.cat(parts).numpy() for name, parts in found.items() if parts}


def _find_image_input(net: LoadedModel) -> tuple[str, Reading]:
    """The run's one picture input, and how a file becomes such a picture."""
    kinds = ", ".join(f"{about.kind} '{name}'" for name, about in net.spec.inputs.items())
    name, *others = net.spec.inputs
    reading = None if others else get_image_reader(net, name)
    if reading is None:
        raise UserError(f"{net.folder} reads {kinds}, which picture files alone do not give")
    return name, reading


def get_image_reader(net: LoadedModel, name: str) -> Reading | None:
    """How a file becomes a picture as this input of a run has them; None where files alone do not give it."""
    about = net.spec.inputs[name]
    steps = (RunFolder(net.folder).read_json(f"preparation/{net.job.name}.json") or {}).get(name)
    if about.kind != "image" or steps or about.shape[0] not in (1, 3):
        return None
    channels, height, width = about.shape
    data = net.config["data"]
    return Reading((height, width), channels, data.get("of", data).get("fit", "stretch"))  # type: ignore[arg-type]


def _iter_image_batches(
    places: Sequence[NamedImagePath],
    reading: Reading,
    size: int,
    seen: list[str],
    skipped: dict[str, str],
) -> Iterator[np.ndarray]:
    """Pictures as uint8 (B, C, H, W), `size` at a time; their names are added to `seen`, the others' to `skipped`."""
    waiting: list[np.ndarray] = []
    for place, inner in places:
        name = decode_name(str(place / inner) if inner else str(place))
        try:
            waiting.append(decode_image(read_bytes(place, inner) if inner else place, reading))
            seen.append(name)
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


def check_same_data(run: RunFolder, again: RunFolder, job: str, fit: BuiltFit) -> None:
    """Refuse data, or a preparation, that are no longer those of the run: its answers would be for other numbers."""
    before, now = (place.read_json("data.json") for place in (run, again))
    if before["fingerprint"] != now["fingerprint"]:
        raise UserError(
            f"the data that {run.folder} was trained on have changed since: {before} then, {now} now"
        )
    if json.loads(
        json_text.to_json(describe_preprocessing(fit.data.preprocessors))
    ) != run.read_json(f"preparation/{job}.json"):
        raise UserError(
            f"the preparation is no longer the one in {run.folder}/preparation/{job}.json"
        )


def _check_missing_numbers(table: Table, spec: Spec, lines: list[int], file: Path) -> None:
    """Refuse rows with missing numbers where the run has no step that fills them."""
    for name in spec.inputs:
        column = table.columns[name]
        if isinstance(column, DenseColumn) and column.values.is_floating_point():
            missing = ~torch.isfinite(column.values).reshape(len(column), -1).all(1)
            if missing.any():
                some = ", ".join(str(lines[row]) for row in missing.nonzero()[:5, 0].tolist())
                raise UserError(
                    f"{file} misses numbers (line {some}), or has ones that are too large, and this run was not told "
                    "how to fill them in"
                )


def predict_rows(fit: BuiltFit, table: Table) -> dict[str, np.ndarray]:
    """What a fit answers for the rows of a table: target → (n, outputs), see `predict_batches`."""
    objective: Any = fit.trainer.objective
    settings: Settings = fit.trainer.settings
    batches = table.to(fit.trainer.device).batches(settings.get_inference_batch_size(fit.data.spec))
    with fit.trainer.optimization.ema_weights():
        targets = fit.data.spec.targets
        return predict_batches(
            objective.model, targets, batches, fit.trainer.device, settings.precision
        )
