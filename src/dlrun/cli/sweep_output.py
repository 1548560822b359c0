"""The output of a sweep: a line a job, a table and a plot, and the best job as a command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.config.settings import parallel_fits_mode
from dlrun.core import stored_files
from dlrun.core.formatting import format_duration, format_number
from dlrun.core.run_folder import RunFile, RunFolder, format_command
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


MAX_DRAW_FRACTION = 0.05  # of the time, at most, is spent on drawing the plot anew
INITIAL_DRAW_SECONDS = 1.0  # estimate for the first drawing, with the import of matplotlib
MAX_SEEDS = 30  # rows of the table over seeds on a terminal; sweep.md has them all
# Not repeated in the command of the best job: evaluating test rows is decided anew.
EXCLUDED_OVERRIDES = ("test=", "reason=")


class SweepDisplay:
    """Reports on the terminal and in the sweep's folder what happens.

    Attributes:
        folder: The folder of the sweep.
        console: The terminal.
        total: The number of jobs, where it is known.
        in_other_processes: Whether jobs run in other processes, so that only these lines report
            them.
        rows: Job number → its row of the table, once read.
        objective: What the sweep optimizes.
        draw_seconds: Seconds that the last drawing took.
        drawn_at: When it was made.
        changed: Whether a job has ended since the start.
    """

    def __init__(
        self, folder: Path, console: Console, total: int | None, in_other_processes: bool
    ) -> None:
        """Start a display.

        Args:
            folder: The folder of the sweep.
            console: The terminal.
            total: The number of jobs, where it is known.
            in_other_processes: Whether jobs run in other processes.
        """
        self.folder, self.console, self.total, self.in_other_processes = (
            folder,
            console,
            total,
            in_other_processes,
        )
        self.rows: dict[int, JobRow] = {}
        self.objective = SweepObjective.from_folder(folder)
        self.draw_seconds = INITIAL_DRAW_SECONDS
        self.drawn_at = time.monotonic()
        self.changed = False

    def on_job_start(self, jobs: list[SweepJob]) -> None:
        """Report which job begins, where its own output follows."""
        if not self.in_other_processes and len(jobs) > 1:
            # By default it is measured first whether training as one is faster.
            when = "" if parallel_fits_mode(jobs[0].config) is True else ", if that is faster"
            first, last = self._get_job_label(jobs[0]), self._get_job_label(jobs[-1])
            self._print(f"job {first} to job {last}: {len(jobs)} as one{when}")
        elif not self.in_other_processes:
            self._print(f"job {self._get_job_label(jobs[0])}: {' '.join(jobs[0].all_overrides)}")

    def on_job_end(self, job: SweepJob, result: JobResult) -> None:
        """Report how a job has ended; write the table, and draw the plot unless that takes too
        long.
        """
        self.changed = True
        rows = read_job_rows(self.folder, self.objective, self.rows)
        write_job_rows(self.folder, rows, self.objective)
        # A job that a signal ended is reported with the end of the sweep.
        if result.status != "cut":
            self._print(self._format_line(job, result, rows))
        # Drawing gets a fixed fraction of the time, however short the jobs are.
        if time.monotonic() - self.drawn_at >= self.draw_seconds / MAX_DRAW_FRACTION:
            self.draw_plot()

    def get_scores(self, job: int) -> JobScores:
        """Return the means of a job's validation scores, and the direction of each metric."""
        read_job_rows(self.folder, self.objective, self.rows)
        row = self.rows[job]
        means = {
            # A search must not see scores on test rows.
            name: mean
            for name, (mean, _) in row.scores.items()
            if not name.startswith(TEST_PREFIX)
        }
        return {name: mean for name, mean in means.items() if mean is not None}, row.directions

    def draw_plot(self) -> None:
        """Draw sweep.png, and measure how long that takes."""
        from dlrun.report.parallel_coordinates import draw_parallel_coordinates

        began = time.monotonic()
        draw_parallel_coordinates(
            self.folder, read_job_rows(self.folder, self.objective, self.rows), self.objective
        )
        self.drawn_at = time.monotonic()
        self.draw_seconds = self.drawn_at - began

    def close(self, flags: list[str], stopped: bool) -> None:
        """Print the table and the best jobs as commands, and write plot and report.

        Args:
            flags: Words to be repeated in commands.
            stopped: Whether a signal ended the sweep.
        """
        job_rows = read_job_rows(self.folder, self.objective, self.rows)
        self.console.print(write_job_rows(self.folder, job_rows, self.objective))
        columns, rows = make_seed_table(job_rows, self.objective)
        if rows:
            self.console.print(
                to_rich_table(TextTable("over seeds, mean ± sd", columns, rows[:MAX_SEEDS]))
            )
        if self.changed or not (self.folder / "sweep.png").exists():
            self.draw_plot()
        best = find_best_jobs(job_rows, self.objective)
        # Several objectives have several best jobs; five are enough for a terminal.
        for line in best[:5]:
            words = [
                word
                for word in self._get_overrides(line)
                if not word.startswith(EXCLUDED_OVERRIDES)
            ]
            self._print(f"best: {format_command([*flags, *words])}")
        for text in describe_best_job(self.folder, job_rows, self.objective):
            self._print(f"  {text}")
        for text in self._format_hints(job_rows, best):
            self._print(text)
        if len(best) > 5:
            self._print(f"and {len(best) - 5} more that no other beats; they are in sweep.md")
        if best and not stopped:
            self._write_report(best[0])
        self._print(f"sweep folder: {self.folder}")

    def _format_hints(self, job_rows: list[JobRow], best: list[JobRow]) -> Iterator[str]:
        """Yield what no row of the table shows: no best job, and trials that repeated other
        jobs.
        """
        if not best and any(line.status == "done" for line in job_rows):
            names = " and ".join(self.objective.names) or self.objective.get_main_metric(job_rows)
            yield f"no job is the best: {names} has no value in any"
        entries = {
            entry["job"]: entry["status"]
            for entry in stored_files.load_json_lines(self.folder / "sweep.jsonl")
        }
        if num_repeated := sum(status == "same" for status in entries.values()):
            yield (
                f"{num_repeated} of {len(entries)} trials drew the settings of an earlier job: "
                "its result counts for them"
            )

    def _write_report(self, line: JobRow) -> None:
        from dlrun.report.build import write_report

        page = RunFolder(self.folder / line.folder).path(RunFile.REPORT_PAGE)
        # A sweep without new jobs keeps the report that it has.
        if self.changed or not page.exists():
            write_report(page.parent)
        self._print(f"report of the best: {page}")

    def _get_overrides(self, line: JobRow) -> list[str]:
        entries = {
            entry["job"]: entry
            for entry in stored_files.load_json_lines(self.folder / "sweep.jsonl")
        }
        return [str(word) for word in entries[line.job]["words"]]

    def _format_line(self, job: SweepJob, result: JobResult, job_rows: list[JobRow]) -> str:
        measure = self.objective.get_main_metric(job_rows)
        score = get_job_score(self.rows[job.number], measure)
        score_text = "" if score is None else f"{measure} {format_number(score)}"
        status = "" if result.status == "done" else f"{result.status}: {result.error}"
        best = find_best_jobs(job_rows, self.objective)[:1]
        so_far = ""
        if best:
            best_score = format_number(get_job_score(best[0], measure))
            so_far = f"best so far {best_score} ({best[0].folder})"
        head = f"job {self._get_job_label(job)}"
        # In this process the overrides have been printed when the job began.
        if self.in_other_processes and job.study_overrides:
            head += f": {' '.join(job.study_overrides)}"
        # An error of several lines is shown on one.
        parts = (
            head,
            score_text,
            " ".join(status.split()),
            format_duration(result.seconds),
            so_far,
        )
        return "  ".join(filter(None, parts))

    def _get_job_label(self, job: SweepJob) -> str:
        return f"{job.number + 1}/{self.total}" if self.total else f"{job.number + 1}"

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)
