"""What a workflow has spent of its budget, which ends a fit with the epoch in which it is used up."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic as clock
from typing import TYPE_CHECKING, Any

from dlrun.core.run_folder import RunFolder
from dlrun.core.types import FitJob, Result, Score
from dlrun.training.distributed import process_group
from dlrun.workflow.candidates import INITIAL_STAGES

if TYPE_CHECKING:
    from dlrun.training.trainer import FitWatcher, Trainer


BUDGET_FILE = "budget.json"


@dataclass
class BudgetTracker:
    """Of one run folder. limit: seconds, None without such a limit; text: the budget as it was asked for."""

    run: RunFolder
    limit: float | None
    text: str
    seconds_before: float = 0.0
    min_epochs: int = 1
    deadline: float = math.inf
    started_at: float = 0.0
    stopped_at: str = ""

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Job → its seconds, loading, solving and scoring included, and where it was stopped."""
        return self.run.read_json(BUDGET_FILE) or {}

    def get_fit_seconds(self, result: Result) -> float:
        """What a fit took; runs of earlier versions know the time of training alone."""
        entry = self.entries.get(result.job.name, {})
        return max(result.seconds, float(entry.get("seconds", 0.0)))

    def describe_stopped(self, stages: Collection[str]) -> list[str]:
        """One line that names those of these stages whose fits the budget has stopped, or none."""
        entries = [entry for entry in self.entries.values() if entry["stopped"]]
        found = dict.fromkeys(
            (entry["stage"], entry["stopped"]) for entry in entries if entry["stage"] in stages
        )
        told = ", ".join(f"{stage} after {where}" for stage, where in found)
        return [f"stopped by the budget: {told}"] if told else []

    def start_fit(self, job: FitJob, results: list[Result]) -> None:
        """Start the clock of a fit.

        The first fold has its share of what is left; where the budget stops it, later ones are trained for as many
        epochs, so that they compare. The small network leaves half to the configured one.
        """
        self.started_at, self.stopped_at, self.min_epochs, self.deadline = clock(), "", 1, math.inf
        self.seconds_before = sum(map(self.get_fit_seconds, results))
        first = next((result for result in results if result.job.stage == job.stage), None)
        if self.limit is None:
            return
        if first is None:
            fits = max(1, sum(result.job.stage == INITIAL_STAGES[0] for result in results))
            stages = (
                len(INITIAL_STAGES) - INITIAL_STAGES.index(job.stage)
                if job.stage in INITIAL_STAGES
                else 1
            )
            self.deadline = self.seconds_before + max(0.0, self.limit - self.seconds_before) / (
                fits * stages
            )
        elif self.entries.get(first.job.name, {}).get("stopped"):
            self.min_epochs, self.deadline = first.epochs, 0.0

    def finish_fit(self, job: FitJob) -> None:
        """Write down what a fit has taken."""
        entry = {
            "stage": job.stage,
            "seconds": round(clock() - self.started_at, 3),
            "stopped": self.stopped_at,
        }
        self.run.write_json(
            BUDGET_FILE, self.entries | {job.name: process_group.broadcast_object(entry)}
        )

    def limit_watch(self, watch: FitWatcher | None) -> FitWatcher:
        """The same watch, and the fit ends with the epoch in which the budget is used up."""

        @contextmanager
        def watched(trainer: Trainer, job: FitJob, baseline: dict[str, Score]) -> Iterator[None]:
            trainer.callbacks.append(self._after_epoch)
            inner: AbstractContextManager[object] = (
                watch(trainer, job, baseline) if watch else nullcontext()
            )
            with inner:
                yield
            if trainer.stop == self._reason:
                self.stopped_at = f"{trainer.epoch} of {trainer.settings.epochs} epochs"

        return watched

    def _after_epoch(self, trainer: Trainer) -> None:
        spent = self.seconds_before + max(trainer.seconds, clock() - self.started_at)
        whole = trainer.epoch >= trainer.settings.epochs
        if spent > self.deadline and trainer.epoch >= self.min_epochs and not whole:
            trainer.stop = trainer.stop or self._reason

    @property
    def _reason(self) -> str:
        return f"workflow.budget={self.text} is used up"
