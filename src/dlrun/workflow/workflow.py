"""The workflow carried out: fits in their order, and after each what has been decided, written down and told."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dlrun.config.instantiate import build, patched
from dlrun.config.parallel_fits import split_seed
from dlrun.core.errors import Diverged, Refused
from dlrun.core.files import write_text
from dlrun.core.types import Job, Result
from dlrun.data.audit.preprocessing_preview import before_and_after
from dlrun.data.audit.run import audit
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.evaluation.protocols.two_stages import protocol_of
from dlrun.evaluation.test_ledger import config_hash
from dlrun.experiment.builder import SUPERVISED
from dlrun.experiment.runner import Experiment
from dlrun.training.trainer import Watch
from dlrun.workflow import decisions, verdicts
from dlrun.workflow.budget import Spending
from dlrun.workflow.candidates import FINALS, FIRST, Course, Stage, Staged, budget, verified
from dlrun.workflow.config_changes import patch
from dlrun.workflow.evidence import Evidence
from dlrun.workflow.verdicts import LAST, Verdict

log = logging.getLogger("dlrun")
FREE = ("workflow.budget", "engine.device", "engine.devices", "engine.save_every", "reason", "test")  # may be set later


class Workflow:
    """Steps 1 to 7 over one experiment. Asked again after an interruption, it goes on where it was cut."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        if config["repeat"] > 1:
            raise Refused("a workflow has no repeat: the seeds of its last fits are workflow.seeds")
        if config["stages"]["first"] or config["stages"]["then"]:
            raise Refused("a workflow has stages of its own: leave stages=none, and fine-tune its winner in a run")
        if config.get("objective", SUPERVISED) != SUPERVISED:
            raise Refused("a workflow compares answers with targets: it needs objective=supervised")
        self.settings = verified(config, build(config["workflow"], kind="workflow"))
        self.experiment = Experiment(config, folder, plugins)
        self.run, raw = self.experiment.run, self.experiment.assembly.raw
        self.measure = decisions.measure(raw, self.settings.measure)
        self.protocol = decisions.protocol(raw, self.settings.protocol, config["protocol"])
        if (folder / "begun.json").exists():  # as it began, though a newer dlrun would write the protocol otherwise
            self.protocol = replace(self.protocol, nodes=config["protocol"])
        measures = self.measure.nodes | config["metric"]
        self.config = patched(config, {"protocol": self.protocol.nodes, "metric": measures})
        if not (folder / "workflow.json").exists():  # what really runs
            write_text(folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            self._warn_of_nothing()
        self.course = Course(self.config, self.settings, decisions.naive(raw), self.measure.constant)
        kind, limit = budget(self.settings.budget)
        spending = Spending(self.run, limit if kind == "seconds" else None, str(self.settings.budget))
        self.seen = Evidence(self.run, self.config, self.measure.name, spending)
        self.experiment.assembly.config = self.config
        self.inner = protocol_of(self.protocol.nodes)
        self.split = self._first_split()
        self.experiment.assembly.plan = Staged(self.inner, lambda results: iter(self.stages(results)))

    def _first_split(self) -> tuple[Job, np.ndarray, np.ndarray]:
        """The first fit's training and validation rows. Raises Refused for a protocol without the latter."""
        job, raw = self.inner([]), self.experiment.assembly.raw
        assert job is not None
        train, val = self.inner.rows(raw, job, split_seed(self.config))
        if val is None:
            raise Refused(f"protocol={self.protocol.name} holds no rows out, and a workflow compares on such rows")
        return job, train, val

    def _warn_of_nothing(self) -> None:
        """Say which changes are left out because this model has nothing of the kind."""
        for group in ("ladder", "study"):
            for name, change in getattr(self.settings, group).items():
                if patch(self.config, change) is None:
                    log.info("workflow.%s.%s is skipped: there is no %s to change here", group, name, ", ".join(change))

    def stages(self, results: list[Result]) -> list[Stage]:
        """The stages as far as they are known after these results."""
        self.seen.results = results
        found = []
        for stage in self.course(self.seen):
            found.append(stage)
            if not self.done(stage, results):
                break
        return found

    def done(self, stage: Stage, results: list[Result]) -> bool:
        """Whether every fold of a stage has its result."""
        return self.inner([result for result in results if result.job.stage == stage.name]) is None

    def results(self, watch: Watch | None = None) -> list[Result]:
        """Carry it out to the end, and answer with all results."""
        self._unchanged()
        self.tell([*self.before(), *self.after()])
        while (job := self.experiment.assembly.plan(self.experiment.fitted())) is not None:
            try:
                self.seen.spending.begin(job, self.experiment.fitted())
                self.experiment.advance(self.seen.spending.watching(watch))
            except (Diverged, Refused) as error:
                if isinstance(error, Refused) and job.stage in FIRST:
                    raise
                log.warning("%s failed: %s", job.name, error)
                latest = self.experiment.latest
                seconds = latest.trainer.seconds if latest is not None and latest.job == job else 0.0
                self.run.add_results([Result(job, "val", {}, seconds=round(seconds, 3), note=str(error))])
            self.seen.spending.end(job)
            self.tell(self.after())
        return self.run.results()

    def _unchanged(self) -> None:
        """Refuse to go on with another config than the one that it began with: the order of stages hangs on it."""
        mark = {"config": config_hash(patched(self.config, dict.fromkeys(FREE)))}
        if self.run.read_json("begun.json") not in (None, mark):
            raise Refused(
                f"{self.run.folder}/config.yaml was changed since this workflow began; it goes on as it began"
            )
        self.run.write_json("begun.json", mark)

    def tell(self, found: list[Verdict]) -> None:
        """Write the verdicts down, and say those that were not there before."""
        before = self.run.read_json("workflow.json") or []
        if found and found[0].step == 1 and any(entry["step"] == LAST for entry in before):
            return  # the test rows were opened on what stands there
        known = {entry["step"]: entry for entry in before} | {verdict.step: verdict.plain() for verdict in found}
        self.run.write_json("workflow.json", [known[step] for step in sorted(known)])
        for verdict in found:
            if verdict.plain() not in before:
                log.info("\n%s", told(verdict))

    def before(self) -> list[Verdict]:
        """Steps 1 to 4: what is known before anything is trained."""
        assembly = self.experiment.assembly
        raw, seed = assembly.raw, self.config["seed"]
        job, train, val = self.split
        found = audit(raw, train, val, seed)
        self.run.write_json("audit.json", [asdict(finding) for finding in found])
        data = prepare(raw, train, val)
        if not self.run.results():
            assembly.check_batches(data)
        prepared = before_and_after(raw, data, raw.dev, train)
        return [
            verdicts.problem(raw, self.config, found),
            verdicts.measure(self.measure, list(raw.targets)[1:]),
            verdicts.protocol(self.protocol, job, len(train), len(val)),
            verdicts.preparation(prepared),
        ]

    def after(self) -> list[Verdict]:
        """Steps 5 to 7, as far as they are decided."""
        results = [result for result in self.experiment.fitted() if result.job.stage not in FINALS]
        stages = self.stages(results)
        whole = self.done(stages[-1], results)
        names = [stage.name for stage in stages if self.done(stage, results)]
        if FIRST[3] not in names:
            return []
        found = [verdicts.baseline(self.seen)]
        ladder = [name for name, _ in self.course.ladder()]
        further = [stage.name for stage in stages if stage.name not in (*FIRST, *ladder)]
        if found[0].stopped or not (further or whole):
            return found
        found.append(verdicts.overfit(self.seen, ladder))
        if not whole:
            return found
        base = [stage for stage in stages if stage.name in ladder and not self.seen.failed(stage.name)][-1]
        left_out = [stage.name for stage in self.course.variants(base) if stage.name not in names]
        return [*found, verdicts.regularise(self.seen, stages, base.name, left_out)]


def told(verdict: Verdict) -> str:
    """A verdict as lines for the terminal."""
    title = f"{verdict.step}. {verdicts.TITLES[verdict.step - 1]}: {verdict.verdict}"
    tables = [f"{table['title']}:\n" + aligned([table["columns"], *table["rows"]]) for table in verdict.tables]
    return "\n".join([title, *(f"   · {line}" for line in verdict.evidence), *tables])


def aligned(rows: list[list[str]], widest: int = 40) -> str:
    """Rows of text in columns; long cells are cut."""
    cut = [[cell if len(cell) <= widest else f"{cell[: widest - 1]}…" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cut)
    return "\n".join(f"   {line.rstrip()}" for line in lines)
