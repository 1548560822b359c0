"""The order of fits: a pure function of what the fits so far have shown; asked again, the same."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dlrun.config.parts import load_builtin_option
from dlrun.config.settings import Workflow
from dlrun.core.dataset import Dataset
from dlrun.core.device import derive_seed
from dlrun.core.errors import UserError
from dlrun.core.types import FitJob, Result
from dlrun.evaluation.protocols.plans import EvaluationPlan, RowSplit
from dlrun.workflow.config_changes import (
    RELATIVE_CHANGES,
    Changes,
    build_patch,
    combine_changes,
    validate_changes,
)

INITIAL_STAGES = ("constant", "linear", "small", "configured")
# Fitted on training and validation rows together: the winner, and a linear model beside it.
FINAL_STAGES = ("final", "final_linear")
# Forecasts that need no model.
SERIES_BASELINES = ("last_value", "same_time_before")
UNTRAINED_STAGES = ("constant", *SERIES_BASELINES, "linear")  # have no epochs; the simplest first
MIN_PATIENCE = 3  # epochs
EARLY_STOPPING_KEY = "callback.early_stopping"
MAX_DRAWS = 50  # tries for a candidate that has not been drawn yet


class StageHistory(Protocol):
    """What the order of stages depends on."""

    def beats_baseline(self, stage: str) -> bool: ...

    def overfits(self, stage: str) -> bool: ...

    def has_started(self, stage: str) -> bool: ...

    def has_failed(self, stage: str) -> bool: ...

    def get_budget_used(self) -> tuple[float, int]:
        """Return the seconds of fitting, and the number of fits."""
        ...

    def get_expected_seconds(self, stage: Stage) -> float:
        """Return the seconds that a stage is likely to take."""
        ...


@dataclass(frozen=True)
class Stage:
    """One candidate.

    Attributes:
        name: The name of the stage.
        changes: What it changes, in the terms of the workflow's settings.
        patch: The same in dotted keys of the config.
    """

    name: str
    changes: Changes
    patch: dict[str, Any]


@dataclass(frozen=True)
class CandidatePlan:
    """The order of stages for one config.

    Attributes:
        config: The config of the workflow.
        settings: Its settings.
        series_baselines: Those of `SERIES_BASELINES` that these data allow.
        constant_answer: Which constant prediction is the best by the metric of success.
    """

    config: dict[str, Any]
    settings: Workflow
    series_baselines: tuple[str, ...] = ()
    constant_answer: str = "prior"

    def __call__(self, history: StageHistory) -> Iterator[Stage]:
        """Yield the stages; the next one is asked for only when the one before is done."""
        yield from self.initial_stages(history)
        if not any(map(history.beats_baseline, INITIAL_STAGES[1:])):
            return
        # More capacity, step by step, until training improves while validation worsens.
        ladder = list(self.build_stages(self.capacity_changes()))
        base = ladder[0]
        for rung in ladder[1:]:
            if history.overfits(base.name) or self.exceeds_budget(history, rung):
                break
            yield rung
            # A network that diverged is no base for further changes.
            base = base if history.has_failed(rung.name) else rung
        # Study and search change the last network of the ladder.
        for stage in self.variants(base):
            if self.exceeds_budget(history, stage):
                return
            yield stage

    def initial_stages(self, history: StageHistory) -> Iterator[Stage]:
        """Yield the baselines, a linear model and a small network, then the configured one."""
        # These are solved, not trained: one epoch, and no callbacks.
        untrained = [
            ("constant", "constant"),
            *((name, name) for name in self.series_baselines),
            ("linear", "linear_solved"),
        ]
        for name, model in untrained:
            node = load_builtin_option("model", model)
            if model == "constant":
                node |= {"answer": self.constant_answer}
            yield Stage(name, {}, {"model": node, "engine.epochs": 1, "callback": {}})
        yield from self.build_stages([("small", self.settings.small)])
        yield Stage("configured", {}, {})

    def build_stages(self, named_changes: list[tuple[str, Changes]]) -> Iterator[Stage]:
        """Yield the stages that this model can make, with their patches.

        Args:
            named_changes: Pairs of name and changes.
        """
        for name, changes in named_changes:
            patch = build_patch(self.config, changes)
            if patch is not None and (patch or not changes):
                yield Stage(name, changes, patch | self._early_stopping_patch(name, patch))

    def variants(self, base: Stage) -> list[Stage]:
        """Return study and search around the network that overfits, each candidate once."""
        stages = list[Stage]()
        patches = [base.patch]
        changes = [*self.single_changes(base.changes), *self.random_changes(base.changes)]
        for stage in self.build_stages(changes):
            # All variants stop early, the base does not: that alone makes no other candidate.
            patch = {key: value for key, value in stage.patch.items() if key != EARLY_STOPPING_KEY}
            if patch not in patches:
                stages.append(stage)
                patches.append(patch)
        return stages

    def _early_stopping_patch(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Return the callback of study and search; earlier stages train to the end, to be seen
        overfit.
        """
        if name in (*INITIAL_STAGES, *SERIES_BASELINES, *self.settings.ladder):
            return {}
        epochs = patch.get("engine.epochs", self.config["engine"]["epochs"])
        patience = max(MIN_PATIENCE, round(self.settings.patience * epochs))
        node = load_builtin_option("callback", "early_stopping")["early_stopping"]
        return {EARLY_STOPPING_KEY: {**node, "patience": patience}}

    def capacity_changes(self) -> list[tuple[str, Changes]]:
        """Return the configured network, then each step of the ladder on top of those before."""
        rungs: list[tuple[str, Changes]] = [("configured", {})]
        for name, change in self.settings.ladder.items():
            combined = combine_changes(rungs[-1][1], change)
            # None where this model has nothing of the kind to change.
            if build_patch(self.config, combined) is not None:
                rungs.append((name, combined))
        return rungs

    def single_changes(self, base: Changes) -> list[tuple[str, Changes]]:
        """Return the changes of the study, one at a time, to the network that overfits."""
        return [
            (name, combine_changes(base, change)) for name, change in self.settings.study.items()
        ]

    def random_changes(self, base: Changes) -> list[tuple[str, Changes]]:
        """Draw different candidates from the search space, the same ones for the same seed."""
        drawn: list[Changes] = []
        for number in range(self.settings.search * MAX_DRAWS):
            # A generator of its own for each draw: a larger search keeps the candidates of a
            # smaller one.
            draw = random.Random(derive_seed(self.config["seed"], number))
            change = {key: draw.choice(values) for key, values in self.settings.space.items()}
            if change not in drawn and len(drawn) < self.settings.search:
                drawn.append(change)
        return [
            (f"search-{number + 1}", combine_changes(base, change))
            for number, change in enumerate(drawn)
        ]

    def exceeds_budget(self, history: StageHistory, stage: Stage) -> bool:
        """Return whether this stage would exceed the budget; one that has begun is within it."""
        if history.has_started(stage.name):
            return False
        seconds, fits = history.get_budget_used()
        kind, limit = parse_budget(self.settings.budget)
        if kind == "fits":
            return fits >= limit
        return seconds >= limit or seconds + history.get_expected_seconds(stage) > limit


