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
from dlrun.core.errors import Refused, in_short
from dlrun.core.run_folder import RunDir
from dlrun.core.types import Batch, Field, Job, Spec
from dlrun.data.images.archives import content, printable
from dlrun.data.images.decode import Reading, Unreadable, read
from dlrun.data.loading.images import Pixels
from dlrun.data.loading.table import Plain, Table
from dlrun.data.preprocessing.out_of_vocabulary import strangers
from dlrun.data.preprocessing.pipeline import apply, state
from dlrun.data.preprocessing.unseen_values import tell_new
from dlrun.experiment.answers import Answers
from dlrun.experiment.builder import Assembly, Fit
from dlrun.experiment.inference_folds import Part, mean_of, scored, spec_of
from dlrun.models.ensemble.ensemble import Ensemble
from dlrun.models.pretrained.earlier_run import Trained, answering_jobs, config_of, main_job, trained

Place = tuple[Path, str]  # a folder or an archive and the name of a file in it; or a file by itself, and ''


def of_pictures(folder: Path, places: Sequence[Place], plugins: tuple[str, ...] = (), fit: str = "") -> Answers:
    """The answers of a run for picture files, each brought to the size and the channels of the run's own.

    Raises Refused where the run's inputs are not one picture that comes from a file alone.
    """
    jobs, told = answering_jobs(folder, fit)
    nets = [trained(folder, plugins, job=job) for job in jobs]
    net, names = nets[0], tuple(each.job.name for each in nets)
    name, reading = _reading(net)
    runtime.flush_denormals()
    runtime.keep_memory()
    device, settings = device_of(net.config), net.config["engine"]
    own = 0 if settings["batch_size"] == "auto" else settings["batch_size"]
    size = settings["eval_batch_size"] or max(own, 256)
    seen: list[str] = []
    skipped: dict[str, str] = {}
    pieces = (Pixels(torch.from_numpy(piece)).to(device) for piece in _pieces(places, reading, size, seen, skipped))
    batches = ({name: next(pixels.batches(slice(None), len(pixels)))} for pixels in pieces)
    model = net.model if len(nets) == 1 else Ensemble(net.spec, nets, list(names), "mean")
    outputs = answered(model.to(device), net.spec.targets, batches, device, settings["precision"])
    return Answers(net.spec, seen, outputs, skipped=skipped, fits=names, told=told)


def of_table(folder: Path, file: Path, plugins: tuple[str, ...] = (), fit: str = "", **reading: str) -> Answers:
    """The answers of a run for the lines of a CSV file, prepared with what the run has learnt on its training rows.

    Where every line has the targets, the scores too. reading: its encoding, where that is another than the run's.
    Raises Refused where the run reads no table, where its data have changed since, and where the file lacks a column
    or a number.
    """
    jobs, told = answering_jobs(folder, fit)
    parts, lines = list[Part](), list[int]()
    for assembly, one in fits_again(folder, jobs, plugins):
        if assembly.raw.further is None:
            raise Refused(f"{folder} was not trained on a table: its rows cannot be read from {file}")
        rows, lines = assembly.raw.further(str(file), **reading)
        if own_rows(assembly.config, file):
            rows = {column: values for column, values in rows.items() if column not in assembly.raw.targets}
        if not parts:
            tell_new(assembly.raw, one.data, rows, one.rows["train"], str(file), words=True)
        table = apply(assembly.raw, one.data, rows)
        _check_numbers(table, one.data.spec, lines, file)
        parts.append(Part(one, table, outputs_of(one, table)))
    found = Answers(spec_of(folder, parts[0].fit), lines, mean_of(parts), fits=names_of(jobs), told=told)
    labelled = all(name in parts[0].table.columns for name in found.spec.targets)
    return scored(found, parts, assembly.config["seed"]) if labelled else found


def of_texts(folder: Path, texts: Sequence[tuple[str, str]], plugins: tuple[str, ...] = (), fit: str = "") -> Answers:
    """The answers of a run for texts (name, text), prepared with what the run has learnt on its training rows.

    Raises Refused where the run reads something else than one text, and where its data have changed since.
    """
    jobs, told = answering_jobs(folder, fit)
    parts, known = list[Part](), None
    for assembly, one in fits_again(folder, jobs, plugins):
        if assembly.raw.of_texts is None:
            kinds = in_short(f"{about.kind} '{name}'" for name, about in one.data.spec.inputs.items())
            makes = f"; it writes texts: dlrun generate {folder}" if getattr(one.trainer.objective, "makes", {}) else ""
            raise Refused(f"{folder} reads {kinds}, and its data do not say how a text becomes that{makes}")
        rows = assembly.raw.of_texts([text for _, text in texts])
        ((name, column),) = rows.items()
        table = apply(assembly.raw, one.data, rows)
        parts.append(Part(one, table, outputs_of(one, table)))
        known = strangers(column, one.data.learnt[name]) if known is None else known
    about: dict[str, Any] = {"strangers": known, "fits": names_of(jobs), "told": told}
    return Answers(spec_of(folder, parts[0].fit), [name for name, _ in texts], mean_of(parts), **about)


def again(folder: Path, plugins: tuple[str, ...], fit: str = "") -> tuple[Assembly, Fit]:
    """A run, its data and the one fit that stands for it (see `main_job`) as they were, with its best weights."""
    return next(fits_again(folder, [main_job(folder, fit, quiet=False)], plugins))


