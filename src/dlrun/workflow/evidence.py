"""What the fits so far show, read from the run folder alone: scores, differences on the same rows, diagnoses."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from dlrun.core.measure_names import get_direction
from dlrun.core.run_folder import RunFolder
from dlrun.core.stored_files import load_json_lines
from dlrun.core.types import Result
from dlrun.evaluation import predictions
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.diagnosis import TURNED, Diagnosis, diagnose, diagnose_folds, get_fit_context
from dlrun.evaluation.predictions import CombinedPredictions
from dlrun.workflow.budget import BudgetTracker
from dlrun.workflow.candidates import INITIAL_STAGES, SERIES_BASELINES, UNTRAINED_STAGES, Stage


@dataclass
class Evidence:
    """Of one run folder and its config. measure: what success is; spending: of the budget. What is known is kept."""

    run: RunFolder
    config: dict[str, Any]
    measure: str
    spending: BudgetTracker
    results: list[Result] = field(default_factory=list)
    cache: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def direction(self) -> str:
        """Which way the measure is better, 'max' or 'min', as its results say it."""
        scored = [
            result.scores[self.measure].goal
            for result in self.results
            if self.measure in result.scores
        ]
        return get_direction(self.measure, {self.measure: next(filter(None, scored), "")})

    def get_results(self, stage: str) -> list[Result]:
        """The results of a stage: one a fold."""
        return [
            result for result in self.results if result.job.stage == stage and result.split == "val"
        ]

    def get_valid_stages(self, *without: str) -> list[str]:
        """The stages that have a result and a score, in order."""
        names = dict.fromkeys(result.job.stage for result in self.results if result.split == "val")
        return [name for name in names if name not in without and self.get_score(name) is not None]

    def get_score(self, stage: str) -> Interval | None:
        """The measure over all folds' rows with its 95 % interval; None where a fold has come to nothing."""
        return self._get_cached(("score", stage), lambda: self._compute_score(stage))

    def _compute_score(self, stage: str) -> Interval | None:
        pooled, found = self._load_predictions(stage), self.get_results(stage)
        if pooled is None:
            return None
        if len(found) > 1:
            return predictions.compute_metric_interval(pooled, self.measure)
        one = found[0].scores[self.measure]  # as the fit itself was scored
        return Interval(one.value, one.low, one.high, one.n)

    def get_difference(self, stage: str, than: str) -> Interval | None:
        """How much better a stage is than another on the same rows, above 0 for better; None where one has failed."""
        return self._get_cached(
            ("better", stage, than), lambda: self._compute_difference(stage, than)
        )

    def _compute_difference(self, stage: str, than: str) -> Interval | None:
        first, second = self._load_predictions(than), self._load_predictions(stage)
        if first is None or second is None:
            return None
        pair = (first, second) if self.direction == "max" else (second, first)
        return predictions.compute_difference(*pair, self.measure)

    def _load_predictions(self, stage: str) -> CombinedPredictions | None:
        found = self.get_results(stage)
        if not found or any(self.measure not in result.scores for result in found):
            return None
        return predictions.combine_predictions(
            self.run.folder, [result.job.name for result in found], "val"
        )

    @property
    def best_baseline(self) -> str:
        """What a model has to beat: the constant answer, or of a series a better one that it gives for nothing."""
        free = [
            stage for stage in ("constant", *SERIES_BASELINES) if self.get_score(stage) is not None
        ]
        return self.get_best_stage(free) if free else "constant"

    def beats_baseline(self, stage: str) -> bool:
        """Whether the interval of its lead over the best common-sense answer lies above zero."""
        lead = self.get_difference(stage, self.best_baseline)
        return lead is not None and lead.low is not None and lead.low > 0

    def diagnose(self, stage: str) -> Diagnosis:
        """What the learning curves of a stage say, over its folds."""
        return self._get_cached(("diagnosis", stage), lambda: self._diagnose_curves(stage))

    def _diagnose_curves(self, stage: str) -> Diagnosis:
        names = [result.job.name for result in self.get_results(stage)]
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for line in load_json_lines(self.run.folder / "history.jsonl"):
            if line["job"] in rows:
                rows[line["job"]].append(line)
        histories, how = list(rows.values()), self._get_diagnosis_options(stage)
        return (
            diagnose(histories[0], **how)
            if len(histories) == 1
            else diagnose_folds(histories, **how)
        )

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
        """Whether training improves while validation worsens, as far as its epochs can tell."""
        return self.diagnose(stage).kind in TURNED

    def get_best_epoch(self, stage: str) -> int:
        """The epoch whose weights were scored: of several folds, their median."""
        kept = [re.search(r"epoch (\d+)", result.checkpoint) for result in self.get_results(stage)]
        return max(1, round(statistics.median(int(found[1]) if found else 1 for found in kept)))

    def get_best_stage(self, names: list[str]) -> str:
        """The stage with the best score; one whose measure is not defined only where all are."""
        scores = {name: self.get_score(name) for name in names}
        known = {name: score.value for name, score in scores.items() if score is not None}
        defined = {name: value for name, value in known.items() if value == value}
        return (max if self.direction == "max" else min)(
            defined or known, key=lambda name: known[name]
        )

    def has_started(self, stage: str) -> bool:
        """Whether a stage has a result."""
        return bool(self.get_results(stage))

    def has_failed(self, stage: str) -> bool:
        """Whether a stage has come to nothing."""
        return self.has_started(stage) and self.get_score(stage) is None

    def get_budget_used(self) -> tuple[float, int]:
        """Seconds of fitting, and number of fits."""
        return sum(map(self.spending.get_fit_seconds, self.results)), len(self.results)

    def get_expected_seconds(self, stage: Stage) -> float:
        """The seconds that a stage is likely to take, an epoch as long as those of the slowest network so far.

        So that it never becomes less: what was too much for the budget once stays so.
        """
        fits = [
            result
            for result in self.results
            if result.job.stage not in UNTRAINED_STAGES and result.epochs
        ]
        longest = max(
            (self.spending.get_fit_seconds(result) / result.epochs for result in fits), default=0.0
        )
        epochs = stage.patch.get("engine.epochs", self.config["engine"]["epochs"])
        return (
            longest * epochs * max(1, len(self.get_results(INITIAL_STAGES[0])))
        )  # folds, and these repeated

    def _get_cached(self, key: Hashable, find: Callable[[], Any]) -> Any:
        key = (key, len(self.get_results(key[1])))  # type: ignore[index]
        if key not in self.cache:
            self.cache[key] = find()
        return self.cache[key]
