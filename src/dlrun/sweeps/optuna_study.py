"""The study that Optuna keeps: how the next point is chosen, and which trials are pruned."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from dlrun.config.settings import Sweep
from dlrun.core import files
from dlrun.core.errors import UserError
from dlrun.core.formatting import COST_NAMES, choose_metric, direction_sign
from dlrun.core.renamed_parts import to_original_override
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
    """Import Optuna and silence it.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna as package
    except ImportError as error:
        raise UserError(
            "sweep=random, tpe and halving search with Optuna: pip install 'dlrun[sweep]'"
        ) from error
    # Optuna logs every trial, which the table shows already.
    package.logging.set_verbosity(package.logging.ERROR)
    warnings.filterwarnings("ignore", category=package.exceptions.ExperimentalWarning)
    return package


def make_sampler(settings: Sweep, number: int) -> Any:
    """The sampler for one trial: a function of the seed, its number and earlier outcomes.

    Args:
        settings: `method` random draws every point independently (Bergstra and Bengio 2012);
            tpe draws points like good ones after `startup` random ones (Bergstra et al. 2011), all
            settings modeled jointly (Falkner et al. 2018). Running trials count as bad ones
            meanwhile, so that workers do not all try the same.
        number: The trial.
    """
    from numpy.random import SeedSequence

    # A sampler per trial: a sweep that was cut draws the points that it would have drawn.
    samplers = import_optuna().samplers
    seed = int(SeedSequence([settings.seed % 2**64, number]).generate_state(1)[0])
    if settings.method == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(
        seed=seed, n_startup_trials=settings.startup, multivariate=True, constant_liar=True
    )


def make_pruning_rule(settings: Sweep) -> Any:
    """The rule that stops a bad trial after an epoch.

    Args:
        settings: `prune` halving keeps the best 1 / factor of the trials that reached epochs least,
            least × factor, … (asynchronous successive halving, Li et al. 2020); hyperband runs
            several such brackets with later and later first decisions (Li et al. 2018); median
            stops what is worse than the median of earlier trials at the same epoch, once `startup`
            of them have ended.

    Raises:
        UserError: The factor keeps everything.
    """
    pruners, least, factor = import_optuna().pruners, settings.least, settings.factor
    if settings.prune is None:
        return pruners.NopPruner()
    if settings.prune == "median":
        return pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=least)
    if factor < 2:
        raise UserError(
            f"sweep.factor={factor}: expected 2 or more, for one trial in so many goes on"
        )
    if settings.prune == "hyperband":
        return pruners.HyperbandPruner(min_resource=least, reduction_factor=factor)
    return pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)


def suggest_value(trial: Any, axis: Axis) -> str:
    """Draw the value of an axis.

    Args:
        trial: Optuna's trial.
        axis: An interval, or a list. A list of evenly spaced numbers is drawn as numbers, so that
            the sampler knows their order; any other as categories.

    Returns:
        The value as an override's text.
    """
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
    """The distance between numbers.

    Returns:
        None where they are fewer than three numbers, or not evenly spaced and rising.
    """
    try:
        numbers = [float(text) for text in values]
    except ValueError:
        return None
    # 12 digits: the difference of 0.3 and 0.2 is 0.1.
    steps = [float(f"{high - low:.12g}") for low, high in pairwise(numbers)]
    is_even = all(step > 0 and math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)
    return steps[0] if len(steps) >= 2 and is_even else None


SEARCH_LOG = "search.jsonl"


