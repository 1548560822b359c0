"""Step 8: the winner trained on every development row, and the test rows opened once."""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.config.groups import load_builtin_option
from dlrun.config.instantiate import apply_patch
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.formatting import counted, format_number
from dlrun.core.types import FitJob, Result, Score
from dlrun.evaluation import predictions
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.protocols.plans import AllRowsPlan, EvaluationPlan, RowSplit, repeated
from dlrun.experiment.runner import Experiment
from dlrun.training.trainer import FitWatcher
from dlrun.workflow.candidates import FINAL_STAGES, UNTRAINED_STAGES, Stage, StagedPlan
from dlrun.workflow.verdicts import (
    Verdict,
    format_difference,
    format_score_interval,
    get_stage_label,
)
from dlrun.workflow.workflow import Workflow


def _single_stage_plan(stage: Stage, plan: EvaluationPlan) -> StagedPlan:
    """One stage through one plan."""
    return StagedPlan(plan, lambda results: iter([stage]))


@dataclass(frozen=True)
class PlanSequence:
    """Plans over the same rows, one after the other."""

    plans: tuple[StagedPlan, ...]

    def __call__(self, results: list[Result]) -> FitJob | None:
        return next((job for plan in self.plans if (job := plan(results)) is not None), None)

    def split_rows(self, raw: Dataset, job: FitJob, seed: int) -> RowSplit:
        return self.plans[0].split_rows(raw, job, seed)


