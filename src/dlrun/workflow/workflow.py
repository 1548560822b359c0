"""Carries the workflow out: fits in their order, and after each one the verdicts so far."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.config.instantiate import apply_patch, build_part
from dlrun.config.settings import get_split_seed
from dlrun.core.dataset import Dataset
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.errors import TrainingDiverged, UserError
from dlrun.core.run_folder import RunFile
from dlrun.core.types import FitJob, Result
from dlrun.data.audit.preprocessing_preview import build_preprocessing_examples
from dlrun.data.audit.run import audit
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.evaluation.protocols.two_stages import make_protocol
from dlrun.evaluation.test_ledger import compute_config_hash
from dlrun.experiment.builder import SUPERVISED_NODE, ExperimentBuilder
from dlrun.experiment.runner import Experiment
from dlrun.training.trainer import FitWatcher
from dlrun.workflow import decisions, verdicts
from dlrun.workflow.candidates import (
    FINAL_STAGES,
    INITIAL_STAGES,
    CandidatePlan,
    Stage,
    StagedPlan,
    check_workflow_settings,
    parse_budget,
)
from dlrun.workflow.config_changes import build_patch
from dlrun.workflow.evidence import BudgetTracker, Evidence
from dlrun.workflow.verdicts import LAST_STEP, Verdict, baseline_verdict

log = logging.getLogger("dlrun")
# These may change when a workflow is resumed; the verdicts so far do not depend on them.
RESUMABLE_KEYS = (
    "workflow.budget",
    "engine.device",
    "engine.devices",
    "engine.save_every",
    "reason",
    "test",
)


class Workflow:
    """Steps 1 to 7 over one experiment; after an interruption it goes on where it was.

    Attributes:
        settings: The settings of the workflow.
        experiment: The experiment that carries out the fits.
        run: The run folder.
        measure: The metric of success.
        protocol: The evaluation protocol.
        config: The config with metric and protocol as they were chosen.
        candidates: The order of stages.
        evidence: What the fits so far show.
        inner: The plan of one stage.
        split: The first fit, its training rows and its validation rows.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        plugins: tuple[str, ...] = (),
        processes: ProcessGroup = ONE_PROCESS,
    ) -> None:
        """Choose metric and protocol, and plan the stages.

        Args:
            config: The config of the workflow.
            folder: Its run folder.
            plugins: Packages that the config may instantiate.
            processes: That share the run.

        Raises:
            UserError: For settings with which a workflow cannot be carried out.
        """
        check_supported(config)
        self.settings = check_workflow_settings(
            config, build_part(config["workflow"], kind="workflow")
        )
        builder = ExperimentBuilder(config, folder, plugins, processes)
        self.run, dataset = builder.run, builder.dataset
        self.measure = decisions.select_metric(dataset, self.settings.measure)
        self.protocol = decisions.select_protocol(
            dataset, self.settings.protocol, config["protocol"]
        )
        # Resumed as it began, even where a newer dlrun would write the protocol otherwise.
        if self.run.exists(RunFile.BEGUN):
            self.protocol = replace(self.protocol, nodes=config["protocol"])
        measures = self.measure.nodes | config["metric"]
        self.config = apply_patch(config, {"protocol": self.protocol.nodes, "metric": measures})
        # The stored config is the one that runs, with the chosen metric and protocol.
        if not self.run.exists(RunFile.WORKFLOW):
            self.run.write_config(self.config)
            self._warn_about_skipped()
        self.candidates = CandidatePlan(
            self.config,
            self.settings,
            decisions.get_series_baselines(dataset),
            self.measure.constant,
        )
        kind, limit = parse_budget(self.settings.budget)
        seconds = limit if kind == "seconds" else None
        text = str(self.settings.budget)
        budget = BudgetTracker(self.run, seconds, text, processes)
        self.evidence = Evidence(self.run, self.config, self.measure.name, budget)
        self.inner = make_protocol(self.protocol.nodes)
        self.split = self._first_split(dataset)
        plan = StagedPlan(self.inner, lambda results: iter(self.stages(results)))
        self.experiment = Experiment(self.config, folder, plugins, processes, plan, builder)

    def _first_split(self, dataset: Dataset) -> tuple[FitJob, np.ndarray, np.ndarray]:
        """Return the first fit, its training rows and its validation rows; refuse a protocol
        without.
        """
        job = self.inner([])
        assert job is not None
        train, val = self.inner.split_rows(dataset, job, get_split_seed(self.config))
        if val is None:
            raise UserError(
                f"protocol={self.protocol.name} holds no rows out, and a workflow compares on "
                "such rows"
            )
        return job, train, val

    def _warn_about_skipped(self) -> None:
        """Name the changes that are skipped because this model has nothing of the kind."""
        for group in ("ladder", "study"):
            for name, change in getattr(self.settings, group).items():
                if build_patch(self.config, change) is None:
                    message = "workflow.%s.%s is skipped: there is no %s to change here"
                    log.info(message, group, name, ", ".join(change))

    def stages(self, results: list[Result]) -> list[Stage]:
        """Return the stages as far as they are known after these results."""
        self.evidence.results = results
        stages = []
        # The next stage depends on the result of this one, so the first open one is the last.
        for stage in self.candidates(self.evidence):
            stages.append(stage)
            if not self.is_stage_done(stage, results):
                break
        return stages

    def is_stage_done(self, stage: Stage, results: list[Result]) -> bool:
        """Return whether every fold of a stage has its result."""
        return self.inner([result for result in results if result.job.stage == stage.name]) is None

    def results(self, watch: FitWatcher | None = None) -> list[Result]:
        """Carry the workflow out to the end.

        Args:
            watch: Shows the progress of each fit.

        Returns:
            All results.
        """
        self._check_unchanged()
        self.record_verdicts([*self.data_verdicts(), *self.training_verdicts()])
        # Verdicts follow every fit, so that an interrupted workflow shows how far it is.
        while (job := self.experiment.builder.plan(self.experiment.get_fit_results())) is not None:
            try:
                self.evidence.budget.start_fit(job, self.experiment.get_fit_results())
                self.experiment.advance(self.evidence.budget.limit_watch(watch))
            except (TrainingDiverged, UserError) as error:
                # Without the initial stages nothing can be compared; a later one is a candidate
                # less.
                if isinstance(error, UserError) and job.stage in INITIAL_STAGES:
                    raise
                self._record_failure(job, error)
            self.evidence.budget.finish_fit(job)
            self.record_verdicts(self.training_verdicts())
        return self.run.read_results()

    def _record_failure(self, job: FitJob, error: Exception) -> None:
        """Store a result without scores, so that the plan goes on to the next stage."""
        log.warning("%s failed: %s", job.name, error)
        latest = self.experiment.latest_fit
        seconds = latest.trainer.seconds if latest is not None and latest.job == job else 0.0
        failure = Result(job, "val", {}, seconds=round(seconds, 3), note=str(error))
        self.run.add_results([failure])

    def _check_unchanged(self) -> None:
        """Refuse to go on with another config than at the start: the order of stages depends on
        it.
        """
        begun = {
            "config": compute_config_hash(apply_patch(self.config, dict.fromkeys(RESUMABLE_KEYS)))
        }
        if self.run.read_json(RunFile.BEGUN) not in (None, begun):
            raise UserError(
                f"{self.run.folder}/config.yaml was changed since this workflow began; it goes on "
                "as it began"
            )
        self.run.write_json(RunFile.BEGUN, begun)

    def record_verdicts(self, new: list[Verdict]) -> None:
        """Store the verdicts, and log those that are new."""
        stored = self.run.read_json(RunFile.WORKFLOW) or []
        # The test rows were evaluated on the strength of the stored verdicts: they stay.
        if new and new[0].step == 1 and any(entry["step"] == LAST_STEP for entry in stored):
            return
        by_step = {entry["step"]: entry for entry in stored}
        by_step |= {verdict.step: verdict.to_dict() for verdict in new}
        self.run.write_json(RunFile.WORKFLOW, [by_step[step] for step in sorted(by_step)])
        for verdict in new:
            if verdict.to_dict() not in stored:
                log.info("\n%s", format_verdict(verdict))

    def data_verdicts(self) -> list[Verdict]:
        """Return steps 1 to 4: what is known before anything is trained."""
        builder = self.experiment.builder
        dataset, seed = builder.dataset, self.config["seed"]
        job, train, val = self.split
        findings = audit(dataset, train, val, seed)
        self.run.write_json(RunFile.AUDIT, [asdict(finding) for finding in findings])
        data = prepare(dataset, train, val)
        # Once, before the first fit: impossible batch sizes are found here, not after an hour.
        if not self.run.read_results():
            builder.check_batches(data)
        prepared = build_preprocessing_examples(dataset, data, dataset.dev, train)
        return [
            verdicts.problem_verdict(dataset, self.config, findings),
            verdicts.metric_verdict(self.measure, list(dataset.targets)[1:]),
            verdicts.protocol_verdict(self.protocol, job, len(train), len(val)),
            verdicts.preprocessing_verdict(prepared),
        ]

    def training_verdicts(self) -> list[Verdict]:
        """Return steps 5 to 7, as far as they are decided."""
        results = [
            result
            for result in self.experiment.get_fit_results()
            if result.job.stage not in FINAL_STAGES
        ]
        stages = self.stages(results)
        is_complete = self.is_stage_done(stages[-1], results)
        names = [stage.name for stage in stages if self.is_stage_done(stage, results)]
        if INITIAL_STAGES[3] not in names:
            return []
        decided = [baseline_verdict(self.evidence)]
        ladder = [name for name, _ in self.candidates.capacity_changes()]
        variants = [stage.name for stage in stages if stage.name not in (*INITIAL_STAGES, *ladder)]
        if decided[0].stopped or not (variants or is_complete):
            return decided
        decided.append(verdicts.capacity_verdict(self.evidence, ladder))
        if not is_complete:
            return decided
        # The largest network that could be trained.
        base = [
            stage
            for stage in stages
            if stage.name in ladder and not self.evidence.has_failed(stage.name)
        ][-1]
        left_out = [
            stage.name for stage in self.candidates.variants(base) if stage.name not in names
        ]
        return [*decided, verdicts.tuning_verdict(self.evidence, stages, base.name, left_out)]


