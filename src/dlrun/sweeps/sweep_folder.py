"""A sweep's folder: sweep.yaml says what it is, sweep.jsonl what has begun and ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from dlrun.config.settings import Sweep
from dlrun.core import json_text, stored_files
from dlrun.core.files import check_links_inside, convert_write_errors, write_text
from dlrun.core.folder_lock import lock_folder
from dlrun.core.renamed_parts import to_current_names
from dlrun.core.run_folder import create_run_folder
from dlrun.core.stored_files import load_json_lines
from dlrun.sweeps.job import JobResult, SweepJob
from dlrun.sweeps.study import Outcome, PreviousJob

EXECUTION_KEYS = (
    "jobs",
    "share",
    "devices",
    "trials",
    "limit",
    "retry",
    "fresh",
)  # settings that do not make it another sweep
FINISHED_STATUSES = ("done", "failed", "pruned")


def describe_sweep(words: Sequence[str], settings: Sweep) -> dict[str, Any]:
    """What a sweep is known by: its words, those of its space too, and how it searches; not how it is carried out."""
    kept = sorted(word for word in words if not word.startswith("output="))
    search = {key: value for key, value in asdict(settings).items() if key not in EXECUTION_KEYS}
    content = json_text.to_canonical_json([kept, search])
    return {
        "identity": hashlib.sha256(content.encode()).hexdigest()[:16],
        "words": kept,
        "search": search,
    }


def open_sweep_folder(root: Path, task: str, told: dict[str, Any], fresh: bool) -> SweepFolder:
    """The newest folder of this very sweep under root/task/sweep, else a new one."""
    place = root.absolute() / task / "sweep"
    for file in sorted(place.glob("*/sweep.yaml"), reverse=True) if not fresh else ():
        if stored_files.load_yaml(file)["identity"] == told["identity"]:
            check_links_inside(file.parent)
            return SweepFolder(file.parent)
    folder = create_run_folder(root, task, "sweep")
    write_text(folder / "sweep.yaml", yaml.safe_dump(told, sort_keys=False))
    return SweepFolder(folder)


class SweepFolder:
    """What is known of a sweep's jobs: the last line of each in sweep.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[int, dict[str, Any]] = {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Inside, nobody else runs this sweep, and what has become of its jobs is known. Raises UserError."""
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
        """Where a job's files go."""
        return self.path / f"{number:03d}"

    def read_job_config(self, number: int) -> dict[str, Any] | None:
        """The config that a job was begun with; None where it is not there, or damaged."""
        try:
            found = yaml.safe_load(
                (self.job_folder(number) / "config.yaml").read_text(encoding="utf-8")
            )
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        return to_current_names(found) if isinstance(found, dict) else None

    def record_start(self, job: SweepJob) -> None:
        """Note that a job has begun, before anything else of it is there."""
        line = {
            "job": job.number,
            "words": job.all_overrides,
            "own": job.study_overrides,
            "identity": job.identity,
        }
        self._append_entry({**line, "status": "begun", "error": "", "folder": job.folder.name})

    def record_duplicate(self, job: SweepJob, other: int) -> None:
        """Note that a job is another one under other words."""
        line = {
            "job": job.number,
            "words": job.all_overrides,
            "own": job.study_overrides,
            "identity": job.identity,
        }
        self._append_entry(
            {**line, "status": "same", "of": other, "folder": self.job_folder(other).name}
        )

    def record_end(self, ended: JobResult) -> None:
        """Note how a job ended; of one that was cut nothing, since it goes on."""
        file = self.job_folder(ended.number) / "error.txt"
        if ended.error and ended.status == "failed":
            write_text(file, ended.error + "\n")
        else:
            file.unlink(missing_ok=True)
        if ended.status in FINISHED_STATUSES:
            told = {"status": ended.status, "error": ended.error, "parameters": ended.parameters}
            self._append_entry(
                {**self.entries[ended.number], **told, "seconds": round(ended.seconds, 3)}
            )

    def record_stale(self, number: int) -> None:
        """Note that a job was run with settings that its words no longer mean."""
        self._append_entry({**self.entries[number], "status": "older"})

    def _append_entry(self, entry: dict[str, Any]) -> None:
        self.entries[entry["job"]] = entry
        path = self.path / "sweep.jsonl"
        with convert_write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json_text.to_json_line(entry))

    def _remove_partial_line(self) -> None:
        """Cut off a last line that a kill left half written, since more will follow it."""
        file = self.path / "sweep.jsonl"
        content = file.read_bytes() if file.exists() else b""
        if content and not content.endswith(b"\n"):
            write_text(file, content[: content.rfind(b"\n") + 1].decode("utf-8"))


JobScores = tuple[
    dict[str, float], dict[str, str]
]  # measure → its mean; measure → which way it is better
NO_SCORES: JobScores = ({}, {})


def read_outcome(folder: SweepFolder, number: int, scored: JobScores) -> Outcome | None:
    """What came of a job with these scores; None where it has not ended."""
    entry = folder.entries[number]
    if entry["status"] not in FINISHED_STATUSES:
        return None
    costs = {name: float(entry.get(name, 0)) for name in ("parameters", "seconds")}
    scores, goals = scored
    told = {**scores, **costs} if entry["status"] != "failed" else {}
    return Outcome(
        entry["status"], told, entry["error"], len(read_epochs(folder.job_folder(number))), goals
    )


def read_previous_job(folder: SweepFolder, number: int, scored: JobScores) -> PreviousJob:
    """A job of an earlier start, as a study takes it in; scored: of the job that it is, or is the same as."""
    entry = folder.entries[number]
    of = entry["of"] if entry["status"] == "same" else number
    return PreviousJob(
        number, entry["own"], read_outcome(folder, of, scored), read_epochs(folder.job_folder(of))
    )


def read_epochs(place: Path) -> list[tuple[int, dict[str, float]]]:
    """(epoch, 'split/measure' → value) of each epoch of the run in this folder, counted on from fit to fit."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in load_json_lines(place / "history.jsonl"):
        values = {f"{row['split']}/{name}": value for name, value in row["values"].items()}
        found.setdefault((row["job"], row["epoch"]), {}).update(values)
    return list(enumerate(found.values(), 1))
