"""Step 8: the winner is trained on all training and validation rows, and tested once."""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.config.instantiate import apply_patch
from dlrun.config.parts import load_builtin_option
from dlrun.core.dataset import Dataset
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.errors import UserError
from dlrun.core.formatting import counted, format_number
from dlrun.core.run_folder import RunFile
from dlrun.core.types import FitJob, Result, Score
from dlrun.evaluation import predictions
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.protocols.plans import AllRowsPlan, EvaluationPlan, RowSplit, repeated
from dlrun.experiment.runner import Experiment
from dlrun.training.trainer import FitWatcher
from dlrun.workflow.candidates import FINAL_STAGES, UNTRAINED_STAGES, Stage, StagedPlan
from dlrun.workflow.evidence import format_difference, format_score_interval, get_stage_label
from dlrun.workflow.verdicts import Verdict
from dlrun.workflow.workflow import Workflow


def _single_stage_plan(stage: Stage, plan: EvaluationPlan) -> StagedPlan:
    """Return a plan of one stage."""
    return StagedPlan(plan, lambda results: iter([stage]))


@dataclass(frozen=True)
class PlanSequence:
    """Plans over the same rows, one after the other.

    Attributes:
        plans: The plans, in order.
    """

    plans: tuple[StagedPlan, ...]

    def __call__(self, results: list[Result]) -> FitJob | None:
        return next((job for plan in self.plans if (job := plan(results)) is not None), None)

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return self.plans[0].split_rows(dataset, job, seed)