class SearchStudy:
    """A study in which trial k is job k.

    Opened again on the same folder it goes on, to `settings.trials` in all. What a trial is given
    is a function of the seed, its number and the outcomes so far: a sweep that was cut draws the
    points that it would have drawn, where jobs end in the same order. The journal minimizes: a
    metric of which more is better stands in it with its sign changed.

    Attributes:
        axes: What varies.
        settings: The sweep's.
        total: Number of trials.
        wanted: Deciding metrics; empty until the first finished job has chosen.
        supports_pruning: Whether workers have to ask after each epoch.
        study: Optuna's.
        running: Trials without an outcome, by number.
        cut: Numbers of trials that were drawn by an earlier start and not finished.
    """

    def __init__(self, axes: Sequence[Axis], settings: Sweep, folder: Path) -> None:
        """Open the study of a sweep's folder.

        Raises:
            UserError: Nothing varies, the number of trials is missing, or the folder holds another
                search.
        """
        if not axes:
            raise UserError(
                "there is nothing to search: "
                "give some keys several values, such as model=dense,linear"
            )
        if settings.trials is None:
            raise UserError(
                "a search has no end of its own: "
                "say how many trials there are to be, sweep.trials=20"
            )
        self.axes, self.settings, self.total = list(axes), settings, settings.trials
        self.wanted = get_metric_names(settings)
        self.supports_pruning = settings.prune is not None
        self.study = self._open_study(folder)
        self.running: dict[int, Any] = {}
        self.cut = [trial.number for trial in self._get_trials() if not trial.state.is_finished()]

    def restore_jobs(self, earlier: Sequence[PreviousJob]) -> None:
        """Take in jobs of earlier starts. A job that was cut keeps its trial, and so its folder.

        Raises:
            UserError: The journal does not know one of them.
        """
        for job in earlier:
            if job.number >= len(self._get_trials()):
                raise UserError(
                    f"{SEARCH_LOG} does not know job {job.number}: "
                    "it is not the journal of this sweep"
                )
            if job.number in self.cut:
                self.cut.remove(job.number)
                self.running[job.number] = self._get_trial(job.number)
                if self._get_trial_overrides(self.running[job.number]) != job.overrides:
                    raise UserError(
                        f"{SEARCH_LOG} has other words for job {job.number}: "
                        "it is not the journal of this sweep"
                    )
            if job.outcome is not None:
                self.tell(job.number, job.outcome)

    def ask(self) -> list[str] | None:
        """The overrides of the next trial, drawn but unstarted ones first; None at the end."""
        number = self.cut.pop(0) if self.cut else len(self._get_trials())
        if number >= self.total:
            return None
        self.running[number] = self._get_trial(number)
        return self._get_trial_overrides(self.running[number])

    def tell(self, number: int, outcome: Outcome) -> None:
        """Record how a job ended. A failed one counts as a trial and teaches nothing.

        Raises:
            UserError: A finished job did not measure the deciding metrics.
        """
        # Told twice, as after a restart: the journal has it.
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
        # Last: the journal has the outcome already, and a restart goes on from it.
        check_metrics(names, list(outcome.scores), "")

    def should_prune(
        self, number: int, epoch: int, values: dict[str, float], goals: dict[str, str]
    ) -> bool:
        """Whether to stop a job after this epoch.

        An epoch that the job reported before it was cut is not judged again.
        """
        trial = self.running.get(number)
        if (
            trial is None
            or not self.supports_pruning
            or epoch in self._get_trials()[number].intermediate_values
        ):
            return False
        # Fits without validation rows have training scores alone.
        prefix = "val/" if any(name.startswith("val/") for name in values) else "train/"
        scores = {
            name.removeprefix(prefix): value
            for name, value in values.items()
            if name.startswith(prefix)
        }
        (name,) = self._get_metric_names(scores)
        check_metrics([name], list(scores), " after each epoch")
        if not math.isfinite(scores[name]):
            return False  # not defined at this epoch: nothing to judge by
        trial.report(self.direction_sign(name, goals) * scores[name], epoch)
        return bool(trial.should_prune())

    @property
    def done(self) -> bool:
        """Whether all trials were handed out."""
        return not self.cut and len(self._get_trials()) >= self.total

    def get_best_jobs(self) -> list[int]:
        """The best job; with several metrics the Pareto front."""
        return [trial.number for trial in self.study.best_trials]

    def get_overrides(self, number: int) -> list[str]:
        """The overrides of a trial that was handed out."""
        return self._get_trial_overrides(self._get_trial(number))

    def _get_trials(self) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False))

    def _get_trial(self, number: int) -> Any:
        """Trial `number`, new or existing, ready for values and reports."""
        self.study.sampler = make_sampler(self.settings, number)
        trials = self._get_trials()
        if number == len(trials):
            return self.study.ask()
        # Optuna hands out a trial once; of an earlier process it is opened by its private id.
        return import_optuna().trial.Trial(self.study, trials[number]._trial_id)

    def _get_trial_overrides(self, trial: Any) -> list[str]:
        # Choices come first: whether a conditional axis is drawn depends on them.
        first = [axis for axis in self.axes if not axis.when]
        words = {axis.key: _suggest_override(trial, axis) for axis in first}
        for axis in self.axes:
            if axis.when and is_active(axis.when, list(words.values())):
                words[axis.key] = _suggest_override(trial, axis)
        return [words[axis.key] for axis in self.axes if axis.key in words]

    def _get_metric_names(self, scores: Mapping[str, float]) -> list[str]:
        """The deciding metrics: as configured, else chosen by the first finished trial."""
        if self.wanted:
            return list(self.wanted)
        metric = self.study.user_attrs.get("measure")
        if metric is None:
            metric = choose_metric([name for name in scores if name not in COST_NAMES])
            self.study.set_user_attr("measure", metric)
        return [metric]

    def direction_sign(self, name: str, goals: Mapping[str, str]) -> int:
        """The sign of a metric in the journal, the same for all of its trials.

        A journal that an older dlrun began, without recorded directions, goes on as it began.
        """
        recorded = self.study.user_attrs.get("goals")
        if recorded is None:
            has_values = any(
                trial.values or trial.intermediate_values for trial in self._get_trials()
            )
            recorded = {} if has_values else dict(goals)
            self.study.set_user_attr("goals", recorded)
        return direction_sign(name, recorded)

    def _open_study(self, folder: Path) -> Any:
        """The study in this folder, new or as it was left."""
        package = import_optuna()
        # Optuna would stop at half a line, and wait for the lock of a process that is gone.
        clean_search_log(folder / SEARCH_LOG)
        backend = package.storages.journal.JournalFileBackend(str(folder / SEARCH_LOG))
        study = package.create_study(
            study_name="sweep",
            storage=package.storages.JournalStorage(backend),
            directions=["minimize"] * max(1, len(self.wanted)),
            pruner=make_pruning_rule(self.settings),
            load_if_exists=True,
        )
        # Trials of other axes would mislead the sampler.
        question = files.to_message(
            [[_axis_to_dict(_to_original_axis(axis)) for axis in self.axes], self.wanted]
        )
        if study.user_attrs.get("asked", question) != question:
            raise UserError(
                f"{folder} holds a search of other values, or by other measures: "
                "choose another folder"
            )
        study.set_user_attr("asked", question)
        return study


