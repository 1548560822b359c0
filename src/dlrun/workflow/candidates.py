"""The order of fits: a pure function of what the fits so far have shown. Asked again, it answers the same."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dlrun.config.groups import load_builtin_option
from dlrun.config.settings import Workflow
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.random import derive_seed
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
FINAL_STAGES = (
    "final",
    "final_linear",
)  # fitted on all rows that are not test rows: the winner, and a linear model beside it
SERIES_BASELINES = ("last_value", "same_time_before")  # answers that a series gives for nothing
UNTRAINED_STAGES = ("constant", *SERIES_BASELINES, "linear")  # have no epochs; the simplest first
MIN_PATIENCE = 3  # epochs
EARLY_STOPPING_KEY = "callback.early_stopping"
MAX_DRAWS = 50  # tries for a candidate that is not there yet


class StageHistory(Protocol):
    """What the order depends on."""

    def beats_baseline(self, stage: str) -> bool: ...

    def overfits(self, stage: str) -> bool: ...

    def has_started(self, stage: str) -> bool: ...

    def has_failed(self, stage: str) -> bool: ...

    def get_budget_used(self) -> tuple[float, int]:
        """Seconds of fitting, and number of fits."""
        ...

    def get_expected_seconds(self, stage: Stage) -> float:
        """The seconds that a stage is likely to take."""
        ...


@dataclass(frozen=True)
class Stage:
    """One candidate: its name, what it changes in words of the workflow, and in keys of the config."""

    name: str
    changes: Changes
    patch: dict[str, Any]


@dataclass(frozen=True)
class CandidatePlan:
    """The order of stages for one config. naive: the models of `SERIES_BASELINES` that these data can be answered with.

    answer: of the constant ones, the one that is best by the measure of success.
    """

    config: dict[str, Any]
    settings: Workflow
    series_baselines: tuple[str, ...] = ()
    constant_answer: str = "prior"

    def __call__(self, seen: StageHistory) -> Iterator[Stage]:
        """The stages, one after the other; it is asked for the next only when the one before is done."""
        yield from self.initial_stages(seen)
        if not any(map(seen.beats_baseline, INITIAL_STAGES[1:])):
            return
        ladder = list(self.build_stages(self.capacity_changes()))
        base = ladder[0]
        for rung in ladder[1:]:
            if seen.overfits(base.name) or self.exceeds_budget(seen, rung):
                break
            yield rung
            base = base if seen.has_failed(rung.name) else rung
        for stage in self.variants(base):
            if self.exceeds_budget(seen, stage):
                return
            yield stage

    def initial_stages(self, seen: StageHistory) -> Iterator[Stage]:
        """The common-sense answers, a linear model, a small network; then the configured one."""
        free = [
            ("constant", "constant"),
            *((name, name) for name in self.series_baselines),
            ("linear", "linear_solved"),
        ]
        for name, model in free:
            node = load_builtin_option("model", model) | (
                {"answer": self.constant_answer} if model == "constant" else {}
            )
            yield Stage(name, {}, {"model": node, "engine.epochs": 1, "callback": {}})
        yield from self.build_stages([("small", self.settings.small)])
        yield Stage("configured", {}, {})

    def build_stages(self, wanted: list[tuple[str, Changes]]) -> Iterator[Stage]:
        """Those that this model can make, with their patches."""
        for name, changes in wanted:
            found = build_patch(self.config, changes)
            if found is not None and (found or not changes):
                yield Stage(name, changes, found | self._early_stopping_patch(name, found))

    def variants(self, base: Stage) -> list[Stage]:
        """Study and search around the network that overfits, each candidate once."""
        found, patches = list[Stage](), [base.patch]
        for stage in self.build_stages(
            [*self.single_changes(base.changes), *self.random_changes(base.changes)]
        ):
            mine = {key: value for key, value in stage.patch.items() if key != EARLY_STOPPING_KEY}
            if mine not in patches:
                found.append(stage)
                patches.append(mine)
        return found

    def _early_stopping_patch(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """Study and search stop early; the first stages and the ladder do not, to be seen whole."""
        if name in (*INITIAL_STAGES, *SERIES_BASELINES, *self.settings.ladder):
            return {}
        epochs = found.get("engine.epochs", self.config["engine"]["epochs"])
        patience = max(MIN_PATIENCE, round(self.settings.patience * epochs))
        node = load_builtin_option("callback", "early_stopping")["early_stopping"]
        return {EARLY_STOPPING_KEY: {**node, "patience": patience}}

    def capacity_changes(self) -> list[tuple[str, Changes]]:
        """The configured network, then each rung on top of those before."""
        rungs: list[tuple[str, Changes]] = [("configured", {})]
        for name, change in self.settings.ladder.items():
            whole = combine_changes(rungs[-1][1], change)
            if (
                build_patch(self.config, whole) is not None
            ):  # else this model has nothing of the kind
                rungs.append((name, whole))
        return rungs

    def single_changes(self, base: Changes) -> list[tuple[str, Changes]]:
        """One change at a time to the network that overfits."""
        return [
            (name, combine_changes(base, change)) for name, change in self.settings.study.items()
        ]

    def random_changes(self, base: Changes) -> list[tuple[str, Changes]]:
        """Different candidates drawn from the space, the same ones for the same seed."""
        found: list[Changes] = []
        for number in range(self.settings.search * MAX_DRAWS):
            draw = random.Random(derive_seed(self.config["seed"], number))
            change = {key: draw.choice(values) for key, values in self.settings.space.items()}
            if change not in found and len(found) < self.settings.search:
                found.append(change)
        return [
            (f"search-{number + 1}", combine_changes(base, change))
            for number, change in enumerate(found)
        ]

    def exceeds_budget(self, seen: StageHistory, stage: Stage) -> bool:
        """Whether this stage would go beyond the budget; one that has begun was within it."""
        if seen.has_started(stage.name):
            return False
        seconds, fits = seen.get_budget_used()
        kind, limit = parse_budget(self.settings.budget)
        return (
            fits >= limit
            if kind == "fits"
            else seconds >= limit or seconds + seen.get_expected_seconds(stage) > limit
        )


@dataclass(frozen=True)
class StagedPlan:
    """A plan in which every stage goes through an inner plan, on the same rows."""

    inner: EvaluationPlan
    stages: Callable[[list[Result]], Iterator[Stage]]

    def __call__(self, results: list[Result]) -> FitJob | None:
        for stage in self.stages(results):
            done = [result for result in results if result.job.stage == stage.name]
            job = self.inner(done)
            if job is not None:
                return replace(job, stage=stage.name, patch=stage.patch)
        return None

    def split_rows(self, raw: Dataset, job: FitJob, seed: int) -> RowSplit:
        return self.inner.split_rows(raw, job, seed)


def parse_budget(text: str | int) -> tuple[str, float]:
    """('seconds', 1200.0) of '20m', ('fits', 12) of 12. Raises UserError for anything else."""
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return "fits", text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)", str(text).strip())
    if not found or not float(found[1]):
        raise UserError(
            f"workflow.budget={text}: it must be a time such as 90s, 20m or 2h, or a number of fits"
        )
    return "seconds", float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def check_workflow_settings(config: dict[str, Any], settings: Workflow) -> Workflow:
    """The settings, looked through before anything is trained. Raises UserError."""
    parse_budget(settings.budget)
    if config["engine"]["overfit"]:
        raise UserError(
            "engine.overfit validates on the training rows, and nothing that a workflow says would be true"
        )
    if str(config["scheduler"].get("monitor", "")).startswith("val/"):
        watched = config["scheduler"]["monitor"]
        raise UserError(
            f"the scheduler watches {watched}, and the final fit holds no rows out: choose another scheduler"
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
    names = [*INITIAL_STAGES, *SERIES_BASELINES, *settings.ladder, *settings.study]
    twice = [name for name in names if names.count(name) > 1]
    strange = [
        name
        for name in names
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name)
        or name in ("fit", *FINAL_STAGES, *RELATIVE_CHANGES)
    ]
    if twice or strange:
        raise UserError(
            f"workflow: '{(twice + strange)[0]}' cannot be the name of a rung or a study: choose another"
        )
    return settings
