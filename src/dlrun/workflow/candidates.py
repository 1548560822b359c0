"""The order of fits: a pure function of what the fits so far have shown. Asked again, it answers the same."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dlrun.config.groups import shipped
from dlrun.config.settings import Workflow
from dlrun.core.dataset import Raw
from dlrun.core.errors import Refused
from dlrun.core.random import mix
from dlrun.core.types import Job, Result
from dlrun.evaluation.protocols.plans import Plan, Rows
from dlrun.workflow.config_changes import RELATIVE, Changes, check, combined, patch

FIRST = ("constant", "linear", "small", "configured")
FINALS = (
    "final",
    "final_linear",
)  # fitted on all rows that are not test rows: the winner, and a linear model beside it
NAIVE = ("last_value", "same_time_before")  # answers that a series gives for nothing
UNTRAINED = ("constant", *NAIVE, "linear")  # have no epochs; the simplest first
LEAST_PATIENCE = 3  # epochs
STOP = "callback.early_stopping"
DRAWS = 50  # tries for a candidate that is not there yet


class Seen(Protocol):
    """What the order depends on."""

    def beats_baseline(self, stage: str) -> bool: ...

    def overfits(self, stage: str) -> bool: ...

    def begun(self, stage: str) -> bool: ...

    def failed(self, stage: str) -> bool: ...

    def spent(self) -> tuple[float, int]:
        """Seconds of fitting, and number of fits."""
        ...

    def expected(self, stage: Stage) -> float:
        """The seconds that a stage is likely to take."""
        ...


@dataclass(frozen=True)
class Stage:
    """One candidate: its name, what it changes in words of the workflow, and in keys of the config."""

    name: str
    changes: Changes
    patch: dict[str, Any]


@dataclass(frozen=True)
class Course:
    """The order of stages for one config. naive: the models of `NAIVE` that these data can be answered with.

    answer: of the constant ones, the one that is best by the measure of success.
    """

    config: dict[str, Any]
    settings: Workflow
    naive: tuple[str, ...] = ()
    answer: str = "prior"

    def __call__(self, seen: Seen) -> Iterator[Stage]:
        """The stages, one after the other; it is asked for the next only when the one before is done."""
        yield from self.first(seen)
        if not any(map(seen.beats_baseline, FIRST[1:])):
            return
        ladder = list(self.stages(self.ladder()))
        base = ladder[0]
        for rung in ladder[1:]:
            if seen.overfits(base.name) or self.over(seen, rung):
                break
            yield rung
            base = base if seen.failed(rung.name) else rung
        for stage in self.variants(base):
            if self.over(seen, stage):
                return
            yield stage

    def first(self, seen: Seen) -> Iterator[Stage]:
        """The common-sense answers, a linear model, a small network; then the configured one."""
        free = [("constant", "constant"), *((name, name) for name in self.naive), ("linear", "linear_solved")]
        for name, model in free:
            node = shipped("model", model) | ({"answer": self.answer} if model == "constant" else {})
            yield Stage(name, {}, {"model": node, "engine.epochs": 1, "callback": {}})
        yield from self.stages([("small", self.settings.small)])
        yield Stage("configured", {}, {})

    def stages(self, wanted: list[tuple[str, Changes]]) -> Iterator[Stage]:
        """Those that this model can make, with their patches."""
        for name, changes in wanted:
            found = patch(self.config, changes)
            if found is not None and (found or not changes):
                yield Stage(name, changes, found | self._stop(name, found))

    def variants(self, base: Stage) -> list[Stage]:
        """Study and search around the network that overfits, each candidate once."""
        found, patches = list[Stage](), [base.patch]
        for stage in self.stages([*self.study(base.changes), *self.search(base.changes)]):
            mine = {key: value for key, value in stage.patch.items() if key != STOP}
            if mine not in patches:
                found.append(stage)
                patches.append(mine)
        return found

    def _stop(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """Study and search stop early; the first stages and the ladder do not, to be seen whole."""
        if name in (*FIRST, *NAIVE, *self.settings.ladder):
            return {}
        epochs = found.get("engine.epochs", self.config["engine"]["epochs"])
        patience = max(LEAST_PATIENCE, round(self.settings.patience * epochs))
        node = shipped("callback", "early_stopping")["early_stopping"]
        return {STOP: {**node, "patience": patience}}

    def ladder(self) -> list[tuple[str, Changes]]:
        """The configured network, then each rung on top of those before."""
        rungs: list[tuple[str, Changes]] = [("configured", {})]
        for name, change in self.settings.ladder.items():
            whole = combined(rungs[-1][1], change)
            if patch(self.config, whole) is not None:  # else this model has nothing of the kind
                rungs.append((name, whole))
        return rungs

    def study(self, base: Changes) -> list[tuple[str, Changes]]:
        """One change at a time to the network that overfits."""
        return [(name, combined(base, change)) for name, change in self.settings.study.items()]

    def search(self, base: Changes) -> list[tuple[str, Changes]]:
        """Different candidates drawn from the space, the same ones for the same seed."""
        found: list[Changes] = []
        for number in range(self.settings.search * DRAWS):
            draw = random.Random(mix(self.config["seed"], number))
            change = {key: draw.choice(values) for key, values in self.settings.space.items()}
            if change not in found and len(found) < self.settings.search:
                found.append(change)
        return [(f"search-{number + 1}", combined(base, change)) for number, change in enumerate(found)]

    def over(self, seen: Seen, stage: Stage) -> bool:
        """Whether this stage would go beyond the budget; one that has begun was within it."""
        if seen.begun(stage.name):
            return False
        seconds, fits = seen.spent()
        kind, limit = budget(self.settings.budget)
        return fits >= limit if kind == "fits" else seconds >= limit or seconds + seen.expected(stage) > limit


@dataclass(frozen=True)
class Staged:
    """A plan in which every stage goes through an inner plan, on the same rows."""

    inner: Plan
    stages: Callable[[list[Result]], Iterator[Stage]]

    def __call__(self, results: list[Result]) -> Job | None:
        for stage in self.stages(results):
            done = [result for result in results if result.job.stage == stage.name]
            job = self.inner(done)
            if job is not None:
                return replace(job, stage=stage.name, patch=stage.patch)
        return None

    def rows(self, raw: Raw, job: Job, seed: int) -> Rows:
        return self.inner.rows(raw, job, seed)


def budget(text: str | int) -> tuple[str, float]:
    """('seconds', 1200.0) of '20m', ('fits', 12) of 12. Raises Refused for anything else."""
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return "fits", text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)", str(text).strip())
    if not found or not float(found[1]):
        raise Refused(f"workflow.budget={text}: it must be a time such as 90s, 20m or 2h, or a number of fits")
    return "seconds", float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def verified(config: dict[str, Any], settings: Workflow) -> Workflow:
    """The settings, looked through before anything is trained. Raises Refused."""
    budget(settings.budget)
    if config["engine"]["overfit"]:
        raise Refused("engine.overfit validates on the training rows, and nothing that a workflow says would be true")
    if str(config["scheduler"].get("monitor", "")).startswith("val/"):
        watched = config["scheduler"]["monitor"]
        raise Refused(f"the scheduler watches {watched}, and the final fit holds no rows out: choose another scheduler")
    check("workflow.small", settings.small)
    for group in ("ladder", "study"):
        for name, change in getattr(settings, group).items():
            check(f"workflow.{group}.{name}", change)
    for key, values in settings.space.items():
        if not isinstance(values, list) or not values:
            raise Refused(f"workflow.space.{key}={values!r}: it must be a list of values to draw from")
        for value in values:
            check("workflow.space", {key: value})
    names = [*FIRST, *NAIVE, *settings.ladder, *settings.study]
    twice = [name for name in names if names.count(name) > 1]
    strange = [
        name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("fit", *FINALS, *RELATIVE)
    ]
    if twice or strange:
        raise Refused(f"workflow: '{(twice + strange)[0]}' cannot be the name of a rung or a study: choose another")
    return settings
