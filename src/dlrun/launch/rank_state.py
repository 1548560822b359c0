"""Whether this process is one of several that share a run, and what the first tells the others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass
class DistributedState:
    """What this process knows of the other ones.

    Attributes:
        joined: This is one of several processes.
        has_broadcast: The others have been told to run something.
    """

    joined: bool = False
    has_broadcast: bool = False


distributed_state = DistributedState()


def join_process_group(kind: str = "auto") -> int:
    """Join the other processes.

    Args:
        kind: The device, as in `engine.device`.

    Returns:
        The rank of this process.
    """
    from dlrun.training.distributed import process_group

    process_group.join_group(kind)
    distributed_state.joined = True
    return process_group.this_process.rank


def is_launched_rank() -> bool:
    """Return whether the parent process holds the lock of the run folder for this one."""
    return distributed_state.joined and "DLRUN_STORE" in os.environ


def broadcast_run(config: dict[str, Any], folder: Path, plugins: tuple[str, ...]) -> None:
    """Tell the other processes, where there are some, what is about to be run.

    Args:
        config: The config of the run.
        folder: The run folder; small files in it are sent along.
        plugins: Packages that the config may instantiate.
    """
    if distributed_state.joined:
        from dlrun.training.distributed import process_group

        distributed_state.has_broadcast = True
        contents = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for pattern in BROADCAST_FILES
            for path in folder.glob(pattern)
        }
        process_group.broadcast_object({"config": config, "plugins": plugins, "files": contents})


def receive_run() -> dict[str, Any] | int:
    """Receive from the first process what it is about to run.

    Returns:
        The message; or the exit code to end with, `PEER_LOST_CODE` where that process is gone.
    """
    from dlrun.training.distributed import process_group

    try:
        return process_group.broadcast_object({})
    except RuntimeError:
        return PEER_LOST_CODE
