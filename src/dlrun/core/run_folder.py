"""The run folder: every run has its own, nothing in it is overwritten by another, and all of it is plain files."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlrun import __version__
from dlrun.core import json_text, stored_files
from dlrun.core.errors import UserError
from dlrun.core.files import atomic_write, convert_write_errors, is_safe_name, write_text
from dlrun.core.paths import PACKAGE
from dlrun.core.stored_files import load_json_lines
from dlrun.core.types import EpochRecord, FitJob, History, Result, Score

UNFINISHED_FILE = "unfinished.json"


def create_run_folder(root: Path, *names: str) -> Path:
    """A new folder root/<names>/<date>_<time>[-n], which nobody else has. Raises UserError where it cannot be made."""
    for name in names:
        if not is_safe_name(name):
            raise UserError(
                f"'{name}' cannot be the name of a folder, and one is made for each task and model"
            )
    parent = root.absolute().joinpath(*names)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 10_000):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise UserError(
                    f"cannot make the run folder {folder}: there is a file of that name"
                ) from None
            continue
        except OSError as error:
            raise UserError(
                f"cannot make the run folder {folder}: {error.strerror}; choose another: output=…"
            ) from error
        return folder
    raise UserError(f"no free name left in {parent}")


def remove_run_folder(folder: Path) -> None:
    """Remove the folder of a run that came to nothing, and those of its model and task where they are empty then."""
    shutil.rmtree(folder)
    with suppress(OSError):
        for parent in list(folder.parents)[:2]:
            parent.rmdir()


class RunLogHandler(logging.FileHandler):
    """A log that costs nothing but itself where there is no room for it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, where that can be."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging calls it so)
        """Say nothing: logging prints a traceback for every line."""

    def close(self) -> None:
        """Close the file, whatever could not be written to it."""
        with suppress(OSError):
            super().close()


class DuplicateFilter(logging.Filter):
    """What is said of rows and how they are split is said once, however many fits are made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this is new."""
        if not {"data", "protocols"} & set(Path(record.pathname.rpartition("dlrun")[2]).parts):
            return True
        text = record.getMessage()
        new = text not in self.told
        self.told.add(text)
        return new


class RunFolder:
    """A run folder and the few things that are written to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoint_folder(self, job: FitJob) -> Path:
        """The folder of one job's checkpoints."""
        return self.folder / "checkpoints" / job.name

    def write_history(self, job: FitJob, history: History) -> None:
        """Set the rows of one job; other jobs' rows stay."""
        path = self.folder / "history.jsonl"
        others = [line for line in load_json_lines(path) if line["job"] != job.name]
        mine = [epoch_to_dict(job, row) for row in history]
        write_text(path, "".join(json_text.to_json_line(line) for line in (*others, *mine)))

    def append_history(self, job: FitJob, rows: Iterable[EpochRecord]) -> None:
        """Add rows of one job."""
        path = self.folder / "history.jsonl"
        with convert_write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(json_text.to_json_line(epoch_to_dict(job, row)) for row in rows))

    def read_results(self) -> list[Result]:
        """What has come of the jobs so far."""
        path = self.folder / "results.jsonl"
        try:
            return [result_from_dict(line) for line in load_json_lines(path)]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged, or another dlrun wrote it: {error}") from error

    def add_results(self, results: Iterable[Result]) -> None:
        """Add jobs' results, all of them or none."""
        path = self.folder / "results.jsonl"
        found = [*load_json_lines(path), *map(result_to_dict, results)]
        write_text(path, "".join(json_text.to_json_line(line) for line in found))

    def record_failure(self, job: FitJob, why: str, *, diverged: bool) -> None:
        """Keep what ended a fit that has no result. diverged: its loss was no number, as it would be again."""
        known = self.read_json(UNFINISHED_FILE) or {}
        self.write_json(
            UNFINISHED_FILE,
            known | {job.name: {"job": asdict(job), "why": why, "diverged": diverged}},
        )

    def failed_jobs(self) -> list[FitJob]:
        """The fits that an error has ended, and that have no result, in the order of their folds."""
        done = {result.job.name for result in self.read_results()}
        found = [
            FitJob(**about["job"])
            for name, about in (self.read_json(UNFINISHED_FILE) or {}).items()
            if name not in done
        ]
        return sorted(found, key=lambda job: (job.repeat, job.fold))

    def describe_failure(self, job: FitJob) -> str:
        """What is to be said beside what comes of such a fit."""
        return f"{job.name} has no result: it was ended by an error ({(self.read_json(UNFINISHED_FILE) or {})[job.name]['why']})"

    def describe_next_step(self) -> str:
        """How to go on with a run that is not finished."""
        known = self.read_json(UNFINISHED_FILE) or {}
        for about in [known[job.name] for job in self.failed_jobs() if known[job.name]["diverged"]][
            :1
        ]:
            return f"it ended with {about['why']}: dlrun rerun {self.folder} optimizer.lr=… trains with a lower rate"
        return "dlrun resume goes on with it"

    def write_predictions(
        self,
        job: FitJob,
        split: str,
        answers: dict[str, tuple[Any, Any]],
        rows: Any,
        values: dict[str, Any],
    ) -> None:
        """Keep what the model answered on a split, and the truth: predictions/<job>-<split>.npz.

        rows (n,): which development (or test) row each is. values: measure → its value for each row (n,).
        """
        import numpy as np

        arrays = {"row": np.asarray(rows, np.int64)}
        for name, (answer, truth) in answers.items():
            arrays |= {f"output/{name}": answer, f"target/{name}": truth}
        arrays |= {f"value/{name}": value for name, value in values.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"predictions of {job.name} on {split} have different lengths: {lengths}"
            )
        path = self.folder / "predictions" / f"{job.name}-{split}.npz"
        with atomic_write(path) as fresh, fresh.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def write_json(self, name: str, value: Any) -> None:
        """Write a small file of plain values."""
        write_text(self.folder / name, json_text.to_json(value, 1) + "\n")

    def read_json(self, name: str) -> Any:
        """What write_json wrote; None if it is not there. Raises UserError where it is damaged."""
        return stored_files.load_json_or_none(self.folder / name)

    def make_log_handler(self) -> logging.Handler:
        """A handler that adds to log.txt, and keeps silent where that fails: what else fails then says why."""
        handler = RunLogHandler(self.folder / "log.txt", encoding="utf-8", delay=True)
        handler.addFilter(DuplicateFilter())
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        return handler


