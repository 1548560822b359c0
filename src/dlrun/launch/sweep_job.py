"""Carries out the jobs of a sweep in this process, each in a run folder of its own."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dlrun.core.errors import UserError
from dlrun.sweeps.job import EpochStopRule, Executor, JobResult, JobStopRule, SweepJob

if TYPE_CHECKING:
    from dlrun.core.types import Result
    from dlrun.experiment.parallel_sweep import ParallelOutcome
    from dlrun.training.trainer import Trainer


def run_job(job: SweepJob, plugins: tuple[str, ...], stop_rule: EpochStopRule | None) -> JobResult:
    """Run a job, or resume it, and report how it ended; errors of the job become its result.

    Args:
        job: The job.
        plugins: Packages that the config may instantiate.
        stop_rule: Decides after each epoch whether the job is pruned; None for no pruning.
    """
    from dlrun.launch.local_ranks import check_can_prune
    from dlrun.launch.run_config import execute_run

    began = time.monotonic()
    pruning = PruningCallback(stop_rule)
    results = list["Result"]()
    # A job whose config was refused when it was composed fails without a start.
    error, code = job.fault, 2
    try:
        if not error:
            check_can_prune(job.config, stop_rule is not None)
            write_job_metadata(job)
            code, results = execute_run(job.config, job.folder, plugins, pruning.run_experiment)
            error = {0: "", 3: "the loss became nan or infinite"}.get(code, f"exit code {code}")
    except Exception as crash:
        error, code = describe_job_error(crash)
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        status = "cut"
    elif error:
        status = "failed"
    else:
        status = "pruned" if pruning.pruned else "done"
    return JobResult(
        job.number,
        status,
        error or pruning.pruned,
        code,
        count_trained_parameters(results),
        get_training_seconds(results) or time.monotonic() - began,
    )


def run_parallel_jobs(jobs: Sequence[SweepJob], plugins: tuple[str, ...]) -> Iterator[JobResult]:
    """Run jobs that can be trained as one, each in its own folder.

    Where that is not faster, only the first one is run, and the others are "lost": the scheduler
    runs each of them by itself.

    Args:
        jobs: Jobs whose configs differ only in values that can be stacked.
        plugins: Packages that the configs may instantiate.

    Yields:
        The result of each job.
    """
    if should_run_parallel(jobs, plugins):
        yield from train_parallel_jobs(jobs, plugins)
        return
    for job in jobs[1:]:
        yield JobResult(job.number, "lost")
    yield run_job(jobs[0], plugins, None)


def should_run_parallel(jobs: Sequence[SweepJob], plugins: tuple[str, ...]) -> bool:
    """Return whether these jobs are trained faster as one.

    An error here is not reported: the job that it belongs to meets it again.
    """
    from dlrun.config.settings import parallel_fits_mode
    from dlrun.experiment.parallel_fits.driver import is_worthwhile
    from dlrun.experiment.runner import Experiment

    jobs[0].folder.mkdir(exist_ok=True)
    try:
        experiment = Experiment(jobs[0].config, jobs[0].folder, plugins)
        fits = experiment.get_pending_jobs()
        insists = parallel_fits_mode(jobs[0].config) is True
        return bool(fits) and (
            insists
            or is_worthwhile(experiment.builder.build_fit(fits[0]).trainer, len(fits) * len(jobs))
        )
    except Exception:
        return False


def train_parallel_jobs(jobs: Sequence[SweepJob], plugins: tuple[str, ...]) -> list[JobResult]:
    """Train jobs as one, and return the result of each.

    An error of all of them at once is the fault of none, and they are "lost".
    """
    from dlrun.core.errors import TrainingInterrupted
    from dlrun.launch.run_config import record_test_evaluations

    began = time.monotonic()
    try:
        with log_to_jobs(jobs) as display:
            outcomes = collect_job_results(jobs, plugins, display)
    except TrainingInterrupted as stop:
        return [JobResult(job.number, "cut", code=128 + stop.number) for job in jobs]
    except Exception:  # logged with its traceback
        return [JobResult(job.number, "lost") for job in jobs]
    seconds = (time.monotonic() - began) / len(jobs)
    job_results = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome.error is None:
            record_test_evaluations(job.config, job.folder)
        error, code = describe_job_error(outcome.error)
        job_seconds = get_training_seconds(outcome.results) or seconds
        job_results.append(
            JobResult(
                job.number,
                "failed" if error else "done",
                error,
                code,
                count_trained_parameters(outcome.results),
                job_seconds,
            )
        )
    return job_results


def collect_job_results(
    jobs: Sequence[SweepJob], plugins: tuple[str, ...], display: Any
) -> list[ParallelOutcome]:
    """Train jobs as one, each with its folder locked."""
    from dlrun.core.run_reader import lock_folder
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
    """Inside, everything that is logged goes to the terminal and to the log of each job.

    Yields:
        The display of progress.
    """
    from dlrun.launch.progress import ProgressDisplay, RecordingConsole
    from dlrun.launch.run_log import log_to_folder, make_log_handler

    for job in jobs:
        job.folder.mkdir(exist_ok=True)
    console = RecordingConsole()
    logger = logging.getLogger("dlrun")
    # The handler of the first job comes with log_to_folder.
    handlers = [make_log_handler(job.folder) for job in jobs[1:]]
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
    """Return why a job failed, and its exit code."""
    from dlrun.core.errors import TrainingDiverged

    if error is None:
        return "", 0
    if isinstance(error, TrainingDiverged):
        return "the loss became nan or infinite", 3
    if isinstance(error, UserError):
        return str(error), 2
    return f"{type(error).__name__}: {error}", 1


def count_trained_parameters(results: Sequence[Result]) -> int:
    """Return the number of parameters of the largest fit."""
    return max((result.parameters for result in results), default=0)


def get_training_seconds(results: Sequence[Result]) -> float:
    """Return the seconds of training, without starting a worker and reading the data."""
    return sum(result.seconds for result in results if result.split != "test")


def write_job_metadata(job: SweepJob) -> None:
    """Store what the job was asked for, unless an earlier start has."""
    from dlrun.core.run_folder import RunFile, RunFolder

    run = RunFolder(job.folder)
    if run.exists(RunFile.CONFIG):
        return
    environment = {
        **get_cached_environment(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    run.write_request(job.config, job.all_overrides, environment)


@lru_cache(maxsize=1)
def get_cached_environment() -> dict[str, Any]:
    """Collect the environment once a sweep: asking git takes longer than many a job."""
    from dlrun.core.environment import collect_environment

    return collect_environment()


class PruningCallback:
    """Asks a stop rule after each epoch, and ends the job where it says so.

    Attributes:
        stop_rule: The rule; None for no pruning.
        pruned: After which epoch the job was pruned; "" where it was not.
    """

    def __init__(self, stop_rule: EpochStopRule | None) -> None:
        self.stop_rule, self.pruned = stop_rule, ""

    def run_experiment(self, experiment: Any, watch: Any) -> list[Any]:
        """Run an experiment, up to the fit in which it is pruned.

        Args:
            experiment: The experiment.
            watch: Shows the progress of each fit.
        """

        @contextmanager
        def watch_pruning(trainer: Trainer, *arguments: Any) -> Iterator[None]:
            epochs_before = sum(result.epochs for result in experiment.get_fit_results())
            if self.stop_rule is not None:
                trainer.callbacks.append(lambda trainer: self._should_prune(trainer, epochs_before))
            with watch(trainer, *arguments):
                yield

        results: list[Any] = experiment.results(watch_pruning, enough=lambda: bool(self.pruned))
        return results

    def _should_prune(self, trainer: Trainer, epochs_before: int) -> None:
        from dlrun.training.monitors import get_direction_by_metric

        rows = [row for row in trainer.history if row.epoch == trainer.epoch]
        values = {
            f"{row.split}/{name}": value for row in rows for name, value in row.values.items()
        }
        assert self.stop_rule is not None
        # Epochs are counted over the fits of a job, so that folds do not start again at 1.
        epoch = epochs_before + trainer.epoch
        directions = get_direction_by_metric(trainer)
        if not trainer.finished and self.stop_rule(epoch, values, directions):
            self.pruned = f"after epoch {epoch}"
            trainer.stop = f"pruned: it does not promise enough {self.pruned}"


class InProcessExecutor(Executor):
    """Runs jobs in this process when they are waited for.

    Attributes:
        plugins: Packages that the configs may instantiate.
        stop_rule: Decides after each epoch whether a job is pruned; None for no pruning.
        jobs: Jobs that have been submitted and have not ended.
        job_results: Yields the results of these jobs.
        stopped: The signal that ended a job; 0 for none.
        stop_rule_error: An error of the stop rule, with which the sweep cannot go on.
    """

    def __init__(self, plugins: tuple[str, ...], stop_rule: JobStopRule | None) -> None:
        self.plugins, self.stop_rule = plugins, stop_rule
        self.jobs: list[SweepJob] = []
        self.job_results: Iterator[JobResult] = iter(())
        self.stopped = 0
        self.stop_rule_error: UserError | None = None

    @property
    def num_free(self) -> int:
        """How many jobs could begin now."""
        return int(not self.jobs and not self.stopped)

    def submit(self, job: SweepJob, *companions: SweepJob) -> None:
        """Take a job, and companions that can be trained as one with it."""
        self.jobs = [job, *companions]
        self.job_results = self._run_jobs(self.jobs)

    def wait(self) -> JobResult | None:
        """Run what was submitted, and return the result of one job.

        Returns:
            The result; None where there is no job.

        Raises:
            UserError: An error of the stop rule.
        """
        result = next(self.job_results, None)
        self.jobs = [job for job in self.jobs if result is not None and job.number != result.number]
        if self.stop_rule_error is not None:
            raise self.stop_rule_error
        if result is not None and result.status == "cut":
            self.stopped = result.code - 128
        return result

    def _run_jobs(self, jobs: Sequence[SweepJob]) -> Iterator[JobResult]:
        if len(jobs) > 1:
            yield from run_parallel_jobs(jobs, self.plugins)
        else:
            yield run_job(jobs[0], self.plugins, self._get_prune_check(jobs[0].number))

    def _get_prune_check(self, number: int) -> EpochStopRule | None:
        stop_rule = self.stop_rule
        if stop_rule is None:
            return None

        def check_epoch(epoch: int, values: dict[str, float], goals: dict[str, str]) -> bool:
            try:
                return stop_rule(number, epoch, values, goals)
            except UserError as error:
                # The trainer must end in order first; `wait` raises the error then.
                self.stop_rule_error = error
                return True

        return check_epoch

    @contextmanager
    def session(self) -> Iterator[None]:
        """Inside, data that several jobs read are read once."""
        from dlrun.data import cache

        # A sweep that was run before in this process may have had another commit.
        get_cached_environment.cache_clear()
        cache.open_cache()
        try:
            yield
        finally:
            cache.close_cache()
