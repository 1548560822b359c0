"""One run: the fits that the protocol asks for, their scores, and how it is resumed."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dlrun.config.settings import parallel_fits_mode
from dlrun.core import checkpoint
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.errors import FileWriteError, TrainingDiverged, TrainingInterrupted, UserError
from dlrun.core.types import FitJob, Result, Score
from dlrun.evaluation.protocols.plans import EvaluationPlan
from dlrun.evaluation.protocols.two_stages import drop_first_stages
from dlrun.experiment.builder import BuiltFit, ExperimentBuilder
from dlrun.experiment.records import (
    begin_callbacks,
    compute_baseline_scores,
    compute_objective_scores,
    describe_fit,
    describe_skipped_steps,
    make_result_fields,
    solve_model,
    write_predictions,
)
from dlrun.training import step_runner
from dlrun.training.callbacks import EarlyStopping
from dlrun.training.meter import scores_with_intervals
from dlrun.training.monitors import get_direction_by_metric, scores_with_direction
from dlrun.training.trainer import FitWatcher, handle_stop_signal

log = logging.getLogger("dlrun")


class Experiment:
    """A protocol carried out: builds, trains and scores fits, and writes results to the run folder.

    Args:
        config: As config.yaml holds it.
        folder: Of the run.
        plugins: Packages whose parts may be named.
        processes: That share the run.
        plan: Says which fit is next; None: the protocol of the config.
        builder: One of the same folder that has read the data already; None: a new one.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        plugins: tuple[str, ...] = (),
        processes: ProcessGroup = ONE_PROCESS,
        plan: EvaluationPlan | None = None,
        builder: ExperimentBuilder | None = None,
    ) -> None:
        self.processes = processes
        builder = builder or ExperimentBuilder(config, folder, plugins, processes)
        self.builder = builder.with_plan(config, plan) if plan else builder
        self.run, self.wants_test = self.builder.run, config["test"]
        self.latest_fit: BuiltFit | None = None
        self.logged_messages: set[str] = set()  # remarks that stand in the log
        # Fits that are built already, once it is known that none is trained with others.
        self._single_fits: list[BuiltFit] | None = None
        if self.builder.dataset.note:
            log.warning("%s", self.builder.dataset.note)

    def results(
        self,
        watch: FitWatcher | None = None,
        stages: tuple[str, ...] = ("fit",),
        enough: Callable[[], bool] = lambda: False,
    ) -> list[Result]:
        """Fit what the protocol asks for and has no result yet, then open the test rows if that was
        asked for.

        Args:
            stages: Whose fits are tested, all at one opening; the ledger has the scores of the
                first one.
            enough: Asked before each fit and before the test, whether that is not wanted.
        """
        done = len(self.run.read_results())
        if self.wants_test and (
            self.builder.plan(self.get_fit_results()) is not None or self.get_pending_tests(stages)
        ):
            self._check_test_allowed()
        while not enough() and (self._advance_together(watch) or self.advance(watch) is not None):
            pass
        if self.wants_test and not enough():
            self.evaluate_test(stages)
        if self.latest_fit is None and len(self.run.read_results()) == done:
            log.info("nothing left to do: this run is finished")
        return self.run.read_results()

    def _advance_together(self, watch: FitWatcher | None) -> bool:
        """Fit what the protocol asks for next as one, where that can be; whether it was so."""
        mode = parallel_fits_mode(self.builder.config)
        # Decided once: where it cannot be, it cannot be later either.
        jobs = self.get_pending_jobs() if mode and self._single_fits is None else []
        if len(jobs) < 2:
            return False
        # Here, because most runs train one fit.
        from dlrun.experiment.parallel_fits import driver

        self._single_fits = driver.train_jobs(self, jobs, watch)
        return self._single_fits is None

    def add_result(self, fit: BuiltFit, result: Result) -> None:
        """Write down what came of a fit, which is the latest from here on."""
        self.latest_fit = fit
        self.run.add_results([result])

    def get_pending_jobs(self) -> list[FitJob]:
        """The jobs that the plan asks for next, whatever comes of them.

        Up to one that begins where another one ends.
        """
        results, jobs = self.get_fit_results(), list[FitJob]()
        # The plan is asked with empty results: only jobs that depend on none come out.
        while (job := self.builder.plan(results)) is not None and not job.start:
            jobs.append(job)
            results = [*results, Result(job, "val", {})]
        return jobs

    def advance(self, watch: FitWatcher | None = None) -> Result | None:
        """Fit the next job that the protocol asks for and write down what came of it.

        None when there is none.
        """
        job = self.builder.plan(self.get_fit_results())
        if job is None:
            return None
        prebuilt, self._single_fits = self._single_fits or [], []
        self.latest_fit = (
            prebuilt[0] if prebuilt and prebuilt[0].job == job else self.builder.build_fit(job)
        )
        # Every process plans the next job from the same result.
        result = self.processes.broadcast_object(self.train(self.latest_fit, watch))
        self.add_result(self.latest_fit, result)
        return result

    def get_fit_results(self) -> list[Result]:
        """The results of fits, without those of the test."""
        return [result for result in self.run.read_results() if result.split != "test"]

    def get_pending_tests(self, stages: tuple[str, ...]) -> list[FitJob]:
        """The fits of these stages that have not been measured on the test rows."""
        tested = {result.job.name for result in self.run.read_results() if result.split == "test"}
        return [
            r.job
            for r in self.get_fit_results()
            if r.job.stage in stages and r.job.name not in tested
        ]

    def evaluate_test(self, stages: tuple[str, ...]) -> None:
        """Measure every fit of these stages that has no test result yet on the test rows.

        It is one opening.
        """
        pending = self.get_pending_tests(stages)
        latest = self.latest_fit
        # The last one may be in memory still; only one is, whatever its size.
        is_latest = lambda job: latest is not None and job == pending[-1] == latest.job  # noqa: E731
        if pending:
            fits = [latest if is_latest(job) else self.load_fit(job) for job in pending]
            self._evaluate_test_rows(fits)  # type: ignore[arg-type]

    def _evaluate_test_rows(self, fits: list[BuiltFit]) -> list[Result]:
        """Enter one opening in the ledger, read the test rows, write all results, and complete the
        entry.
        """
        from dlrun.evaluation import test_ledger

        config, folder, entry = self.builder.config, self.run.folder, None
        if not self.builder.dataset.synthetic:
            add_entry = partial(
                test_ledger.add_entry, **self._get_ledger_key(), config=config, run=folder
            )
            # Entered before the rows are read: an evaluation that is cut counts, too.
            entry = self.processes.on_main_process(lambda: add_entry(reason=self._reason))
        results = self.processes.broadcast_object([self.score(fit, "test") for fit in fits])
        self.run.add_results(results)
        if entry is not None:
            reported = [result for result in results if result.job.stage == results[0].job.stage]
            values = {
                name: [result.scores[name].value for result in reported]
                for name in reported[0].scores
            }
            means = {
                name: statistics.fmean(metric_values) for name, metric_values in values.items()
            }
            self.processes.on_main_process(lambda: test_ledger.add_score(entry, means))
        log.info("the test split was evaluated: %s", folder)
        return results

    @property
    def _reason(self) -> str:
        """Why the test split is evaluated: the book's experiments say so themselves."""
        config = self.builder.config
        return config["reason"] or (
            f"the book's §{config['book']['section']}" if config["book"] else ""
        )

    def _check_test_allowed(self) -> None:
        """Refuse to open test rows for several models, again without a reason, or where it could
        not be entered.
        """
        first_job = self.builder.plan([])
        if first_job is not None and first_job.folds > 1:
            raise UserError(
                "test=true needs one model to test: use protocol=whole or protocol=holdout, not "
                "folds"
            )
        if self.builder.config["data"].get("seed") is not None and not self._reason:
            raise UserError(
                "data.seed draws other test rows than the usual ones, and of many draws one is "
                "kind by chance. "
                'Say why these are evaluated: reason="…"'
            )
        if not self.builder.dataset.synthetic:
            from dlrun.evaluation import test_ledger

            self.processes.on_main_process(test_ledger.check_writable)
            test_request: dict[str, Any] = {
                **self._get_ledger_key(),
                "reason": self._reason,
                "run": self.run.folder,
            }
            self.processes.on_main_process(lambda: test_ledger.require_reason(**test_request))

    def _get_ledger_key(self) -> dict[str, str]:
        """Whose test split is evaluated, as the ledger knows them."""
        data = self.run.read_data()
        return {
            "task": self.builder.config["task"]["name"],
            "fingerprint": data["fingerprint"],
            "test": data["test"],
        }

    def evaluate(self, name: str = "") -> list[Result]:
        """Every job's checkpoint (`best`, `last`, or the first of them that is there) scored again.

        Records a test.
        """
        done = self.get_fit_results()
        unfinished = (
            []
            if self.wants_test
            else [
                job
                for job in self.run.failed_jobs()
                if checkpoint.has_checkpoint(self.run.checkpoint_folder(job))
            ]
        )
        if not done and not unfinished:
            raise UserError(
                f"nothing to evaluate: no fit has finished in {self.run.folder}; "
                f"{self.run.describe_next_step()}"
            )
        if self.wants_test:
            self._check_test_allowed()
            return self._evaluate_test_rows(
                [self.load_fit(result.job, name) for result in drop_first_stages(done)]
            )
        results = [self.score(self.load_fit(result.job, name), result.split) for result in done]
        return [*results, *(self._score_cut_fit(job, name) for job in unfinished)]

    def _score_cut_fit(self, job: FitJob, name: str) -> Result:
        """The scores of a fit that did not end well, which say so."""
        fit = self.load_fit(job, name)
        result = self.score(fit, fit.split)
        return replace(
            result, note="; ".join(filter(None, (self.run.describe_failure(job), result.note)))
        )

    def load_fit(self, job: FitJob, name: str = "") -> BuiltFit:
        """A job as its finished fit left it: its best checkpoint, or its last.

        Raises:
            UserError: if there is none.
        """
        fit = self.builder.build_fit(job)
        for candidate in (name,) if name else ("best", "last"):
            if self._restore(fit, candidate, checkpoint.load_latest):
                return fit
        raise UserError(f"no checkpoint to evaluate in {fit.trainer.folder}")

    def train(self, fit: BuiltFit, watch: FitWatcher | None = None) -> Result:
        """Fit one job, from its last checkpoint if there is one, and score its validation rows."""
        baseline = self.restore(fit)
        self.train_fit(fit, baseline, watch)
        return self.finalize(fit, baseline)

    def restore(self, fit: BuiltFit) -> dict[str, Score]:
        """Bring a fit to where its last checkpoint has it.

        Answers with what the answer to beat comes to.
        """
        trainer = fit.trainer
        baseline = self._score_baseline(fit, fit.split)  # before restoring: it seeds
        if self._restore(fit, "last"):
            log.info(
                "%s goes on at epoch %d, batch %d",
                fit.job.name,
                trainer.epoch + 1,
                trainer.position + 1,
            )
            self._apply_changed_settings(fit)
            # An epoch that is done again may not lose the best one from before it.
            file = self.run.checkpoint_file(fit.job.name, "best")
            earlier = checkpoint.load_before_epoch(file, trainer.epoch)
            trainer.pending_checkpoints |= {"best": earlier} if earlier is not None else {}
        else:
            step_runner.check_batch_norm(
                trainer.objective, fit.data.train, trainer.settings.batch_rows
            )
            # Only at the beginning: a checkpoint holds what was solved.
            solve_model(fit, self.run)
        for line in set(describe_fit(trainer)) - self.logged_messages:
            log.warning("%s", line)
            self.logged_messages.add(line)
        begin_callbacks(trainer, self.run, fit.job)
        return baseline

    def _apply_changed_settings(self, fit: BuiltFit) -> None:
        """Let a fit that has ended go on where it was asked to, and say what is otherwise from here
        on.
        """
        from dlrun.core import checkpoint as changed_settings

        trainer, name = fit.trainer, fit.job.name
        changes = changed_settings.read_changes(self.run.folder, name)
        current = [
            change
            for change in changes
            if (change["epoch"], change["position"]) == (trainer.epoch, trainer.position)
        ]
        trainer.stop = "" if current else trainer.stop
        for text in filter(None, map(changed_settings.describe_changes, current)):
            log.info("%s: %s", name, text)
        replan = any(
            key.startswith(changed_settings.SCHEDULED_SETTINGS)
            for change in current
            for key in change["settings"]
        )
        if replan and trainer.optimization.schedule is not None:
            log.info("%s: its schedule is now one over %d steps", name, trainer.total_steps)
        stopped_epoch = changed_settings.last_stopped_epoch(self.run.folder, name)
        for number, callback in enumerate(trainer.callbacks):
            if isinstance(callback, EarlyStopping):
                trainer.callbacks[number] = replace(callback, since=stopped_epoch)

    def train_fit(
        self, fit: BuiltFit, baseline: dict[str, Score], watch: FitWatcher | None = None
    ) -> None:
        """Train a fit to its end."""
        try:
            with (
                watch(fit.trainer, fit.job, baseline) if watch else nullcontext(),
                handle_stop_signal(fit.trainer),
            ):
                fit.trainer.fit()
        except Exception as error:
            self.record_failure(fit, error)
            raise

    def record_failure(self, fit: BuiltFit, error: BaseException) -> None:
        """Leave the best epoch of a fit that an error ends on the disk, and note why there will be
        no result of it.
        """
        fit.trainer.write_pending_checkpoints(tell=not isinstance(error, FileWriteError))
        if isinstance(error, Exception) and not isinstance(error, TrainingInterrupted):
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            with suppress(OSError, UserError):  # what there was no room for is what is told
                self.run.record_failure(
                    fit.job, reason, diverged=isinstance(error, TrainingDiverged)
                )

    def finalize(self, fit: BuiltFit, baseline: dict[str, Score]) -> Result:
        """Score the best epoch of a fit that has ended."""
        trainer = fit.trainer
        if trainer.stop:
            log.info("%s stopped after epoch %d: %s", fit.job.name, trainer.epoch, trainer.stop)
        epochs, seconds, skips = trainer.epoch, trainer.seconds, describe_skipped_steps(trainer)
        for line in skips:
            log.warning("%s: %s", fit.job.name, line)
        fit.weights = f"last (epoch {epochs})"
        # The best epoch is scored where one was kept, else the last.
        self._restore(fit, "best")
        result = self.score(fit, fit.split, baseline)
        note = "; ".join(filter(None, (result.note, *describe_fit(trainer), *skips)))
        return replace(
            result,
            epochs=epochs,
            seconds=round(seconds, 3),
            parameters=trainer.optimization.num_parameters,
            note=note,
        )

    def score(self, fit: BuiltFit, split: str, baseline: dict[str, Score] | None = None) -> Result:
        """Measure one split with the weights as they are, beside the constant answer.

        The answers are kept.
        """
        source, trainer = self.builder.get_source(fit, split), fit.trainer
        trainer.meter, trainer.position = None, 0
        meter = trainer.run_epoch(split, source, keep=True)
        seed = self.builder.config["seed"]
        scores = scores_with_direction(
            scores_with_intervals(meter, seed=seed)
            | compute_objective_scores(trainer, source, seed),
            get_direction_by_metric(trainer),
        )
        baseline = self._score_baseline(fit, split) if baseline is None else baseline
        write_predictions(self.builder, fit, split, meter)
        result_fields = make_result_fields(self.builder, fit, split, scores, baseline)
        return Result(fit.job, split, scores, baseline, trainer.epoch, fit.weights, **result_fields)

    def _score_baseline(self, fit: BuiltFit, split: str) -> dict[str, Score]:
        """What the answer that has to be beaten comes to; nothing where there is none."""
        if fit.baseline is None:
            return {}
        return scores_with_direction(
            compute_baseline_scores(fit.baseline, split, self.builder.get_source(fit, split)),
            get_direction_by_metric(fit.baseline) | get_direction_by_metric(fit.trainer),
        )

    def _restore(
        self, fit: BuiltFit, name: str, read: Callable[[Path], Any] = checkpoint.load_latest_or_none
    ) -> bool:
        state = self.processes.on_main_process(lambda: read(fit.trainer.folder / f"{name}.pt"))
        if state is not None:
            fit.trainer.restore(state)
            fit.weights = f"{name} (epoch {fit.trainer.epoch})"
        return state is not None
