"""Settings that were changed while a run was under way, and from which epoch on: changes.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlrun.core.errors import UserError
from dlrun.core.files import write_text
from dlrun.core.run_folder import RunFile, RunFolder

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
