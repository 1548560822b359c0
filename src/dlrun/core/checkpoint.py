"""Checkpoints and changed settings: from what state, and under what settings, a run goes on.

The previous one is kept until the next is safely on disk.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlrun.core.errors import CorruptedFileError, UserError
from dlrun.core.files import convert_write_errors, write_text
from dlrun.core.run_folder import RunFile, RunFolder

log = logging.getLogger("dlrun")
# Appended to the archive: zip readers look for their directory from the end and skip it, so
# torch.load still opens the file, and we notice a single flipped bit.
CHECKSUM_MARKER = b"\ndlrun sha256 "


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that a reader finds the old file or the new one, never half of one.

    The previous file is kept beside it as `<name>.previous`.

    Args:
        path: The checkpoint.
        state: Tensors and plain values.

    Raises:
        FileWriteError: The disk is full, or the folder is gone.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    # In memory first: the checksum is of the whole archive.
    body = buffer.getvalue()
    fresh = path.with_name(path.name + ".new")
    with convert_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("wb") as file:
                file.write(body + CHECKSUM_MARKER + hashlib.sha256(body).hexdigest().encode())
                file.flush()
                # Before the rename: a power cut may otherwise leave a named, empty file.
                os.fsync(file.fileno())
        except OSError:
            fresh.unlink(missing_ok=True)  # frees its space on the full disk
            raise
        if path.exists():
            # Between the two renames there is only the previous file, which load_latest finds.
            os.replace(path, previous_path(path))
        os.replace(fresh, path)


def previous_path(path: Path) -> Path:
    """Where the checkpoint before this one is kept."""
    return path.with_name(path.name + ".previous")


def load(path: Path) -> dict[str, Any]:
    """Read the state in a checkpoint file, onto the CPU.

    Raises:
        UserError: The file is unreadable or damaged.
    """
    try:
        body, mark, digest = path.read_bytes().rpartition(CHECKSUM_MARKER)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if not mark or hashlib.sha256(body).hexdigest().encode() != digest:
        raise CorruptedFileError(
            f"checkpoint {path} is damaged: its checksum does not match its content"
        )
    # weights_only: a checkpoint of foreign origin must not run code.
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return state


def load_latest(path: Path) -> dict[str, Any] | None:
    """Read the newest intact checkpoint at `path`, falling back to the previous one.

    Returns:
        The state; None where there is no checkpoint.

    Raises:
        UserError: All of them are damaged. None would mean a fit that has not begun.
    """
    existing = [candidate for candidate in (path, previous_path(path)) if candidate.exists()]
    for candidate in existing[:-1]:
        try:
            return load(candidate)
        except UserError as error:
            log.warning("%s; falling back to the one before it", error)
    return load(existing[-1]) if existing else None


def load_latest_or_none(path: Path) -> dict[str, Any] | None:
    """As `load_latest`, for callers that can start over.

    Returns:
        None also where all checkpoints are damaged, after a warning.
    """
    try:
        return load_latest(path)
    except UserError as error:
        log.warning("%s, and there is none before it", error)
        return None


def load_before_epoch(path: Path, epoch: int) -> dict[str, Any] | None:
    """Read the state before `path`'s, where `path` is of a later epoch that must be trained again.

    A fit is in this state when it was killed between writing its best epoch and its next
    checkpoint.

    Args:
        path: The checkpoint.
        epoch: The epoch that the fit has to go on from.

    Returns:
        None where `path` itself will do, or nothing earlier is kept.
    """
    latest = load_latest_or_none(path) if path.exists() else None
    earlier = previous_path(path)
    if latest is None or latest["epoch"] <= epoch or not earlier.exists():
        return None
    state = load(earlier)
    return state if state["epoch"] <= epoch else None


def has_checkpoint(folder: Path) -> bool:
    """Whether a job has left a checkpoint in its folder."""
    return any((folder / f"{name}.pt").exists() for name in ("best", "last"))


def load_best(folder: Path) -> dict[str, Any]:
    """Read the state of a job's best epoch, or of its last where no best one was kept.

    Raises:
        UserError: There is none, or all are damaged.
    """
    for name in ("best", "last"):
        if (state := load_latest(folder / f"{name}.pt")) is not None:
            return state
    raise UserError(f"no checkpoint in {folder}")


def load_weights(objective: nn.Module, weights: dict[str, Any]) -> None:
    """Give an objective these weights.

    Raises:
        UserError: They are of another model.
    """
    try:
        objective.load_state_dict(weights)
    except RuntimeError as error:
        # torch lists every parameter; the first line is enough to see that it is another model.
        first = str(error).partition("\n\t")[2].partition("\n")[0]
        raise UserError(
            f"these weights are of another model than this: {first or error}"
        ) from error


def load_averaged_weights(objective: nn.Module, state: dict[str, Any]) -> None:
    """Give an objective the weights of a state, as running averages where those were kept.

    Args:
        objective: It may train other parameters than the state's did: averages are matched by name.
        state: A checkpoint.
    """
    load_weights(objective, state["objective"])
    named = dict(objective.named_parameters())
    groups: Any = objective.groups
    if "groups" in state:  # older checkpoints have none: their groups are the objective's
        groups = {
            group: [named[name] for name in names] for group, names in state["groups"].items()
        }
    with torch.no_grad():
        for name, averages in state["learner"]["average"].items():
            for parameter, average in zip(groups[name], averages, strict=True):
                parameter.copy_(average)


# The scores depend on these, so a change of them stands beside the result.
RECORDED_SETTINGS = (
    "optimizer.",
    "scheduler.",
    "engine.batch_size",
    "engine.epoch_batches",
)
# A schedule over all steps depends on these.
SCHEDULED_SETTINGS = ("engine.epochs", "engine.max_steps", "scheduler.")

# epoch, position: where the fit was. stopped: why it had ended. settings: key → [old, new].
ChangeEntry = dict[str, Any]


def read_changes(folder: Path, job: str) -> list[ChangeEntry]:
    """The changes of a fit, in order."""
    changes = RunFolder(folder).read_json(RunFile.CHANGES) or {}
    entries: list[ChangeEntry] = changes.get(job, [])
    return entries


@contextmanager
def record_changes(
    folder: Path, states: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> Iterator[None]:
    """Record changed settings where each fit is now; a UserError inside takes the record back.

    Args:
        folder: The run folder.
        states: Job → its last checkpoint.
        settings: Dotted key → [old value, new value].
    """
    run = RunFolder(folder)
    path = run.path(RunFile.CHANGES)
    # Kept as text: if the change is refused, the file must be as it was, byte for byte.
    previous_text = path.read_text(encoding="utf-8") if path.exists() else None
    changes = run.read_json(RunFile.CHANGES) or {}
    for job, state in states.items():
        entry = {key: state[key] for key in ("epoch", "position")} | {
            "stopped": state["stop"],
            "settings": settings,
        }
        changes[job] = [*changes.get(job, []), entry]
    run.write_json(RunFile.CHANGES, changes)
    try:
        yield
    except UserError:
        path.unlink() if previous_text is None else write_text(path, previous_text)
        raise


def describe_changes(entry: ChangeEntry, keys: tuple[str, ...] = RECORDED_SETTINGS) -> str:
    """A change in words: 'optimizer.lr 0.001 → 0.01 from epoch 3 on'.

    Args:
        entry: The change.
        keys: Beginnings of the keys that are of interest.

    Returns:
        "" where none of these keys was changed.
    """
    changes = [
        f"{key} {old} → {new}"
        for key, (old, new) in entry["settings"].items()
        if key.startswith(keys)
    ]
    start = f"epoch {entry['epoch'] + 1}" + (
        f", batch {entry['position'] + 1}" if entry["position"] else ""
    )
    return f"{', '.join(changes)} from {start} on" if changes else ""


def list_change_messages(folder: Path, job: str) -> list[str]:
    """The remarks beside the result of a fit whose settings were changed."""
    return list(filter(None, map(describe_changes, read_changes(folder, job))))


def last_stopped_epoch(folder: Path, job: str) -> int:
    """The epoch after which a fit was last stopped early and then resumed; 0 for none."""
    return max(
        (entry["epoch"] for entry in read_changes(folder, job) if entry["stopped"]), default=0
    )
