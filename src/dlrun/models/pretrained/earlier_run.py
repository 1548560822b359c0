"""A model as an earlier run left it: its parts, its description of the data, and its weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlrun.config.instantiate import patched
from dlrun.core import checkpoint, stored_files
from dlrun.core.errors import Refused, in_short
from dlrun.core.run_folder import RunDir, read_result
from dlrun.core.stored_files import lines
from dlrun.core.types import Field, Job, Spec, outlook
from dlrun.evaluation.answering_fits import answering, fields_file, looked_into
from dlrun.models.custom_model import model_of
from dlrun.models.pretrained import weights

log = logging.getLogger("dlrun")


@dataclass(frozen=True)
class Trained:
    """folder: the run. config: as the job had it. spec: what the model reads and answers. model: in evaluation mode."""

    folder: Path
    config: dict[str, Any]
    job: Job
    spec: Spec
    model: nn.Module


def trained(
    folder: Path,
    plugins: tuple[str, ...] | None = None,
    *,
    answers: bool = True,
    fit: str = "",
    job: Job | None = None,
    quiet: bool = True,
) -> Trained:
    """The model of the one fit of a run that is looked into (see `answering`), with its best weights, on the CPU.

    No data are read. plugins: the user's own packages; None: those of the part that is being built, if any.
    answers: it is asked for targets. fit: which one, by name; job: that very one. quiet: do not say which of several it
    is. Raises Refused where there is no run, no finished fit, no checkpoint, or no target to answer.
    """
    run, job = RunDir(folder), job or main_job(folder, fit, quiet=quiet)
    config, spec = config_of(folder, job), read_spec(run, job.name)
    if answers and not spec.targets:
        raise Refused(f"{folder} answers no target, it makes something: dlrun generate {folder}")
    with weights.unneeded():
        model = model_of(config["model"], spec, plugins)
    state = checkpoint.best(run.checkpoints(job))
    objective = _Weights(model)
    kept = {name: value for name, value in state["objective"].items() if name.startswith("model.")}
    checkpoint.put(objective, {**state, "objective": kept})
    return Trained(folder, config, job, spec, model.eval())


def config_of(folder: Path, job: Job) -> dict[str, Any]:
    """The config of a run as one of its fits had it."""
    return patched(stored_files.config(folder), job.patch)


class _Weights(nn.Module):
    """A model where an objective's checkpoint expects it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.groups = {"model": [parameter for parameter in model.parameters() if parameter.requires_grad]}


def main_job(folder: Path, fit: str = "", *, quiet: bool = True) -> Job:
    """The one fit that stands for a run where its folds cannot answer together, see `answering`."""
    stored_files.config(folder)
    found = answering(folder, fit)
    if found is None:
        job, told = _cut_job(RunDir(folder), fit)
        log.warning("%s", told)
        return job
    if not quiet and (told := looked_into(found)):
        log.warning("%s", told)
    return job_called(folder, found.one)


def answering_jobs(folder: Path, fit: str = "") -> tuple[list[Job], str]:
    """The fits whose mean is a run's answer, and what is to be said of them; see `answering`."""
    found = answering(folder, fit)
    if found is None:
        job, told = _cut_job(RunDir(folder), fit)
        return [job], told
    return [job_called(folder, name) for name in found.names], found.told


def job_called(folder: Path, name: str) -> Job:
    """The finished fit of this name."""
    found = [line for line in lines(folder / "results.jsonl") if line["name"] == name]
    return read_result(found[0]).job


def _cut_job(run: RunDir, fit: str) -> tuple[Job, str]:
    """The first fit that an error has ended, or the one of this name, and a word of caution.

    Raises Refused where it left no weights.
    """
    left = {job.name: job for job in run.cut() if checkpoint.there(run.checkpoints(job))}
    if not left:
        raise Refused(f"no fit has finished in {run.folder}; {run.advice()}")
    if fit and fit not in left:
        raise Refused(f"fit={fit}: no such fit in {run.folder}; there are: {in_short(left, fit)}")
    job = left[fit] if fit else next(iter(left.values()))
    return job, f"{run.caution(job)}: the answers are those of its best epoch"


def read_spec(run: RunDir, fit: str = "") -> Spec:
    """What the model of a fit was told of its data."""
    file = fields_file(run.folder, fit)
    kept = run.read_json(str(file.relative_to(run.folder)))
    if kept is None:
        raise Refused(f"{run.folder} has no fields.json: it was made by an older dlrun, or has not begun to train")
    try:
        return Spec(*({name: _field(node) for name, node in kept[part].items()} for part in ("inputs", "targets")))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise Refused(f"{run.folder / 'fields.json'} is damaged: {type(error).__name__} {error}") from error


def _field(node: dict[str, Any]) -> Field:
    given = {name: node.get(name) for name in ("prior", "shift", "scale", "median")}
    tensors = {name: None if value is None else torch.tensor(value) for name, value in given.items()}
    ahead = outlook(node.get("outlook"))
    return Field(node["kind"], tuple(node["shape"]), node["size"], tuple(node["labels"]), **tensors, outlook=ahead)


def plain_spec(spec: Spec) -> dict[str, Any]:
    """What `read_spec` reads, as fields.json holds it."""
    return {
        part: {name: _plain(field) for name, field in fields.items()}
        for part, fields in (("inputs", spec.inputs), ("targets", spec.targets))
    }


def _plain(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": field.kind,
        "shape": list(field.shape),
        "size": field.size,
        "labels": list(field.labels),
    }
    tensors = {"prior": field.prior, "shift": field.shift, "scale": field.scale, "median": field.median}
    found |= {name: None if value is None else value.tolist() for name, value in tensors.items()}
    return found | {"outlook": None if field.outlook is None else field.outlook.plain()}
