"""What a run runs in: the processes that share it, versions, and the git state."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dlrun import __version__
from dlrun.core.files import PACKAGE
from dlrun.core.run_folder import RUN_FORMAT

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def collect_environment() -> dict[str, Any]:
    """What environment.json holds: format, Python, platform, packages, git state."""
    # importlib.metadata opens every METADATA file; the folders' names hold what is needed.
    folders = [Path(entry) for entry in sys.path if entry]
    packages = dict(
        path.stem.rsplit("-", 1) for folder in folders for path in folder.glob("*-*.dist-info")
    )
    return {
        "format": RUN_FORMAT,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": sys.version,
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "packages": dict(sorted(packages.items())),
        "dlrun": {"version": __version__} | _get_dlrun_commit(),
        "git": _get_git_state(),
    }


@lru_cache(maxsize=1)
def _get_dlrun_commit() -> dict[str, str | None]:
    """Commit and changed files of this dlrun, where it runs from a git checkout of itself.

    Asked once a process, whose code does not change.
    """
    root = PACKAGE.parents[1]
    if root / "src" / "dlrun" != PACKAGE or not (root / ".git").exists():
        return {}
    state = _get_git_state("-C", str(root))
    return {"commit": state["commit"], "status": state["status"]}


def _get_git_state(*at: str) -> dict[str, str | None]:
    """Commit and uncommitted changes of a folder; None where there is no git."""
    if _run_git(*at, "rev-parse", "--git-dir") is None:
        return {"commit": None, "diff": None, "status": None}
    # A repository's own settings may name programs: fsmonitor, hooks and filters are turned off.
    safe = [*at, "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    for key in sorted(_git_filters(at, "--local") | _git_filters(at, "--worktree")):
        safe += ["-c", f"{key}="]
    return {
        "commit": _run_git(*safe, "rev-parse", "HEAD"),
        "diff": _run_git(
            *safe, "diff", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty", "HEAD"
        ),
        "status": _run_git(*safe, "status", "--short", "--ignore-submodules=dirty"),
    }


def _git_filters(at: tuple[str, ...], scope: str) -> set[str]:
    """Keys of the folder's own settings that name filter programs for changed files."""
    arguments = (
        "config",
        scope,
        "--includes",
        "--name-only",
        "--get-regexp",
        r"^filter\..*\.(clean|process)$",
    )
    return set((_run_git(*at, *arguments) or "").splitlines())


def _run_git(*words: str) -> str | None:
    # Reading the state must neither take locks in the repository nor fetch missing objects.
    read_only = {
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_NO_LAZY_FETCH": "1",
    }
    try:
        process = subprocess.run(
            ["git", *words],
            env=os.environ | read_only,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()


T = TypeVar("T")


def is_rank() -> bool:
    """Return whether this process was started as one of several, by dlrun or by torchrun."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


class ProcessGroup:
    """This process among those that share a run: every hook, with what one process does.

    It is passed along, from whoever carries out a run down to the objective: two runs in one
    process share nothing. Several processes have a `training.distributed.process_group.TorchGroup`.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        local_rank: Number of this process on its machine.
        device: Name of its own device; '' for the one that the settings name.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: str = ""

    def broadcast_object(self, value: T) -> T:
        """The first process's value, in every process."""
        return value

    def on_main_process(self, compute: Callable[[], T]) -> T:
        """The result of the first process, or its exception, in every process."""
        return compute()

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all processes in the order of ranks; tensors in them are on the CPU."""
        return [value]

    def local_main_process_first(self, compute: Callable[[], T]) -> T:
        """Compute first in one process of each machine; the others find its result in a cache."""
        return compute()

    def seed(self, number: int, device: torch.device) -> None:
        """Seed the generators: those that all processes share, and each process's own."""
        from dlrun.core import device as random

        random.seed_torch(number, device)

    def draw_for_batch(self, draw: Callable[[int], Tensor], rows: int) -> Tensor:
        """Random rows for this process's share of a batch, the same as one process would draw.

        Args:
            draw: Count → so many random rows.
            rows: Of this process.
        """
        return draw(rows)

    def randn_for_batch(self, values: Tensor) -> Tensor:
        """Standard normal numbers like these rows (B, …), the same as one process would draw."""
        import torch

        return torch.randn_like(values)

    def batch_std(self, values: Tensor) -> Tensor:
        """The standard deviation (…) over the rows (B, …) of the whole batch, divided by B."""
        return values.std(0, correction=0)


# Without state, so that everyone may share it.
ONE_PROCESS = ProcessGroup()
