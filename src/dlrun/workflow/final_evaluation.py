"""Step 8: the winner trained on every development row, and the test rows opened once."""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.config.groups import shipped
from dlrun.config.instantiate import patched
from dlrun.core.dataset import Raw
from dlrun.core.errors import Refused
from dlrun.core.formatting import counted, number
from dlrun.core.types import Job, Result, Score
from dlrun.evaluation import predictions
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.protocols.plans import Plan, Rows, Whole, repeated
from dlrun.experiment.runner import Experiment
from dlrun.training.trainer import Watch
from dlrun.workflow.candidates import FINALS, UNTRAINED, Stage, Staged
from dlrun.workflow.verdicts import Verdict, apart, called, interval
from dlrun.workflow.workflow import Workflow


def _alone(stage: Stage, plan: Plan) -> Staged:
    """One stage through one plan."""
    return Staged(plan, lambda results: iter([stage]))


@dataclass(frozen=True)
class Both:
    """Plans over the same rows, one after the other."""

    plans: tuple[Staged, ...]

    def __call__(self, results: list[Result]) -> Job | None:
        return next((job for plan in self.plans if (job := plan(results)) is not None), None)

    def rows(self, raw: Raw, job: Job, seed: int) -> Rows:
        return self.plans[0].rows(raw, job, seed)


