"""A model as an earlier run left it: its parts, its description of the data, and its weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlrun.config.instantiate import apply_patch
from dlrun.core import checkpoint, stored_files
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFolder, result_from_dict
from dlrun.core.stored_files import load_json_lines
from dlrun.core.types import Field, FitJob, Spec, horizon_from_dict
from dlrun.evaluation.answering_fits import (
    describe_single_fit,
    get_fields_file,
    select_prediction_source,
)
from dlrun.models.custom_model import build_model
from dlrun.models.model import Model
from dlrun.models.pretrained import weights

log = logging.getLogger("dlrun")


@dataclass(frozen=True)
class LoadedModel:
    """folder: the run. config: as the job had it. spec: what the model reads and answers. model: in evaluation mode."""

    folder: Path
    config: dict[str, Any]
    job: FitJob
    spec: Spec
    model: Model


def load_run_model(
    folder: Path,
    plugins: tuple[str, ...] | None = None,
    *,
    answers: bool = True,
    fit: str = "",
    job: FitJob | None = None,
    quiet: bool = True,
) -> LoadedModel:
    """The model of the one fit of a run that is looked into (see `select_prediction_source`), with its best weights, on the CPU.

    No data are read. plugins: the user's own packages; None: those of the part that is being built, if any.
    answers: it is asked for targets. fit: which one, by name; job: that very one. quiet: do not say which of several it
    is. Raises UserError where there is no run, no finished fit, no checkpoint, or no target to answer.
    """
    run, job = RunFolder(folder), job or get_main_job(folder, fit, quiet=quiet)
    config, spec = get_fit_config(folder, job), read_spec(run, job.name)
    if answers and not spec.targets:
        raise UserError(f"{folder} answers no target, it makes something: dlrun generate {folder}")
    with weights.skip_weights():
        model = build_model(config["model"], spec, plugins)
    state = checkpoint.load_best(run.checkpoint_folder(job))
    objective = _CheckpointModel(model)
    kept = {name: value for name, value in state["objective"].items() if name.startswith("model.")}
    checkpoint.load_averaged_weights(objective, {**state, "objective": kept})
    return LoadedModel(folder, config, job, spec, model.eval())


def get_fit_config(folder: Path, job: FitJob) -> dict[str, Any]:
    """The config of a run as one of its fits had it."""
    return apply_patch(stored_files.load_run_config(folder), job.patch)


class _CheckpointModel(nn.Module):
    """A model where an objective's checkpoint expects it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.groups = {
            "model": [parameter for parameter in model.parameters() if parameter.requires_grad]
        }


def get_main_job(folder: Path, fit: str = "", *, quiet: bool = True) -> FitJob:
    """The one fit that stands for a run where its folds cannot answer together, see `select_prediction_source`."""
    stored_files.load_run_config(folder)
    found = select_prediction_source(folder, fit)
    if found is None:
        job, told = _get_interrupted_job(RunFolder(folder), fit)
        log.warning("%s", told)
        return job
    if not quiet and (told := describe_single_fit(found)):
        log.warning("%s", told)
    return get_finished_job(folder, found.single_fit)


def get_prediction_jobs(folder: Path, fit: str = "") -> tuple[list[FitJob], str]:
    """The fits whose mean is a run's answer, and what is to be said of them; see `select_prediction_source`."""
    found = select_prediction_source(folder, fit)
    if found is None:
        job, told = _get_interrupted_job(RunFolder(folder), fit)
        return [job], told
    return [get_finished_job(folder, name) for name in found.names], found.description


def get_finished_job(folder: Path, name: str) -> FitJob:
    """The finished fit of this name."""
    found = [line for line in load_json_lines(folder / "results.jsonl") if line["name"] == name]
    return result_from_dict(found[0]).job


def _get_interrupted_job(run: RunFolder, fit: str) -> tuple[FitJob, str]:
    """The first fit that an error has ended, or the one of this name, and a word of caution.

    Raises UserError where it left no weights.
    """
    left = {
        job.name: job
        for job in run.failed_jobs()
        if checkpoint.has_checkpoint(run.checkpoint_folder(job))
    }
    if not left:
        raise UserError(f"no fit has finished in {run.folder}; {run.describe_next_step()}")
    if fit and fit not in left:
        raise UserError(
            f"fit={fit}: no such fit in {run.folder}; there are: {format_names(left, fit)}"
        )
    job = left[fit] if fit else next(iter(left.values()))
    return job, f"{run.describe_failure(job)}: the answers are those of its best epoch"


def read_spec(run: RunFolder, fit: str = "") -> Spec:
    """What the model of a fit was told of its data."""
    file = get_fields_file(run.folder, fit)
    kept = run.read_json(str(file.relative_to(run.folder)))
    if kept is None:
        raise UserError(
            f"{run.folder} has no fields.json: it was made by an older dlrun, or has not begun to train"
        )
    try:
        return Spec(
            *(
                {name: _parse_field(node) for name, node in kept[part].items()}
                for part in ("inputs", "targets")
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{run.folder / 'fields.json'} is damaged: {type(error).__name__} {error}"
        ) from error


def _parse_field(node: dict[str, Any]) -> Field:
    given = {name: node.get(name) for name in ("prior", "shift", "scale", "median")}
    tensors = {
        name: None if value is None else torch.tensor(value) for name, value in given.items()
    }
    ahead = horizon_from_dict(node.get("outlook"))
    return Field(
        node["kind"],
        tuple(node["shape"]),
        node["size"],
        tuple(node["labels"]),
        **tensors,
        outlook=ahead,
    )


def spec_to_dict(spec: Spec) -> dict[str, Any]:
    """What `read_spec` reads, as fields.json holds it."""
    return {
        part: {name: _field_to_dict(field) for name, field in fields.items()}
        for part, fields in (("inputs", spec.inputs), ("targets", spec.targets))
    }


def _field_to_dict(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": field.kind,
        "shape": list(field.shape),
        "size": field.size,
        "labels": list(field.labels),
    }
    tensors = {
        "prior": field.prior,
        "shift": field.shift,
        "scale": field.scale,
        "median": field.median,
    }
    found |= {name: None if value is None else value.tolist() for name, value in tensors.items()}
    return found | {"outlook": None if field.outlook is None else field.outlook.to_dict()}
