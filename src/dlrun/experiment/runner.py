"""One run: fits what the protocol asks for, scores it, and goes on where an earlier start was cut."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dlrun.core import changed_settings, checkpoint
from dlrun.core.errors import Diverged, Interrupted, Refused, Unwritable
from dlrun.core.files import spared
from dlrun.core.run_folder import RunDir
from dlrun.core.types import Job, Result, Score
from dlrun.evaluation import forecast_file, test_ledger, worst_errors
from dlrun.evaluation.protocols.two_stages import standing
from dlrun.experiment.baseline_scores import bar_scores
from dlrun.experiment.builder import Assembly, Fit
from dlrun.experiment.notes import costly, models_notes, remarks, skipped, told_of_targets, undefined
from dlrun.experiment.parallel_fits import driver
from dlrun.training import batch_norm
from dlrun.training.callbacks import EarlyStopping, KeepBest
from dlrun.training.distributed import process_group
from dlrun.training.generation import judged
from dlrun.training.meter import Meter, with_intervals
from dlrun.training.monitors import directed, goals_of
from dlrun.training.signals import signals
from dlrun.training.trainer import Watch

log = logging.getLogger("dlrun")


class Experiment:
    """A protocol carried out over an assembly; what comes of it is in the run folder."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        self.assembly = Assembly(config, folder, plugins)
        self.run, self.wants_test = self.assembly.run, config["test"]
        self.latest: Fit | None = None
        self.told: set[str] = set()  # remarks that stand in the log
        self.alone: list[Fit] | None = None  # fits that are there already, once none is to be trained with others
        if self.assembly.raw.note:
            log.warning("%s", self.assembly.raw.note)

    def results(
        self, watch: Watch | None = None, stages: tuple[str, ...] = ("fit",), enough: Callable[[], bool] = lambda: False
    ) -> list[Result]:
        """Fit what the protocol asks for and has no result yet, then open the test rows if that was asked for.

        stages: whose fits are tested, all at one opening; the ledger has the scores of the first one. enough: asked
        before each fit and before the test, whether that is not wanted.
        """
        done = len(self.run.results())
        if self.wants_test and (self.assembly.plan(self.fitted()) is not None or self.untested(stages)):
            self._may_open()
        while not enough() and (driver.advance(self, watch) or self.advance(watch) is not None):
            pass
        if self.wants_test and not enough():
            self.open_test(stages)
        if self.latest is None and len(self.run.results()) == done:
            log.info("nothing left to do: this run is finished")
        return self.run.results()

    def advance(self, watch: Watch | None = None) -> Result | None:
        """Fit the next job that the protocol asks for and write down what came of it; None when there is none."""
        job = self.assembly.plan(self.fitted())
        if job is None:
            return None
        there, self.alone = self.alone or [], []
        self.latest = there[0] if there and there[0].job == job else self.assembly.fit(job)
        result = process_group.agreed(self.train(self.latest, watch))
        self.run.add_results([result])
        return result

    def fitted(self) -> list[Result]:
        """The results of fits, without those of the test."""
        return [result for result in self.run.results() if result.split != "test"]

    def untested(self, stages: tuple[str, ...]) -> list[Job]:
        """The fits of these stages that have not been measured on the test rows."""
        tested = {result.job.name for result in self.run.results() if result.split == "test"}
        return [r.job for r in self.fitted() if r.job.stage in stages and r.job.name not in tested]

    def open_test(self, stages: tuple[str, ...]) -> None:
        """Measure every fit of these stages that has no test result yet on the test rows; it is one opening."""
        waiting = self.untested(stages)
        if waiting:
            latest = self.latest if self.latest is not None and self.latest.job == waiting[-1] else None
            self._open([(latest if job == waiting[-1] and latest else self.assembled(job)) for job in waiting])

    def _open(self, fits: list[Fit]) -> list[Result]:
        """Enter one opening in the ledger, read the test rows, write all results, and complete the entry."""
        config, folder, entry = self.assembly.config, self.run.folder, None
        if not self.assembly.synthetic:
            enter = partial(test_ledger.enter, **self._whose(), config=config, run=folder)
            entry = process_group.told(lambda: enter(reason=self._reason))
        found = process_group.agreed([self.score(fit, "test") for fit in fits])
        self.run.add_results(found)
        if entry is not None:
            first = [result for result in found if result.job.stage == found[0].job.stage]
            values = {name: [result.scores[name].value for result in first] for name in first[0].scores}
            means = {name: statistics.fmean(each) for name, each in values.items()}
            process_group.told(lambda: test_ledger.complete(entry, means))
        log.info("the test rows were opened: %s", folder)
        return found

    @property
    def _reason(self) -> str:
        """Why the test rows are opened: the book's experiments say so themselves."""
        config = self.assembly.config
        return config["reason"] or (f"the book's §{config['book']['section']}" if config["book"] else "")

    def _may_open(self) -> None:
        """Refuse to open test rows for several models, again without a reason, or where it could not be entered."""
        first = self.assembly.plan([])
        if first is not None and first.folds > 1:
            raise Refused("test=true needs one model to test: use protocol=whole or protocol=holdout, not folds")
        if self.assembly.config["data"].get("seed") is not None and not self._reason:
            raise Refused(
                "data.seed draws other test rows than the usual ones, and of many draws one is kind by chance. "
                'Say why these are opened: reason="…"'
            )
        if not self.assembly.synthetic:
            process_group.told(test_ledger.check_writable)
            about: dict[str, Any] = {**self._whose(), "reason": self._reason, "run": self.run.folder}
            process_group.told(lambda: test_ledger.must_have_reason(**about))

    def _whose(self) -> dict[str, str]:
        """Whose test rows are opened, as the ledger knows them."""
        data = self.run.read_json("data.json")
        return {"task": self.assembly.config["task"]["name"], "fingerprint": data["fingerprint"], "test": data["test"]}

    def evaluated(self, name: str = "") -> list[Result]:
        """Every job's checkpoint (`best`, `last`, or the first of them that is there) scored again; records a test."""
        done = self.fitted()
        cut = [] if self.wants_test else [job for job in self.run.cut() if checkpoint.there(self.run.checkpoints(job))]
        if not done and not cut:
            raise Refused(f"nothing to evaluate: no fit has finished in {self.run.folder}; {self.run.advice()}")
        if self.wants_test:
            self._may_open()
            return self._open([self.assembled(result.job, name) for result in standing(done)])
        found = [self.score(self.assembled(result.job, name), result.split) for result in done]
        return [*found, *(self._cautious(job, name) for job in cut)]

    def _cautious(self, job: Job, name: str) -> Result:
        """The scores of a fit that did not end well, which say so."""
        fit = self.assembled(job, name)
        result = self.score(fit, fit.split)
        return replace(result, note="; ".join(filter(None, (self.run.caution(job), result.note))))

    def assembled(self, job: Job, name: str = "") -> Fit:
        """A job as its finished fit left it: its best checkpoint, or its last. Raises Refused when there is none."""
        fit = self.assembly.fit(job)
        for candidate in (name,) if name else ("best", "last"):
            if self._restore(fit, candidate, checkpoint.sound):
                return fit
        raise Refused(f"no checkpoint to evaluate in {fit.trainer.folder}")

    def train(self, fit: Fit, watch: Watch | None = None) -> Result:
        """Fit one job, from its last checkpoint if there is one, and score its validation rows."""
        baseline = self.begin(fit)
        self.carry_on(fit, baseline, watch)
        return self.conclude(fit, baseline)

    def begin(self, fit: Fit) -> dict[str, Score]:
        """Bring a fit to where its last checkpoint has it; answers with what the answer to beat comes to."""
        trainer = fit.trainer
        baseline = self._baseline(fit, fit.split)  # before restoring: it seeds
        if self._restore(fit, "last"):
            log.info("%s goes on at epoch %d, batch %d", fit.job.name, trainer.epoch + 1, trainer.position + 1)
            self._told_of_changes(fit)
            earlier = checkpoint.not_after(trainer.folder / "best.pt", trainer.epoch)
            trainer.kept |= {"best": earlier} if earlier is not None else {}
        else:
            batch_norm.check(trainer.objective, fit.data.train, trainer.settings.batch_rows)
            solve(fit, self.run)
        for line in set(remarks(trainer)) - self.told:
            log.warning("%s", line)
            self.told.add(line)
        self._start_records(fit)
        return baseline

    def _told_of_changes(self, fit: Fit) -> None:
        """Let a fit that has ended go on where it was asked to, and say what is otherwise from here on."""
        trainer, name = fit.trainer, fit.job.name
        known = changed_settings.entries(self.run.folder, name)
        here = [each for each in known if (each["epoch"], each["position"]) == (trainer.epoch, trainer.position)]
        trainer.stop = "" if here else trainer.stop
        for text in filter(None, map(changed_settings.told, here)):
            log.info("%s: %s", name, text)
        replan = any(key.startswith(changed_settings.PLANNED) for each in here for key in each["settings"])
        if replan and trainer.learner.schedule is not None:
            log.info("%s: its schedule is now one over %d steps", name, trainer.steps_planned)
        since = changed_settings.ended_at(self.run.folder, name)
        for number, callback in enumerate(trainer.callbacks):
            if isinstance(callback, EarlyStopping):
                trainer.callbacks[number] = replace(callback, since=since)

    def carry_on(self, fit: Fit, baseline: dict[str, Score], watch: Watch | None = None) -> None:
        """Train a fit to its end."""
        try:
            with watch(fit.trainer, fit.job, baseline) if watch else nullcontext(), signals(fit.trainer):
                fit.trainer.fit()
        except Exception as error:
            self.ended_early(fit, error)
            raise

    def ended_early(self, fit: Fit, error: BaseException) -> None:
        """Leave the best epoch of a fit that an error ends on the disk, and note why there will be no result of it."""
        fit.trainer.rescue(tell=not isinstance(error, Unwritable))
        if isinstance(error, Exception) and not isinstance(error, Interrupted):
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            with suppress(OSError, Refused):  # what there was no room for is what is told
                self.run.note_cut(fit.job, why, diverged=isinstance(error, Diverged))

    def conclude(self, fit: Fit, baseline: dict[str, Score]) -> Result:
        """Score the best epoch of a fit that has ended."""
        trainer = fit.trainer
        if trainer.stop:
            log.info("%s stopped after epoch %d: %s", fit.job.name, trainer.epoch, trainer.stop)
        epochs, seconds, skips = trainer.epoch, trainer.seconds, skipped(trainer)
        for line in skips:
            log.warning("%s: %s", fit.job.name, line)
        fit.weights = f"last (epoch {epochs})"
        self._restore(fit, "best")
        result = self.score(fit, fit.split, baseline)
        note = "; ".join(filter(None, (result.note, *remarks(trainer), *skips)))
        return replace(result, epochs=epochs, seconds=round(seconds, 3), parameters=trainer.learner.numbers, note=note)

    def score(self, fit: Fit, split: str, baseline: dict[str, Score] | None = None) -> Result:
        """Measure one split with the weights as they are, beside the constant answer; the answers are kept."""
        source, trainer = self.assembly.source(fit, split), fit.trainer
        trainer.meter, trainer.position = None, 0
        meter = trainer.sweep(split, source, keep=True)
        seed = self.assembly.config["seed"]
        scores = directed(with_intervals(meter, seed=seed) | judged(trainer, source, seed), goals_of(trainer))
        baseline = self._baseline(fit, split) if baseline is None else baseline
        self._show(fit, split, meter)
        raw = self.assembly.raw
        notes = (
            raw.note,
            *self.assembly.told,
            *models_notes(fit),
            *changed_settings.notes(self.run.folder, fit.job.name),
            *forecast_file.notes(raw),
            *undefined(scores, split),
            *costly(scores),
            *told_of_targets(fit, scores, baseline),
            self._verdict(scores, baseline, hasattr(trainer.objective, "losses")),
        )
        return Result(fit.job, split, scores, baseline, trainer.epoch, fit.weights, note="; ".join(filter(None, notes)))

    def _baseline(self, fit: Fit, split: str) -> dict[str, Score]:
        """What the answer that has to be beaten comes to; nothing where there is none."""
        if fit.baseline is None:
            return {}
        return directed(bar_scores(fit.baseline, split, self.assembly.source(fit, split)), goals_of(fit.baseline))

    def _show(self, fit: Fit, split: str, meter: Meter) -> None:
        """Keep what was answered, and the worst of it as a person sees it."""
        answers, raw = meter.answers(), self.assembly.raw
        rows, which = self.assembly.raw_rows(fit, split)
        folder, name = self.run.folder, fit.job.name
        with spared("predictions are", folder / "predictions"):
            self.run.write_answers(fit.job, split, answers, which, meter.values())  # which rows, at least: others ask
        if not answers:
            return
        with spared("the worst errors are", folder / "errors"):
            worst_errors.write(folder, name, split, raw, rows, which, answers, fit.data.spec.targets)
            forecast_file.write(folder, name, split, raw, rows, which, answers)

    def _restore(self, fit: Fit, name: str, read: Callable[[Path], Any] = checkpoint.newest) -> bool:
        found = process_group.told(lambda: read(fit.trainer.folder / f"{name}.pt"))
        if found is not None:
            fit.trainer.restore(found)
            fit.weights = f"{name} (epoch {fit.trainer.epoch})"
        return found is not None

    def _start_records(self, fit: Fit) -> None:
        """Set history and the files of callbacks to what the trainer knows, and have every epoch added to them."""
        trainer = fit.trainer
        for callback in trainer.callbacks:
            if hasattr(callback, "begin"):
                callback.begin(trainer)
        whole = [row for row in trainer.history if row.epoch <= trainer.epoch]  # a cut epoch is added when it is whole
        self.run.write_history(fit.job, whole)
        written = lambda t: self.run.append_history(fit.job, [row for row in t.history if row.epoch == t.epoch])  # noqa: E731
        first = sum(isinstance(callback, KeepBest) for callback in trainer.callbacks)  # what fails then loses no epoch
        trainer.callbacks.insert(first, written)

    def _verdict(self, scores: dict[str, Score], baseline: dict[str, Score], answers: bool) -> str:
        """Whether a few rows were learnt by heart; only an objective that answers targets can do so."""
        if not self.assembly.settings.overfit or not answers:
            return ""
        loss, bar = scores["loss"].value, baseline["loss"].value / 10
        outcome, than = ("passed", "below") if loss < bar else ("FAILED", "not below")
        return (
            f"overfit check {outcome}: the loss on the same {self.assembly.settings.overfit} rows is {loss:.4g}, "
            f"{than} a tenth of the baseline's ({bar:.4g})"
        )


def solve(fit: Fit, run: RunDir) -> None:
    """Have a model that no step trains find its weights: on the training rows, an ensemble on the validation rows."""
    objective: Any = fit.trainer.objective
    model: Any = getattr(objective, "model", None)
    if hasattr(model, "solve"):
        model.solve(fit.data.train)
    elif hasattr(model, "weigh"):
        run.write_json("members.json", model.weigh(fit.data.val, objective.total))