def check_supported(config: dict[str, Any]) -> None:
    """Refuse a config that a workflow cannot carry out.

    Raises:
        UserError: For repetitions, stages, or another objective.
    """
    if config["repeat"] > 1:
        raise UserError("a workflow has no repeat: the seeds of its last fits are workflow.seeds")
    if config["stages"]["first"] or config["stages"]["then"]:
        raise UserError(
            "a workflow has stages of its own: leave stages=none, and fine-tune its winner in a run"
        )
    if config.get("objective", SUPERVISED_NODE) != SUPERVISED_NODE:
        raise UserError(
            "a workflow compares predictions with targets: it needs objective=supervised"
        )


def format_verdict(verdict: Verdict) -> str:
    """Format a verdict as lines for the terminal."""
    title = f"{verdict.step}. {verdicts.STEP_TITLES[verdict.step - 1]}: {verdict.verdict}"
    tables = [
        f"{table['title']}:\n" + align_columns([table["columns"], *table["rows"]])
        for table in verdict.tables
    ]
    return "\n".join([title, *(f"   · {line}" for line in verdict.evidence), *tables])


def align_columns(rows: list[list[str]], max_width: int = 40) -> str:
    """Align rows of text in columns; long cells are shortened to the maximal width."""
    shortened = [
        [cell if len(cell) <= max_width else f"{cell[: max_width - 1]}…" for cell in row]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*shortened, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in shortened
    )
    return "\n".join(f"   {line.rstrip()}" for line in lines)
