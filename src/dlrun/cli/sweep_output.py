"""What a sweep shows: a line a job, a table and a picture that are true after each, and the best job as a command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.config.parallel_fits import parallel_fits_mode
from dlrun.core import stored_files
from dlrun.core.formatting import format_duration, format_number
from dlrun.launch.run_config import format_command
from dlrun.report.result_tables import TextTable, to_rich_table
from dlrun.report.sweep_jobs import (
    TEST_PREFIX,
    JobRow,
    SweepObjective,
    find_best_jobs,
    get_job_score,
    read_job_rows,
)
from dlrun.report.sweep_table import write_job_rows
from dlrun.report.sweep_uncertainty import describe_best_job, make_seed_table
from dlrun.sweeps.job import JobResult, SweepJob
from dlrun.sweeps.sweep_folder import JobScores

if TYPE_CHECKING:
    from rich.console import Console


MAX_DRAW_FRACTION = 0.05  # of the time, at most, goes into drawing the picture anew
INITIAL_DRAW_SECONDS = (
    1.0  # seconds that the first drawing is thought to take, with the import of what draws
)
MOST_SEEDS = 30  # rows of the table over seeds on a terminal; sweep.md has them all
EXCLUDED_OVERRIDES = (
    "test=",
    "reason=",
)  # words that are not repeated with the best job: to open test rows is decided anew


class SweepDisplay:
    """Tells a terminal and a folder what happens. total: how many jobs there are to be, where that is known."""

    def __init__(self, folder: Path, console: Console, total: int | None, beside: bool) -> None:
        """beside: whether jobs run in other processes, so that nothing else says that they have begun or ended."""
        self.folder, self.console, self.total, self.beside = folder, console, total, beside
        self.known: dict[int, JobRow] = {}
        self.aim = SweepObjective.from_folder(folder)
        self.drawing = INITIAL_DRAW_SECONDS
        self.drawn_at = time.monotonic()
        self.changed = False

    def on_job_start(self, jobs: list[SweepJob]) -> None:
        """Say which job begins, where it shows itself after this line."""
        if not self.beside and len(jobs) > 1:
            when = "" if parallel_fits_mode(jobs[0].config) is True else ", if that is faster"
            self._print(
                f"job {self._get_job_label(jobs[0])} to job {self._get_job_label(jobs[-1])}: {len(jobs)} as one{when}"
            )
        elif not self.beside:
            self._print(f"job {self._get_job_label(jobs[0])}: {' '.join(jobs[0].all_overrides)}")

    def on_job_end(self, job: SweepJob, ended: JobResult) -> None:
        """Say how a job has ended; write the table, and draw the picture unless that took too much of the time."""
        self.changed = True
        found = read_job_rows(self.folder, self.aim, self.known)
        write_job_rows(self.folder, found, self.aim)
        if ended.status != "cut":
            self._print(self._format_line(job, ended, found))
        if time.monotonic() - self.drawn_at >= self.drawing / MAX_DRAW_FRACTION:
            self.draw_plot()

    def get_scores(self, job: int) -> JobScores:
        """The means of a job's scores, and which way each measure is better."""
        read_job_rows(self.folder, self.aim, self.known)
        line = self.known[job]
        there = {
            name: mean
            for name, (mean, _) in line.scores.items()
            if not name.startswith(TEST_PREFIX)
        }
        return {name: mean for name, mean in there.items() if mean is not None}, line.directions

    def draw_plot(self) -> None:
        """Draw sweep.png, and remember how long that takes."""
        from dlrun.report.parallel_coordinates import draw_parallel_coordinates

        began = time.monotonic()
        draw_parallel_coordinates(
            self.folder, read_job_rows(self.folder, self.aim, self.known), self.aim
        )
        self.drawn_at = time.monotonic()
        self.drawing = self.drawn_at - began

    def close(self, flags: list[str], stopped: bool) -> None:
        """The table, the picture, the best job as a command and with its report, and where all of it lies."""
        found = read_job_rows(self.folder, self.aim, self.known)
        self.console.print(write_job_rows(self.folder, found, self.aim))
        columns, rows = make_seed_table(found, self.aim)
        if rows:
            self.console.print(
                to_rich_table(TextTable("over seeds, mean ± sd", columns, rows[:MOST_SEEDS]))
            )
        if self.changed or not (self.folder / "sweep.png").exists():
            self.draw_plot()
        first = find_best_jobs(found, self.aim)
        for line in first[:5]:
            words = [
                word
                for word in self._get_overrides(line)
                if not word.startswith(EXCLUDED_OVERRIDES)
            ]
            self._print(f"best: {format_command([*flags, *words])}")
        for text in describe_best_job(self.folder, found, self.aim):
            self._print(f"  {text}")
        for text in self._format_hints(found, first):
            self._print(text)
        if len(first) > 5:
            self._print(f"and {len(first) - 5} more that no other beats; they are in sweep.md")
        if first and not stopped:
            self._write_report(first[0])
        self._print(f"sweep folder: {self.folder}")

    def _format_hints(self, found: list[JobRow], first: list[JobRow]) -> Iterator[str]:
        """What no row of the table says: that no job is the best, and trials that were other jobs again."""
        if not first and any(line.status == "done" for line in found):
            yield f"no job is the best: {' and '.join(self.aim.names) or self.aim.get_main_metric(found)} has no value in any"
        entries = {
            entry["job"]: entry["status"]
            for entry in stored_files.load_json_lines(self.folder / "sweep.jsonl")
        }
        if again := sum(status == "same" for status in entries.values()):
            yield f"{again} of {len(entries)} trials drew the settings of an earlier job: its result counts for them"

    def _write_report(self, line: JobRow) -> None:
        from dlrun.report.build import write_report

        page = self.folder / line.folder / "report.html"
        if self.changed or not page.exists():
            write_report(page.parent)
        self._print(f"report of the best: {page}")

    def _get_overrides(self, line: JobRow) -> list[str]:
        entries = {
            entry["job"]: entry
            for entry in stored_files.load_json_lines(self.folder / "sweep.jsonl")
        }
        return [str(word) for word in entries[line.job]["words"]]

    def _format_line(self, job: SweepJob, ended: JobResult, found: list[JobRow]) -> str:
        measure = self.aim.get_main_metric(found)
        score = get_job_score(self.known[job.number], measure)
        said = "" if score is None else f"{measure} {format_number(score)}"
        status = "" if ended.status == "done" else f"{ended.status}: {ended.error}"
        first = find_best_jobs(found, self.aim)[:1]
        so_far = (
            f"best so far {format_number(get_job_score(first[0], measure))} ({first[0].folder})"
            if first
            else ""
        )
        head = f"job {self._get_job_label(job)}" + (
            f": {' '.join(job.study_overrides)}" if self.beside and job.study_overrides else ""
        )
        return "  ".join(
            filter(
                None, (head, said, " ".join(status.split()), format_duration(ended.seconds), so_far)
            )
        )

    def _get_job_label(self, job: SweepJob) -> str:
        return f"{job.number + 1}/{self.total}" if self.total else f"{job.number + 1}"

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)
