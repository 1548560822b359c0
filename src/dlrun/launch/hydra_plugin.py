"""Behind dlrun's Hydra plugins: runs jobs that Hydra composed, and lets our studies name jobs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrun.config.compose import finalize_config
from dlrun.config.groups import get_builtin_conf
from dlrun.config.settings import Sweep
from dlrun.config.validation import validate_config
from dlrun.core.errors import UserError
from dlrun.core.measure_names import choose_metric
from dlrun.sweeps.job import JobResult, SweepJob, compute_identity
from dlrun.sweeps.space import SweepOverrides
from dlrun.sweeps.study import GridStudy, Outcome, Study

# The name of a returned number, by its goal: a study reads the direction from the name.
VALUE_NAMES = {"min": "loss", "max": "value"}


def build_sweep_settings(**changes: Any) -> Sweep:
    """Return the settings of conf/sweep/grid.yaml with some of them changed.

    Args:
        changes: Values by the names of the fields of `Sweep`.

    Raises:
        UserError: For values that the settings do not accept.
    """
    import yaml

    from dlrun.config.validation import find_node_errors

    file = get_builtin_conf() / "sweep" / "grid.yaml"
    defaults = yaml.safe_load(file.read_text(encoding="utf-8"))
    node = {**defaults, **changes}
    if errors := list(find_node_errors(node, "sweep", "sweep", ())):
        raise UserError("\n".join(errors).replace("sweep.", "hydra: "))
    return Sweep(**{key: value for key, value in node.items() if key != "_target_"})


def launch_jobs(
    launcher: Any, job_overrides: Sequence[Sequence[str]], first_number: int
) -> list[Any]:
    """Run jobs in dlrun's own worker processes.

    Args:
        launcher: The plugin, with its settings and Hydra's context.
        job_overrides: The overrides of each job.
        first_number: Hydra's number of the first job.

    Returns:
        Hydra's `JobReturn` of each job.

    Raises:
        UserError: For a config that is not one of dlrun's.
        KeyboardInterrupt: Where a signal stopped the jobs.
    """
    from omegaconf import OmegaConf

    from dlrun.sweeps.worker_pool import WorkerPool

    settings = {
        key: OmegaConf.to_container(setting) if OmegaConf.is_config(setting) else setting
        for key, setting in launcher.settings.items()
    }
    configs = [
        compose_job_config(launcher, words, first_number + index)
        for index, words in enumerate(job_overrides)
    ]
    jobs = [
        create_job(config, list(words))
        for config, words in zip(configs, job_overrides, strict=True)
    ]
    folder = Path(str(configs[0].hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[int, JobResult] = {}
    pending = list(jobs)
    pool = WorkerPool(build_sweep_settings(**settings), (), folder, None)
    with pool.session():
        while len(results) < len(jobs):
            while pending and pool.num_free:
                pool.submit(pending.pop(0))
            if (result := pool.wait()) is None:
                break
            results[result.number] = result
    if pool.stopped:
        raise KeyboardInterrupt
    return [
        build_job_return(config, job, results[job.number])
        for config, job in zip(configs, jobs, strict=True)
    ]


def compose_job_config(launcher: Any, words: Sequence[str], number: int) -> Any:
    """Let Hydra compose the complete config of a job."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(words))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    # Interpolations such as ${hydra:job.num} are resolved from Hydra's global config.
    HydraConfig.instance().set_config(config)
    return config


def create_job(config: Any, words: list[str]) -> SweepJob:
    """Make a job of a sweep from a config that Hydra has composed.

    Args:
        config: The config, with Hydra's own node.
        words: The overrides of the job.

    Raises:
        UserError: Where it is not a config of dlrun.
    """
    from omegaconf import OmegaConf, open_dict

    folder = Path(str(config.hydra.sweep.dir)).absolute() / str(config.hydra.sweep.subdir)
    number = int(config.hydra.job.num)
    # The run's config.yaml holds dlrun's keys alone.
    job_config = config.copy()
    with open_dict(job_config):
        del job_config["hydra"]
    plain: Any = OmegaConf.to_container(job_config, resolve=True, throw_on_missing=True)
    if not {"task", "model", "engine"} <= set(plain):
        raise UserError(
            "hydra/launcher=dlrun runs configs of dlrun, and this one has no task, model and engine"
        )
    validate_config(plain, ())
    folder.mkdir(parents=True, exist_ok=True)
    job = finalize_config(plain)
    return SweepJob(number, words, words, job, folder, compute_identity(job))


def build_job_return(config: Any, job: SweepJob, result: JobResult) -> Any:
    """Describe how a job ended, as Hydra's own launchers do."""
    from hydra.core.utils import JobReturn, JobStatus

    status = JobStatus.COMPLETED if result.status == "done" else JobStatus.FAILED
    job_return = JobReturn(
        job.all_overrides, config, config.hydra, str(job.folder), "dlrun", status
    )
    job_return.return_value = (
        get_deciding_score(job.folder) if result.status == "done" else RuntimeError(result.error)
    )
    return job_return


