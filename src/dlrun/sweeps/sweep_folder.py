"""A sweep's folder: sweep.yaml says what it is, sweep.jsonl which jobs started and ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from dlrun.config.settings import Sweep
from dlrun.core import files, stored_files
from dlrun.core.files import check_links_inside, convert_write_errors, create_run_folder, write_text
from dlrun.core.renamed_parts import to_current_names, to_original_key, to_original_override
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.run_reader import lock_folder
from dlrun.core.stored_files import load_json_lines
from dlrun.sweeps.job import JobResult, SweepJob
from dlrun.sweeps.study import Outcome, PreviousJob

# How a sweep is carried out: a change of these settings does not make it another sweep.
EXECUTION_KEYS = ("jobs", "share", "devices", "trials", "limit", "retry", "fresh")
FINISHED_STATUSES = ("done", "failed", "pruned")


def describe_sweep(words: Sequence[str], settings: Sweep) -> dict[str, Any]:
    """What identifies a sweep, as sweep.yaml holds it.

    Args:
        words: Its overrides, those of its space included.
        settings: How it searches and is carried out.

    Returns:
        'identity', a hash of 'words' and 'search'.
    """
    identifying_words = sorted(word for word in words if not word.startswith("output="))
    search = {key: value for key, value in asdict(settings).items() if key not in EXECUTION_KEYS}
    # As earlier versions wrote it, so that their sweeps are found again.
    original_words = sorted(map(to_original_override, identifying_words))
    original_search = search | {"zip": [to_original_key(key) for key in settings.zip]}
    content = files.to_canonical_json([original_words, original_search])
    return {
        "identity": hashlib.sha256(content.encode()).hexdigest()[:16],
        "words": identifying_words,
        "search": search,
    }


def open_sweep_folder(
    root: Path, task: str, description: dict[str, Any], fresh: bool
) -> SweepFolder:
    """The newest folder of this sweep under root/task/sweep, or a new one.

    Args:
        root: Where runs are kept.
        task: The task's name.
        description: See `describe_sweep`.
        fresh: Make a new one in any case.
    """
    parent = root.absolute() / task / "sweep"
    # Folders are named by time, so the newest comes first.
    for file in sorted(parent.glob("*/sweep.yaml"), reverse=True) if not fresh else ():
        if stored_files.load_yaml(file)["identity"] == description["identity"]:
            # Its jobs write there.
            check_links_inside(file.parent)
            return SweepFolder(file.parent)
    folder = create_run_folder(root, task, "sweep")
    write_text(folder / "sweep.yaml", yaml.safe_dump(description, sort_keys=False))
    return SweepFolder(folder)


class SweepFolder:
    """The jobs of a sweep, as its folder records them.

    Attributes:
        path: The folder.
        entries: Job → its last line in sweep.jsonl.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[int, dict[str, Any]] = {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Inside, no other process runs this sweep, and `entries` is read.

        Raises:
            UserError: Another process holds the folder, or a file is damaged.
        """
        with lock_folder(self.path, "sweep.fresh=true begins another sweep"):
            self.entries = {
                line["job"]: line for line in load_json_lines(self.path / "sweep.jsonl")
            }
            self._remove_partial_line()
            yield

    @property
    def next_number(self) -> int:
        """The number of a new job."""
        return max(self.entries, default=-1) + 1

    def job_folder(self, number: int) -> Path:
        """The run folder of a job."""
        return self.path / f"{number:03d}"

    def read_job_config(self, number: int) -> dict[str, Any] | None:
        """The config that a job started with; None where it is missing or damaged."""
        try:
            config = yaml.safe_load(
                RunFolder(self.job_folder(number)).path(RunFile.CONFIG).read_text(encoding="utf-8")
            )
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        return to_current_names(config) if isinstance(config, dict) else None

    def record_start(self, job: SweepJob) -> None:
        """Record that a job has started, before any of its own files exist."""
        line = {
            "job": job.number,
            "words": job.all_overrides,
            "own": job.study_overrides,
            "identity": job.identity,
        }
        self._append_entry({**line, "status": "begun", "error": "", "folder": job.folder.name})

    def record_duplicate(self, job: SweepJob, original: int) -> None:
        """Record that a job is the same as another one under other overrides."""
        line = {
            "job": job.number,
            "words": job.all_overrides,
            "own": job.study_overrides,
            "identity": job.identity,
        }
        self._append_entry(
            {**line, "status": "same", "of": original, "folder": self.job_folder(original).name}
        )

    def record_end(self, ended: JobResult) -> None:
        """Record how a job ended; of one that was cut nothing, since it goes on."""
        file = RunFolder(self.job_folder(ended.number)).path(RunFile.JOB_ERROR)
        if ended.error and ended.status == "failed":
            write_text(file, ended.error + "\n")
        else:
            file.unlink(missing_ok=True)
        if ended.status in FINISHED_STATUSES:
            self._append_entry(
                {
                    **self.entries[ended.number],
                    "status": ended.status,
                    "error": ended.error,
                    "parameters": ended.parameters,
                    "seconds": round(ended.seconds, 3),
                }
            )

    def record_stale(self, number: int) -> None:
        """Record that a job ran with settings that its overrides no longer mean."""
        self._append_entry({**self.entries[number], "status": "older"})

    def _append_entry(self, entry: dict[str, Any]) -> None:
        self.entries[entry["job"]] = entry
        path = self.path / "sweep.jsonl"
        with convert_write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(files.to_json_line(entry))

    def _remove_partial_line(self) -> None:
        """Remove a last line that a kill cut short: more lines will follow."""
        file = self.path / "sweep.jsonl"
        content = file.read_bytes() if file.exists() else b""
        if content and not content.endswith(b"\n"):
            write_text(file, content[: content.rfind(b"\n") + 1].decode("utf-8"))


# Metric → its mean; metric → 'min' or 'max'.
JobScores = tuple[dict[str, float], dict[str, str]]
NO_SCORES: JobScores = ({}, {})


def read_outcome(folder: SweepFolder, number: int, scored: JobScores) -> Outcome | None:
    """The outcome of a job with these scores; None where it has not ended."""
    entry = folder.entries[number]
    if entry["status"] not in FINISHED_STATUSES:
        return None
    costs = {name: float(entry.get(name, 0)) for name in ("parameters", "seconds")}
    scores, goals = scored
    return Outcome(
        status=entry["status"],
        scores={**scores, **costs} if entry["status"] != "failed" else {},
        reason=entry["error"],
        epochs=len(read_epochs(folder.job_folder(number))),
        goals=goals,
    )


def read_previous_job(folder: SweepFolder, number: int, scored: JobScores) -> PreviousJob:
    """A job of an earlier start, as a study takes it in.

    Args:
        folder: The sweep's folder.
        number: The job.
        scored: Scores of the job, or of the one that it duplicates.
    """
    entry = folder.entries[number]
    original = entry["of"] if entry["status"] == "same" else number
    outcome = read_outcome(folder, original, scored)
    return PreviousJob(number, entry["own"], outcome, read_epochs(folder.job_folder(original)))


def read_epochs(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """The epochs of a run, counted on from fit to fit.

    Returns:
        (epoch from 1, 'split/metric' → value) of each.
    """
    epochs: dict[tuple[str, int], dict[str, float]] = {}
    for row in RunFolder(folder).read_history():
        values = {f"{row['split']}/{name}": value for name, value in row["values"].items()}
        # Training and validation of an epoch are two rows; of a repeated epoch the later one
        # counts.
        epochs.setdefault((row["job"], row["epoch"]), {}).update(values)
    return list(enumerate(epochs.values(), 1))
