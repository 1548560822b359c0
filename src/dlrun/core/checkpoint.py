"""Checkpoints: whole or not there, only tensors and plain data, and the one before is kept until the next is safe."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlrun.core.errors import CorruptedFileError, UserError
from dlrun.core.files import convert_write_errors

log = logging.getLogger("dlrun")
CHECKSUM_MARKER = (
    b"\ndlrun sha256 "  # behind the archive: a flipped bit is seen, and other readers do not mind
)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state to `path` so that a reader finds the old file or the new one, never half of one.

    The file that was there before is kept beside it as `<name>.previous`. Raises Unwritable.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    fresh = path.with_name(path.name + ".new")
    with convert_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("wb") as file:
                file.write(body + CHECKSUM_MARKER + hashlib.sha256(body).hexdigest().encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            fresh.unlink(missing_ok=True)  # its room is wanted
            raise
        if path.exists():
            os.replace(path, previous_path(path))
        os.replace(fresh, path)


def previous_path(path: Path) -> Path:
    """Where the checkpoint before this one is kept."""
    return path.with_name(path.name + ".previous")


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file. Raises UserError when the file is damaged."""
    try:
        body, mark, digest = path.read_bytes().rpartition(CHECKSUM_MARKER)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if not mark or hashlib.sha256(body).hexdigest().encode() != digest:
        raise CorruptedFileError(
            f"checkpoint {path} is damaged: its checksum does not match its content"
        )
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return state


def load_latest(path: Path) -> dict[str, Any] | None:
    """The state of the newest sound checkpoint at `path`, falling back to the one before; None if there is none.

    Raises UserError where there are some and all are damaged: that is no answer to another question.
    """
    there = [candidate for candidate in (path, previous_path(path)) if candidate.exists()]
    for candidate in there[:-1]:
        try:
            return load(candidate)
        except UserError as error:
            log.warning("%s; falling back to the one before it", error)
    return load(there[-1]) if there else None


def load_latest_or_none(path: Path) -> dict[str, Any] | None:
    """As `load_latest`, for whoever can begin anew: None also where all are damaged, which is told."""
    try:
        return load_latest(path)
    except UserError as error:
        log.warning("%s, and there is none before it", error)
        return None


def load_before_epoch(path: Path, epoch: int) -> dict[str, Any] | None:
    """The state before the one at `path`, where that one is of a later epoch than this, which is to be trained again.

    So it is where a fit has ended after its best epoch was written and before the next checkpoint.
    """
    now, earlier = (
        (load_latest_or_none(path), previous_path(path)) if path.exists() else (None, path)
    )
    if now is None or now["epoch"] <= epoch or not earlier.exists():
        return None
    state = load(earlier)
    return state if state["epoch"] <= epoch else None


def has_checkpoint(folder: Path) -> bool:
    """Whether a job has left a checkpoint."""
    return any((folder / f"{name}.pt").exists() for name in ("best", "last"))


def load_best(folder: Path) -> dict[str, Any]:
    """The state of a job's best epoch, or of its last where no best one was kept. Raises UserError where none is."""
    for name in ("best", "last"):
        if (found := load_latest(folder / f"{name}.pt")) is not None:
            return found
    raise UserError(f"no checkpoint in {folder}")


def load_weights(objective: nn.Module, weights: dict[str, Any]) -> None:
    """Give an objective these weights. Raises UserError where they are of another model."""
    try:
        objective.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).partition("\n\t")[2].partition("\n")[0]
        raise UserError(
            f"these weights are of another model than this: {first or error}"
        ) from error


def load_averaged_weights(objective: nn.Module, state: dict[str, Any]) -> None:
    """Give an objective the weights of a state: their running averages, where those were kept.

    It may learn other weights than that of the state did: averages are known by their names.
    """
    load_weights(objective, state["objective"])
    named = dict(objective.named_parameters())
    groups: Any = objective.groups
    if "groups" in state:  # which an older dlrun did not write
        groups = {
            group: [named[name] for name in names] for group, names in state["groups"].items()
        }
    with torch.no_grad():
        for name, averages in state["learner"]["average"].items():
            for parameter, average in zip(groups[name], averages, strict=True):
                parameter.copy_(average)
