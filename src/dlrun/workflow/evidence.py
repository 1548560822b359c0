"""What the fits so far show, read from the run folder alone: scores, differences on the same rows, diagnoses."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from dlrun.core.measure_names import goal
from dlrun.core.run_folder import RunDir
from dlrun.core.stored_files import lines
from dlrun.core.types import Result
from dlrun.evaluation import predictions
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.diagnosis import TURNED, Diagnosis, circumstances, diagnose, over_folds
from dlrun.evaluation.predictions import Pooled
from dlrun.workflow.budget import Spending
from dlrun.workflow.candidates import FIRST, NAIVE, UNTRAINED, Stage


@dataclass
class Evidence:
    """Of one run folder and its config. measure: what success is; spending: of the budget. What is known is kept."""

    run: RunDir
    config: dict[str, Any]
    measure: str
    spending: Spending
    results: list[Result] = field(default_factory=list)
    known: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def goal(self) -> str:
        """Which way the measure is better, 'max' or 'min', as its results say it."""
        scored = [result.scores[self.measure].goal for result in self.results if self.measure in result.scores]
        return goal(self.measure, {self.measure: next(filter(None, scored), "")})

    def of(self, stage: str) -> list[Result]:
        """The results of a stage: one a fold."""
        return [result for result in self.results if result.job.stage == stage and result.split == "val"]

    def tried(self, *without: str) -> list[str]:
        """The stages that have a result and a score, in order."""
        names = dict.fromkeys(result.job.stage for result in self.results if result.split == "val")
        return [name for name in names if name not in without and self.score(name) is not None]

    def score(self, stage: str) -> Interval | None:
        """The measure over all folds' rows with its 95 % interval; None where a fold has come to nothing."""
        return self._once(("score", stage), lambda: self._score(stage))

    def _score(self, stage: str) -> Interval | None:
        pooled, found = self._pooled(stage), self.of(stage)
        if pooled is None:
            return None
        if len(found) > 1:
            return predictions.interval(pooled, self.measure)
        one = found[0].scores[self.measure]  # as the fit itself was scored
        return Interval(one.value, one.low, one.high, one.n)

    def better(self, stage: str, than: str) -> Interval | None:
        """How much better a stage is than another on the same rows, above 0 for better; None where one has failed."""
        return self._once(("better", stage, than), lambda: self._better(stage, than))

    def _better(self, stage: str, than: str) -> Interval | None:
        first, second = self._pooled(than), self._pooled(stage)
        if first is None or second is None:
            return None
        pair = (first, second) if self.goal == "max" else (second, first)
        return predictions.difference(*pair, self.measure)

    def _pooled(self, stage: str) -> Pooled | None:
        found = self.of(stage)
        if not found or any(self.measure not in result.scores for result in found):
            return None
        return predictions.pooled(self.run.folder, [result.job.name for result in found], "val")

    @property
    def bar(self) -> str:
        """What a model has to beat: the constant answer, or of a series a better one that it gives for nothing."""
        free = [stage for stage in ("constant", *NAIVE) if self.score(stage) is not None]
        return self.best(free) if free else "constant"

    def beats_baseline(self, stage: str) -> bool:
        """Whether the interval of its lead over the best common-sense answer lies above zero."""
        lead = self.better(stage, self.bar)
        return lead is not None and lead.low is not None and lead.low > 0

    def diagnosis(self, stage: str) -> Diagnosis:
        """What the learning curves of a stage say, over its folds."""
        return self._once(("diagnosis", stage), lambda: self._diagnosis(stage))

    def _diagnosis(self, stage: str) -> Diagnosis:
        names = [result.job.name for result in self.of(stage)]
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for line in lines(self.run.folder / "history.jsonl"):
            if line["job"] in rows:
                rows[line["job"]].append(line)
        histories, how = list(rows.values()), self._circumstances(stage)
        return diagnose(histories[0], **how) if len(histories) == 1 else over_folds(histories, **how)

    def _circumstances(self, stage: str) -> dict[str, Any]:
        losses = [result.baseline["loss"].value for result in self.of(stage) if "loss" in result.baseline]
        return circumstances(self.of(stage)[0].job.patch, self.config["model"], losses, self.measure, self.goal)

    def overfits(self, stage: str) -> bool:
        """Whether training improves while validation worsens, as far as its epochs can tell."""
        return self.diagnosis(stage).kind in TURNED

    def best_epoch(self, stage: str) -> int:
        """The epoch whose weights were scored: of several folds, their median."""
        kept = [re.search(r"epoch (\d+)", result.checkpoint) for result in self.of(stage)]
        return max(1, round(statistics.median(int(found[1]) if found else 1 for found in kept)))

    def best(self, names: list[str]) -> str:
        """The stage with the best score; one whose measure is not defined only where all are."""
        scores = {name: self.score(name) for name in names}
        known = {name: score.value for name, score in scores.items() if score is not None}
        defined = {name: value for name, value in known.items() if value == value}
        return (max if self.goal == "max" else min)(defined or known, key=lambda name: known[name])

    def begun(self, stage: str) -> bool:
        """Whether a stage has a result."""
        return bool(self.of(stage))

    def failed(self, stage: str) -> bool:
        """Whether a stage has come to nothing."""
        return self.begun(stage) and self.score(stage) is None

    def spent(self) -> tuple[float, int]:
        """Seconds of fitting, and number of fits."""
        return sum(map(self.spending.seconds, self.results)), len(self.results)

    def expected(self, stage: Stage) -> float:
        """The seconds that a stage is likely to take, an epoch as long as those of the slowest network so far.

        So that it never becomes less: what was too much for the budget once stays so.
        """
        fits = [result for result in self.results if result.job.stage not in UNTRAINED and result.epochs]
        longest = max((self.spending.seconds(result) / result.epochs for result in fits), default=0.0)
        epochs = stage.patch.get("engine.epochs", self.config["engine"]["epochs"])
        return longest * epochs * max(1, len(self.of(FIRST[0])))  # folds, and these repeated

    def _once(self, key: Hashable, find: Callable[[], Any]) -> Any:
        key = (key, len(self.of(key[1])))  # type: ignore[index]
        if key not in self.known:
            self.known[key] = find()
        return self.known[key]