class FinalEvaluation:
    """The last fits of a workflow that has come to its end. Raises UserError where there is no winner to test."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        self.workflow = Workflow({**config, "test": False}, folder, plugins)
        self.workflow.stages(self._get_workflow_results())
        self.winner = self._load_best_stage(folder)
        self.rival = self._get_linear_stage()
        self.epochs = self.workflow.seen.get_best_epoch(self.winner.name)
        self.experiment = Experiment(self._build_config(config), folder, plugins)
        solved = self.winner.name in UNTRAINED_STAGES  # there is no luck in it
        seeds = 1 if solved else self.workflow.settings.seeds
        plans = [
            _single_stage_plan(
                Stage(FINAL_STAGES[0], {}, self._build_patch(self.winner)),
                repeated(AllRowsPlan(), seeds),
            )
        ]
        if self.rival is not None:
            plans.append(
                _single_stage_plan(
                    Stage(
                        FINAL_STAGES[1], {}, self._build_patch(self.rival) | {"engine.epochs": 1}
                    ),
                    AllRowsPlan(),
                )
            )
        self.experiment.builder.plan = PlanSequence(tuple(plans))

    def _get_linear_stage(self) -> Stage | None:
        """The linear model, which is tested beside another winner; not where test rows were opened without it."""
        results = self.workflow.run.read_results()
        tested = {result.job.stage for result in results if result.split == "test"}
        late = FINAL_STAGES[0] in tested and FINAL_STAGES[1] not in tested
        if (
            self.winner.name in UNTRAINED_STAGES
            or late
            or self.workflow.seen.get_score("linear") is None
        ):
            return None
        return self._rebuild_stage("linear")

    def _rebuild_stage(self, name: str) -> Stage:
        """A stage with the changes that its fits had."""
        return Stage(name, {}, self.workflow.seen.get_results(name)[0].job.patch)

    def _load_best_stage(self, folder: Path) -> Stage:
        told = {
            entry["step"]: entry for entry in self.workflow.run.read_json("workflow.json") or []
        }
        if told.get(5, {}).get("stopped"):
            raise UserError(f"{folder}: nothing beat the baseline, so there is nothing to test")
        if "winner" not in told.get(7, {}):
            raise UserError(
                f"{folder}: the workflow has not come to its end; go on with: dlrun resume {folder}"
            )
        return self._rebuild_stage(told[7]["winner"])

    def _get_workflow_results(self) -> list[Result]:
        """What the workflow has fitted, without the final fits."""
        return [
            each
            for each in self.workflow.experiment.get_fit_results()
            if each.job.stage not in FINAL_STAGES
        ]

    def _build_config(self, config: dict[str, Any]) -> dict[str, Any]:
        nodes = {
            "protocol": load_builtin_option("protocol", "whole"),
            "metric": self.workflow.measure.nodes,
        }
        return apply_patch({**config, "test": True}, nodes)

    def _build_patch(self, stage: Stage) -> dict[str, Any]:
        """The winner's changes, its best epoch, every row, and no callback that looks at validation rows: none is left.

        The rows are said in the patch, too: whoever reads the job later has to prepare the same ones.
        """
        kept = {key: value for key, value in stage.patch.items() if not key.startswith("callback")}
        callbacks = self.workflow.config["callback"].items()
        blind = {
            name: node
            for name, node in callbacks
            if not str(node.get("monitor", "")).startswith("val/")
        }
        whole = {"protocol": load_builtin_option("protocol", "whole")}
        return kept | whole | {"engine.epochs": self.epochs, "callback": blind}

    def results(self, watch: FitWatcher | None = None) -> list[Result]:
        """Train with every seed, then open the test rows, once."""
        results = self.experiment.results(watch, stages=FINAL_STAGES)
        self.workflow.record_verdicts(
            [self.build_verdict([r for r in results if r.split == "test"])]
        )
        return results

    def _get_baseline_label(self) -> str:
        """What results have beside them as their baseline."""
        return get_stage_label(
            "last_value" if self.workflow.course.series_baselines else "constant"
        )

    def _describe_schedule(self) -> list[str]:
        name = self.workflow.config["scheduler"]["_target_"].rpartition(".")[2]
        return (
            []
            if name == "constant"
            else [f"the {name} schedule runs over these epochs, not over those planned before"]
        )

    def _format_interval(self, results: list[Result], mean: float) -> str:
        """The 95 % interval over the test rows of what is shown, the mean over all fits; '' where it is not known."""
        measure = self.workflow.measure.name
        found: Score | Interval = results[0].scores[measure]
        if len(results) > 1:
            jobs = [result.job.name for result in results]
            with suppress(UserError):
                found = predictions.compute_metric_interval(
                    predictions.combine_predictions(self.workflow.run.folder, jobs, "test"), measure
                )
        if found.low is None or not math.isclose(found.value, mean, rel_tol=1e-5):
            return (
                ""  # of an area under a curve the mean over fits is not that of all rows together
            )
        return f" (95 % over {found.n:,} rows: {format_number(found.low)} to {format_number(found.high)})"

    def _compare_with_linear(self, results: list[Result]) -> list[str]:
        """The linear model on the same test rows, and by how much the winner is better."""
        found = [result for result in results if result.job.stage == FINAL_STAGES[1]]
        if not found:
            return []
        score = format_score_interval(found[0].scores[self.workflow.measure.name])
        return [
            f"a linear model trained on the same rows has {score}: '{self.winner.name}' is {self._format_linear_difference(results)}; "
            "here neither has the advantage of selection on the rows that judge them"
        ]

    def _format_linear_difference(self, results: list[Result]) -> str:
        """By how much the winner is better than the linear model: all its fits, else its first one.

        A measure of a whole split can be compared of one fit only.
        """
        jobs = [result.job.name for result in results if result.job.stage == FINAL_STAGES[0]]
        for names in (jobs, jobs[:1]):
            with suppress(UserError):
                rival, own = (
                    predictions.combine_predictions(self.workflow.run.folder, each, "test")
                    for each in ([FINAL_STAGES[1]], names)
                )
                pair = (rival, own) if self.workflow.seen.direction == "max" else (own, rival)
                told = format_difference(
                    predictions.compute_difference(*pair, self.workflow.measure.name)
                )
                return told if names == jobs else f"{told} (its first fit)"
        return "not comparable"

    def build_verdict(self, tested: list[Result]) -> Verdict:
        """What the test rows say."""
        measure, seen = self.workflow.measure.name, self.workflow.seen
        results = [result for result in tested if result.job.stage == FINAL_STAGES[0]]
        values = [result.scores[measure].value for result in results]
        mean = statistics.fmean(values)
        spread = (
            f", ± {statistics.stdev(values):.4f} over {len(values)} seeds"
            if len(values) > 1
            else ""
        )
        validated = seen.get_score(self.winner.name)
        assert validated is not None
        first = results[0].scores[measure]
        ends = self._format_interval(results, mean)
        rows = len(self.experiment.builder.dataset)
        epochs = (
            "" if self.winner.name in UNTRAINED_STAGES else f", {counted(self.epochs, 'epoch')}"
        )
        alone = f"the first fit has {format_number(first.value)}; the spread over seeds is that of training alone"
        evidence = [
            f"'{self.winner.name}' trained on all {rows:,} training + validation rows{epochs}",
            *([alone] if len(results) > 1 else []),
            *self._compare_with_linear(tested),
            f"{self._get_baseline_label()} has {format_number(results[0].baseline[measure].value)} on them",
            *self._describe_schedule(),
            f"validation had said {format_number(validated.value)}, of {len(seen.get_valid_stages('constant'))} candidates the best",
        ]
        return Verdict(
            8, f"{measure} on the test rows: {format_number(mean)}{ends}{spread}.", evidence
        )
