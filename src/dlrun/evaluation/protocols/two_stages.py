"""A fit in two stages: the second starts from the first one's best weights, with other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dlrun.config.instantiate import build_part, to_dotted_keys
from dlrun.config.settings import remove_common_settings
from dlrun.core.dataset import Dataset
from dlrun.core.types import FitJob, Result
from dlrun.evaluation.protocols.plans import EvaluationPlan, RowSplit, repeated

Settings = dict[str, Any]
FIRST_STAGE = "head"  # the name of the first stage: what a new head learns while the rest is frozen


@dataclass(frozen=True)
class StageSettings:
    """What each stage changes.

    Attributes:
        first: Dotted config key → value in the first stage.
        then: Dotted config key → value in the second.
    """

    first: Settings
    then: Settings


@dataclass(frozen=True)
class TwoStagePlan:
    """Each fit of a plan, done in two stages on the same rows."""

    plan: EvaluationPlan
    stages: StageSettings

    def __call__(self, results: list[Result]) -> FitJob | None:
        first_jobs = [result.job for result in results if result.job.stage == FIRST_STAGE]
        second_results = [result for result in results if result.job.stage != FIRST_STAGE]
        # The plan counts complete fits; a first stage without its second is half of one.
        if len(first_jobs) > len(second_results):
            return replace(
                first_jobs[-1], stage="fit", patch=self.stages.then, start=first_jobs[-1].name
            )
        job = self.plan(second_results)
        return replace(job, stage=FIRST_STAGE, patch=self.stages.first) if job else None

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return self.plan.split_rows(dataset, job, seed)


def stages(*, first: dict[str, Any], then: dict[str, Any]) -> StageSettings | None:
    """The settings of both stages; None without any, for one stage."""
    return StageSettings(to_dotted_keys(first), to_dotted_keys(then)) if first or then else None


def drop_first_stages(results: list[Result]) -> list[Result]:
    """The results without first stages, which are no results of their own."""
    continued = {result.job.start for result in results}
    return [result for result in results if result.job.name not in continued]


def make_plan(config: Mapping[str, Any], plugins: tuple[str, ...] = ()) -> EvaluationPlan:
    """The plan that a config describes: its protocol, repeated and in stages as it says."""
    plan = repeated(make_protocol(config["protocol"], plugins), config["repeat"])
    settings = build_part(config["stages"], kind="stages", plugins=plugins)
    return plan if settings is None else TwoStagePlan(plan, settings)


def make_protocol(node: Mapping[str, Any], plugins: tuple[str, ...] = ()) -> EvaluationPlan:
    """The protocol that a node describes, without the settings of how its fits are trained."""
    plan: EvaluationPlan = build_part(
        remove_common_settings(node), kind="protocol", plugins=plugins
    )
    return plan
