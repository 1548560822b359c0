"""What dlrun's Hydra plugins do: run jobs that Hydra has composed in our processes, and have our studies name jobs."""

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

VALUE_NAMES = {
    "min": "loss",
    "max": "value",
}  # what a returned number is called: less of a loss is better, more of a value


def build_sweep_settings(**changes: Any) -> Sweep:
    """The settings of conf/sweep/grid.yaml with some of them changed. Raises UserError for one that makes no sense."""
    import yaml

    from dlrun.config.validation import find_node_errors

    node = yaml.safe_load((get_builtin_conf() / "sweep" / "grid.yaml").read_text(encoding="utf-8"))
    if faults := list(find_node_errors({**node, **changes}, "sweep", "sweep", ())):
        raise UserError("\n".join(faults).replace("sweep.", "hydra: "))
    return Sweep(**{key: value for key, value in {**node, **changes}.items() if key != "_target_"})


def launch_jobs(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
    """Run jobs in dlrun's own processes; answers with Hydra's JobReturn of each. Raises UserError for other configs."""
    from omegaconf import OmegaConf

    from dlrun.sweeps.worker_pool import WorkerPool

    chosen = {
        key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v
        for key, v in launcher.settings.items()
    }
    configs = [
        compose_job_config(launcher, words, first + place)
        for place, words in enumerate(job_overrides)
    ]
    jobs = [
        create_job(config, list(words))
        for config, words in zip(configs, job_overrides, strict=True)
    ]
    folder = Path(str(configs[0].hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    ended: dict[int, JobResult] = {}
    pool, waiting = WorkerPool(build_sweep_settings(**chosen), (), folder, None), list(jobs)
    with pool.session():
        while len(ended) < len(jobs):
            while waiting and pool.num_free:
                pool.submit(waiting.pop(0))
            if (one := pool.wait()) is None:
                break
            ended[one.number] = one
    if pool.stopped:
        raise KeyboardInterrupt
    return [
        build_job_return(config, job, ended[job.number])
        for config, job in zip(configs, jobs, strict=True)
    ]


def compose_job_config(launcher: Any, words: Sequence[str], number: int) -> Any:
    """The whole config of a job as Hydra composes it."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(words))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    HydraConfig.instance().set_config(config)
    return config


def create_job(config: Any, words: list[str]) -> SweepJob:
    """A job of dlrun from a config that Hydra has composed. Raises UserError where it is no config of dlrun."""
    from omegaconf import OmegaConf, open_dict

    place = Path(str(config.hydra.sweep.dir)).absolute() / str(config.hydra.sweep.subdir)
    number, own = int(config.hydra.job.num), config.copy()
    with open_dict(own):
        del own["hydra"]
    plain: Any = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    if not {"task", "model", "engine"} <= set(plain):
        raise UserError(
            "hydra/launcher=dlrun runs configs of dlrun, and this one has no task, model and engine"
        )
    validate_config(plain, ())
    place.mkdir(parents=True, exist_ok=True)
    job = finalize_config(plain)
    return SweepJob(number, words, words, job, place, compute_identity(job))


def build_job_return(config: Any, job: SweepJob, ended: JobResult) -> Any:
    """How a job ended, as Hydra's own launchers say it."""
    from hydra.core.utils import JobReturn, JobStatus

    status = JobStatus.COMPLETED if ended.status == "done" else JobStatus.FAILED
    answer = JobReturn(job.all_overrides, config, config.hydra, str(job.folder), "dlrun", status)
    answer.return_value = (
        get_deciding_score(job.folder) if ended.status == "done" else RuntimeError(ended.error)
    )
    return answer


def get_deciding_score(folder: Path) -> float | None:
    """The mean of a run's deciding score; None where it has none."""
    from dlrun.core import run_reader
    from dlrun.report import formatting

    scored = [line["scores"] for line in run_reader.read_results(folder) if line["split"] != "test"]
    name = choose_metric(list(scored[0])) if scored else ""
    return formatting.mean_and_std(formatting.get_metric_values(scored, name))[0]


def run_hydra_sweep(sweeper: Any, arguments: list[str]) -> list[Any]:
    """Launch what a study names, batch by batch. Raises what the first failed job raised, once all have ended."""
    chosen = dict(sweeper.settings)
    goals, params = list(chosen.pop("goal")), dict(chosen.pop("params") or {})
    names = [f"{VALUE_NAMES[goal]}_{place}" for place, goal in enumerate(goals)]
    said = {word.partition("=")[0] for word in arguments}
    given = SweepOverrides(
        [*arguments, *(f"{key}={value}" for key, value in params.items() if key not in said)], []
    )
    goals_of = dict(zip(names, goals, strict=True))
    how = build_sweep_settings(**chosen, measure=names)
    folder = Path(str(sweeper.config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    study = create_hydra_study(given, how, folder)
    answers: list[Any] = []
    for batch in iter_job_batches(study, how.jobs if how.method != "grid" else None):
        words = [given.get_job_overrides(own) for _, own in batch]
        sweeper.validate_batch_is_legal(words)
        found = list(sweeper.launcher.launch(words, batch[0][0]))
        for (number, _), answer in zip(batch, found, strict=True):
            study.tell(number, build_outcome(answer, goals_of))
        answers += found
    write_best_jobs(study, folder)
    for answer in answers:
        answer.return_value  # noqa: B018  (raises what a failed job raised)
    return answers


def create_hydra_study(given: SweepOverrides, how: Sweep, folder: Path) -> Study:
    """What names the jobs."""
    if how.method == "grid":
        return GridStudy(given.axes, how.zip, how.trials)
    from dlrun.sweeps.optuna_study import make_search_study

    return make_search_study(given.axes, how, folder)


def iter_job_batches(study: Study, most: int | None) -> Iterator[list[tuple[int, list[str]]]]:
    """The numbers and the words of jobs that go together: at most so many, and no gap in their numbers."""
    from dlrun.sweeps.optuna_study import SearchStudy

    counted, asked = 0, list[tuple[int, list[str]]]()
    while True:
        while (most is None or len(asked) < most) and (own := study.ask()) is not None:
            counted = max(study.running) if isinstance(study, SearchStudy) else counted
            asked.append((counted, own))
            counted += 1
        if not asked:
            return
        together = [pair for place, pair in enumerate(asked) if pair[0] == asked[0][0] + place]
        yield together
        asked = asked[len(together) :]


def build_outcome(answer: Any, goals: Mapping[str, str]) -> Outcome:
    """What a job returned, as a study takes it. goals: the name of each number → its direction."""
    from hydra.core.utils import JobStatus

    if answer.status != JobStatus.COMPLETED:
        return Outcome("failed", reason="it raised an error")
    values = (
        list(answer.return_value)
        if isinstance(answer.return_value, list | tuple)
        else [answer.return_value]
    )
    numbers = [float(value) if isinstance(value, int | float) else math.nan for value in values]
    if len(numbers) != len(goals):
        raise UserError(
            f"a job returned {len(numbers)} numbers, and hydra.sweeper.goal names {len(goals)}"
        )
    return Outcome("done", dict(zip(goals, numbers, strict=True)), goals=dict(goals))


def write_best_jobs(study: Study, folder: Path) -> None:
    """Write best.yaml: the trials that no other beats, with their values; a grid compares nothing."""
    from dlrun.sweeps.optuna_study import SearchStudy

    if not isinstance(study, SearchStudy):
        return
    import yaml

    from dlrun.core.files import write_text

    found = [
        {
            "job": trial.number,
            "words": study.get_overrides(trial.number),
            "values": [
                study.direction_sign(name, {}) * value
                for name, value in zip(study.wanted, trial.values, strict=True)
            ],
        }
        for trial in (study.study.trials[number] for number in study.get_best_jobs())
    ]
    write_text(folder / "best.yaml", yaml.safe_dump(found, sort_keys=False))