@dataclass(frozen=True)
class StagedPlan:
    """A plan in which every stage goes through an inner plan, on the same rows.

    Attributes:
        inner: The plan of one stage, such as its folds.
        stages: Results so far → stages.
    """

    inner: EvaluationPlan
    stages: Callable[[list[Result]], Iterator[Stage]]

    def __call__(self, results: list[Result]) -> FitJob | None:
        for stage in self.stages(results):
            done = [result for result in results if result.job.stage == stage.name]
            job = self.inner(done)
            if job is not None:
                return replace(job, stage=stage.name, patch=stage.patch)
        return None

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return self.inner.split_rows(dataset, job, seed)


def parse_budget(text: str | int) -> tuple[str, float]:
    """Parse a budget: ("seconds", 1200.0) of "20m", ("fits", 12) of 12.

    Raises:
        UserError: For anything else.
    """
    # In Python, True is an int.
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return "fits", text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)", str(text).strip())
    if not match or not float(match[1]):
        raise UserError(
            f"workflow.budget={text}: it must be a time such as 90s, 20m or 2h, or a number of fits"
        )
    return "seconds", float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def check_workflow_settings(config: dict[str, Any], settings: Workflow) -> Workflow:
    """Check the settings of a workflow before anything is trained.

    Args:
        config: The config of the workflow.
        settings: Its settings.

    Returns:
        The same settings.

    Raises:
        UserError: For settings with which the workflow could not be carried out.
    """
    parse_budget(settings.budget)
    if config["engine"]["overfit"]:
        raise UserError(
            "engine.overfit validates on the training rows, and a workflow's verdicts would be "
            "wrong"
        )
    if str(config["scheduler"].get("monitor", "")).startswith("val/"):
        monitor = config["scheduler"]["monitor"]
        raise UserError(
            f"the scheduler watches {monitor}, and the final fit holds no rows out: choose "
            "another scheduler"
        )
    validate_changes("workflow.small", settings.small)
    for group in ("ladder", "study"):
        for name, change in getattr(settings, group).items():
            validate_changes(f"workflow.{group}.{name}", change)
    for key, values in settings.space.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"workflow.space.{key}={values!r}: it must be a list of values to draw from"
            )
        for value in values:
            validate_changes("workflow.space", {key: value})
    _check_stage_names([*INITIAL_STAGES, *SERIES_BASELINES, *settings.ladder, *settings.study])
    return settings


def _check_stage_names(names: list[str]) -> None:
    repeated = [name for name in names if names.count(name) > 1]
    # Names become job names and keys; the reserved ones would be mistaken for something else.
    reserved = ("fit", *FINAL_STAGES, *RELATIVE_CHANGES)
    invalid = [
        name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in reserved
    ]
    if repeated or invalid:
        raise UserError(
            f"workflow: '{(repeated + invalid)[0]}' cannot be the name of a rung or a study: "
            "choose another"
        )
