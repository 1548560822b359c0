"""The loop of a sweep: asks the study, hands jobs to whoever is idle, and keeps the folder true after each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from dlrun.config.parallel_fits import group_compatible
from dlrun.core.errors import UserError
from dlrun.sweeps.job import JobResult, SweepJob, compute_identity, find_added_settings
from dlrun.sweeps.study import GridStudy, Study
from dlrun.sweeps.sweep_folder import (
    FINISHED_STATUSES,
    NO_SCORES,
    JobScores,
    SweepFolder,
    read_outcome,
    read_previous_job,
)

LOOK_AHEAD = 64  # jobs among which those are looked for that can be trained as one


class Executor(Protocol):
    """Who carries jobs out: this process (sweeps/alone.py), or others (sweeps/pool.py). stopped: by which signal."""

    stopped: int

    @property
    def num_free(self) -> int:
        """How many jobs could begin now."""
        ...

    def submit(self, job: SweepJob, *others: SweepJob) -> None:
        """Take a job, and others that can be trained as one with it."""
        ...

    def wait(self) -> JobResult | None:
        """Wait until a job has ended; None when none is running."""
        ...

    def session(self) -> AbstractContextManager[None]:
        """Inside, jobs can be carried out."""
        ...


class SweepProgress(Protocol):
    """Who is told what happens: the terminal, the table and the picture (commands/sweep_shown.py)."""

    def on_job_start(self, jobs: list[SweepJob]) -> None:
        """A job begins, or several that can be trained as one."""
        ...

    def on_job_end(self, job: SweepJob, ended: JobResult) -> None:
        """A job has ended, and the folder says so."""
        ...

    def get_scores(self, number: int) -> JobScores:
        """The means of a job's scores, as the table has them, and which way each measure is better."""
        ...


