"""What a workflow has spent of its budget, which ends a fit with the epoch in which it is used up."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic as clock
from typing import TYPE_CHECKING, Any

from dlrun.core.run_folder import RunDir
from dlrun.core.types import Job, Result, Score
from dlrun.training.distributed import process_group
from dlrun.workflow.candidates import FIRST

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer, Watch


FILE = "budget.json"


@dataclass
class Spending:
    """Of one run folder. limit: seconds, None without such a limit; text: the budget as it was asked for."""

    run: RunDir
    limit: float | None
    text: str
    before: float = 0.0
    least: int = 1
    ends: float = math.inf
    began: float = 0.0
    cut: str = ""

    @property
    def known(self) -> dict[str, dict[str, Any]]:
        """Job → its seconds, loading, solving and scoring included, and where it was stopped."""
        return self.run.read_json(FILE) or {}

    def seconds(self, result: Result) -> float:
        """What a fit took; runs of earlier versions know the time of training alone."""
        entry = self.known.get(result.job.name, {})
        return max(result.seconds, float(entry.get("seconds", 0.0)))

    def stopped(self, stages: Collection[str]) -> list[str]:
        """One line that names those of these stages whose fits the budget has stopped, or none."""
        entries = [entry for entry in self.known.values() if entry["stopped"]]
        found = dict.fromkeys((entry["stage"], entry["stopped"]) for entry in entries if entry["stage"] in stages)
        told = ", ".join(f"{stage} after {where}" for stage, where in found)
        return [f"stopped by the budget: {told}"] if told else []

    def begin(self, job: Job, results: list[Result]) -> None:
        """Start the clock of a fit.

        The first fold has its share of what is left; where the budget stops it, later ones are trained for as many
        epochs, so that they compare. The small network leaves half to the configured one.
        """
        self.began, self.cut, self.least, self.ends = clock(), "", 1, math.inf
        self.before = sum(map(self.seconds, results))
        first = next((result for result in results if result.job.stage == job.stage), None)
        if self.limit is None:
            return
        if first is None:
            fits = max(1, sum(result.job.stage == FIRST[0] for result in results))
            stages = len(FIRST) - FIRST.index(job.stage) if job.stage in FIRST else 1
            self.ends = self.before + max(0.0, self.limit - self.before) / (fits * stages)
        elif self.known.get(first.job.name, {}).get("stopped"):
            self.least, self.ends = first.epochs, 0.0

    def end(self, job: Job) -> None:
        """Write down what a fit has taken."""
        entry = {"stage": job.stage, "seconds": round(clock() - self.began, 3), "stopped": self.cut}
        self.run.write_json(FILE, self.known | {job.name: process_group.agreed(entry)})

    def watching(self, watch: Watch | None) -> Watch:
        """The same watch, and the fit ends with the epoch in which the budget is used up."""

        @contextmanager
        def watched(trainer: Trainer, job: Job, baseline: dict[str, Score]) -> Iterator[None]:
            trainer.callbacks.append(self._after_epoch)
            inner: AbstractContextManager[object] = watch(trainer, job, baseline) if watch else nullcontext()
            with inner:
                yield
            if trainer.stop == self._reason:
                self.cut = f"{trainer.epoch} of {trainer.settings.epochs} epochs"

        return watched

    def _after_epoch(self, trainer: Trainer) -> None:
        spent = self.before + max(trainer.seconds, clock() - self.began)
        whole = trainer.epoch >= trainer.settings.epochs
        if spent > self.ends and trainer.epoch >= self.least and not whole:
            trainer.stop = trainer.stop or self._reason

    @property
    def _reason(self) -> str:
        return f"workflow.budget={self.text} is used up"
