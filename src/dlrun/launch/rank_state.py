"""Whether this process is one of several that share a run, and what the first tells the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core.errors import UserError

if TYPE_CHECKING:
    from dlrun.core.environment import ProcessGroup

from dlrun.core.run_folder import RunFile

# Decisions such as the next fit are functions of these files: with the same files, every process
# comes to the same decision.
BROADCAST_FILES = (
    "*.json",
    "*.jsonl",
    "*.yaml",
    RunFile.PREPARATION.format(job="*"),
    RunFile.FIT_FIELDS.format(job="*"),
    RunFile.PREDICTIONS.format(job="*", split="*"),
)
# The exit code of a process that could not go on without the others (EX_TEMPFAIL of sysexits.h).
PEER_LOST_CODE = 75
# The exit code of a process that refused the config.
REFUSED_CODE = 2
# In the folder of the processes: the exit code of the run, once they have come to an agreed end.
CODE_FILE = "code"


class SharedRunRefused(UserError):
    """A run was refused after the other processes had been told of it: none of them waits."""


def find_process_group(config: dict[str, Any]) -> ProcessGroup:
    """Return the group that this process has joined, as a run is given it.

    torch alone holds who has joined; each run gets a view of its own, without another one's state.

    Args:
        config: The config of the run.
    """
    from dlrun.training.distributed import process_group

    return process_group.get_joined_group(config["engine"]["device"])


def has_launcher() -> bool:
    """Return whether dlrun started this process, and holds the lock of the run folder for it."""
    return "DLRUN_STORE" in os.environ


def broadcast_run(
    processes: ProcessGroup, config: dict[str, Any], folder: Path, plugins: tuple[str, ...]
) -> None:
    """Tell the other processes what is about to be run.

    Args:
        processes: That share the run.
        config: The config of the run.
        folder: The run folder; small files in it are sent along.
        plugins: Packages that the config may instantiate.
    """
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in BROADCAST_FILES
        for path in folder.glob(pattern)
    }
    processes.broadcast_object({"config": config, "plugins": plugins, "files": contents})


def receive_run(processes: ProcessGroup) -> dict[str, Any] | int:
    """Receive from the first process what it is about to run.

    Returns:
        The message; or the exit code to end with, `PEER_LOST_CODE` where that process is gone.
    """
    message: dict[str, Any] | int = {}
    try:
        return processes.broadcast_object(message)
    except RuntimeError:
        return PEER_LOST_CODE