def get_deciding_score(folder: Path) -> float | None:
    """Return the mean of the score by which a run is judged; None where it has none."""
    from dlrun.core import run_reader
    from dlrun.report import formatting

    scored = [line["scores"] for line in run_reader.read_results(folder) if line["split"] != "test"]
    name = choose_metric(list(scored[0])) if scored else ""
    return formatting.mean_and_std(formatting.get_metric_values(scored, name))[0]


def run_hydra_sweep(sweeper: Any, arguments: list[str]) -> list[Any]:
    """Launch the jobs that a study names, batch by batch.

    Args:
        sweeper: The plugin, with its settings, config and launcher.
        arguments: The overrides of the command line.

    Returns:
        Hydra's `JobReturn` of each job. Where a job failed, its error is raised once all have
        ended.
    """
    options = dict(sweeper.settings)
    goals = list(options.pop("goal"))
    params = dict(options.pop("params") or {})
    names = [f"{VALUE_NAMES[goal]}_{index}" for index, goal in enumerate(goals)]
    overridden = {word.partition("=")[0] for word in arguments}
    # The command line beats hydra.sweeper.params, as in Hydra's own sweeper.
    defaults = [f"{key}={value}" for key, value in params.items() if key not in overridden]
    overrides = SweepOverrides([*arguments, *defaults], [])
    goal_by_name = dict(zip(names, goals, strict=True))
    settings = build_sweep_settings(**options, measure=names)
    folder = Path(str(sweeper.config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    study = create_hydra_study(overrides, settings, folder)
    returns: list[Any] = []
    for batch in iter_job_batches(study, settings.jobs if settings.method != "grid" else None):
        words = [overrides.get_job_overrides(trial) for _, trial in batch]
        sweeper.validate_batch_is_legal(words)
        batch_returns = list(sweeper.launcher.launch(words, batch[0][0]))
        for (number, _), job_return in zip(batch, batch_returns, strict=True):
            study.tell(number, build_outcome(job_return, goal_by_name))
        returns += batch_returns
    write_best_jobs(study, folder)
    for job_return in returns:
        # Reading the value raises the error of a failed job.
        job_return.return_value  # noqa: B018
    return returns


def create_hydra_study(overrides: SweepOverrides, settings: Sweep, folder: Path) -> Study:
    """Create the study that names the jobs."""
    if settings.method == "grid":
        return GridStudy(overrides.axes, settings.zip, settings.trials)
    from dlrun.sweeps.optuna_study import make_search_study

    return make_search_study(overrides.axes, settings, folder)


def iter_job_batches(study: Study, max_size: int | None) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield jobs that are launched together.

    Args:
        study: Names the overrides of one job after the other.
        max_size: The largest batch; None for no limit.

    Yields:
        Pairs of number and overrides, without a gap in the numbers.
    """
    from dlrun.sweeps.optuna_study import SearchStudy

    next_number = 0
    pending = list[tuple[int, list[str]]]()
    while True:
        while (max_size is None or len(pending) < max_size) and (
            overrides := study.ask()
        ) is not None:
            # A search that goes on counts from the trials of its journal.
            if isinstance(study, SearchStudy):
                next_number = max(study.running)
            pending.append((next_number, overrides))
            next_number += 1
        if not pending:
            return
        # Hydra counts the jobs of a batch upward from its first.
        first = pending[0][0]
        batch = [pair for offset, pair in enumerate(pending) if pair[0] == first + offset]
        yield batch
        pending = pending[len(batch) :]


def build_outcome(job_return: Any, goals: Mapping[str, str]) -> Outcome:
    """Turn what a job returned into what a study takes.

    Args:
        job_return: Hydra's `JobReturn`.
        goals: The name of each returned number → "min" or "max".

    Raises:
        UserError: Where a job returned another number of values than there are goals.
    """
    from hydra.core.utils import JobStatus

    if job_return.status != JobStatus.COMPLETED:
        return Outcome("failed", reason="it raised an error")
    value = job_return.return_value
    values = list(value) if isinstance(value, list | tuple) else [value]
    numbers = [float(value) if isinstance(value, int | float) else math.nan for value in values]
    if len(numbers) != len(goals):
        raise UserError(
            f"a job returned {len(numbers)} numbers, and hydra.sweeper.goal names {len(goals)}"
        )
    return Outcome("done", dict(zip(goals, numbers, strict=True)), goals=dict(goals))


def write_best_jobs(study: Study, folder: Path) -> None:
    """Write best.yaml: the trials that no other one beats; a grid ranks nothing."""
    from dlrun.sweeps.optuna_study import SearchStudy

    if not isinstance(study, SearchStudy):
        return
    import yaml

    from dlrun.core.files import write_text

    best = []
    for number in study.get_best_jobs():
        trial = study.study.trials[number]
        # The study maximizes everything; the sign turns a loss back.
        values = [
            study.direction_sign(name, {}) * value
            for name, value in zip(study.wanted, trial.values, strict=True)
        ]
        overrides = study.get_overrides(trial.number)
        best.append({"job": trial.number, "words": overrides, "values": values})
    write_text(folder / "best.yaml", yaml.safe_dump(best, sort_keys=False))
