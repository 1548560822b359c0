"""The loop of a sweep: asks the study, hands jobs to whoever is idle, and keeps the folder true after each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from dlrun.config.parallel_fits import stackable
from dlrun.core.errors import Refused
from dlrun.sweeps.job import Ended, Job, identity, later
from dlrun.sweeps.study import Grid, Study
from dlrun.sweeps.sweep_folder import NOTHING, OVER, Scored, SweepFolder, recalled, told_of

LOOK_AHEAD = 64  # jobs among which those are looked for that can be trained as one


class Crew(Protocol):
    """Who carries jobs out: this process (sweeps/alone.py), or others (sweeps/pool.py). stopped: by which signal."""

    stopped: int

    @property
    def idle(self) -> int:
        """How many jobs could begin now."""
        ...

    def start(self, job: Job, *others: Job) -> None:
        """Take a job, and others that can be trained as one with it."""
        ...

    def wait(self) -> Ended | None:
        """Wait until a job has ended; None when none is running."""
        ...

    def at_work(self) -> AbstractContextManager[None]:
        """Inside, jobs can be carried out."""
        ...


class Show(Protocol):
    """Who is told what happens: the terminal, the table and the picture (commands/sweep_shown.py)."""

    def begun(self, jobs: list[Job]) -> None:
        """A job begins, or several that can be trained as one."""
        ...

    def ended(self, job: Job, ended: Ended) -> None:
        """A job has ended, and the folder says so."""
        ...

    def scores(self, number: int) -> Scored:
        """The means of a job's scores, as the table has them, and which way each measure is better."""
        ...