def make_search_study(axes: Sequence[Axis], settings: Sweep, folder: Path) -> SearchStudy:
    """The search of these settings, in this sweep's folder.

    Raises:
        UserError: The settings make no search, or Optuna is missing.
    """
    return SearchStudy(axes, settings, folder)


def _suggest_override(trial: Any, axis: Axis) -> str:
    """The override that a trial draws. In the journal axes have the names that they had first."""
    original = _to_original_axis(axis)
    text = suggest_value(trial, original)
    return axis.to_override(axis.values[original.values.index(text)] if axis.values else text)


def _to_original_axis(axis: Axis) -> Axis:
    key, values = _to_original_choices(axis.key, axis.values)
    return replace(
        axis, key=key, values=values, when=axis.when and _to_original_choices(*axis.when)
    )


def _to_original_choices(key: str, values: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    overrides = [to_original_override(f"{key}={value}").partition("=") for value in values]
    first_key = to_original_override(f"{key}=0").partition("=")[0]
    return first_key, tuple(value for _, _, value in overrides)


def _axis_to_dict(axis: Axis) -> dict[str, Any]:
    """An axis in the journal; those of an older dlrun have no `when`."""
    return {name: value for name, value in asdict(axis).items() if name != "when" or value}


def clean_search_log(journal: Path) -> None:
    """Remove a last line that a kill cut short, and the lock of a killed sweep."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    content = journal.read_bytes() if journal.exists() else b""
    if content and not content.endswith(b"\n"):
        journal.write_bytes(content[: content.rfind(b"\n") + 1])