def epoch_to_dict(job: FitJob, row: EpochRecord) -> dict[str, Any]:
    """A row as plain values, as history.jsonl holds it."""
    line = {"job": job.name, **asdict(row)}
    return line if row.rates else {key: value for key, value in line.items() if key != "rates"}


def result_to_dict(result: Result) -> dict[str, Any]:
    """A result as plain values, as results.jsonl holds it."""
    return {"name": result.job.name, **asdict(result)}


def result_from_dict(line: dict[str, Any]) -> Result:
    """A result from its JSON line."""
    parts = {key: value for key, value in line.items() if key != "name"}
    for key in ("scores", "baseline"):
        parts[key] = {name: score_from_dict(score) for name, score in parts[key].items()}
    return Result(**{**parts, "job": FitJob(**parts["job"])})


def score_from_dict(score: dict[str, Any]) -> Score:
    """A score from its plain values; one that has none is nan."""
    return Score(**{**score, "value": json_text.number_from_json(score["value"])})


def collect_environment() -> dict[str, Any]:
    """Python, platform, packages, and the git commit of the working folder with its uncommitted changes."""
    folders = [Path(place) for place in sys.path if place]
    packages = dict(
        found.stem.rsplit("-", 1) for place in folders for found in place.glob("*-*.dist-info")
    )
    return {
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
    """The commit of this dlrun and what was changed since, where it runs from a git checkout of itself.

    It is asked once a process, whose code stays as it is.
    """
    root = PACKAGE.parents[1]
    if root / "src" / "dlrun" != PACKAGE or not (root / ".git").exists():
        return {}
    found = _get_git_state("-C", str(root))
    return {"commit": found["commit"], "status": found["status"]}


def _get_git_state(*at: str) -> dict[str, str | None]:
    """The commit of a folder and what was changed since; None where there is no git.

    No program is run that the settings of the folder name.
    """
    if _run_git(*at, "rev-parse", "--git-dir") is None:
        return {"commit": None, "diff": None, "status": None}
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
    """Keys of the folder's own settings with programs through which git passes each file that may have changed."""
    asked = (
        "config",
        scope,
        "--includes",
        "--name-only",
        "--get-regexp",
        r"^filter\..*\.(clean|process)$",
    )
    return set((_run_git(*at, *asked) or "").splitlines())


def _run_git(*words: str) -> str | None:
    alone = {
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_NO_LAZY_FETCH": "1",
    }  # it writes, fetches nothing
    try:
        done = subprocess.run(
            ["git", *words], env=os.environ | alone,
            capture_output=True, text=True, timeout=20, check=True, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