def fits_again(folder: Path, jobs: Sequence[Job], plugins: tuple[str, ...]) -> Iterator[tuple[Assembly, Fit]]:
    """A run's data and fits of one stage as they were, with their best weights; what has been learnt is learnt again.

    Raises Refused where the data, or what is learnt from them, are no longer the same.
    """
    config = config_of(folder, jobs[0])
    with tempfile.TemporaryDirectory(prefix="dlrun-") as name:
        assembly = Assembly({**config, "test": False}, Path(name), plugins)
        for job in jobs:
            fit = assembly.fit(replace(job, patch={}, start=""))
            check_same(RunDir(folder), RunDir(Path(name)), job.name, fit)
            _restored(fit, folder, job)
            yield assembly, fit


def _restored(fit: Fit, folder: Path, job: Job) -> None:
    try:
        fit.trainer.restore(checkpoint.best(RunDir(folder).checkpoints(job)))
    except (RuntimeError, KeyError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise Refused(f"the checkpoint of {folder} is not of this model: another dlrun wrote it ({what})") from error


def names_of(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The names of these fits."""
    return tuple(job.name for job in jobs)


def own_rows(config: dict[str, Any], file: Path) -> bool:
    """Whether a file is the table, or the test table, that a run was made from: scores on it would break the seal."""
    named = [config["data"].get(key) for key in ("path", "test_path")]
    places = [Path(name).expanduser() for name in named if isinstance(name, str)]
    return any(place.exists() and place.samefile(file) for place in places)


def answered(
    model: nn.Module, targets: dict[str, Field], batches: Iterable[Batch], device: torch.device, precision: str
) -> dict[str, np.ndarray]:
    """Target → what the model answers (n, outputs): probabilities, or numbers as they are."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in targets}
    model.eval()
    with torch.no_grad():
        for batch in batches:
            with runtime.autocast(device, precision):
                outputs = model(batch)
            for name, about in targets.items():
                found[name].append(about.own(about.activate(outputs[name].float()).cpu()))
    return {name: torch.cat(parts).numpy() for name, parts in found.items() if parts}


def _reading(net: Trained) -> tuple[str, Reading]:
    """The run's one picture input, and how a file becomes such a picture."""
    kinds = ", ".join(f"{about.kind} '{name}'" for name, about in net.spec.inputs.items())
    name, *others = net.spec.inputs
    reading = None if others else picture_reading(net, name)
    if reading is None:
        raise Refused(f"{net.folder} reads {kinds}, which picture files alone do not give")
    return name, reading


def picture_reading(net: Trained, name: str) -> Reading | None:
    """How a file becomes a picture as this input of a run has them; None where files alone do not give it."""
    about = net.spec.inputs[name]
    steps = (RunDir(net.folder).read_json(f"preparation/{net.job.name}.json") or {}).get(name)
    if about.kind != "image" or steps or about.shape[0] not in (1, 3):
        return None
    channels, height, width = about.shape
    data = net.config["data"]
    return Reading((height, width), channels, data.get("of", data).get("fit", "stretch"))  # type: ignore[arg-type]


def _pieces(
    places: Sequence[Place], reading: Reading, size: int, seen: list[str], skipped: dict[str, str]
) -> Iterator[np.ndarray]:
    """Pictures as uint8 (B, C, H, W), `size` at a time; their names are added to `seen`, the others' to `skipped`."""
    waiting: list[np.ndarray] = []
    for place, inner in places:
        name = printable(str(place / inner) if inner else str(place))
        try:
            waiting.append(read(content(place, inner) if inner else place, reading))
            seen.append(name)
        except Unreadable as error:
            skipped[name] = str(error)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def device_of(config: dict[str, Any]) -> torch.device:
    """The device of the run, or the best one here."""
    name = config["engine"]["device"]
    return runtime.choose_device(name if name in runtime.devices() else "auto")


def check_same(run: RunDir, again: RunDir, job: str, fit: Fit) -> None:
    """Refuse data, or a preparation, that are no longer those of the run: its answers would be for other numbers."""
    before, now = (place.read_json("data.json") for place in (run, again))
    if before["fingerprint"] != now["fingerprint"]:
        raise Refused(f"the data that {run.folder} was trained on have changed since: {before} then, {now} now")
    if json.loads(json_text.text(state(fit.data.learnt))) != run.read_json(f"preparation/{job}.json"):
        raise Refused(f"the preparation is no longer the one in {run.folder}/preparation/{job}.json")


def _check_numbers(table: Table, spec: Spec, lines: list[int], file: Path) -> None:
    """Refuse rows with missing numbers where the run has no step that fills them."""
    for name in spec.inputs:
        column = table.columns[name]
        if isinstance(column, Plain) and column.values.is_floating_point():
            missing = ~torch.isfinite(column.values).reshape(len(column), -1).all(1)
            if missing.any():
                some = ", ".join(str(lines[row]) for row in missing.nonzero()[:5, 0].tolist())
                raise Refused(
                    f"{file} misses numbers (line {some}), or has ones that are too large, and this run was not told "
                    "how to fill them in"
                )


def outputs_of(fit: Fit, table: Table) -> dict[str, np.ndarray]:
    """What a fit answers for the rows of a table: target → (n, outputs), see `answered`."""
    objective: Any = fit.trainer.objective
    settings: Settings = fit.trainer.settings
    batches = table.to(fit.trainer.device).batches(settings.rows_at_once(fit.data.spec))
    with fit.trainer.learner.averaged():
        targets = fit.data.spec.targets
        return answered(objective.model, targets, batches, fit.trainer.device, settings.precision)