@dataclass
class Loop:
    """One start of a sweep. config: all words of a job → its config; words: its own → all of them.

    stacks: into how many parts jobs that can be trained as one are divided; 0 where each job is to be by itself.
    """

    folder: SweepFolder
    study: Study
    config: Callable[[list[str]], dict[str, Any]]
    words: Callable[[list[str]], list[str]]
    show: Show
    stacks: int = 0

    def __post_init__(self) -> None:
        self.count = self.folder.next  # the number of the next new job
        self.ahead: deque[list[Job]] = deque()  # asked for, and not begun yet: those together that can be one
        self.running: dict[int, Job] = {}
        self.waiting: deque[list[Job]] = deque()  # to be gone on with: those together that can be one
        self.known: dict[str, int] = {}  # identity → the job that has it
        self.unknown: set[str] = set()  # settings that an older dlrun, which ran a job, did not know
        self.followers: dict[int, list[int]] = {}  # job → others that are the same, and have not been told yet

    def run(self, crew: Crew) -> int:
        """Carry out what is missing; answers with 0, 1 where a job has failed, or 128 + the signal that stopped it."""
        with crew.at_work():
            while True:
                while crew.idle and (jobs := self._batch()):
                    self._start(crew, jobs)
                ended = crew.wait()
                if ended is None:
                    break
                self._ended(ended)
        if crew.stopped:
            return 128 + crew.stopped
        return int(any(entry["status"] == "failed" for entry in self.folder.entries.values()))

    def recall(self, retry: bool) -> tuple[int, int]:
        """Take in what earlier starts have left; answers with how many jobs are there, and how many of them go on.

        Raises Refused where words have come to mean something else and the study cannot do without these jobs.
        """
        again = list[Job]()
        for number, entry in list(self.folder.entries.items()):
            if entry["status"] in ("same", "older"):
                continue
            job = self._job(number, entry["own"])
            if job.identity != entry["identity"] and not self._is_still(job, entry["words"]):
                self._outdated(number)
                continue
            self.known[job.identity] = number
            if entry["status"] == "begun" or (retry and entry["status"] == "failed"):
                again.append(job)
        self.waiting.extend(self._parted(again))
        there = [number for number, entry in self.folder.entries.items() if entry["status"] != "older"]
        on = {job.number for job in again}
        self.study.recall([recalled(self.folder, n, NOTHING if n in on else self._scores(n)) for n in there])
        return sum(self.folder.entries[number]["status"] != "same" for number in there), len(again)

    def prune(self, number: int, epoch: int, values: dict[str, float], goals: dict[str, str]) -> bool:
        """Whether to stop a job after this epoch."""
        return self.study.prune(number, epoch, values, goals)

    def _is_still(self, job: Job, words: list[str]) -> bool:
        """Whether a job is one of an older dlrun, which knew fewer settings and had no others."""
        before = self.folder.config(job.number)
        added = later(before, job.config) if before and words == job.words else None
        self.unknown |= set(added or ())
        return added is not None

    def _outdated(self, number: int) -> None:
        if not isinstance(self.study, Grid):
            raise Refused(
                f"{self.folder.path}: the words of job {number} mean other settings than when it was run (files have "
                "changed since): sweep.fresh=true begins anew"
            )
        self.folder.older(number)

    def _batch(self) -> list[Job]:
        """What to begin next, those together that can be trained as one; empty where there is nothing."""
        if not self.waiting and not self.ahead:
            self.ahead.extend(self._parted(list(islice(iter(self._next, None), LOOK_AHEAD if self.stacks else 1))))
        first = self.waiting or self.ahead
        return first.popleft() if first else []

    def _parted(self, jobs: list[Job]) -> list[list[Job]]:
        return parted(jobs, self.stacks) if self.stacks else [[job] for job in jobs]

    def _next(self) -> Job | None:
        """The next job that the study asks for; one that has been run is not run again."""
        while (own := self.study.ask()) is not None:
            job = self._job(self.count, own)
            self.count += 1
            other = self.known.get(job.identity)
            if other is None:
                self.known[job.identity] = job.number
                return job
            self.folder.same(job, other)
            self.followers.setdefault(other, []).append(job.number)
            if other in self.folder.entries:  # else it has not begun yet
                self._tell(other)
        return None

    def _job(self, number: int, own: list[str]) -> Job:
        words, config, fault = self.words(own), dict[str, Any](), ""
        try:
            config = self.config(words)
        except Refused as error:
            fault = str(error)
        known = identity(config) if config else identity({"words": words})
        return Job(number, words, own, config, self.folder.place(number), known, fault)

    def _start(self, crew: Crew, jobs: list[Job]) -> None:
        """The one place where jobs are handed out."""
        self.show.begun(jobs)
        for job in jobs:
            self.folder.begin(job)
            self.running[job.number] = job
        if jobs[0].fault:
            self._ended(Ended(jobs[0].number, "failed", jobs[0].fault, 2))
        else:
            crew.start(*jobs)

    def _ended(self, ended: Ended) -> None:
        job = self.running.pop(ended.number)
        if ended.status == "lost":  # not run, or its process died by the fault of one that was trained with it
            self.waiting.append([job])
            return
        job.folder.mkdir(exist_ok=True)
        self.folder.end(ended)
        self.show.ended(job, ended)
        self.followers.setdefault(ended.number, []).insert(0, ended.number)
        self._tell(ended.number)

    def _tell(self, number: int) -> None:
        """Tell the study what came of a job, once for each number that it goes by."""
        outcome = told_of(self.folder, number, self._scores(number))
        if outcome is not None:
            for follower in self.followers.pop(number, []):
                self.study.told(follower, outcome)

    def _scores(self, number: int) -> Scored:
        entry = self.folder.entries[number]
        of = entry["of"] if entry["status"] == "same" else number
        return self.show.scores(of) if self.folder.entries[of]["status"] in OVER else NOTHING


def parted(jobs: list[Job], parts: int) -> list[list[Job]]:
    """Jobs, those together that can be trained as one, each such group in so many parts; a faulty one stands alone."""
    well = [job for job in jobs if not job.fault]
    found = [[job] for job in jobs if job.fault]
    for group in stackable([job.config for job in well]):
        size = -(-len(group) // parts)
        found += [[well[number] for number in group[low : low + size]] for low in range(0, len(group), size)]
    return sorted(found, key=lambda group: group[0].number)
