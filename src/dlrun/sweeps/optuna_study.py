"""The study that Optuna keeps: how the next point is chosen, and what cuts a trial short."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from dlrun.config.settings import Sweep
from dlrun.core import json_text
from dlrun.core.errors import UserError
from dlrun.core.measure_names import COST_NAMES, choose_metric, direction_sign
from dlrun.sweeps.study import (
    Axis,
    Outcome,
    PreviousJob,
    check_metrics,
    get_metric_names,
    is_active,
)


@cache
def import_optuna() -> Any:
    """The package that searches. Raises UserError where it is not installed."""
    try:
        import optuna as package
    except ImportError as error:
        raise UserError(
            "sweep=random, tpe and halving search with Optuna: pip install 'dlrun[sweep]'"
        ) from error
    package.logging.set_verbosity(package.logging.ERROR)
    warnings.filterwarnings("ignore", category=package.exceptions.ExperimentalWarning)
    return package


def make_sampler(settings: Sweep, number: int) -> Any:
    """What chooses the values of trial `number`: a function of the seed, this number, and what came of the others.

    random: every point anew, whatever came of the others (Bergstra and Bengio 2012). tpe: after `startup` random ones
    points like those that did well (Bergstra et al. 2011), all settings modelled as one (Falkner et al. 2018); trials
    that still run count as bad ones meanwhile, so that several at once do not all try the same.
    """
    from numpy.random import SeedSequence

    samplers, seed = (
        import_optuna().samplers,
        int(SeedSequence([settings.seed % 2**64, number]).generate_state(1)[0]),
    )
    if settings.method == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(
        seed=seed, n_startup_trials=settings.startup, multivariate=True, constant_liar=True
    )


def make_pruning_rule(settings: Sweep) -> Any:
    """What says after an epoch whether a trial is cut short.

    halving: of the trials that got to epochs least, least * factor, … the best of every `factor` go on (asynchronous
    successive halving, Li et al. 2020). hyperband: several of these ladders, which begin later and later (Li et al.
    2018). median: what is worse than the median of the earlier trials at the same epoch goes no further, once `startup`
    of them have ended. Raises UserError for a factor that halves nothing.
    """
    pruners, least, factor = import_optuna().pruners, settings.least, settings.factor
    if settings.prune is None:
        return pruners.NopPruner()
    if settings.prune == "median":
        return pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=least)
    if factor < 2:
        raise UserError(
            f"sweep.factor={factor}: it must be 2 at least, for one trial in so many goes on"
        )
    if settings.prune == "hyperband":
        return pruners.HyperbandPruner(min_resource=least, reduction_factor=factor)
    return pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)


SEARCH_LOG = "search.jsonl"


class SearchStudy:
    """A study in which trial k is job k. Opened again on the same folder it goes on, to `settings.trials` in all.

    What a trial is given is a function of the seed, its number, and what came of the others: so a sweep that was cut
    draws the points that it would have drawn, where jobs end in the same order. In the journal less is always better:
    a measure of which more is better stands there with its sign changed.
    """

    def __init__(self, axes: Sequence[Axis], settings: Sweep, folder: Path) -> None:
        """Raises UserError where there is nothing to search, or where the folder holds another search."""
        if not axes:
            raise UserError(
                "there is nothing to search: give some keys several values, such as model=dense,linear"
            )
        if settings.trials is None:
            raise UserError(
                "a search has no end of its own: say how many trials there are to be, sweep.trials=20"
            )
        self.axes, self.settings, self.total = list(axes), settings, settings.trials
        self.wanted = get_metric_names(settings)
        self.supports_pruning = settings.prune is not None
        self.study = self._open_study(folder)
        self.running: dict[int, Any] = {}  # trials that will be told of, by their number
        self.cut = [trial.number for trial in self._get_trials() if not trial.state.is_finished()]

    def restore_jobs(self, earlier: Sequence[PreviousJob]) -> None:
        """Take in jobs of earlier starts. One that was cut keeps its trial, and so its half-done folder.

        Raises UserError where the journal does not know one of them.
        """
        for job in earlier:
            if job.number >= len(self._get_trials()):
                raise UserError(
                    f"{SEARCH_LOG} does not know job {job.number}: it is not the journal of this sweep"
                )
            if job.number in self.cut:
                self.cut.remove(job.number)
                self.running[job.number] = self._get_trial(job.number)
                if self._get_trial_overrides(self.running[job.number]) != job.overrides:
                    raise UserError(
                        f"{SEARCH_LOG} has other words for job {job.number}: it is not the journal of this sweep"
                    )
            if job.outcome is not None:
                self.tell(job.number, job.outcome)

    def ask(self) -> list[str] | None:
        """The words of the next trial; first those that were drawn and never begun. None when all were handed out."""
        number = self.cut.pop(0) if self.cut else len(self._get_trials())
        if number >= self.total:
            return None
        self.running[number] = self._get_trial(number)
        return self._get_trial_overrides(self.running[number])

    def tell(self, number: int, outcome: Outcome) -> None:
        """Note how a job ended. One that failed, or came to no number, counts as a trial and teaches nothing.

        Raises UserError where a finished job did not measure what the sweep is to be decided by.
        """
        if self.running.pop(number, None) is None:
            return
        state = import_optuna().trial.TrialState
        names = self._get_metric_names(outcome.scores) if outcome.status == "done" else []
        values = [
            self.direction_sign(name, outcome.goals) * outcome.scores[name]
            for name in names
            if name in outcome.scores
        ]
        if outcome.status == "pruned":
            self.study.tell(number, state=state.PRUNED)
        elif names and len(values) == len(names) and all(map(math.isfinite, values)):
            self.study.tell(number, values)
        else:
            self.study.tell(number, state=state.FAIL)
        check_metrics(names, list(outcome.scores), "")

    def should_prune(
        self, number: int, epoch: int, values: dict[str, float], goals: dict[str, str]
    ) -> bool:
        """Whether to stop a job after this epoch; what it said of an epoch before it was cut is not asked again."""
        trial = self.running.get(number)
        if (
            trial is None
            or not self.supports_pruning
            or epoch in self._get_trials()[number].intermediate_values
        ):
            return False
        split = "val" if any(name.startswith("val/") for name in values) else "train"
        here = {
            name.removeprefix(f"{split}/"): v
            for name, v in values.items()
            if name.startswith(f"{split}/")
        }
        (name,) = self._get_metric_names(here)
        check_metrics([name], list(here), " after each epoch")
        if not math.isfinite(here[name]):
            return False  # not defined at this epoch: nothing to judge by
        trial.report(self.direction_sign(name, goals) * here[name], epoch)
        return bool(trial.should_prune())

    @property
    def done(self) -> bool:
        """Whether all trials were handed out."""
        return not self.cut and len(self._get_trials()) >= self.total

    def get_best_jobs(self) -> list[int]:
        """The jobs that no other beats: the best one, or where there are several aims the Pareto front."""
        return [trial.number for trial in self.study.best_trials]

    def get_overrides(self, number: int) -> list[str]:
        """The words of a trial that was handed out."""
        return self._get_trial_overrides(self._get_trial(number))

    def _get_trials(self) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False))

    def _get_trial(self, number: int) -> Any:
        """Trial `number` to be given values and reports: a new one, or one that is there."""
        self.study.sampler = make_sampler(self.settings, number)
        there = self._get_trials()
        return (
            self.study.ask()
            if number == len(there)
            else import_optuna().trial.Trial(self.study, there[number]._trial_id)
        )

    def _get_trial_overrides(self, trial: Any) -> list[str]:
        first = [axis for axis in self.axes if not axis.when]
        words = {axis.key: axis.to_override(suggest_value(trial, axis)) for axis in first}
        for axis in self.axes:
            if axis.when and is_active(axis.when, list(words.values())):
                words[axis.key] = axis.to_override(suggest_value(trial, axis))
        return [words[axis.key] for axis in self.axes if axis.key in words]

    def _get_metric_names(self, scores: Mapping[str, float]) -> list[str]:
        """What the trials are judged by: what was asked for, else what the first trial that ended is judged by."""
        if self.wanted:
            return list(self.wanted)
        known = self.study.user_attrs.get("measure")
        if known is None:
            known = choose_metric([name for name in scores if name not in COST_NAMES])
            self.study.set_user_attr("measure", known)
        return [known]

    def direction_sign(self, name: str, goals: Mapping[str, str]) -> int:
        """`sign`, the same for all trials of the journal: one that an older dlrun began goes on as it began."""
        known = self.study.user_attrs.get("goals")
        if known is None:
            begun = any(trial.values or trial.intermediate_values for trial in self._get_trials())
            known = {} if begun else dict(goals)
            self.study.set_user_attr("goals", known)
        return direction_sign(name, known)

    def _open_study(self, folder: Path) -> Any:
        """The study in this folder, new or as it was left."""
        package = import_optuna()
        clean_search_log(folder / SEARCH_LOG)
        backend = package.storages.journal.JournalFileBackend(str(folder / SEARCH_LOG))
        study = package.create_study(
            study_name="sweep",
            storage=package.storages.JournalStorage(backend),
            directions=["minimize"] * max(1, len(self.wanted)),
            pruner=make_pruning_rule(self.settings),
            load_if_exists=True,
        )
        asked = json_text.to_message([[_axis_to_dict(axis) for axis in self.axes], self.wanted])
        if study.user_attrs.get("asked", asked) != asked:
            raise UserError(
                f"{folder} holds a search of other values, or by other measures: choose another folder"
            )
        study.set_user_attr("asked", asked)
        return study


def make_search_study(axes: Sequence[Axis], settings: Sweep, folder: Path) -> SearchStudy:
    """The search that these settings ask for, in this sweep's folder. Raises UserError, also where Optuna is missing."""
    return SearchStudy(axes, settings, folder)


