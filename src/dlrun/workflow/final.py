"""Step 8: the winner trained on every development row, and the test rows opened once."""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Any

from dlrun import predictions
from dlrun.bootstrap import Interval
from dlrun.build import patched
from dlrun.errors import Refused
from dlrun.experiment import Experiment, Watch
from dlrun.figures import number
from dlrun.places import shipped
from dlrun.protocols.plans import Whole
from dlrun.protocols.repeats import repeated
from dlrun.types import Result, Score
from dlrun.workflow.course import Workflow
from dlrun.workflow.stages import NAIVE, Stage, Staged
from dlrun.workflow.verdicts import Verdict, called, counted


class Final:
    """The last fits of a workflow that has come to its end. Raises Refused where there is no winner to test."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        self.workflow = Workflow({**config, "test": False}, folder, plugins)
        self.winner = self._winner(folder)
        self.epochs = self.workflow.seen.best_epoch(self.winner.name)
        self.experiment = Experiment(self._config(config), folder, plugins)
        final = Stage("final", {}, self._patch(self.winner))
        solved = self.winner.name in ("linear", *NAIVE)  # not trained: there is no luck in it
        seeds = 1 if solved else self.workflow.settings.seeds
        plan = repeated(Whole(), seeds)
        self.experiment.assembly.plan = Staged(plan, lambda results: iter([final]))

    def _winner(self, folder: Path) -> Stage:
        results = self.workflow.experiment.fitted()
        stages = self.workflow.stages(results)
        told = {entry["step"]: entry for entry in self.workflow.run.read_json("workflow.json") or []}
        if told.get(5, {}).get("stopped"):
            raise Refused(f"{folder}: nothing beat the baseline, so there is nothing to test")
        if "winner" not in told.get(7, {}):
            raise Refused(f"{folder}: the workflow has not come to its end; go on with: dlrun resume {folder}")
        return next(stage for stage in stages if stage.name == told[7]["winner"])

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
        results = self.experiment.results(watch, stage="final")
        self.workflow.tell([self.verdict([r for r in results if r.job.stage == "final" and r.split == "test"])])
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

    def verdict(self, results: list[Result]) -> Verdict:
        """What the test rows say."""
        measure, seen = self.workflow.measure.name, self.workflow.seen
        values = [result.scores[measure].value for result in results]
        mean = statistics.fmean(values)
        spread = f", ± {statistics.stdev(values):.4f} over {len(values)} seeds" if len(values) > 1 else ""
        validated = seen.score(self.winner.name)
        assert validated is not None
        first = results[0].scores[measure]
        ends = self._ends(results, mean)
        rows = len(self.experiment.assembly.raw)
        evidence = [
            f"'{self.winner.name}' trained on all {rows:,} development rows, {counted(self.epochs, 'epoch')}",
            f"the first fit has {number(first.value)}; the spread over seeds is that of training alone",
            f"{self._bar()} has {number(results[0].baseline[measure].value)} on them",
            *self._squeezed(),
            f"validation had said {number(validated.value)}, of {len(seen.tried('constant'))} candidates the best",
        ]
        return Verdict(8, f"{measure} on the test rows: {number(mean)}{ends}{spread}.", evidence)
