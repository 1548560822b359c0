"""Whether this process is one of several that share a run, and what the first tells the others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What decisions are made of:
BROADCAST_FILES = (
    "*.json",
    "*.jsonl",
    "*.yaml",
    "preparation/*.json",
    "fields/*.json",
    "predictions/*.npz",
)
PEER_LOST_CODE = 75  # exit code of a process that could not go on without the others


@dataclass
class DistributedState:
    """joined: this is one of several processes. led: the others have been told to run something."""

    joined: bool = False
    has_broadcast: bool = False


distributed_state = DistributedState()


def join_process_group(kind: str = "auto") -> int:
    """Join the other processes; answers with this one's number. kind: engine.device."""
    from dlrun.training.distributed import process_group

    process_group.join_group(kind)
    distributed_state.joined = True
    return process_group.this_process.rank


def is_launched_rank() -> bool:
    """Whether this is one of the processes of a job whose parent is at work on its folder for all of them."""
    return distributed_state.joined and "DLRUN_STORE" in os.environ


def broadcast_run(config: dict[str, Any], folder: Path, plugins: tuple[str, ...]) -> None:
    """Tell the other processes, where there are some, what is about to be run."""
    if distributed_state.joined:
        from dlrun.training.distributed import process_group

        distributed_state.has_broadcast = True
        found = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for kind in BROADCAST_FILES
            for path in folder.glob(kind)
        }
        process_group.broadcast_object({"config": config, "plugins": plugins, "files": found})


def receive_run() -> dict[str, Any] | int:
    """What the first process is about to run, or the exit code to end with: LOST where it has ended without a word."""
    from dlrun.training.distributed import process_group

    try:
        return process_group.broadcast_object({})
    except RuntimeError:
        return PEER_LOST_CODE
