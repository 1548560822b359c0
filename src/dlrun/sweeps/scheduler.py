"""The loop of a sweep: asks the study, gives jobs to idle workers, keeps the folder up to date."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from dlrun.config.parallel_fits import group_compatible
from dlrun.core.errors import UserError
from dlrun.core.renamed_parts import to_original_override
from dlrun.sweeps.job import Executor, JobResult, SweepJob, compute_identity, find_added_settings
from dlrun.sweeps.study import GridStudy, Study
from dlrun.sweeps.sweep_folder import (
    FINISHED_STATUSES,
    NO_SCORES,
    JobScores,
    SweepFolder,
    read_outcome,
    read_previous_job,
)

LOOK_AHEAD = 64  # jobs that are asked for at a time, to find those that can be trained as one


class SweepProgress(Protocol):
    """Shows what happens: on the terminal, in the table and in the plots."""

    def on_job_start(self, jobs: list[SweepJob]) -> None:
        """A job starts, or several that can be trained as one."""
        ...

    def on_job_end(self, job: SweepJob, ended: JobResult) -> None:
        """A job has ended, and the folder is up to date."""
        ...

    def get_scores(self, number: int) -> JobScores:
        """The mean scores of a job, as the table has them, and their directions."""
        ...


@dataclass
class Scheduler:
    """One start of a sweep.

    Attributes:
        folder: The sweep's folder.
        study: Decides what to try.
        compose_config: All overrides of a job → its config.
        all_overrides: The study's overrides of a job → all of them.
        progress: Is informed.
        stacks: Into how many groups jobs that can be trained as one are divided; 0: each alone.
        count: The number of the next new job.
        ahead: Asked for and not started, in groups that can be trained as one.
        running: By number.
        waiting: Jobs of earlier starts to be resumed, in groups.
        known: Identity → the job that has it.
        unknown: Settings that did not exist when jobs of earlier starts were run.
        followers: Job → duplicates of it whose outcome the study still waits for.
    """

    folder: SweepFolder
    study: Study
    compose_config: Callable[[list[str]], dict[str, Any]]
    all_overrides: Callable[[list[str]], list[str]]
    progress: SweepProgress
    stacks: int = 0

    def __post_init__(self) -> None:
        self.count = self.folder.next_number
        self.ahead: deque[list[SweepJob]] = deque()
        self.running: dict[int, SweepJob] = {}
        self.waiting: deque[list[SweepJob]] = deque()
        self.known: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.followers: dict[int, list[int]] = {}

    def run(self, executor: Executor) -> int:
        """Run what is missing.

        Returns:
            Exit code: 0, 1 where a job has failed, or 128 + the signal that stopped the sweep.
        """
        with executor.session():
            while True:
                # Asked only when a worker is free: a search then knows as many outcomes as it can.
                while executor.num_free and (jobs := self._next_group()):
                    self._start_jobs(executor, jobs)
                ended = executor.wait()
                if ended is None:
                    break
                self._finish_job(ended)
        if executor.stopped:
            return 128 + executor.stopped
        return int(any(entry["status"] == "failed" for entry in self.folder.entries.values()))

    def restore_jobs(self, retry: bool) -> tuple[int, int]:
        """Take in what earlier starts have left.

        Args:
            retry: Run failed jobs again.

        Returns:
            The number of jobs, and how many of them are resumed.

        Raises:
            UserError: Overrides have come to mean something else, and the study needs these jobs.
        """
        resumed = list[SweepJob]()
        for number, entry in list(self.folder.entries.items()):
            if entry["status"] in ("same", "older"):
                continue
            job = self._make_job(number, entry["own"])
            if job.identity != entry["identity"] and not self._is_same_job(job, entry["words"]):
                self._mark_stale(number)
                continue
            self.known[job.identity] = number
            if entry["status"] == "begun" or (retry and entry["status"] == "failed"):
                resumed.append(job)
        self.waiting.extend(self._group_jobs(resumed))
        numbers = [
            number for number, entry in self.folder.entries.items() if entry["status"] != "older"
        ]
        resumed_numbers = {job.number for job in resumed}
        previous = []
        for number in numbers:
            scores = NO_SCORES if number in resumed_numbers else self._get_scores(number)
            previous.append(read_previous_job(self.folder, number, scores))
        self.study.restore_jobs(previous)
        return sum(self.folder.entries[number]["status"] != "same" for number in numbers), len(
            resumed
        )

    def should_prune(
        self, number: int, epoch: int, values: dict[str, float], goals: dict[str, str]
    ) -> bool:
        """Whether to stop a job after this epoch; see `Study.should_prune`."""
        return self.study.should_prune(number, epoch, values, goals)

    def _is_same_job(self, job: SweepJob, words: list[str]) -> bool:
        """Whether a job was run by an older dlrun, which had fewer settings."""
        old_config = self.folder.read_job_config(job.number)
        added = (
            find_added_settings(old_config, job.config)
            if old_config and words == job.all_overrides
            else None
        )
        self.unknown |= set(added or ())
        return added is not None

    def _mark_stale(self, number: int) -> None:
        # A search has learned from this job's scores, a grid can leave it out.
        if not isinstance(self.study, GridStudy):
            raise UserError(
                f"{self.folder.path}: the words of job {number} mean other settings than when it "
                "was run (files have changed since): sweep.fresh=true begins anew"
            )
        self.folder.record_stale(number)

    def _next_group(self) -> list[SweepJob]:
        """What to start next, jobs together that can be trained as one."""
        if not self.waiting and not self.ahead:
            # Without stacking one at a time: a search learns from each outcome.
            count = LOOK_AHEAD if self.stacks else 1
            self.ahead.extend(self._group_jobs(list(islice(iter(self._next_job, None), count))))
        first = self.waiting or self.ahead
        return first.popleft() if first else []

    def _group_jobs(self, jobs: list[SweepJob]) -> list[list[SweepJob]]:
        return group_jobs(jobs, self.stacks) if self.stacks else [[job] for job in jobs]

    def _next_job(self) -> SweepJob | None:
        """The next new job of the study; one that has been run is not run again."""
        while (overrides := self.study.ask()) is not None:
            job = self._make_job(self.count, overrides)
            self.count += 1
            original = self.known.get(job.identity)
            if original is None:
                self.known[job.identity] = job.number
                return job
            self.folder.record_duplicate(job, original)
            self.followers.setdefault(original, []).append(job.number)
            if original in self.folder.entries:  # else it has not begun yet
                self._tell_study(original)
        return None

    def _make_job(self, number: int, overrides: list[str]) -> SweepJob:
        words, config, fault = self.all_overrides(overrides), dict[str, Any](), ""
        try:
            config = self.compose_config(words)
        except UserError as error:
            fault = str(error)
        # As earlier versions wrote it.
        unknown = {"words": list(map(to_original_override, words))}
        identity = compute_identity(config or unknown)
        return SweepJob(
            number, words, overrides, config, self.folder.job_folder(number), identity, fault
        )

    def _start_jobs(self, executor: Executor, jobs: list[SweepJob]) -> None:
        """The one place where jobs are handed out."""
        self.progress.on_job_start(jobs)
        for job in jobs:
            self.folder.record_start(job)
            self.running[job.number] = job
        if jobs[0].fault:
            self._finish_job(JobResult(jobs[0].number, "failed", jobs[0].fault, 2))
        else:
            executor.submit(*jobs)

    def _finish_job(self, ended: JobResult) -> None:
        job = self.running.pop(ended.number)
        # It was not run, or a job that was trained with it killed the process: again, alone.
        if ended.status == "lost":
            self.waiting.append([job])
            return
        # A job that could not start has made no folder, and its error is written there.
        job.folder.mkdir(exist_ok=True)
        self.folder.record_end(ended)
        self.progress.on_job_end(job, ended)
        # Itself first, then its duplicates.
        self.followers.setdefault(ended.number, []).insert(0, ended.number)
        self._tell_study(ended.number)

    def _tell_study(self, number: int) -> None:
        """Tell the study the outcome of a job, once for each number that it goes by."""
        outcome = read_outcome(self.folder, number, self._get_scores(number))
        if outcome is not None:
            for follower in self.followers.pop(number, []):
                self.study.tell(follower, outcome)

    def _get_scores(self, number: int) -> JobScores:
        entry = self.folder.entries[number]
        original = entry["of"] if entry["status"] == "same" else number
        if self.folder.entries[original]["status"] not in FINISHED_STATUSES:
            return NO_SCORES
        return self.progress.get_scores(original)


def group_jobs(jobs: list[SweepJob], stacks: int) -> list[list[SweepJob]]:
    """Group jobs that can be trained as one.

    Args:
        jobs: Any jobs; a faulty one stays alone.
        stacks: Into how many parts each such group is divided, one for each worker.

    Returns:
        Groups, by their first number.
    """
    valid = [job for job in jobs if not job.fault]
    groups = [[job] for job in jobs if job.fault]
    for group in group_compatible([job.config for job in valid]):
        # Rounded up.
        size = -(-len(group) // stacks)
        groups += [
            [valid[number] for number in group[start : start + size]]
            for start in range(0, len(group), size)
        ]
    return sorted(groups, key=lambda group: group[0].number)
