"""The environment of a run: versions, packages, and the git state of code and working folder."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlrun import __version__
from dlrun.core.paths import PACKAGE
from dlrun.core.run_folder import RUN_FORMAT


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
