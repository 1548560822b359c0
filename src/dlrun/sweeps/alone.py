"""Jobs carried out in this process, one after the other: what a sweep does when it needs no other process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dlrun.core.errors import Refused
from dlrun.sweeps.job import Ended, Job, Judge, Judging
from dlrun.sweeps.work import carried_out, carried_out_as_one


class Alone:
    """Carries out jobs when they are waited for, and shows them as plain runs."""

    def __init__(self, plugins: tuple[str, ...], judge: Judging | None) -> None:
        self.plugins, self.judge = plugins, judge
        self.jobs: list[Job] = []
        self.over: Iterator[Ended] = iter(())  # how the jobs of now end, one after the other
        self.stopped = 0
        self.fault: Refused | None = None  # what the judge cannot go on with

    @property
    def idle(self) -> int:
        """How many jobs could begin now."""
        return int(not self.jobs and not self.stopped)

    def start(self, job: Job, *others: Job) -> None:
        """Take a job, and others that can be trained as one with it."""
        self.jobs = [job, *others]
        self.over = self._ended(self.jobs)

    def wait(self) -> Ended | None:
        """Run what there is to run, and say how one job ended; None where there is none. Raises what the judge does."""
        ended = next(self.over, None)
        self.jobs = [job for job in self.jobs if ended is not None and job.number != ended.number]
        if self.fault is not None:
            raise self.fault
        if ended is not None and ended.status == "cut":
            self.stopped = ended.code - 128
        return ended

    def _ended(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        if len(jobs) > 1:
            yield from carried_out_as_one(jobs, self.plugins)
        else:
            yield carried_out(jobs[0], self.plugins, self._judge(jobs[0].number))

    def _judge(self, number: int) -> Judge | None:
        judge = self.judge
        if judge is None:
            return None

        def asked(epoch: int, values: dict[str, float], goals: dict[str, str]) -> bool:
            try:
                return judge(number, epoch, values, goals)
            except Refused as fault:
                self.fault = fault
                return True

        return asked

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, the data that several jobs read are read once."""
        from dlrun.data import dataset_cache

        dataset_cache.keep()
        try:
            yield
        finally:
            dataset_cache.let_go()
