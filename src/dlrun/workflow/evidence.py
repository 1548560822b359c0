"""What the fits so far show and have cost: scores, differences, diagnoses, budget, in words."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from time import monotonic as clock
from typing import TYPE_CHECKING, Any

from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.formatting import format_number, get_direction
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import FitJob, Result, Score
from dlrun.evaluation import predictions
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.diagnosis import TURNED, Diagnosis, diagnose, diagnose_folds, get_fit_context
from dlrun.evaluation.predictions import CombinedPredictions
from dlrun.workflow.candidates import INITIAL_STAGES, SERIES_BASELINES, UNTRAINED_STAGES, Stage

if TYPE_CHECKING:
    from dlrun.training.trainer import FitWatcher, Trainer


@dataclass
class BudgetTracker:
    """Tracks the budget of one run folder.

    Attributes:
        run: The run folder.
        limit: The budget in seconds; None where it is no time.
        text: The budget as it was given.
        processes: That share the run.
        seconds_before: Seconds that earlier fits took.
        min_epochs: Epochs that the current fit may always train.
        deadline: Seconds in all after which the current fit ends.
        started_at: When the current fit began, on the monotonic clock.
        stopped_at: Where the budget stopped the current fit; "" where it did not.
    """

    run: RunFolder
    limit: float | None
    text: str
    processes: ProcessGroup = ONE_PROCESS
    seconds_before: float = 0.0
    min_epochs: int = 1
    deadline: float = math.inf
    started_at: float = 0.0
    stopped_at: str = ""

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Job → its seconds, with loading, solving and scoring, and where it was stopped."""
        return self.run.read_json(RunFile.BUDGET) or {}

    def get_fit_seconds(self, result: Result) -> float:
        """Return what a fit took; runs of earlier versions stored the time of training alone."""
        entry = self.entries.get(result.job.name, {})
        return max(result.seconds, float(entry.get("seconds", 0.0)))

    def describe_stopped(self, stages: Collection[str]) -> list[str]:
        """Name the stages whose fits the budget has stopped.

        Args:
            stages: The stages to look at.

        Returns:
            One line, or an empty list.
        """
        entries = [entry for entry in self.entries.values() if entry["stopped"]]
        stopped = dict.fromkeys(
            (entry["stage"], entry["stopped"]) for entry in entries if entry["stage"] in stages
        )
        named = ", ".join(f"{stage} after {where}" for stage, where in stopped)
        return [f"stopped by the budget: {named}"] if named else []

    def start_fit(self, job: FitJob, results: list[Result]) -> None:
        """Start the clock of a fit.

        The first fold gets its share of what is left; where the budget stops it, later folds are
        trained for as many epochs, so that they are comparable. The small network leaves half to
        the configured one.

        Args:
            job: The fit.
            results: The results so far.
        """
        self.started_at, self.stopped_at, self.min_epochs, self.deadline = clock(), "", 1, math.inf
        self.seconds_before = sum(map(self.get_fit_seconds, results))
        first = next((result for result in results if result.job.stage == job.stage), None)
        if self.limit is None:
            return
        if first is None:
            # The first stage tells how many fits, such as folds, each stage has.
            num_fits = max(1, sum(result.job.stage == INITIAL_STAGES[0] for result in results))
            num_stages = 1
            if job.stage in INITIAL_STAGES:
                num_stages = len(INITIAL_STAGES) - INITIAL_STAGES.index(job.stage)
            seconds_left = max(0.0, self.limit - self.seconds_before)
            self.deadline = self.seconds_before + seconds_left / (num_fits * num_stages)
        elif self.entries.get(first.job.name, {}).get("stopped"):
            # As long as the first fold, whatever that costs: else they could not be compared.
            self.min_epochs, self.deadline = first.epochs, 0.0

    def finish_fit(self, job: FitJob) -> None:
        """Store what a fit has taken."""
        entry = {
            "stage": job.stage,
            "seconds": round(clock() - self.started_at, 3),
            "stopped": self.stopped_at,
        }
        # Clocks differ between processes; all must come to the same decisions.
        entry = self.processes.broadcast_object(entry)
        self.run.write_json(RunFile.BUDGET, self.entries | {job.name: entry})

    def limit_watch(self, watch: FitWatcher | None) -> FitWatcher:
        """Wrap a watch so that the fit ends with the epoch in which the budget is used up."""

        @contextmanager
        def limited_watch(
            trainer: Trainer, job: FitJob, baseline: dict[str, Score]
        ) -> Iterator[None]:
            trainer.callbacks.append(self._after_epoch)
            inner: AbstractContextManager[object] = (
                watch(trainer, job, baseline) if watch else nullcontext()
            )
            with inner:
                yield
            # Another callback may have stopped the fit.
            if trainer.stop == self._reason:
                self.stopped_at = f"{trainer.epoch} of {trainer.settings.epochs} epochs"

        return limited_watch

    def _after_epoch(self, trainer: Trainer) -> None:
        spent = self.seconds_before + max(trainer.seconds, clock() - self.started_at)
        is_last = trainer.epoch >= trainer.settings.epochs
        # A fit that is complete anyway is not marked as stopped.
        if spent > self.deadline and trainer.epoch >= self.min_epochs and not is_last:
            trainer.stop = trainer.stop or self._reason

    @property
    def _reason(self) -> str:
        return f"workflow.budget={self.text} is used up"


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


STAGE_NAMES = {
    "constant": "the constant baseline",
    "last_value": "the last value",
    "same_time_before": "the value at the same time of an earlier day",
    "linear": "a linear model",
    "final_linear": "a linear model",
    "small": "a small network",
    "configured": "the configured network",
}


def format_stage_score(evidence: Evidence, stage: str) -> str:
    """Format the score of a stage, see `format_score_interval`."""
    return format_score_interval(evidence.get_score(stage))


def list_failed_stages(evidence: Evidence) -> list[str]:
    """List stages that have results but no score, with the reason."""
    failed = [
        f"{result.job.stage} ({result.note})"
        for result in evidence.results
        if result.split == "val" and not result.scores
    ]
    # The folds of one stage that failed alike are named once.
    return list(dict.fromkeys(failed))


def compare_stages(evidence: Evidence, stage: str, reference: str) -> str:
    """Format '0.0123 better [0.0041, 0.0204]', '… worse …', or that it may be chance."""
    return format_difference(evidence.get_difference(stage, reference))


def format_difference(difference: Interval | None) -> str:
    """Format a difference in words, see `compare_stages`."""
    if difference is None:
        return "not comparable"
    if difference.value == difference.low == difference.high == 0:
        return "equal on every row"
    if difference.value != difference.value:  # nan
        return "not comparable, where the measure is not defined"
    word = "better" if difference.value >= 0 else "worse"
    text = f"{format_number(abs(difference.value))} {word}"
    if difference.low is None or difference.high is None:
        return f"{text} ({difference.why})"
    low, high = difference.low, difference.high
    # A difference for the worse is shown without its sign, and so is its interval.
    if difference.value < 0:
        low, high = -high, -low
    text += f" [{format_number(low)}, {format_number(high)}]"
    return text if difference.is_nonzero else f"{text}, which may be chance"


def format_score_interval(score: Interval | Score | None) -> str:
    """Format '0.8891 [0.8802, 0.8977]'."""
    if score is None:
        return "failed"
    if score.low is None or score.high is None:
        return format_number(score.value)
    return f"{format_number(score.value)} [{format_number(score.low)}, {format_number(score.high)}]"


def get_stage_label(stage: str) -> str:
    """Name a stage in words."""
    return STAGE_NAMES.get(stage, f"'{stage}'")
