"""The workflow carried out: fits in their order, and after each what has been decided, written down and told."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dlrun.config.instantiate import apply_patch, build_part
from dlrun.config.parallel_fits import get_split_seed
from dlrun.core.errors import TrainingDiverged, UserError
from dlrun.core.files import write_text
from dlrun.core.types import FitJob, Result
from dlrun.data.audit.preprocessing_preview import build_preprocessing_examples
from dlrun.data.audit.run import audit
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.evaluation.protocols.two_stages import make_protocol
from dlrun.evaluation.test_ledger import compute_config_hash
from dlrun.experiment.builder import SUPERVISED_NODE
from dlrun.experiment.runner import Experiment
from dlrun.training.trainer import FitWatcher
from dlrun.workflow import decisions, verdicts
from dlrun.workflow.budget import BudgetTracker
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
from dlrun.workflow.evidence import Evidence
from dlrun.workflow.verdicts import LAST_STEP, Verdict

log = logging.getLogger("dlrun")
RESUMABLE_KEYS = (
    "workflow.budget",
    "engine.device",
    "engine.devices",
    "engine.save_every",
    "reason",
    "test",
)  # may be set later


class Workflow:
    """Steps 1 to 7 over one experiment. Asked again after an interruption, it goes on where it was cut."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        if config["repeat"] > 1:
            raise UserError(
                "a workflow has no repeat: the seeds of its last fits are workflow.seeds"
            )
        if config["stages"]["first"] or config["stages"]["then"]:
            raise UserError(
                "a workflow has stages of its own: leave stages=none, and fine-tune its winner in a run"
            )
        if config.get("objective", SUPERVISED_NODE) != SUPERVISED_NODE:
            raise UserError(
                "a workflow compares answers with targets: it needs objective=supervised"
            )
        self.settings = check_workflow_settings(
            config, build_part(config["workflow"], kind="workflow")
        )
        self.experiment = Experiment(config, folder, plugins)
        self.run, raw = self.experiment.run, self.experiment.builder.dataset
        self.measure = decisions.select_metric(raw, self.settings.measure)
        self.protocol = decisions.select_protocol(raw, self.settings.protocol, config["protocol"])
        if (
            folder / "begun.json"
        ).exists():  # as it began, though a newer dlrun would write the protocol otherwise
            self.protocol = replace(self.protocol, nodes=config["protocol"])
        measures = self.measure.nodes | config["metric"]
        self.config = apply_patch(config, {"protocol": self.protocol.nodes, "metric": measures})
        if not (folder / "workflow.json").exists():  # what really runs
            write_text(folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            self._warn_about_skipped()
        self.course = CandidatePlan(
            self.config, self.settings, decisions.get_series_baselines(raw), self.measure.constant
        )
        kind, limit = parse_budget(self.settings.budget)
        spending = BudgetTracker(
            self.run, limit if kind == "seconds" else None, str(self.settings.budget)
        )
        self.seen = Evidence(self.run, self.config, self.measure.name, spending)
        self.experiment.builder.config = self.config
        self.inner = make_protocol(self.protocol.nodes)
        self.split = self._first_split()
        self.experiment.builder.plan = StagedPlan(
            self.inner, lambda results: iter(self.stages(results))
        )

    def _first_split(self) -> tuple[FitJob, np.ndarray, np.ndarray]:
        """The first fit's training and validation rows. Raises UserError for a protocol without the latter."""
        job, raw = self.inner([]), self.experiment.builder.dataset
        assert job is not None
        train, val = self.inner.split_rows(raw, job, get_split_seed(self.config))
        if val is None:
            raise UserError(
                f"protocol={self.protocol.name} holds no rows out, and a workflow compares on such rows"
            )
        return job, train, val

    def _warn_about_skipped(self) -> None:
        """Say which changes are left out because this model has nothing of the kind."""
        for group in ("ladder", "study"):
            for name, change in getattr(self.settings, group).items():
                if build_patch(self.config, change) is None:
                    log.info(
                        "workflow.%s.%s is skipped: there is no %s to change here",
                        group,
                        name,
                        ", ".join(change),
                    )

    def stages(self, results: list[Result]) -> list[Stage]:
        """The stages as far as they are known after these results."""
        self.seen.results = results
        found = []
        for stage in self.course(self.seen):
            found.append(stage)
            if not self.is_stage_done(stage, results):
                break
        return found

    def is_stage_done(self, stage: Stage, results: list[Result]) -> bool:
        """Whether every fold of a stage has its result."""
        return self.inner([result for result in results if result.job.stage == stage.name]) is None

    def results(self, watch: FitWatcher | None = None) -> list[Result]:
        """Carry it out to the end, and answer with all results."""
        self._check_unchanged()
        self.record_verdicts([*self.data_verdicts(), *self.training_verdicts()])
        while (job := self.experiment.builder.plan(self.experiment.get_fit_results())) is not None:
            try:
                self.seen.spending.start_fit(job, self.experiment.get_fit_results())
                self.experiment.advance(self.seen.spending.limit_watch(watch))
            except (TrainingDiverged, UserError) as error:
                if isinstance(error, UserError) and job.stage in INITIAL_STAGES:
                    raise
                log.warning("%s failed: %s", job.name, error)
                latest = self.experiment.latest_fit
                seconds = (
                    latest.trainer.seconds if latest is not None and latest.job == job else 0.0
                )
                self.run.add_results(
                    [Result(job, "val", {}, seconds=round(seconds, 3), note=str(error))]
                )
            self.seen.spending.finish_fit(job)
            self.record_verdicts(self.training_verdicts())
        return self.run.read_results()

    def _check_unchanged(self) -> None:
        """Refuse to go on with another config than the one that it began with: the order of stages hangs on it."""
        mark = {
            "config": compute_config_hash(apply_patch(self.config, dict.fromkeys(RESUMABLE_KEYS)))
        }
        if self.run.read_json("begun.json") not in (None, mark):
            raise UserError(
                f"{self.run.folder}/config.yaml was changed since this workflow began; it goes on as it began"
            )
        self.run.write_json("begun.json", mark)

    def record_verdicts(self, found: list[Verdict]) -> None:
        """Write the verdicts down, and say those that were not there before."""
        before = self.run.read_json("workflow.json") or []
        if found and found[0].step == 1 and any(entry["step"] == LAST_STEP for entry in before):
            return  # the test rows were opened on what stands there
        known = {entry["step"]: entry for entry in before} | {
            verdict.step: verdict.to_dict() for verdict in found
        }
        self.run.write_json("workflow.json", [known[step] for step in sorted(known)])
        for verdict in found:
            if verdict.to_dict() not in before:
                log.info("\n%s", format_verdict(verdict))

    def data_verdicts(self) -> list[Verdict]:
        """Steps 1 to 4: what is known before anything is trained."""
        assembly = self.experiment.builder
        raw, seed = assembly.dataset, self.config["seed"]
        job, train, val = self.split
        found = audit(raw, train, val, seed)
        self.run.write_json("audit.json", [asdict(finding) for finding in found])
        data = prepare(raw, train, val)
        if not self.run.read_results():
            assembly.check_batches(data)
        prepared = build_preprocessing_examples(raw, data, raw.dev, train)
        return [
            verdicts.problem_verdict(raw, self.config, found),
            verdicts.metric_verdict(self.measure, list(raw.targets)[1:]),
            verdicts.protocol_verdict(self.protocol, job, len(train), len(val)),
            verdicts.preprocessing_verdict(prepared),
        ]

    def training_verdicts(self) -> list[Verdict]:
        """Steps 5 to 7, as far as they are decided."""
        results = [
            result
            for result in self.experiment.get_fit_results()
            if result.job.stage not in FINAL_STAGES
        ]
        stages = self.stages(results)
        whole = self.is_stage_done(stages[-1], results)
        names = [stage.name for stage in stages if self.is_stage_done(stage, results)]
        if INITIAL_STAGES[3] not in names:
            return []
        found = [verdicts.baseline_verdict(self.seen)]
        ladder = [name for name, _ in self.course.capacity_changes()]
        further = [stage.name for stage in stages if stage.name not in (*INITIAL_STAGES, *ladder)]
        if found[0].stopped or not (further or whole):
            return found
        found.append(verdicts.capacity_verdict(self.seen, ladder))
        if not whole:
            return found
        base = [
            stage
            for stage in stages
            if stage.name in ladder and not self.seen.has_failed(stage.name)
        ][-1]
        left_out = [stage.name for stage in self.course.variants(base) if stage.name not in names]
        return [*found, verdicts.tuning_verdict(self.seen, stages, base.name, left_out)]


def format_verdict(verdict: Verdict) -> str:
    """A verdict as lines for the terminal."""
    title = f"{verdict.step}. {verdicts.STEP_TITLES[verdict.step - 1]}: {verdict.verdict}"
    tables = [
        f"{table['title']}:\n" + align_columns([table["columns"], *table["rows"]])
        for table in verdict.tables
    ]
    return "\n".join([title, *(f"   · {line}" for line in verdict.evidence), *tables])


def align_columns(rows: list[list[str]], widest: int = 40) -> str:
    """Rows of text in columns; long cells are cut."""
    cut = [
        [cell if len(cell) <= widest else f"{cell[: widest - 1]}…" for cell in row] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cut
    )
    return "\n".join(f"   {line.rstrip()}" for line in lines)
