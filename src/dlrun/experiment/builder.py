"""From a config to objects: everything that one job needs, built and wired."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from dlrun.config.compatibility import OWN, for_one, input_fault, of_target, targets_fault
from dlrun.config.instantiate import build, patched
from dlrun.config.parallel_fits import split_seed
from dlrun.config.settings import LATER, Settings
from dlrun.core import checkpoint, device
from dlrun.core.dataset import Data, Raw, Rows
from dlrun.core.errors import Refused
from dlrun.core.random import mix
from dlrun.core.run_folder import RunDir
from dlrun.core.types import Field, Job, Spec
from dlrun.data import dataset_cache
from dlrun.data.augmentation.pipeline import Augment, augmented
from dlrun.data.custom_dataset import raw_of
from dlrun.data.fingerprints import fingerprint
from dlrun.data.loading.streaming import Stream
from dlrun.data.loading.table import Table, Ticks
from dlrun.data.preprocessing.pipeline import apply, prepare, state
from dlrun.data.preprocessing.unseen_values import tell_new
from dlrun.evaluation import metrics
from dlrun.evaluation.custom_metric import metric_of
from dlrun.evaluation.protocols.two_stages import plan_of
from dlrun.experiment.feature_cache import looked_ahead
from dlrun.models.custom_model import model_of
from dlrun.models.pretrained.earlier_run import plain_spec
from dlrun.objectives.context import Given
from dlrun.objectives.custom_loss import loss_of
from dlrun.training import batch_norm, optimizers
from dlrun.training.distributed import data_parallel, fsdp, process_group
from dlrun.training.meter import Measures
from dlrun.training.monitors import answered, callbacks
from dlrun.training.optimization import Learner
from dlrun.training.trainer import Trainer

log = logging.getLogger("dlrun")
SUPERVISED = {"_target_": "dlrun.objectives.supervised.supervised"}  # of runs from before there was a choice


@dataclass
class Fit:
    """Everything of one job, ready to train or to be scored.

    baseline: what has to be beaten, where the objective knows of something. rows: split → the development rows that it
    holds, in order. weights: which checkpoint the trainer holds.
    """

    job: Job
    data: Data
    trainer: Trainer
    baseline: Trainer | None
    rows: dict[str, np.ndarray]
    weights: str = ""

    @property
    def split(self) -> str:
        """The split that it is scored on."""
        return "train" if self.data.val is None else "val"


class Assembly:
    """The parts that a config of plain values describes, its data, and the folder that takes what comes of them."""

    def __init__(self, config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = ()) -> None:
        engine = {**LATER, **config["engine"]}
        self.config, self.plugins = {"objective": SUPERVISED, **config, "engine": engine}, plugins
        self.run = RunDir(folder)
        self.told: dict[str, None] = {}  # what was said once, in order
        self.settings: Settings = self.part("engine")
        self.device = device.choose_device(process_group.here.device or self.settings.own_device)
        self.plan = plan_of(config, plugins)
        self.schedule = self.part("scheduler")
        device.be_deterministic(self.settings.deterministic)
        device.flush_denormals()
        device.keep_memory()
        optimizers.spare_compiler()
        optimizers.rehearse(lambda parameters: self.part("optimizer", parameters))
        self.raw, self.print = process_group.in_turn(lambda: dataset_cache.read(self.config["data"], self._dataset))
        if self.settings.batch_size == "auto":
            self.settings = self.settings.sized(len(self.raw))
            log.info(
                "engine.batch_size=auto: batches of %d, for %s rows", self.settings.batch_rows, f"{len(self.raw):,}"
            )
        self._check_data()

    def _dataset(self) -> Raw:
        return raw_of(self.config["data"], self.part("data"))

    def tell(self, text: str) -> None:
        """Say once in this run, and beside its results, what holds for all of its fits."""
        if text not in self.told:
            self.told[text] = None
            log.warning("%s", text)

    def part(self, name: str, *context: Any) -> Any:
        """The object that one group of the config describes."""
        return build(self.config[name], *context, kind=name, plugins=self.plugins)

    def _check_data(self) -> None:
        columns: tuple[dict[str, str], ...] = (dict(self.raw.inputs), dict(self.raw.targets))
        fault = input_fault(self.config["model"], *columns) or targets_fault(self.config, self.raw.targets)
        if fault:
            raise Refused(fault)
        if self.config["test"] and self.raw.test is None:
            raise Refused("test=true, but these data have no test rows")
        marks = [mark or self.print for mark in self.raw.marks]
        found = {"fingerprint": self.print, "rows": len(self.raw), "note": self.raw.note}
        found |= {"development": marks[0], "test": marks[1]}
        before = self.run.read_json("data.json")  # runs of before 0.1.1 have no marks
        if before is not None and any(before[key] != found.get(key) for key in before):
            raise Refused(f"the data are not those that {self.run.folder} began with: {before} then, {found} now")
        if process_group.agreed(found) != found:
            raise Refused(f"process {process_group.here.rank + 1} has other data than the first: {found}")
        self.run.write_json("data.json", found)

    def fit(self, job: Job) -> Fit:
        """Split, prepare, and build the model and all around it, with the settings that this job changes."""
        return self.under(job.patch)._fit(job)

    def check_batches(self, data: Data) -> None:
        """Raise Refused where the network of the config would see too few rows at once to be trained."""
        batch_norm.check(self._objective(data), data.train, self.settings.batch_rows)

    def under(self, patch: dict[str, Any]) -> Assembly:
        """The same data and folder with other settings."""
        other = copy.copy(self)
        other.config = patched(self.config, patch)
        other.settings, other.schedule = other.part("engine").sized(len(self.raw)), other.part("scheduler")
        return other

    def _fit(self, job: Job) -> Fit:
        data, rows = self._data(job)
        first = mix(self.config["seed"], job.repeat, job.fold)
        torch.manual_seed(first)
        objective = self._objective(data)
        data = replace(data, train=Ticks(objective.ticks)) if hasattr(objective, "ticks") else data
        if job.start:
            self._begin_where(objective, job.start)
        if self.settings.compile is True and not hasattr(objective, "losses"):
            raise Refused("engine.compile=true compiles a model that answers targets, and this objective has none")
        data_parallel.check(objective, data.train, self.settings)
        learner = self._learner(objective)
        trainer = self._trainer(objective, learner, data, job)
        bar = objective.bar() if hasattr(objective, "bar") else None
        baseline = None if bar is None else self._trainer(bar.to(self.device), self._learner(bar), data, job)
        fit = Fit(job, data, trainer, baseline, rows)
        trainer.callbacks = callbacks(self.config["callback"], trainer, self.schedule, self.plugins)
        held_out = None if data.val is None else self._looked_ahead(fit, "val", data.val)
        fit.data = trainer.data = replace(data, train=self._looked_ahead(fit, "train", data.train), val=held_out)
        self.run.write_json(f"preparation/{job.name}.json", state(data.learnt))
        fields = plain_spec(Spec(data.spec.inputs, answered(objective, data.spec)))
        for name in ("fields.json", f"fields/{job.name}.json"):  # the first for whoever asks of no fit in particular
            self.run.write_json(name, fields)
        model: Any = getattr(objective, "model", None)
        if hasattr(model, "admit"):
            model.admit(self.run.folder, job, rows.get("val"))
        return fit

    def _data(self, job: Job) -> tuple[Data, dict[str, np.ndarray]]:
        train, val = self.plan.rows(self.raw, job, split_seed(self.config))
        if self.settings.overfit:
            train = val = np.asarray(train)[: self.settings.overfit]
        data = prepare(self.raw, train, val)
        assert isinstance(data.train, Table | Stream) and isinstance(data.val, Table | Stream | None)
        held_out = data.val.to(self.device) if data.val is not None else None
        rows = {"train": np.asarray(train)} | ({} if val is None else {"val": np.asarray(val)})
        return replace(data, train=data.train.to(self.device), val=held_out), rows

    def source(self, fit: Fit, split: str) -> Table:
        if split == "test":
            tell_new(self.raw, fit.data, self.test_rows, fit.rows["train"], "test rows")
            return self._looked_ahead(fit, split, apply(self.raw, fit.data, self.test_rows).to(self.device))
        source = fit.data.train if split == "train" else fit.data.val
        if source is None:
            raise Refused(
                f"protocol={self.config['protocol']['_target_'].rpartition('.')[2]} holds no {split} rows out"
            )
        return source  # type: ignore[return-value]

    def _looked_ahead(self, fit: Fit, split: str, table: Any) -> Table:
        """A split as the model asks for it: what its frozen networks answer may stand for the pictures themselves."""
        objective: Any = fit.trainer.objective
        model: Any = getattr(objective, "model", None)
        networks = model.ahead() if hasattr(model, "ahead") else {}
        if networks and objective.augment is not None:
            raise Refused("model.cache=true: a frozen base answers once to each picture, but augment changes the "
                          "pictures every time; say model.cache=false")  # fmt: skip
        if not networks:
            return table  # type: ignore[no-any-return]
        if isinstance(table, Stream):
            raise Refused("model.cache=true keeps what a frozen base answers to all rows, and these are read file by "
                          "file because they are many; say model.cache=false")  # fmt: skip
        rows, which = self.raw_rows(fit, split)
        learnt = state(fit.data.learnt)
        content = lambda name: f"{fingerprint({name: rows[name]})} {learnt[name]}"  # noqa: E731
        whole = apply(self.raw, fit.data, rows)
        return process_group.in_turn(lambda: looked_ahead(table, whole, which, networks, content))

    @property
    def synthetic(self) -> bool:
        """Whether the rows are made up: a sample, which says so beside every result."""
        return "SYNTHETIC" in self.raw.note

    @cached_property
    def test_rows(self) -> Rows:
        """The sealed rows, read when they are first asked for."""
        if self.raw.test is None:
            raise Refused("these data have no test rows")
        return self.raw.test()

    def raw_rows(self, fit: Fit, split: str) -> tuple[Rows, np.ndarray]:
        """The raw columns that a split comes from, and which of their rows it holds, in order."""
        if split == "test":
            return self.test_rows, np.arange(len(next(iter(self.test_rows.values()))))
        return self.raw.dev, fit.rows[split]

    def _augment(self, spec: Spec) -> Augment | None:
        """What is done to training pictures; None where nothing is asked for."""
        steps = {
            name: build(node, kind="augment", plugins=self.plugins) for name, node in self.config["augment"].items()
        }
        return augmented(steps, spec)

    def _objective(self, data: Data) -> Any:
        """What is minimised, with the model that the config names; on the device."""
        node = lambda target: of_target(self.config, "loss", target)  # noqa: E731
        model = model_of(self.config["model"], data.spec, self.plugins, self.tell)
        fsdp.shard(model, self.settings, self.device)
        made = lambda name, field: loss_of(node(name), field, self.plugins)  # noqa: E731
        losses = {
            name: self._for("loss", name, partial(made, name, field)) for name, field in data.spec.targets.items()
        }
        weights, augment = self.config["loss_weights"], self._augment(data.spec)
        given = Given(model, data, self.raw, losses, weights, augment, self.device)
        return self.part("objective", given).to(self.device)

    def _begin_where(self, objective: Any, ended: str) -> None:
        """Let a fit begin where another one ended: with its weights, or in the objective's own way."""
        if fsdp.wanted(self.settings):
            raise Refused("engine.shard=true cannot begin where another fit ended: say stages=none")
        state = process_group.told(lambda: checkpoint.best(self.run.folder / "checkpoints" / ended))
        if hasattr(objective, "begin_with"):
            objective.begin_with(state["objective"])
        else:
            checkpoint.put(objective, state)

    def _learner(self, objective: Any) -> Learner:
        make = lambda parameters: self._optimizer(parameters, objective)  # noqa: E731
        return Learner(objective.groups, make, self.settings, self.schedule, self.device)

    def _optimizer(self, parameters: list[nn.Parameter], objective: Any) -> Optimizer:
        """The optimizer over these parameters; an objective may ask for some to be changed more slowly (`rates`)."""
        factors: dict[nn.Parameter, float] = objective.rates() if hasattr(objective, "rates") else {}
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        optimizer: Optimizer = self.part("optimizer", [{"params": group} for group in groups.values()])
        for group, factor in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = group["lr"] * factor
        return optimizer

    def _trainer(self, objective: Any, learner: Learner, data: Data, job: Job) -> Trainer:
        measures = self._measures(answered(objective, data.spec))
        settings = self.settings if objective.groups else replace(self.settings, epochs=1)  # there is nothing to learn
        trainer = Trainer(objective, data, settings, learner, measures, self.run.checkpoints(job))
        trainer.seed = mix(self.config["seed"], job.repeat, job.fold)
        return trainer

    def _for(self, group: str, target: str, make: Callable[[], Any]) -> Any:
        """What a loss or metric of a target is made to be; where it is refused, and another is all right, which one."""
        try:
            return make()
        except Refused as error:
            if len(self.raw.targets) < 2 or target in (self.config.get(OWN[group]) or {}):
                raise
            raise Refused(for_one(str(error), group, target)) from error

    def _measures(self, targets: dict[str, Field]) -> Measures:
        found: Measures = {}
        for target, field in targets.items():
            nodes = of_target(self.config, "metric", target)
            made = partial(metric_of, field=field, plugins=self.plugins, tell=self.tell)
            chosen = {name: self._for("metric", target, partial(made, node, name)) for name, node in nodes.items()}
            prefix = f"{target}_" if len(targets) > 1 else ""
            for name, metric in (chosen or metrics.defaults(field)).items():
                found[prefix + name] = (target, metric)
        return found