def _axis_to_dict(axis: Axis) -> dict[str, Any]:
    """An axis as the journal knows it; those of an older dlrun do not know `when`."""
    return {name: value for name, value in asdict(axis).items() if name != "when" or value}


def suggest_value(trial: Any, axis: Axis) -> str:
    """The value of an axis in a trial, as a word says it. Only numbers at even distances are known in their order."""
    if axis.is_interval and axis.whole:
        return str(trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log))
    if axis.is_interval:
        return repr(float(trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)))
    if step := find_even_step(axis.values):
        number = trial.suggest_float(
            axis.key, float(axis.values[0]), float(axis.values[-1]), step=step
        )
        return min(axis.values, key=lambda text: abs(float(text) - number))
    return str(trial.suggest_categorical(axis.key, axis.values))


def find_even_step(values: Sequence[str]) -> float | None:
    """How far apart these are, where they are at least three numbers that rise by the same step."""
    try:
        numbers = [float(text) for text in values]
    except ValueError:
        return None
    steps = [
        float(f"{after - before:.12g}") for before, after in zip(numbers, numbers[1:], strict=False)
    ]
    if len(steps) < 2 or not all(
        step > 0 and math.isclose(step, steps[0], rel_tol=1e-6) for step in steps
    ):
        return None
    return steps[0]


def clean_search_log(journal: Path) -> None:
    """Cut off a last line that a kill left unfinished, and free a lock that a killed sweep held."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    content = journal.read_bytes() if journal.exists() else b""
    if content and not content.endswith(b"\n"):
        journal.write_bytes(content[: content.rfind(b"\n") + 1])
