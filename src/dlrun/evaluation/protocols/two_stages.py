"""A fit in two stages: the second begins with the first one's best weights and has other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dlrun.config.instantiate import build, dotted
from dlrun.config.parallel_fits import without_common
from dlrun.core.dataset import Raw
from dlrun.core.types import Job, Result
from dlrun.evaluation.protocols.plans import Plan, Rows, repeated

Settings = dict[str, Any]
FIRST = "head"  # the name of the first stage: what a new head learns while the rest is frozen


@dataclass(frozen=True)
class Stages:
    """What each stage changes: dotted config key → value."""

    first: Settings
    then: Settings


@dataclass(frozen=True)
class Staged:
    """Each fit of a plan, done in two stages on the same rows."""

    plan: Plan
    stages: Stages

    def __call__(self, results: list[Result]) -> Job | None:
        heads = [result.job for result in results if result.job.stage == FIRST]
        whole = [result for result in results if result.job.stage != FIRST]
        if len(heads) > len(whole):
            return replace(heads[-1], stage="fit", patch=self.stages.then, start=heads[-1].name)
        job = self.plan(whole)
        return replace(job, stage=FIRST, patch=self.stages.first) if job else None

    def rows(self, raw: Raw, job: Job, seed: int) -> Rows:
        return self.plan.rows(raw, job, seed)


def stages(*, first: dict[str, Any], then: dict[str, Any]) -> Stages | None:
    """Settings of the first and of the second stage, as in a config; None without any: one stage."""
    return Stages(dotted(first), dotted(then)) if first or then else None


def standing(results: list[Result]) -> list[Result]:
    """Without the fits from which others began: a first stage is a step on the way."""
    passed = {result.job.start for result in results}
    return [result for result in results if result.job.name not in passed]


def plan_of(config: Mapping[str, Any], plugins: tuple[str, ...] = ()) -> Plan:
    """The plan that a config describes: its protocol, repeated and in stages as it says."""
    plan = repeated(protocol_of(config["protocol"], plugins), config["repeat"])
    chosen = build(config["stages"], kind="stages", plugins=plugins)
    return plan if chosen is None else Staged(plan, chosen)


def protocol_of(node: Mapping[str, Any], plugins: tuple[str, ...] = ()) -> Plan:
    """The protocol that a node describes; how its fits are trained (`stacked`) is not its business."""
    plan: Plan = build(without_common(node), kind="protocol", plugins=plugins)
    return plan
