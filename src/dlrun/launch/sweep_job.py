"""Jobs of a sweep carried out in this process, each in a run folder of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dlrun.core import json_text
from dlrun.core.errors import Refused
from dlrun.sweeps.job import Ended, Job, Judge, Judging

if TYPE_CHECKING:
    from dlrun.core.types import Result
    from dlrun.experiment.parallel_sweep import Outcome
    from dlrun.training.trainer import Trainer


def carried_out(job: Job, plugins: tuple[str, ...], judge: Judge | None) -> Ended:
    """Run a job, or go on with it where it was cut, and say how it ended. Raises nothing but what is not its own."""
    from dlrun.launch.local_ranks import must_be_seen
    from dlrun.launch.run_config import go

    began, looking, results = time.monotonic(), Looking(judge), list["Result"]()
    error, code = job.fault, 2
    try:
        if not error:
            must_be_seen(job.config, judge is not None)
            noted(job)
            code, results = go(job.config, job.folder, plugins, looking.carry)
            error = {0: "", 3: "the loss became nan or infinite"}.get(code, f"exit code {code}")
    except Exception as crash:
        error, code = said(crash)
    status = "cut" if code in (130, 143) else "failed" if error else "pruned" if looking.pruned else "done"
    return Ended(
        job.number,
        status,
        error or looking.pruned,
        code,
        learnt(results),
        training(results) or time.monotonic() - began,
    )


def carried_out_as_one(jobs: Sequence[Job], plugins: tuple[str, ...]) -> Iterator[Ended]:
    """Run jobs that can be trained as one, each in its own folder. Where it does not pay, the first alone.

    The others are lost then: they have not been run, and are to be run each by itself.
    """
    if worthwhile(jobs, plugins):
        yield from trained_as_one(jobs, plugins)
        return
    for job in jobs[1:]:
        yield Ended(job.number, "lost")
    yield carried_out(jobs[0], plugins, None)


def worthwhile(jobs: Sequence[Job], plugins: tuple[str, ...]) -> bool:
    """Whether these are trained faster as one. What fails here is to be said by the job that it belongs to."""
    from dlrun.config.parallel_fits import asked
    from dlrun.experiment.parallel_fits.driver import pays, pending
    from dlrun.experiment.runner import Experiment

    jobs[0].folder.mkdir(exist_ok=True)
    try:
        experiment = Experiment(jobs[0].config, jobs[0].folder, plugins)
        fits = pending(experiment)
        insists = asked(jobs[0].config) is True
        return bool(fits) and (insists or pays(experiment.assembly.fit(fits[0]).trainer, len(fits) * len(jobs)))
    except Exception:
        return False


def trained_as_one(jobs: Sequence[Job], plugins: tuple[str, ...]) -> list[Ended]:
    """What came of each; what goes wrong with all of them at once is no fault of any, and they are lost."""
    from dlrun.core.errors import Interrupted
    from dlrun.launch.finish import count_openings

    began = time.monotonic()
    try:
        with logged(jobs) as display:
            outcomes = together(jobs, plugins, display)
    except Interrupted as stop:
        return [Ended(job.number, "cut", code=128 + stop.number) for job in jobs]
    except Exception:  # logged with its traceback
        return [Ended(job.number, "lost") for job in jobs]
    seconds, found = (time.monotonic() - began) / len(jobs), []
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome.error is None:
            count_openings(job.config, job.folder)
        error, code = said(outcome.error)
        took = training(outcome.results) or seconds
        found.append(Ended(job.number, "failed" if error else "done", error, code, learnt(outcome.results), took))
    return found


def together(jobs: Sequence[Job], plugins: tuple[str, ...], display: Any) -> list[Outcome]:
    """What came of each job."""
    from dlrun.core.folder_lock import at_work
    from dlrun.experiment.parallel_sweep import run_together

    for job in jobs:
        noted(job)
    configs, folders = [job.config for job in jobs], [job.folder for job in jobs]
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(at_work(folder))
        return run_together(configs, folders, plugins, display)


@contextmanager
def logged(jobs: Sequence[Job]) -> Iterator[Any]:
    """Inside, all that is logged goes to the log of each job, and to the terminal; answers with what shows a fit."""
    from dlrun.core.run_folder import RunDir
    from dlrun.launch.console import Shown
    from dlrun.launch.progress import Display
    from dlrun.launch.run_log import logging_to

    for job in jobs:
        job.folder.mkdir(exist_ok=True)
    console, logger = Shown(), logging.getLogger("dlrun")
    handlers = [RunDir(job.folder).log() for job in jobs[1:]]  # that of the first one comes with logging_to
    with logging_to(jobs[0].folder, console):
        console.logs += handlers
        for handler in handlers:
            logger.addHandler(handler)
        try:
            yield Display(console, quiet=False)
        finally:
            for handler in handlers:
                logger.removeHandler(handler)
                handler.close()


def said(error: Exception | None) -> tuple[str, int]:
    """Why a job failed, and the exit code that says so."""
    from dlrun.core.errors import Diverged

    if error is None:
        return "", 0
    if isinstance(error, Diverged):
        return "the loss became nan or infinite", 3
    return (str(error), 2) if isinstance(error, Refused) else (f"{type(error).__name__}: {error}", 1)


def learnt(results: Sequence[Result]) -> int:
    """How many numbers the fits of a job have learnt, each of them."""
    return max((result.parameters for result in results), default=0)


def training(results: Sequence[Result]) -> float:
    """The seconds that fits took, without the start of a worker and the reading of data; 0 where there are none."""
    return sum(result.seconds for result in results if result.split != "test")


def noted(job: Job) -> None:
    """Write down what the job was asked for, unless an earlier start has."""
    import yaml

    from dlrun.core.files import write_text
    from dlrun.launch.run_config import command

    job.folder.mkdir(exist_ok=True)
    if (job.folder / "config.yaml").is_file():
        return
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    around = {**surroundings(), "started": datetime.now().astimezone().isoformat(timespec="seconds")}
    write_text(job.folder / "environment.json", json_text.text(around, 1) + "\n")
    write_text(job.folder / "command.txt", command(job.words) + "\n")
    write_text(job.folder / "config.yaml", yaml.dump(job.config, Dumper=dumper, sort_keys=False))


@lru_cache(maxsize=1)
def surroundings() -> dict[str, Any]:
    """Python, packages and the git state, looked up once a process: to ask git takes longer than many a job."""
    from dlrun.core.run_folder import environment

    return environment()


class Looking:
    """Looks on while a job trains: asks the judge after each epoch, and ends the job where it says so."""

    def __init__(self, judge: Judge | None) -> None:
        self.judge, self.pruned = judge, ""

    def carry(self, experiment: Any, watch: Any) -> list[Any]:
        """The results of an experiment, up to the fit after which no more is wanted."""

        @contextmanager
        def looked_on(trainer: Trainer, *rest: Any) -> Iterator[None]:
            before = sum(result.epochs for result in experiment.fitted())
            if self.judge is not None:
                trainer.callbacks.append(lambda trainer: self._ask(trainer, before))
            with watch(trainer, *rest):
                yield

        return experiment.results(looked_on, enough=lambda: bool(self.pruned))  # type: ignore[no-any-return]

    def _ask(self, trainer: Trainer, before: int) -> None:
        from dlrun.training.monitors import goals_of

        rows = [row for row in trainer.history if row.epoch == trainer.epoch]
        values = {f"{row.split}/{name}": value for row in rows for name, value in row.values.items()}
        assert self.judge is not None
        if not trainer.finished and self.judge(before + trainer.epoch, values, goals_of(trainer)):
            self.pruned = f"after epoch {before + trainer.epoch}"
            trainer.stop = f"pruned: it does not promise enough {self.pruned}"


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
