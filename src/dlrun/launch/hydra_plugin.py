"""What dlrun's Hydra plugins do: run jobs that Hydra has composed in our processes, and have our studies name jobs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrun.config.compose import settled
from dlrun.config.groups import conf_folder
from dlrun.config.settings import Sweep
from dlrun.config.validation import check
from dlrun.core.errors import Refused
from dlrun.core.measure_names import deciding
from dlrun.sweeps.job import Ended, Job, identity
from dlrun.sweeps.space import Words
from dlrun.sweeps.study import Grid, Outcome, Study

NAMES = {"min": "loss", "max": "value"}  # what a returned number is called: less of a loss is better, more of a value


def settings(**changes: Any) -> Sweep:
    """The settings of conf/sweep/grid.yaml with some of them changed. Raises Refused for one that makes no sense."""
    import yaml

    from dlrun.config.validation import node_faults

    node = yaml.safe_load((conf_folder() / "sweep" / "grid.yaml").read_text(encoding="utf-8"))
    if faults := list(node_faults({**node, **changes}, "sweep", "sweep", ())):
        raise Refused("\n".join(faults).replace("sweep.", "hydra: "))
    return Sweep(**{key: value for key, value in {**node, **changes}.items() if key != "_target_"})


def launched(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
    """Run jobs in dlrun's own processes; answers with Hydra's JobReturn of each. Raises Refused for other configs."""
    from omegaconf import OmegaConf

    from dlrun.sweeps.worker_pool import Pool

    chosen = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in launcher.settings.items()}
    configs = [composed(launcher, words, first + place) for place, words in enumerate(job_overrides)]
    jobs = [job_of(config, list(words)) for config, words in zip(configs, job_overrides, strict=True)]
    folder = Path(str(configs[0].hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    ended: dict[int, Ended] = {}
    pool, waiting = Pool(settings(**chosen), (), folder, None), list(jobs)
    with pool.at_work():
        while len(ended) < len(jobs):
            while waiting and pool.idle:
                pool.start(waiting.pop(0))
            if (one := pool.wait()) is None:
                break
            ended[one.number] = one
    if pool.stopped:
        raise KeyboardInterrupt
    return [returned(config, job, ended[job.number]) for config, job in zip(configs, jobs, strict=True)]


def composed(launcher: Any, words: Sequence[str], number: int) -> Any:
    """The whole config of a job as Hydra composes it."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(words))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    HydraConfig.instance().set_config(config)
    return config


def job_of(config: Any, words: list[str]) -> Job:
    """A job of dlrun from a config that Hydra has composed. Raises Refused where it is no config of dlrun."""
    from omegaconf import OmegaConf, open_dict

    place = Path(str(config.hydra.sweep.dir)).absolute() / str(config.hydra.sweep.subdir)
    number, own = int(config.hydra.job.num), config.copy()
    with open_dict(own):
        del own["hydra"]
    plain: Any = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    if not {"task", "model", "engine"} <= set(plain):
        raise Refused("hydra/launcher=dlrun runs configs of dlrun, and this one has no task, model and engine")
    check(plain, ())
    place.mkdir(parents=True, exist_ok=True)
    job = settled(plain)
    return Job(number, words, words, job, place, identity(job))


def returned(config: Any, job: Job, ended: Ended) -> Any:
    """How a job ended, as Hydra's own launchers say it."""
    from hydra.core.utils import JobReturn, JobStatus

    status = JobStatus.COMPLETED if ended.status == "done" else JobStatus.FAILED
    answer = JobReturn(job.words, config, config.hydra, str(job.folder), "dlrun", status)
    answer.return_value = score(job.folder) if ended.status == "done" else RuntimeError(ended.error)
    return answer


def score(folder: Path) -> float | None:
    """The mean of a run's deciding score; None where it has none."""
    from dlrun.core import run_reader
    from dlrun.report import formatting

    scored = [line["scores"] for line in run_reader.results(folder) if line["split"] != "test"]
    name = deciding(list(scored[0])) if scored else ""
    return formatting.mean_and_deviation(formatting.values(scored, name))[0]


def swept(sweeper: Any, arguments: list[str]) -> list[Any]:
    """Launch what a study names, batch by batch. Raises what the first failed job raised, once all have ended."""
    chosen = dict(sweeper.settings)
    goals, params = list(chosen.pop("goal")), dict(chosen.pop("params") or {})
    names = [f"{NAMES[goal]}_{place}" for place, goal in enumerate(goals)]
    said = {word.partition("=")[0] for word in arguments}
    given = Words([*arguments, *(f"{key}={value}" for key, value in params.items() if key not in said)], [])
    goals_of = dict(zip(names, goals, strict=True))
    how = settings(**chosen, measure=names)
    folder = Path(str(sweeper.config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    study = study_of(given, how, folder)
    answers: list[Any] = []
    for batch in batches(study, how.jobs if how.method != "grid" else None):
        words = [given.job(own) for _, own in batch]
        sweeper.validate_batch_is_legal(words)
        found = list(sweeper.launcher.launch(words, batch[0][0]))
        for (number, _), answer in zip(batch, found, strict=True):
            study.told(number, outcome(answer, goals_of))
        answers += found
    note_best(study, folder)
    for answer in answers:
        answer.return_value  # noqa: B018  (raises what a failed job raised)
    return answers


def study_of(given: Words, how: Sweep, folder: Path) -> Study:
    """What names the jobs."""
    if how.method == "grid":
        return Grid(given.axes, how.zip, how.trials)
    from dlrun.sweeps.optuna_study import search

    return search(given.axes, how, folder)


def batches(study: Study, most: int | None) -> Iterator[list[tuple[int, list[str]]]]:
    """The numbers and the words of jobs that go together: at most so many, and no gap in their numbers."""
    from dlrun.sweeps.optuna_study import Search

    counted, asked = 0, list[tuple[int, list[str]]]()
    while True:
        while (most is None or len(asked) < most) and (own := study.ask()) is not None:
            counted = max(study.running) if isinstance(study, Search) else counted
            asked.append((counted, own))
            counted += 1
        if not asked:
            return
        together = [pair for place, pair in enumerate(asked) if pair[0] == asked[0][0] + place]
        yield together
        asked = asked[len(together) :]


def outcome(answer: Any, goals: Mapping[str, str]) -> Outcome:
    """What a job returned, as a study takes it. goals: the name of each number → its direction."""
    from hydra.core.utils import JobStatus

    if answer.status != JobStatus.COMPLETED:
        return Outcome("failed", reason="it raised an error")
    values = list(answer.return_value) if isinstance(answer.return_value, list | tuple) else [answer.return_value]
    numbers = [float(value) if isinstance(value, int | float) else math.nan for value in values]
    if len(numbers) != len(goals):
        raise Refused(f"a job returned {len(numbers)} numbers, and hydra.sweeper.goal names {len(goals)}")
    return Outcome("done", dict(zip(goals, numbers, strict=True)), goals=dict(goals))


def note_best(study: Study, folder: Path) -> None:
    """Write best.yaml: the trials that no other beats, with their values; a grid compares nothing."""
    from dlrun.sweeps.optuna_study import Search

    if not isinstance(study, Search):
        return
    import yaml

    from dlrun.core.files import write_text

    found = [
        {
            "job": trial.number,
            "words": study.words_of(trial.number),
            "values": [study.sign(name, {}) * value for name, value in zip(study.wanted, trial.values, strict=True)],
        }
        for trial in (study.study.trials[number] for number in study.best())
    ]
    write_text(folder / "best.yaml", yaml.safe_dump(found, sort_keys=False))
