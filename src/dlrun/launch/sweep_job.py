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
from dlrun.core.errors import UserError
from dlrun.sweeps.job import EpochStopRule, JobResult, JobStopRule, SweepJob

if TYPE_CHECKING:
    from dlrun.core.types import Result
    from dlrun.experiment.parallel_sweep import ParallelOutcome
    from dlrun.training.trainer import Trainer


def run_job(job: SweepJob, plugins: tuple[str, ...], judge: EpochStopRule | None) -> JobResult:
    """Run a job, or go on with it where it was cut, and say how it ended. Raises nothing but what is not its own."""
    from dlrun.launch.local_ranks import check_can_prune
    from dlrun.launch.run_config import execute_run

    began, looking, results = time.monotonic(), PruningCallback(judge), list["Result"]()
    error, code = job.fault, 2
    try:
        if not error:
            check_can_prune(job.config, judge is not None)
            write_job_metadata(job)
            code, results = execute_run(job.config, job.folder, plugins, looking.run_experiment)
            error = {0: "", 3: "the loss became nan or infinite"}.get(code, f"exit code {code}")
    except Exception as crash:
        error, code = describe_job_error(crash)
    status = (
        "cut"
        if code in (130, 143)
        else "failed"
        if error
        else "pruned"
        if looking.pruned
        else "done"
    )
    return JobResult(
        job.number,
        status,
        error or looking.pruned,
        code,
        count_trained_parameters(results),
        get_training_seconds(results) or time.monotonic() - began,
    )


def run_parallel_jobs(jobs: Sequence[SweepJob], plugins: tuple[str, ...]) -> Iterator[JobResult]:
    """Run jobs that can be trained as one, each in its own folder. Where it does not pay, the first alone.

    The others are lost then: they have not been run, and are to be run each by itself.
    """
    if should_run_parallel(jobs, plugins):
        yield from train_parallel_jobs(jobs, plugins)
        return
    for job in jobs[1:]:
        yield JobResult(job.number, "lost")
    yield run_job(jobs[0], plugins, None)


def should_run_parallel(jobs: Sequence[SweepJob], plugins: tuple[str, ...]) -> bool:
    """Whether these are trained faster as one. What fails here is to be said by the job that it belongs to."""
    from dlrun.config.parallel_fits import parallel_fits_mode
    from dlrun.experiment.parallel_fits.driver import get_pending_jobs, is_worthwhile
    from dlrun.experiment.runner import Experiment

    jobs[0].folder.mkdir(exist_ok=True)
    try:
        experiment = Experiment(jobs[0].config, jobs[0].folder, plugins)
        fits = get_pending_jobs(experiment)
        insists = parallel_fits_mode(jobs[0].config) is True
        return bool(fits) and (
            insists
            or is_worthwhile(experiment.builder.build_fit(fits[0]).trainer, len(fits) * len(jobs))
        )
    except Exception:
        return False


def train_parallel_jobs(jobs: Sequence[SweepJob], plugins: tuple[str, ...]) -> list[JobResult]:
    """What came of each; what goes wrong with all of them at once is no fault of any, and they are lost."""
    from dlrun.core.errors import TrainingInterrupted
    from dlrun.launch.finish import record_test_evaluations

    began = time.monotonic()
    try:
        with log_to_jobs(jobs) as display:
            outcomes = collect_job_results(jobs, plugins, display)
    except TrainingInterrupted as stop:
        return [JobResult(job.number, "cut", code=128 + stop.number) for job in jobs]
    except Exception:  # logged with its traceback
        return [JobResult(job.number, "lost") for job in jobs]
    seconds, found = (time.monotonic() - began) / len(jobs), []
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome.error is None:
            record_test_evaluations(job.config, job.folder)
        error, code = describe_job_error(outcome.error)
        took = get_training_seconds(outcome.results) or seconds
        found.append(
            JobResult(
                job.number,
                "failed" if error else "done",
                error,
                code,
                count_trained_parameters(outcome.results),
                took,
            )
        )
    return found


def collect_job_results(
    jobs: Sequence[SweepJob], plugins: tuple[str, ...], display: Any
) -> list[ParallelOutcome]:
    """What came of each job."""
    from dlrun.core.folder_lock import lock_folder
    from dlrun.experiment.parallel_sweep import run_parallel

    for job in jobs:
        write_job_metadata(job)
    configs, folders = [job.config for job in jobs], [job.folder for job in jobs]
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(lock_folder(folder))
        return run_parallel(configs, folders, plugins, display)


@contextmanager
def log_to_jobs(jobs: Sequence[SweepJob]) -> Iterator[Any]:
    """Inside, all that is logged goes to the log of each job, and to the terminal; answers with what shows a fit."""
    from dlrun.core.run_folder import RunFolder
    from dlrun.launch.console import RecordingConsole
    from dlrun.launch.progress import ProgressDisplay
    from dlrun.launch.run_log import log_to_folder

    for job in jobs:
        job.folder.mkdir(exist_ok=True)
    console, logger = RecordingConsole(), logging.getLogger("dlrun")
    handlers = [
        RunFolder(job.folder).make_log_handler() for job in jobs[1:]
    ]  # that of the first one comes with logging_to
    with log_to_folder(jobs[0].folder, console):
        console.logs += handlers
        for handler in handlers:
            logger.addHandler(handler)
        try:
            yield ProgressDisplay(console, quiet=False)
        finally:
            for handler in handlers:
                logger.removeHandler(handler)
                handler.close()


