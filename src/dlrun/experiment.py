"""One run: fits what the protocol asks for, scores it, and goes on where an earlier start was cut."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlrun import checkpoint
from dlrun.assembly import Assembly, Fit
from dlrun.callbacks import TensorBoard
from dlrun.engine import Trainer
from dlrun.errors import Refused
from dlrun.types import Job, Result, Score

log = logging.getLogger("dlrun")
Watch = Callable[[Trainer, Job, dict[str, Score]], AbstractContextManager[object]]


class Experiment:
    """A protocol carried out over an assembly; what comes of it is in the run folder."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        self.assembly = Assembly(config, folder, plugins)
        self.run, self.wants_test = self.assembly.run, config["test"]
        if self.assembly.raw.note:
            log.warning("%s", self.assembly.raw.note)

    def results(self, watch: Watch | None = None) -> list[Result]:
        """Fit what the protocol asks for and has no result yet, then open the test rows if that was asked for."""
        done = self.run.results()
        fitted = [result for result in done if result.split != "test"]
        fit: Fit | None = None
        while (job := self.assembly.plan(fitted)) is not None:
            if self.wants_test and job.folds > 1:
                raise Refused("test=true needs one model to test: use protocol=whole or protocol=holdout, not folds")
            fit = self.assembly.fit(job)
            fitted.append(self.train(fit, watch))
            self.run.add_result(fitted[-1])
        if self.wants_test and not any(result.split == "test" for result in done):
            fit = fit or self.assembled(fitted[-1].job)
            self.run.add_result(self.score(fit, "test"))
            log.info("the test rows were opened: %s", self.run.folder)
        if len(self.run.results()) == len(done):
            log.info("nothing left to do: this run is finished")
        return self.run.results()

    def evaluated(self, name: str = "") -> list[Result]:
        """Every job's checkpoint (`best`, `last`, or the first of them that is there) scored again; records a test."""
        found = []
        for result in [result for result in self.run.results() if result.split != "test"]:
            fit = self.assembled(result.job, name)
            split = "test" if self.wants_test else result.split
            found.append(self.score(fit, split))
            if split == "test":
                self.run.add_result(found[-1])
        if not found:
            raise Refused(
                f"nothing to evaluate: no fit has finished in {self.run.folder}; dlrun resume goes on with it"
            )
        return found

    def assembled(self, job: Job, name: str = "") -> Fit:
        """A job as its finished fit left it: its best checkpoint, or its last. Raises Refused when there is none."""
        fit = self.assembly.fit(job)
        for candidate in (name,) if name else ("best", "last"):
            if self._restore(fit, candidate):
                return fit
        raise Refused(f"no checkpoint to evaluate in {fit.trainer.folder}")

    def train(self, fit: Fit, watch: Watch | None = None) -> Result:
        """Fit one job, from its last checkpoint if there is one, and score its validation rows."""
        trainer, started = fit.trainer, time.perf_counter()
        split = "train" if fit.data.val is None else "val"
        baseline = fit.baseline.sweep(split, self.assembly.source(fit, split)).scores()  # before restoring: it seeds
        if self._restore(fit, "last"):
            log.info("%s goes on at epoch %d, batch %d", fit.job.name, trainer.epoch + 1, trainer.position + 1)
        self._start_records(fit)
        with watch(trainer, fit.job, baseline) if watch else nullcontext(), signals(trainer):
            trainer.fit()
        if trainer.stop:
            log.info("%s stopped after epoch %d: %s", fit.job.name, trainer.epoch, trainer.stop)
        epochs = trainer.epoch
        fit.weights = f"last (epoch {epochs})"
        self._restore(fit, "best")
        result = self.score(fit, split, baseline)
        return replace(result, epochs=epochs, seconds=round(time.perf_counter() - started, 3))

    def score(self, fit: Fit, split: str, baseline: dict[str, Score] | None = None) -> Result:
        """Measure one split with the weights as they are, beside the constant answer; the answers are kept."""
        source, trainer = self.assembly.source(fit, split), fit.trainer
        trainer.meter, trainer.position = None, 0
        meter = trainer.sweep(split, source, keep=True)
        scores = meter.scores()
        baseline = baseline or fit.baseline.sweep(split, source).scores()
        self.run.write_answers(fit.job, split, meter.answers())
        notes = (self.assembly.raw.note, self._verdict(scores, baseline))
        return Result(fit.job, split, scores, baseline, trainer.epoch, fit.weights, note="; ".join(filter(None, notes)))

    def _restore(self, fit: Fit, name: str) -> bool:
        found = checkpoint.newest(fit.trainer.folder / f"{name}.pt")
        if found is not None:
            fit.trainer.restore(found)
            fit.weights = f"{name} (epoch {fit.trainer.epoch})"
        return found is not None

    def _start_records(self, fit: Fit) -> None:
        """Set history and event files to what the trainer knows, and have every epoch added to them."""
        trainer = fit.trainer
        whole = [row for row in trainer.history if row.epoch <= trainer.epoch]  # a cut epoch is added when it is whole
        self.run.write_history(fit.job, whole)
        trainer.callbacks.insert(
            0, lambda t: self.run.append_history(fit.job, [row for row in t.history if row.epoch == t.epoch])
        )
        if any(isinstance(callback, TensorBoard) for callback in trainer.callbacks):
            from dlrun import events

            events.rewrite(self.run.folder, whole, fit.job.name)

    def _verdict(self, scores: dict[str, Score], baseline: dict[str, Score]) -> str:
        if not self.assembly.settings.overfit:
            return ""
        loss, bar = scores["loss"].value, baseline["loss"].value / 10
        outcome, than = ("passed", "below") if loss < bar else ("FAILED", "not below")
        return (
            f"overfit check {outcome}: the loss on the same {self.assembly.settings.overfit} rows is {loss:.4g}, "
            f"{than} a tenth of the constant answer's ({bar:.4g})"
        )


@contextmanager
def signals(trainer: Trainer) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM let the step end and the state be saved; a second one stops at once."""

    def ask(number: int, frame: object) -> None:
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.interrupted = number

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
