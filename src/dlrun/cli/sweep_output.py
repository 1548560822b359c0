"""What a sweep shows: a line a job, a table and a picture that are true after each, and the best job as a command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.config.parallel_fits import asked
from dlrun.core import stored_files
from dlrun.core.formatting import duration, number
from dlrun.launch.run_config import command
from dlrun.report.result_tables import Summary, rich_table
from dlrun.report.sweep_jobs import TEST, Aim, Line, best, lines_of, value_of
from dlrun.report.sweep_table import write_lines
from dlrun.report.sweep_uncertainty import beside_the_best, over_seeds
from dlrun.sweeps.job import Ended, Job
from dlrun.sweeps.sweep_folder import Scored

if TYPE_CHECKING:
    from rich.console import Console


SHARE = 0.05  # of the time, at most, goes into drawing the picture anew
FIRST = 1.0  # seconds that the first drawing is thought to take, with the import of what draws
MOST_SEEDS = 30  # rows of the table over seeds on a terminal; sweep.md has them all
UNSAID = ("test=", "reason=")  # words that are not repeated with the best job: to open test rows is decided anew


class Shown:
    """Tells a terminal and a folder what happens. total: how many jobs there are to be, where that is known."""

    def __init__(self, folder: Path, console: Console, total: int | None, beside: bool) -> None:
        """beside: whether jobs run in other processes, so that nothing else says that they have begun or ended."""
        self.folder, self.console, self.total, self.beside = folder, console, total, beside
        self.known: dict[int, Line] = {}
        self.aim = Aim.of(folder)
        self.drawing = FIRST
        self.drawn_at = time.monotonic()
        self.changed = False

    def begun(self, jobs: list[Job]) -> None:
        """Say which job begins, where it shows itself after this line."""
        if not self.beside and len(jobs) > 1:
            when = "" if asked(jobs[0].config) is True else ", if that is faster"
            self._say(f"job {self._which(jobs[0])} to job {self._which(jobs[-1])}: {len(jobs)} as one{when}")
        elif not self.beside:
            self._say(f"job {self._which(jobs[0])}: {' '.join(jobs[0].words)}")

    def ended(self, job: Job, ended: Ended) -> None:
        """Say how a job has ended; write the table, and draw the picture unless that took too much of the time."""
        self.changed = True
        found = lines_of(self.folder, self.aim, self.known)
        write_lines(self.folder, found, self.aim)
        if ended.status != "cut":
            self._say(self._line(job, ended, found))
        if time.monotonic() - self.drawn_at >= self.drawing / SHARE:
            self.draw()

    def scores(self, job: int) -> Scored:
        """The means of a job's scores, and which way each measure is better."""
        lines_of(self.folder, self.aim, self.known)
        line = self.known[job]
        there = {name: mean for name, (mean, _) in line.scores.items() if not name.startswith(TEST)}
        return {name: mean for name, mean in there.items() if mean is not None}, line.goals

    def draw(self) -> None:
        """Draw sweep.png, and remember how long that takes."""
        from dlrun.report.parallel_coordinates import draw

        began = time.monotonic()
        draw(self.folder, lines_of(self.folder, self.aim, self.known), self.aim)
        self.drawn_at = time.monotonic()
        self.drawing = self.drawn_at - began

    def close(self, flags: list[str], stopped: bool) -> None:
        """The table, the picture, the best job as a command and with its report, and where all of it lies."""
        found = lines_of(self.folder, self.aim, self.known)
        self.console.print(write_lines(self.folder, found, self.aim))
        columns, rows = over_seeds(found, self.aim)
        if rows:
            self.console.print(rich_table(Summary("over seeds, mean ± sd", columns, rows[:MOST_SEEDS])))
        if self.changed or not (self.folder / "sweep.png").exists():
            self.draw()
        first = best(found, self.aim)
        for line in first[:5]:
            words = [word for word in self._words(line) if not word.startswith(UNSAID)]
            self._say(f"best: {command([*flags, *words])}")
        for text in beside_the_best(self.folder, found, self.aim):
            self._say(f"  {text}")
        for text in self._untold(found, first):
            self._say(text)
        if len(first) > 5:
            self._say(f"and {len(first) - 5} more that no other beats; they are in sweep.md")
        if first and not stopped:
            self._report(first[0])
        self._say(f"sweep folder: {self.folder}")

    def _untold(self, found: list[Line], first: list[Line]) -> Iterator[str]:
        """What no row of the table says: that no job is the best, and trials that were other jobs again."""
        if not first and any(line.status == "done" for line in found):
            yield f"no job is the best: {' and '.join(self.aim.names) or self.aim.first(found)} has no value in any"
        entries = {entry["job"]: entry["status"] for entry in stored_files.lines(self.folder / "sweep.jsonl")}
        if again := sum(status == "same" for status in entries.values()):
            yield f"{again} of {len(entries)} trials drew the settings of an earlier job: its result counts for them"

    def _report(self, line: Line) -> None:
        from dlrun.report.build import write

        page = self.folder / line.folder / "report.html"
        if self.changed or not page.exists():
            write(page.parent)
        self._say(f"report of the best: {page}")

    def _words(self, line: Line) -> list[str]:
        entries = {entry["job"]: entry for entry in stored_files.lines(self.folder / "sweep.jsonl")}
        return [str(word) for word in entries[line.job]["words"]]

    def _line(self, job: Job, ended: Ended, found: list[Line]) -> str:
        measure = self.aim.first(found)
        score = value_of(self.known[job.number], measure)
        said = "" if score is None else f"{measure} {number(score)}"
        status = "" if ended.status == "done" else f"{ended.status}: {ended.error}"
        first = best(found, self.aim)[:1]
        so_far = f"best so far {number(value_of(first[0], measure))} ({first[0].folder})" if first else ""
        head = f"job {self._which(job)}" + (f": {' '.join(job.own)}" if self.beside and job.own else "")
        return "  ".join(filter(None, (head, said, " ".join(status.split()), duration(ended.seconds), so_far)))

    def _which(self, job: Job) -> str:
        return f"{job.number + 1}/{self.total}" if self.total else f"{job.number + 1}"

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)
