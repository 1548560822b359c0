"""A model as an earlier run left it: its config, its description of the data, and its weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlrun.config.instantiate import apply_patch
from dlrun.core import checkpoint
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import Field, FitJob, Spec, horizon_from_dict, result_from_dict
from dlrun.evaluation.answering_fits import describe_single_fit, select_prediction_source
from dlrun.models.model import Model, build_model
from dlrun.models.pretrained import weights

log = logging.getLogger("dlrun")


@dataclass(frozen=True)
class LoadedModel:
    """The model of a fit.

    Attributes:
        folder: Of the run.
        config: As the fit had it.
        job: The fit.
        spec: Inputs and targets of the model.
        model: In evaluation mode, on the CPU.
    """

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
    """Load the model of one fit of a run with its best weights, on the CPU. No data are read.

    Args:
        folder: Of the run.
        plugins: The user's packages; None for those of the part that is being built, if any.
        answers: Whether it must have a target to predict.
        fit: Name of the fit; '' for the main one, see `select_prediction_source`.
        job: That very fit.
        quiet: Whether to be silent about which of several fits it is.

    Raises:
        UserError: There is no run, no finished fit, no checkpoint, or no target.
    """
    run, job = RunFolder(folder), job or get_main_job(folder, fit, quiet=quiet)
    config, spec = get_fit_config(folder, job), read_spec(run, job.name)
    # told before the model is built, which may take long
    if answers and not spec.targets:
        raise UserError(f"{folder} predicts no target, it generates: dlrun generate {folder}")
    # the checkpoint below has all weights, so no published file is needed
    with weights.skip_weights():
        model = build_model(config["model"], spec, plugins)
    state = checkpoint.load_best(run.checkpoint_folder(job))
    objective = _CheckpointModel(model)
    # an objective may have weights of its own, which are not needed here
    model_state = {
        name: value for name, value in state["objective"].items() if name.startswith("model.")
    }
    # running averages are what was validated, where there are some
    checkpoint.load_averaged_weights(objective, {**state, "objective": model_state})
    return LoadedModel(folder, config, job, spec, model.eval())


def get_fit_config(folder: Path, job: FitJob) -> dict[str, Any]:
    """Return the config of a run as one of its fits had it."""
    return apply_patch(RunFolder(folder).read_config(), job.patch)


class _CheckpointModel(nn.Module):
    """A model under the name that it has in an objective's checkpoint."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.groups = {
            "model": [parameter for parameter in model.parameters() if parameter.requires_grad]
        }


def get_main_job(folder: Path, fit: str = "", *, quiet: bool = True) -> FitJob:
    """Return the one fit that stands for a run, see `select_prediction_source`.

    Args:
        folder: Of the run.
        fit: Its name, where it is asked for by name.
        quiet: Whether to be silent about which of several fits it is.

    Raises:
        UserError: There is no run, or no fit that has weights.
    """
    RunFolder(folder).read_config()
    source = select_prediction_source(folder, fit)
    if source is None:
        job, message = _get_interrupted_job(RunFolder(folder), fit)
        log.warning("%s", message)
        return job
    if not quiet and (message := describe_single_fit(source)):
        log.warning("%s", message)
    return get_finished_job(folder, source.single_fit)


def get_prediction_jobs(folder: Path, fit: str = "") -> tuple[list[FitJob], str]:
    """Return the fits whose mean is a run's prediction, and a remark on them."""
    source = select_prediction_source(folder, fit)
    if source is None:
        job, message = _get_interrupted_job(RunFolder(folder), fit)
        return [job], message
    return [get_finished_job(folder, name) for name in source.names], source.description


def get_finished_job(folder: Path, name: str) -> FitJob:
    """Return the finished fit of this name."""
    lines = RunFolder(folder).read_result_lines()
    return result_from_dict(next(line for line in lines if line["name"] == name)).job


def _get_interrupted_job(run: RunFolder, fit: str) -> tuple[FitJob, str]:
    """Return the first fit that an error has ended, or the one of this name, and a caution.

    Raises:
        UserError: It left no weights.
    """
    failed = {
        job.name: job
        for job in run.failed_jobs()
        if checkpoint.has_checkpoint(run.checkpoint_folder(job))
    }
    if not failed:
        raise UserError(f"no fit has finished in {run.folder}; {run.describe_next_step()}")
    if fit and fit not in failed:
        raise UserError(
            f"fit={fit}: no such fit in {run.folder}; there are: {format_names(failed, fit)}"
        )
    job = failed[fit] if fit else next(iter(failed.values()))
    return job, f"{run.describe_failure(job)}: the predictions are those of its best epoch"


def read_spec(run: RunFolder, fit: str = "") -> Spec:
    """Read the description of the data that the model of a fit was built for.

    Args:
        run: The run.
        fit: Name of the fit; '' for the first one.

    Raises:
        UserError: The file is missing or damaged.
    """
    node = run.read_fields(fit)
    if node is None:
        raise UserError(
            f"{run.folder} has no {RunFile.FIELDS}: it was made by an older dlrun, "
            "or has not begun to train"
        )
    try:
        inputs, targets = (
            {name: _parse_field(field) for name, field in node[group].items()}
            for group in ("inputs", "targets")
        )
        return Spec(inputs, targets)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{run.path(RunFile.FIELDS)} is damaged: {type(error).__name__} {error}"
        ) from error


def _parse_field(node: dict[str, Any]) -> Field:
    stored = {name: node.get(name) for name in ("prior", "shift", "scale", "median")}
    tensors = {
        name: None if value is None else torch.tensor(value) for name, value in stored.items()
    }
    horizon = horizon_from_dict(node.get("outlook"))
    return Field(
        node["kind"],
        tuple(node["shape"]),
        node["size"],
        tuple(node["labels"]),
        **tensors,
        outlook=horizon,
    )
