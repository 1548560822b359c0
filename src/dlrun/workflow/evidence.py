"""What the fits so far show, read from the run folder: scores, differences, diagnoses."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from dlrun.core.measure_names import get_direction
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import Result
from dlrun.evaluation import predictions
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.diagnosis import TURNED, Diagnosis, diagnose, diagnose_folds, get_fit_context
from dlrun.evaluation.predictions import CombinedPredictions
from dlrun.workflow.budget import BudgetTracker
from dlrun.workflow.candidates import INITIAL_STAGES, SERIES_BASELINES, UNTRAINED_STAGES, Stage


@dataclass
class Evidence:
    """Answers questions about the stages of one workflow, and caches what it has computed.

    Attributes:
        run: The run folder.
        config: The config of the workflow.
        measure: The metric of success.
        budget: The budget.
        results: The results so far.
        cache: What has been computed.
    """

    run: RunFolder
    config: dict[str, Any]
    measure: str
    budget: BudgetTracker
    results: list[Result] = field(default_factory=list)
    cache: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def direction(self) -> str:
        """The direction of the metric of success, "max" or "min", from its results."""
        scored = [
            result.scores[self.measure].goal
            for result in self.results
            if self.measure in result.scores
        ]
        return get_direction(self.measure, {self.measure: next(filter(None, scored), "")})

    def get_results(self, stage: str) -> list[Result]:
        """Return the validation results of a stage: one a fold."""
        return [
            result for result in self.results if result.job.stage == stage and result.split == "val"
        ]

    def get_valid_stages(self, *excluded: str) -> list[str]:
        """Return the stages that have a result and a score, in order.

        Args:
            excluded: Names of stages that are left out.
        """
        names = dict.fromkeys(result.job.stage for result in self.results if result.split == "val")
        return [name for name in names if name not in excluded and self.get_score(name) is not None]

    def get_score(self, stage: str) -> Interval | None:
        """Return the metric over all folds' rows with its 95 % interval.

        Returns:
            None where a fold has failed.
        """
        return self._get_cached(("score", stage), lambda: self._compute_score(stage))

    def _compute_score(self, stage: str) -> Interval | None:
        pooled = self._load_predictions(stage)
        results = self.get_results(stage)
        if pooled is None:
            return None
        if len(results) > 1:
            return predictions.compute_metric_interval(pooled, self.measure)
        # Of one fit, the interval that was computed with its score.
        score = results[0].scores[self.measure]
        return Interval(score.value, score.low, score.high, score.n)

    def get_difference(self, stage: str, reference: str) -> Interval | None:
        """Return how much better a stage is than a reference on the same rows; above 0 is better.

        Returns:
            None where one of them has failed.
        """
        return self._get_cached(
            ("better", stage, reference), lambda: self._compute_difference(stage, reference)
        )

    def _compute_difference(self, stage: str, reference: str) -> Interval | None:
        reference_rows = self._load_predictions(reference)
        stage_rows = self._load_predictions(stage)
        if reference_rows is None or stage_rows is None:
            return None
        # The difference is the second minus the first, so for a loss the order is reversed.
        pair = (
            (reference_rows, stage_rows)
            if self.direction == "max"
            else (stage_rows, reference_rows)
        )
        return predictions.compute_difference(*pair, self.measure)

    def _load_predictions(self, stage: str) -> CombinedPredictions | None:
        results = self.get_results(stage)
        if not results or any(self.measure not in result.scores for result in results):
            return None
        return predictions.combine_predictions(
            self.run.folder, [result.job.name for result in results], "val"
        )

    @property
    def best_baseline(self) -> str:
        """The stage that a model has to beat: the constant, or a better forecast without a
        model.
        """
        baselines = [
            stage for stage in ("constant", *SERIES_BASELINES) if self.get_score(stage) is not None
        ]
        return self.get_best_stage(baselines) if baselines else "constant"

    def beats_baseline(self, stage: str) -> bool:
        """Return whether the interval of a stage's lead over the best baseline lies above zero."""
        lead = self.get_difference(stage, self.best_baseline)
        return lead is not None and lead.low is not None and lead.low > 0

    def diagnose(self, stage: str) -> Diagnosis:
        """Diagnose the learning curves of a stage, over its folds."""
        return self._get_cached(("diagnosis", stage), lambda: self._diagnose_curves(stage))

    def _diagnose_curves(self, stage: str) -> Diagnosis:
        names = [result.job.name for result in self.get_results(stage)]
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        # One pass for all folds: the file holds every fit of the workflow.
        for line in self.run.read_history():
            if line["job"] in rows:
                rows[line["job"]].append(line)
        histories = list(rows.values())
        options = self._get_diagnosis_options(stage)
        if len(histories) == 1:
            return diagnose(histories[0], **options)
        return diagnose_folds(histories, **options)

    def _get_diagnosis_options(self, stage: str) -> dict[str, Any]:
        losses = [
            result.baseline["loss"].value
            for result in self.get_results(stage)
            if "loss" in result.baseline
        ]
        return get_fit_context(
            self.get_results(stage)[0].job.patch,
            self.config["model"],
            losses,
            self.measure,
            self.direction,
        )

    def overfits(self, stage: str) -> bool:
        """Return whether training improves while validation worsens, as far as its epochs can
        tell.
        """
        return self.diagnose(stage).kind in TURNED

    def get_best_epoch(self, stage: str) -> int:
        """Return the epoch whose weights were scored; of several folds, the median."""
        # A model that is solved names no epoch.
        matches = [
            re.search(r"epoch (\d+)", result.checkpoint) for result in self.get_results(stage)
        ]
        return max(1, round(statistics.median(int(match[1]) if match else 1 for match in matches)))

    def get_best_stage(self, names: list[str]) -> str:
        """Return the stage with the best score; one whose metric is undefined only where all
        are.
        """
        scores = {name: self.get_score(name) for name in names}
        values = {name: score.value for name, score in scores.items() if score is not None}
        # Not nan: an area under a curve needs both classes among the rows.
        defined = {name: value for name, value in values.items() if value == value}
        choose = max if self.direction == "max" else min
        return choose(defined or values, key=lambda name: values[name])

    def has_started(self, stage: str) -> bool:
        """Return whether a stage has a result."""
        return bool(self.get_results(stage))

    def has_failed(self, stage: str) -> bool:
        """Return whether a stage has results but no score."""
        return self.has_started(stage) and self.get_score(stage) is None

    def get_budget_used(self) -> tuple[float, int]:
        """Return the seconds of fitting, and the number of fits."""
        return sum(map(self.budget.get_fit_seconds, self.results)), len(self.results)

    def get_expected_seconds(self, stage: Stage) -> float:
        """Return the seconds that a stage is likely to take, from the slowest network's epoch so
        far.

        The estimate never becomes less: what was too much for the budget once stays so.
        """
        fits = [
            result
            for result in self.results
            if result.job.stage not in UNTRAINED_STAGES and result.epochs
        ]
        longest = max(
            (self.budget.get_fit_seconds(result) / result.epochs for result in fits), default=0.0
        )
        epochs = stage.patch.get("engine.epochs", self.config["engine"]["epochs"])
        # The first stage tells how many fits, such as folds, each stage has.
        num_fits = max(1, len(self.get_results(INITIAL_STAGES[0])))
        return longest * epochs * num_fits

    def _get_cached(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        # With every further fold of the stage the entry is computed anew.
        key = (key, len(self.get_results(key[1])))  # type: ignore[index]
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]