class FinalEvaluation:
    """The last fits of a workflow that has come to its end.

    Attributes:
        workflow: The workflow, with its evidence.
        winner: The stage that the workflow recommends.
        rival: The linear model, where it is tested beside the winner.
        epochs: The epochs that the winner is trained.
        experiment: The experiment that carries out the last fits.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        plugins: tuple[str, ...] = (),
        processes: ProcessGroup = ONE_PROCESS,
    ) -> None:
        """Find the winner of a workflow, and plan its last fits.

        Args:
            config: The config of the workflow.
            folder: Its run folder.
            plugins: Packages that the config may instantiate.
            processes: That share the run.

        Raises:
            UserError: Where there is no winner to test.
        """
        self.workflow = Workflow({**config, "test": False}, folder, plugins, processes)
        # Fills the evidence, from which winner and epochs are read.
        self.workflow.stages(self._get_workflow_results())
        self.winner = self._load_best_stage(folder)
        self.rival = self._get_linear_stage()
        self.epochs = self.workflow.evidence.get_best_epoch(self.winner.name)
        # What is solved, not trained, comes out the same with every seed.
        is_untrained = self.winner.name in UNTRAINED_STAGES
        num_seeds = 1 if is_untrained else self.workflow.settings.seeds
        final = Stage(FINAL_STAGES[0], {}, self._build_patch(self.winner))
        plans = [_single_stage_plan(final, repeated(AllRowsPlan(), num_seeds))]
        if self.rival is not None:
            patch = self._build_patch(self.rival) | {"engine.epochs": 1}
            linear = Stage(FINAL_STAGES[1], {}, patch)
            plans.append(_single_stage_plan(linear, AllRowsPlan()))
        plan = PlanSequence(tuple(plans))
        final_config = self._build_config(config)
        self.experiment = Experiment(final_config, folder, plugins, processes, plan)

    def _get_linear_stage(self) -> Stage | None:
        """Return the linear model; None where test rows have been evaluated without it."""
        results = self.workflow.run.read_results()
        tested = {result.job.stage for result in results if result.split == "test"}
        # An earlier version may have tested the winner alone; a second evaluation is one too many.
        is_too_late = FINAL_STAGES[0] in tested and FINAL_STAGES[1] not in tested
        has_score = self.workflow.evidence.get_score("linear") is not None
        if self.winner.name in UNTRAINED_STAGES or is_too_late or not has_score:
            return None
        return self._rebuild_stage("linear")

    def _rebuild_stage(self, name: str) -> Stage:
        """Return a stage with the changes that its fits had."""
        return Stage(name, {}, self.workflow.evidence.get_results(name)[0].job.patch)

    def _load_best_stage(self, folder: Path) -> Stage:
        steps = {
            entry["step"]: entry for entry in self.workflow.run.read_json(RunFile.WORKFLOW) or []
        }
        if steps.get(5, {}).get("stopped"):
            raise UserError(f"{folder}: nothing beat the baseline, so there is nothing to test")
        if "winner" not in steps.get(7, {}):
            raise UserError(
                f"{folder}: the workflow has not come to its end; go on with: dlrun resume {folder}"
            )
        return self._rebuild_stage(steps[7]["winner"])

    def _get_workflow_results(self) -> list[Result]:
        """Return the results of the workflow, without the final fits."""
        return [
            result
            for result in self.workflow.experiment.get_fit_results()
            if result.job.stage not in FINAL_STAGES
        ]

    def _build_config(self, config: dict[str, Any]) -> dict[str, Any]:
        nodes = {
            "protocol": load_builtin_option("protocol", "whole"),
            "metric": self.workflow.measure.nodes,
        }
        return apply_patch({**config, "test": True}, nodes)

    def _build_patch(self, stage: Stage) -> dict[str, Any]:
        """Return the winner's changes for a fit on all rows, without callbacks that need validation
        rows.

        The rows are part of the patch: whoever reads the job later has to prepare the same ones.
        """
        changes = {
            key: value for key, value in stage.patch.items() if not key.startswith("callback")
        }
        # No validation rows are left that a callback could look at.
        configured = self.workflow.config["callback"].items()
        callbacks = {
            name: node
            for name, node in configured
            if not str(node.get("monitor", "")).startswith("val/")
        }
        all_rows = {"protocol": load_builtin_option("protocol", "whole")}
        return changes | all_rows | {"engine.epochs": self.epochs, "callback": callbacks}

    def results(self, watch: FitWatcher | None = None) -> list[Result]:
        """Train with every seed, then evaluate the test rows, once.

        Args:
            watch: Shows the progress of each fit.
        """
        results = self.experiment.results(watch, stages=FINAL_STAGES)
        tested = [result for result in results if result.split == "test"]
        self.workflow.record_verdicts([self.build_verdict(tested)])
        return results

    def _get_baseline_label(self) -> str:
        """Name the baseline of the results."""
        return get_stage_label(
            "last_value" if self.workflow.candidates.series_baselines else "constant"
        )

    def _describe_schedule(self) -> list[str]:
        name = self.workflow.config["scheduler"]["_target_"].rpartition(".")[2]
        if name == "constant":
            return []
        return [f"the {name} schedule runs over these epochs, not over those planned before"]

    def _format_interval(self, results: list[Result], mean: float) -> str:
        """Format the 95 % interval over the test rows of the mean over all fits; "" where
        unknown.
        """
        measure = self.workflow.measure.name
        score: Score | Interval = results[0].scores[measure]
        if len(results) > 1:
            jobs = [result.job.name for result in results]
            with suppress(UserError):
                score = predictions.compute_metric_interval(
                    predictions.combine_predictions(self.workflow.run.folder, jobs, "test"), measure
                )
        # Of an area under a curve, the mean over fits is not the value of all rows together.
        if score.low is None or not math.isclose(score.value, mean, rel_tol=1e-5):
            return ""
        ends = f"{format_number(score.low)} to {format_number(score.high)}"
        return f" (95 % over {score.n:,} rows: {ends})"

    def _compare_with_linear(self, results: list[Result]) -> list[str]:
        """Compare the winner with the linear model on the same test rows."""
        linear = [result for result in results if result.job.stage == FINAL_STAGES[1]]
        if not linear:
            return []
        score = format_score_interval(linear[0].scores[self.workflow.measure.name])
        difference = self._format_linear_difference(results)
        return [
            f"a linear model trained on the same rows has {score}: '{self.winner.name}' is "
            f"{difference}; here neither has the advantage of selection on the rows that judge them"
        ]

    def _format_linear_difference(self, results: list[Result]) -> str:
        """Format by how much the winner is better than the linear model: all its fits, else the
        first.

        A metric of a whole split can be compared for one fit only.
        """
        folder = self.workflow.run.folder
        measure = self.workflow.measure.name
        jobs = [result.job.name for result in results if result.job.stage == FINAL_STAGES[0]]
        for winner_jobs in (jobs, jobs[:1]):
            with suppress(UserError):
                rival = predictions.combine_predictions(folder, [FINAL_STAGES[1]], "test")
                winner = predictions.combine_predictions(folder, winner_jobs, "test")
                is_max = self.workflow.evidence.direction == "max"
                pair = (rival, winner) if is_max else (winner, rival)
                difference = format_difference(predictions.compute_difference(*pair, measure))
                return difference if winner_jobs == jobs else f"{difference} (its first fit)"
        return "not comparable"

    def build_verdict(self, tested: list[Result]) -> Verdict:
        """Build the verdict from the results on the test rows."""
        measure = self.workflow.measure.name
        evidence = self.workflow.evidence
        results = [result for result in tested if result.job.stage == FINAL_STAGES[0]]
        values = [result.scores[measure].value for result in results]
        mean = statistics.fmean(values)
        spread = ""
        if len(values) > 1:
            spread = f", ± {statistics.stdev(values):.4f} over {len(values)} seeds"
        # Shown beside the test score, to tell how far selection flattered it.
        validated = evidence.get_score(self.winner.name)
        assert validated is not None
        first = results[0].scores[measure]
        rows = len(self.experiment.builder.dataset)
        is_trained = self.winner.name not in UNTRAINED_STAGES
        trained = f", {counted(self.epochs, 'epoch')}" if is_trained else ""
        spread_note = (
            f"the first fit has {format_number(first.value)}; "
            "the spread over seeds is that of training alone"
        )
        baseline = format_number(results[0].baseline[measure].value)
        lines = [
            f"'{self.winner.name}' trained on all {rows:,} training + validation rows{trained}",
            *([spread_note] if len(results) > 1 else []),
            *self._compare_with_linear(tested),
            f"{self._get_baseline_label()} has {baseline} on them",
            *self._describe_schedule(),
            f"validation had said {format_number(validated.value)}, "
            f"of {len(evidence.get_valid_stages('constant'))} candidates the best",
        ]
        interval = self._format_interval(results, mean)
        text = f"{measure} on the test rows: {format_number(mean)}{interval}{spread}."
        return Verdict(8, text, lines)