class Final:
    """The last fits of a workflow that has come to its end. Raises Refused where there is no winner to test."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        self.workflow = Workflow({**config, "test": False}, folder, plugins)
        self.workflow.stages(self._fitted())
        self.winner = self._winner(folder)
        self.rival = self._rival()
        self.epochs = self.workflow.seen.best_epoch(self.winner.name)
        self.experiment = Experiment(self._config(config), folder, plugins)
        solved = self.winner.name in UNTRAINED  # there is no luck in it
        seeds = 1 if solved else self.workflow.settings.seeds
        plans = [_alone(Stage(FINALS[0], {}, self._patch(self.winner)), repeated(Whole(), seeds))]
        if self.rival is not None:
            plans.append(_alone(Stage(FINALS[1], {}, self._patch(self.rival) | {"engine.epochs": 1}), Whole()))
        self.experiment.assembly.plan = Both(tuple(plans))

    def _rival(self) -> Stage | None:
        """The linear model, which is tested beside another winner; not where test rows were opened without it."""
        results = self.workflow.run.results()
        tested = {result.job.stage for result in results if result.split == "test"}
        late = FINALS[0] in tested and FINALS[1] not in tested
        if self.winner.name in UNTRAINED or late or self.workflow.seen.score("linear") is None:
            return None
        return self._as_fitted("linear")

    def _as_fitted(self, name: str) -> Stage:
        """A stage with the changes that its fits had."""
        return Stage(name, {}, self.workflow.seen.of(name)[0].job.patch)

    def _winner(self, folder: Path) -> Stage:
        told = {entry["step"]: entry for entry in self.workflow.run.read_json("workflow.json") or []}
        if told.get(5, {}).get("stopped"):
            raise Refused(f"{folder}: nothing beat the baseline, so there is nothing to test")
        if "winner" not in told.get(7, {}):
            raise Refused(f"{folder}: the workflow has not come to its end; go on with: dlrun resume {folder}")
        return self._as_fitted(told[7]["winner"])

    def _fitted(self) -> list[Result]:
        """What the workflow has fitted, without the final fits."""
        return [each for each in self.workflow.experiment.fitted() if each.job.stage not in FINALS]

    def _config(self, config: dict[str, Any]) -> dict[str, Any]:
        nodes = {"protocol": shipped("protocol", "whole"), "metric": self.workflow.measure.nodes}
        return patched({**config, "test": True}, nodes)

    def _patch(self, stage: Stage) -> dict[str, Any]:
        """The winner's changes, its best epoch, every row, and no callback that looks at validation rows: none is left.

        The rows are said in the patch, too: whoever reads the job later has to prepare the same ones.
        """
        kept = {key: value for key, value in stage.patch.items() if not key.startswith("callback")}
        callbacks = self.workflow.config["callback"].items()
        blind = {name: node for name, node in callbacks if not str(node.get("monitor", "")).startswith("val/")}
        whole = {"protocol": shipped("protocol", "whole")}
        return kept | whole | {"engine.epochs": self.epochs, "callback": blind}

    def results(self, watch: Watch | None = None) -> list[Result]:
        """Train with every seed, then open the test rows, once."""
        results = self.experiment.results(watch, stages=FINALS)
        self.workflow.tell([self.verdict([r for r in results if r.split == "test"])])
        return results

    def _bar(self) -> str:
        """What results have beside them as their baseline."""
        return called("last_value" if self.workflow.course.naive else "constant")

    def _squeezed(self) -> list[str]:
        name = self.workflow.config["scheduler"]["_target_"].rpartition(".")[2]
        return (
            [] if name == "constant" else [f"the {name} schedule runs over these epochs, not over those planned before"]
        )

    def _ends(self, results: list[Result], mean: float) -> str:
        """The 95 % interval over the test rows of what is shown, the mean over all fits; '' where it is not known."""
        measure = self.workflow.measure.name
        found: Score | Interval = results[0].scores[measure]
        if len(results) > 1:
            jobs = [result.job.name for result in results]
            with suppress(Refused):
                found = predictions.interval(predictions.pooled(self.workflow.run.folder, jobs, "test"), measure)
        if found.low is None or not math.isclose(found.value, mean, rel_tol=1e-5):
            return ""  # of an area under a curve the mean over fits is not that of all rows together
        return f" (95 % over {found.n:,} rows: {number(found.low)} to {number(found.high)})"

    def _beside(self, results: list[Result]) -> list[str]:
        """The linear model on the same test rows, and by how much the winner is better."""
        found = [result for result in results if result.job.stage == FINALS[1]]
        if not found:
            return []
        score = interval(found[0].scores[self.workflow.measure.name])
        return [
            f"a linear model trained on the same rows has {score}: '{self.winner.name}' is {self._lead(results)}; "
            "here neither has the advantage of selection on the rows that judge them"
        ]

    def _lead(self, results: list[Result]) -> str:
        """By how much the winner is better than the linear model: all its fits, else its first one.

        A measure of a whole split can be compared of one fit only.
        """
        jobs = [result.job.name for result in results if result.job.stage == FINALS[0]]
        for names in (jobs, jobs[:1]):
            with suppress(Refused):
                rival, own = (
                    predictions.pooled(self.workflow.run.folder, each, "test") for each in ([FINALS[1]], names)
                )
                pair = (rival, own) if self.workflow.seen.goal == "max" else (own, rival)
                told = apart(predictions.difference(*pair, self.workflow.measure.name))
                return told if names == jobs else f"{told} (its first fit)"
        return "not comparable"

    def verdict(self, tested: list[Result]) -> Verdict:
        """What the test rows say."""
        measure, seen = self.workflow.measure.name, self.workflow.seen
        results = [result for result in tested if result.job.stage == FINALS[0]]
        values = [result.scores[measure].value for result in results]
        mean = statistics.fmean(values)
        spread = f", ± {statistics.stdev(values):.4f} over {len(values)} seeds" if len(values) > 1 else ""
        validated = seen.score(self.winner.name)
        assert validated is not None
        first = results[0].scores[measure]
        ends = self._ends(results, mean)
        rows = len(self.experiment.assembly.raw)
        epochs = "" if self.winner.name in UNTRAINED else f", {counted(self.epochs, 'epoch')}"
        alone = f"the first fit has {number(first.value)}; the spread over seeds is that of training alone"
        evidence = [
            f"'{self.winner.name}' trained on all {rows:,} training + validation rows{epochs}",
            *([alone] if len(results) > 1 else []),
            *self._beside(tested),
            f"{self._bar()} has {number(results[0].baseline[measure].value)} on them",
            *self._squeezed(),
            f"validation had said {number(validated.value)}, of {len(seen.tried('constant'))} candidates the best",
        ]
        return Verdict(8, f"{measure} on the test rows: {number(mean)}{ends}{spread}.", evidence)
