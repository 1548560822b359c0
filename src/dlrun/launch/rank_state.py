"""Whether this process is one of several that share a run, and what the first tells the others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What decisions are made of:
MIRRORED = ("*.json", "*.jsonl", "*.yaml", "preparation/*.json", "fields/*.json", "predictions/*.npz")
LOST = 75  # exit code of a process that could not go on without the others


@dataclass
class Standing:
    """joined: this is one of several processes. led: the others have been told to run something."""

    joined: bool = False
    led: bool = False


standing = Standing()


def join(kind: str = "auto") -> int:
    """Join the other processes; answers with this one's number. kind: engine.device."""
    from dlrun.training.distributed import process_group

    process_group.start(kind)
    standing.joined = True
    return process_group.here.rank


def started_by_us() -> bool:
    """Whether this is one of the processes of a job whose parent is at work on its folder for all of them."""
    return standing.joined and "DLRUN_STORE" in os.environ


def lead(config: dict[str, Any], folder: Path, plugins: tuple[str, ...]) -> None:
    """Tell the other processes, where there are some, what is about to be run."""
    if standing.joined:
        from dlrun.training.distributed import process_group

        standing.led = True
        found = {
            path.relative_to(folder).as_posix(): path.read_bytes() for kind in MIRRORED for path in folder.glob(kind)
        }
        process_group.agreed({"config": config, "plugins": plugins, "files": found})


def told_next() -> dict[str, Any] | int:
    """What the first process is about to run, or the exit code to end with: LOST where it has ended without a word."""
    from dlrun.training.distributed import process_group

    try:
        return process_group.agreed({})
    except RuntimeError:
        return LOST
