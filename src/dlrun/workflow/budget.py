"""Tracks what a workflow has spent of its budget, and ends a fit in whose epoch it is used up."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic as clock
from typing import TYPE_CHECKING, Any

from dlrun.core.process_group import ONE_PROCESS, ProcessGroup
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import FitJob, Result, Score
from dlrun.workflow.candidates import INITIAL_STAGES

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