def describe_job_error(error: Exception | None) -> tuple[str, int]:
    """Why a job failed, and the exit code that says so."""
    from dlrun.core.errors import TrainingDiverged

    if error is None:
        return "", 0
    if isinstance(error, TrainingDiverged):
        return "the loss became nan or infinite", 3
    return (
        (str(error), 2) if isinstance(error, UserError) else (f"{type(error).__name__}: {error}", 1)
    )


def count_trained_parameters(results: Sequence[Result]) -> int:
    """How many numbers the fits of a job have learnt, each of them."""
    return max((result.parameters for result in results), default=0)


def get_training_seconds(results: Sequence[Result]) -> float:
    """The seconds that fits took, without the start of a worker and the reading of data; 0 where there are none."""
    return sum(result.seconds for result in results if result.split != "test")


def write_job_metadata(job: SweepJob) -> None:
    """Write down what the job was asked for, unless an earlier start has."""
    import yaml

    from dlrun.core.files import write_text
    from dlrun.launch.run_config import format_command

    job.folder.mkdir(exist_ok=True)
    if (job.folder / "config.yaml").is_file():
        return
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    around = {
        **get_cached_environment(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_text(job.folder / "environment.json", json_text.to_json(around, 1) + "\n")
    write_text(job.folder / "command.txt", format_command(job.all_overrides) + "\n")
    write_text(job.folder / "config.yaml", yaml.dump(job.config, Dumper=dumper, sort_keys=False))


@lru_cache(maxsize=1)
def get_cached_environment() -> dict[str, Any]:
    """Python, packages and the git state, looked up once a process: to ask git takes longer than many a job."""
    from dlrun.core.environment import collect_environment

    return collect_environment()


class PruningCallback:
    """Looks on while a job trains: asks the judge after each epoch, and ends the job where it says so."""

    def __init__(self, judge: EpochStopRule | None) -> None:
        self.judge, self.pruned = judge, ""

    def run_experiment(self, experiment: Any, watch: Any) -> list[Any]:
        """The results of an experiment, up to the fit after which no more is wanted."""

        @contextmanager
        def looked_on(trainer: Trainer, *rest: Any) -> Iterator[None]:
            before = sum(result.epochs for result in experiment.get_fit_results())
            if self.judge is not None:
                trainer.callbacks.append(lambda trainer: self._should_prune(trainer, before))
            with watch(trainer, *rest):
                yield

        return experiment.results(looked_on, enough=lambda: bool(self.pruned))  # type: ignore[no-any-return]

    def _should_prune(self, trainer: Trainer, before: int) -> None:
        from dlrun.training.monitors import get_direction_by_metric

        rows = [row for row in trainer.history if row.epoch == trainer.epoch]
        values = {
            f"{row.split}/{name}": value for row in rows for name, value in row.values.items()
        }
        assert self.judge is not None
        if not trainer.finished and self.judge(
            before + trainer.epoch, values, get_direction_by_metric(trainer)
        ):
            self.pruned = f"after epoch {before + trainer.epoch}"
            trainer.stop = f"pruned: it does not promise enough {self.pruned}"


class InProcessExecutor:
    """Carries out jobs when they are waited for, and shows them as plain runs."""

    def __init__(self, plugins: tuple[str, ...], judge: JobStopRule | None) -> None:
        self.plugins, self.judge = plugins, judge
        self.jobs: list[SweepJob] = []
        self.over: Iterator[JobResult] = iter(())  # how the jobs of now end, one after the other
        self.stopped = 0
        self.fault: UserError | None = None  # what the judge cannot go on with

    @property
    def num_free(self) -> int:
        """How many jobs could begin now."""
        return int(not self.jobs and not self.stopped)

    def submit(self, job: SweepJob, *others: SweepJob) -> None:
        """Take a job, and others that can be trained as one with it."""
        self.jobs = [job, *others]
        self.over = self._run_jobs(self.jobs)

    def wait(self) -> JobResult | None:
        """Run what there is to run, and say how one job ended; None where there is none. Raises what the judge does."""
        ended = next(self.over, None)
        self.jobs = [job for job in self.jobs if ended is not None and job.number != ended.number]
        if self.fault is not None:
            raise self.fault
        if ended is not None and ended.status == "cut":
            self.stopped = ended.code - 128
        return ended

    def _run_jobs(self, jobs: Sequence[SweepJob]) -> Iterator[JobResult]:
        if len(jobs) > 1:
            yield from run_parallel_jobs(jobs, self.plugins)
        else:
            yield run_job(jobs[0], self.plugins, self._get_prune_check(jobs[0].number))

    def _get_prune_check(self, number: int) -> EpochStopRule | None:
        judge = self.judge
        if judge is None:
            return None

        def check_epoch(epoch: int, values: dict[str, float], goals: dict[str, str]) -> bool:
            try:
                return judge(number, epoch, values, goals)
            except UserError as fault:
                self.fault = fault
                return True

        return check_epoch

    @contextmanager
    def session(self) -> Iterator[None]:
        """Inside, the data that several jobs read are read once."""
        from dlrun.data import dataset_cache

        dataset_cache.open_cache()
        try:
            yield
        finally:
            dataset_cache.close_cache()
