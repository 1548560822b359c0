"""Which settings of a run were changed on the way, and after which epoch of each fit: changes.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlrun.core import json_text, stored_files
from dlrun.core.errors import UserError
from dlrun.core.files import write_text

CHANGES_FILE = "changes.json"
RECORDED_SETTINGS = (
    "optimizer.",
    "scheduler.",
    "engine.batch_size",
    "engine.epoch_batches",
)  # what the numbers depend on
SCHEDULED_SETTINGS = (
    "engine.epochs",
    "engine.max_steps",
    "scheduler.",
)  # what a schedule over all steps depends on

ChangeEntry = dict[
    str, Any
]  # epoch, position: where the fit was. stopped: why it had ended. settings: key → [before, now]


def read_changes(folder: Path, job: str) -> list[ChangeEntry]:
    """The changes under a fit, in their order."""
    found: list[ChangeEntry] = (stored_files.load_json_or_none(folder / CHANGES_FILE) or {}).get(
        job, []
    )
    return found


@contextmanager
def record_changes(
    folder: Path, states: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> Iterator[None]:
    """Note changed settings where each fit is now; what is refused inside takes the note back.

    states: job → its last checkpoint. settings: dotted key → [before, now].
    """
    path = folder / CHANGES_FILE
    before = path.read_text(encoding="utf-8") if path.exists() else None
    known = stored_files.load_json_or_none(path) or {}
    for job, state in states.items():
        entry = {key: state[key] for key in ("epoch", "position")} | {
            "stopped": state["stop"],
            "settings": settings,
        }
        known[job] = [*known.get(job, []), entry]
    write_text(path, json_text.to_json(known, 1) + "\n")
    try:
        yield
    except UserError:
        path.unlink() if before is None else write_text(path, before)
        raise


def describe_changes(entry: ChangeEntry, keys: tuple[str, ...] = RECORDED_SETTINGS) -> str:
    """'optimizer.lr 0.001 → 0.01 from epoch 3 on'; '' where none of these keys was changed."""
    parts = [
        f"{key} {old} → {new}"
        for key, (old, new) in entry["settings"].items()
        if key.startswith(keys)
    ]
    where = f"epoch {entry['epoch'] + 1}" + (
        f", batch {entry['position'] + 1}" if entry["position"] else ""
    )
    return f"{', '.join(parts)} from {where} on" if parts else ""


def list_change_messages(folder: Path, job: str) -> list[str]:
    """What is to stand beside the result of a fit that changed on the way."""
    return list(filter(None, map(describe_changes, read_changes(folder, job))))


def last_stopped_epoch(folder: Path, job: str) -> int:
    """The epoch after which a fit had last been stopped before its time, and goes on nevertheless; 0 for none."""
    return max(
        (entry["epoch"] for entry in read_changes(folder, job) if entry["stopped"]), default=0
    )