@dataclass
class Scheduler:
    """One start of a sweep. config: all words of a job → its config; words: its own → all of them.

    stacks: into how many parts jobs that can be trained as one are divided; 0 where each job is to be by itself.
    """

    folder: SweepFolder
    study: Study
    compose_config: Callable[[list[str]], dict[str, Any]]
    all_overrides: Callable[[list[str]], list[str]]
    progress: SweepProgress
    stacks: int = 0

    def __post_init__(self) -> None:
        self.count = self.folder.next_number  # the number of the next new job
        self.ahead: deque[list[SweepJob]] = (
            deque()
        )  # asked for, and not begun yet: those together that can be one
        self.running: dict[int, SweepJob] = {}
        self.waiting: deque[list[SweepJob]] = (
            deque()
        )  # to be gone on with: those together that can be one
        self.known: dict[str, int] = {}  # identity → the job that has it
        self.unknown: set[str] = (
            set()
        )  # settings that an older dlrun, which ran a job, did not know
        self.followers: dict[
            int, list[int]
        ] = {}  # job → others that are the same, and have not been told yet

    def run(self, crew: Executor) -> int:
        """Carry out what is missing; answers with 0, 1 where a job has failed, or 128 + the signal that stopped it."""
        with crew.session():
            while True:
                while crew.num_free and (jobs := self._next_group()):
                    self._start_jobs(crew, jobs)
                ended = crew.wait()
                if ended is None:
                    break
                self._finish_job(ended)
        if crew.stopped:
            return 128 + crew.stopped
        return int(any(entry["status"] == "failed" for entry in self.folder.entries.values()))

    def restore_jobs(self, retry: bool) -> tuple[int, int]:
        """Take in what earlier starts have left; answers with how many jobs are there, and how many of them go on.

        Raises UserError where words have come to mean something else and the study cannot do without these jobs.
        """
        again = list[SweepJob]()
        for number, entry in list(self.folder.entries.items()):
            if entry["status"] in ("same", "older"):
                continue
            job = self._make_job(number, entry["own"])
            if job.identity != entry["identity"] and not self._is_same_job(job, entry["words"]):
                self._mark_stale(number)
                continue
            self.known[job.identity] = number
            if entry["status"] == "begun" or (retry and entry["status"] == "failed"):
                again.append(job)
        self.waiting.extend(self._group_jobs(again))
        there = [
            number for number, entry in self.folder.entries.items() if entry["status"] != "older"
        ]
        on = {job.number for job in again}
        self.study.restore_jobs(
            [
                read_previous_job(self.folder, n, NO_SCORES if n in on else self._get_scores(n))
                for n in there
            ]
        )
        return sum(self.folder.entries[number]["status"] != "same" for number in there), len(again)

    def should_prune(
        self, number: int, epoch: int, values: dict[str, float], goals: dict[str, str]
    ) -> bool:
        """Whether to stop a job after this epoch."""
        return self.study.should_prune(number, epoch, values, goals)

    def _is_same_job(self, job: SweepJob, words: list[str]) -> bool:
        """Whether a job is one of an older dlrun, which knew fewer settings and had no others."""
        before = self.folder.read_job_config(job.number)
        added = (
            find_added_settings(before, job.config)
            if before and words == job.all_overrides
            else None
        )
        self.unknown |= set(added or ())
        return added is not None

    def _mark_stale(self, number: int) -> None:
        if not isinstance(self.study, GridStudy):
            raise UserError(
                f"{self.folder.path}: the words of job {number} mean other settings than when it was run (files have "
                "changed since): sweep.fresh=true begins anew"
            )
        self.folder.record_stale(number)

    def _next_group(self) -> list[SweepJob]:
        """What to begin next, those together that can be trained as one; empty where there is nothing."""
        if not self.waiting and not self.ahead:
            self.ahead.extend(
                self._group_jobs(
                    list(islice(iter(self._next_job, None), LOOK_AHEAD if self.stacks else 1))
                )
            )
        first = self.waiting or self.ahead
        return first.popleft() if first else []

    def _group_jobs(self, jobs: list[SweepJob]) -> list[list[SweepJob]]:
        return group_jobs(jobs, self.stacks) if self.stacks else [[job] for job in jobs]

    def _next_job(self) -> SweepJob | None:
        """The next job that the study asks for; one that has been run is not run again."""
        while (own := self.study.ask()) is not None:
            job = self._make_job(self.count, own)
            self.count += 1
            other = self.known.get(job.identity)
            if other is None:
                self.known[job.identity] = job.number
                return job
            self.folder.record_duplicate(job, other)
            self.followers.setdefault(other, []).append(job.number)
            if other in self.folder.entries:  # else it has not begun yet
                self._tell_study(other)
        return None

    def _make_job(self, number: int, own: list[str]) -> SweepJob:
        words, config, fault = self.all_overrides(own), dict[str, Any](), ""
        try:
            config = self.compose_config(words)
        except UserError as error:
            fault = str(error)
        known = compute_identity(config) if config else compute_identity({"words": words})
        return SweepJob(number, words, own, config, self.folder.job_folder(number), known, fault)

    def _start_jobs(self, crew: Executor, jobs: list[SweepJob]) -> None:
        """The one place where jobs are handed out."""
        self.progress.on_job_start(jobs)
        for job in jobs:
            self.folder.record_start(job)
            self.running[job.number] = job
        if jobs[0].fault:
            self._finish_job(JobResult(jobs[0].number, "failed", jobs[0].fault, 2))
        else:
            crew.submit(*jobs)

    def _finish_job(self, ended: JobResult) -> None:
        job = self.running.pop(ended.number)
        if (
            ended.status == "lost"
        ):  # not run, or its process died by the fault of one that was trained with it
            self.waiting.append([job])
            return
        job.folder.mkdir(exist_ok=True)
        self.folder.record_end(ended)
        self.progress.on_job_end(job, ended)
        self.followers.setdefault(ended.number, []).insert(0, ended.number)
        self._tell_study(ended.number)

    def _tell_study(self, number: int) -> None:
        """Tell the study what came of a job, once for each number that it goes by."""
        outcome = read_outcome(self.folder, number, self._get_scores(number))
        if outcome is not None:
            for follower in self.followers.pop(number, []):
                self.study.tell(follower, outcome)

    def _get_scores(self, number: int) -> JobScores:
        entry = self.folder.entries[number]
        of = entry["of"] if entry["status"] == "same" else number
        return (
            self.progress.get_scores(of)
            if self.folder.entries[of]["status"] in FINISHED_STATUSES
            else NO_SCORES
        )


def group_jobs(jobs: list[SweepJob], parts: int) -> list[list[SweepJob]]:
    """Jobs, those together that can be trained as one, each such group in so many parts; a faulty one stands alone."""
    well = [job for job in jobs if not job.fault]
    found = [[job] for job in jobs if job.fault]
    for group in group_compatible([job.config for job in well]):
        size = -(-len(group) // parts)
        found += [
            [well[number] for number in group[low : low + size]]
            for low in range(0, len(group), size)
        ]
    return sorted(found, key=lambda group: group[0].number)
