"""From a config to results: builds the objects of each job that the protocol asks for, fits them, scores them."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dlrun import checkpoint, metrics, optim, runtime
from dlrun.build import build
from dlrun.callbacks import KeepBest, TensorBoard
from dlrun.data.prepare import apply, fingerprint, prepare, state
from dlrun.engine import Trainer
from dlrun.errors import Refused
from dlrun.learner import Learner
from dlrun.meter import Measures
from dlrun.models import model_fault
from dlrun.models.constant import constant
from dlrun.objectives.supervised import Supervised
from dlrun.protocols.plans import Plan
from dlrun.rundir import RunDir
from dlrun.settings import Settings
from dlrun.tables import Table, mix
from dlrun.types import Data, Job, Raw, Result, Score, Spec

log = logging.getLogger("dlrun")
Watch = Callable[[Trainer, Job, dict[str, Score]], AbstractContextManager[object]]


@dataclass
class Fit:
    """Everything of one job, ready to train or to be scored. weights: which checkpoint the trainer holds."""

    job: Job
    data: Data
    trainer: Trainer
    baseline: Trainer
    weights: str = ""


class Experiment:
    """One run: a config of plain values, its data, and the folder that takes what comes of it."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        self.config, self.plugins, self.run = config, plugins, RunDir(folder)
        self.settings: Settings = self.part("engine")
        self.device = runtime.choose_device(self.settings.device)
        self.plan: Plan = self.part("protocol")
        self.schedule = self.part("scheduler")
        runtime.be_deterministic(self.settings.deterministic)
        runtime.flush_denormals()
        optim.spare_compiler()
        optim.rehearse(lambda parameters: self.part("optimizer", parameters))
        self.raw: Raw = self.part("data")
        self._check_data()

    def part(self, name: str, *context: Any) -> Any:
        """The object that one group of the config describes."""
        return build(self.config[name], *context, plugins=self.plugins)

    def _check_data(self) -> None:
        module, _, name = self.config["model"]["_target_"].rpartition(".")
        fault = model_fault(name, dict(self.raw.inputs)) if module.startswith("dlrun.") else None
        if fault:
            raise Refused(fault)
        if self.config["test"] and self.raw.test is None:
            raise Refused("test=true, but these data have no test rows")
        if self.raw.note:
            log.warning("%s", self.raw.note)
        self.run.write_json("data.json", {"fingerprint": fingerprint(self.raw.dev), "rows": len(self.raw)})

    def results(self, watch: Watch | None = None) -> list[Result]:
        """Fit what the protocol asks for and has no result yet, then open the test rows if that was asked for."""
        done = self.run.results()
        fitted = [result for result in done if result.split != "test"]
        fit: Fit | None = None
        while (job := self.plan(fitted)) is not None:
            if self.config["test"] and job.folds > 1:
                raise Refused("test=true needs one model to test: use protocol=whole or protocol=holdout, not folds")
            fit = self.assemble(job)
            fitted.append(self.train(fit, watch))
            self.run.add_result(fitted[-1])
        if self.config["test"] and not any(result.split == "test" for result in done):
            fit = fit or self.assembled(fitted[-1].job)
            self.run.add_result(self.score(fit, "test"))
            log.info("the test rows were opened: %s", self.run.folder)
        return self.run.results()

    def evaluated(self, name: str = "") -> list[Result]:
        """Every job's checkpoint (`best`, `last`, or the first of them that is there) scored again; records a test."""
        found = []
        for result in [result for result in self.run.results() if result.split != "test"]:
            fit = self.assembled(result.job, name)
            split = "test" if self.config["test"] else result.split
            found.append(self.score(fit, split))
            if split == "test":
                self.run.add_result(found[-1])
        if not found:
            raise Refused(f"nothing to evaluate: no fit has finished in {self.run.folder}; dlrun resume goes on with it")
        return found

    def assemble(self, job: Job) -> Fit:
        """Split, prepare, and build the model and all around it."""
        data = self._data(job)
        first = mix(self.config["seed"], job.repeat, job.fold)
        torch.manual_seed(first)
        model: nn.Module = self.part("model", data.spec)
        objective = self._objective(model, data.spec)
        learner = self._learner(objective)
        trainer = self._trainer(objective, learner, data, job)
        baseline = self._objective(constant(data.spec), data.spec)
        fit = Fit(job, data, trainer, self._trainer(baseline, self._learner(baseline), data, job))
        trainer.callbacks = self._callbacks(trainer)
        self.run.write_json(f"preparation/{job.name}.json", state(data.learnt))
        self.run.write_json("fields.json", _fields(data.spec))
        return fit

    def assembled(self, job: Job, name: str = "") -> Fit:
        """A job as its finished fit left it: its best checkpoint, or its last. Raises Refused when there is none."""
        fit = self.assemble(job)
        for candidate in (name,) if name else ("best", "last"):
            if self._restore(fit, candidate):
                return fit
        raise Refused(f"no checkpoint to evaluate in {fit.trainer.folder}")

    def train(self, fit: Fit, watch: Watch | None = None) -> Result:
        """Fit one job, from its last checkpoint if there is one, and score its validation rows."""
        trainer, started = fit.trainer, time.perf_counter()
        if self._restore(fit, "last"):
            log.info("%s goes on at epoch %d, batch %d", fit.job.name, trainer.epoch + 1, trainer.position + 1)
        self._start_records(fit)
        split = "train" if fit.data.val is None else "val"
        baseline = fit.baseline.sweep(split, self._source(fit, split)).scores()
        with watch(trainer, fit.job, baseline) if watch else nullcontext(), signals(trainer):
            trainer.fit()
        if trainer.stop:
            log.info("%s stopped after epoch %d: %s", fit.job.name, trainer.epoch, trainer.stop)
        epochs = trainer.epoch
        fit.weights = f"last (epoch {epochs})"
        if split == "val":
            self._restore(fit, "best")
        result = self.score(fit, split, baseline)
        return replace(result, epochs=epochs, seconds=round(time.perf_counter() - started, 3))

    def score(self, fit: Fit, split: str, baseline: dict[str, Score] | None = None) -> Result:
        """Measure one split with the weights as they are, beside the constant answer; the answers are kept."""
        source, trainer = self._source(fit, split), fit.trainer
        trainer.meter, trainer.position = None, 0
        meter = trainer.sweep(split, source, keep=True)
        scores = meter.scores()
        baseline = baseline or fit.baseline.sweep(split, source).scores()
        self.run.write_answers(fit.job, split, meter.answers())
        notes = (self.raw.note, self._verdict(scores, baseline))
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
        self.run.write_history(fit.job, trainer.history)
        trainer.callbacks.insert(
            0, lambda t: self.run.append_history(fit.job, [row for row in t.history if row.epoch == t.epoch])
        )
        if any(isinstance(callback, TensorBoard) for callback in trainer.callbacks):
            from dlrun import events

            events.rewrite(self.run.folder, trainer.history, fit.job.name)

    def _data(self, job: Job) -> Data:
        train, val = self.plan.rows(self.raw, job, self.config["seed"])
        if self.settings.overfit:
            train = val = np.asarray(train)[: self.settings.overfit]
        data = prepare(self.raw, train, val)
        move = lambda table: None if table is None else table.to(self.device)  # noqa: E731
        return replace(data, train=move(data.train), val=move(data.val))

    def _source(self, fit: Fit, split: str) -> Table:
        if split == "test":
            if self.raw.test is None:
                raise Refused("these data have no test rows")
            return apply(self.raw, fit.data, self.raw.test()).to(self.device)
        source = fit.data.train if split == "train" else fit.data.val
        if source is None:
            raise Refused(f"protocol={self.config['protocol']['_target_'].rpartition('.')[2]} holds no {split} rows out")
        return source  # type: ignore[return-value]

    def _objective(self, model: nn.Module, spec: Spec) -> Supervised:
        chosen = {name: self.part("loss", field) for name, field in spec.targets.items()}
        weights = self.config["loss_weights"] or {}
        if unknown := sorted(set(weights) - set(chosen)):
            raise Refused(f"loss_weights names {', '.join(unknown)}; the targets are {', '.join(chosen)}")
        return Supervised(model, chosen, weights).to(self.device)

    def _learner(self, objective: Supervised) -> Learner:
        make = lambda parameters: self.part("optimizer", parameters)  # noqa: E731
        return Learner(objective.groups, make, self.settings, self.schedule, self.device)

    def _trainer(self, objective: Supervised, learner: Learner, data: Data, job: Job) -> Trainer:
        measures = self._measures(data.spec)
        trainer = Trainer(objective, data, self.settings, learner, measures, self.run.checkpoints(job))
        trainer.seed = mix(self.config["seed"], job.repeat, job.fold)
        return trainer

    def _measures(self, spec: Spec) -> Measures:
        found: Measures = {}
        for target, field in spec.targets.items():
            nodes = self.config["metric"]
            chosen = {name: build(node, field, plugins=self.plugins) for name, node in nodes.items()}
            prefix = f"{target}_" if len(spec.targets) > 1 else ""
            for name, metric in (chosen or metrics.defaults(field)).items():
                found[prefix + name] = (target, metric)
        return found

    def _callbacks(self, trainer: Trainer) -> list[Any]:
        """The callbacks, each told which direction is better; refused when they watch what is not measured."""
        goals = metrics.measure_all({name: metric for name, (_, metric) in trainer.measures.items()})
        splits = ["train"] if trainer.data.val is None else ["train", "val"]
        there = [f"{split}/{name}" for split in splits for name in goals]
        found = []
        for name, node in self.config["callback"].items():
            callback = build(node, plugins=self.plugins)
            if isinstance(callback, KeepBest) and callback.monitor.startswith("val/") and len(splits) == 1:
                continue  # nothing is held out: the last epoch is what there is
            found.append(aimed(callback, f"callback.{name}", there, goals))
        if hasattr(self.schedule, "monitor"):
            trainer.learner.schedule = aimed(self.schedule, "scheduler", there, goals)
        return found

    def _verdict(self, scores: dict[str, Score], baseline: dict[str, Score]) -> str:
        if not self.settings.overfit:
            return ""
        loss, bar = scores["loss"].value, baseline["loss"].value / 10
        passed = loss < bar
        return (
            f"overfit check {'passed' if passed else 'FAILED'}: the loss on the same {self.settings.overfit} rows is "
            f"{loss:.4g}, {'below' if passed else 'not below'} a tenth of the constant answer's ({bar:.4g})"
        )


def aimed(part: Any, name: str, there: list[str], goals: dict[str, str]) -> Any:
    """A part that monitors a measure, told which direction of it is better. Raises Refused when nobody measures it."""
    monitor = getattr(part, "monitor", None)
    if monitor is None:
        return part
    if monitor not in there:
        raise Refused(f"{name}.monitor={monitor} is not measured; there are: {', '.join(there)}")
    return replace(part, goal=goals[monitor.partition("/")[2]])


def _fields(spec: Spec) -> dict[str, Any]:
    plain = lambda fields: {  # noqa: E731
        name: {"kind": f.kind, "shape": list(f.shape), "size": f.size, "labels": list(f.labels)}
        for name, f in fields.items()
    }
    return {"inputs": plain(spec.inputs), "targets": plain(spec.targets)}


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
