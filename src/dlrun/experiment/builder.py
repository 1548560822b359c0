"""From a config to objects: data, model, objective, optimizer and trainer of each fit."""

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

from dlrun.config.compatibility import (
    PER_TARGET_GROUPS,
    add_target_hint,
    get_input_error,
    get_target_names_error,
    get_target_part,
)
from dlrun.config.instantiate import apply_patch, build_part
from dlrun.config.settings import DEFAULTS_OF_OLD_RUNS, Settings, get_split_seed
from dlrun.config.signatures import is_custom
from dlrun.core import checkpoint, device
from dlrun.core.dataset import Dataset, PreparedData, RawColumns
from dlrun.core.device import derive_seed
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.errors import UserError
from dlrun.core.objective import Objective, ObjectiveContext, as_objective
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.types import Batch, Field, FitJob, Spec, spec_to_dict
from dlrun.data import cache
from dlrun.data.loading.table import EmptyBatches, Table
from dlrun.data.preprocessing.pipeline import describe_preprocessing, prepare, transform_rows
from dlrun.evaluation import metrics
from dlrun.evaluation.protocols.plans import EvaluationPlan
from dlrun.evaluation.protocols.two_stages import make_plan
from dlrun.models.model import Model, build_model
from dlrun.objectives.losses import build_loss
from dlrun.training import optimizers, step_runner
from dlrun.training.meter import TargetMetrics
from dlrun.training.monitors import build_callbacks, get_loss_targets
from dlrun.training.optimization import Optimization
from dlrun.training.trainer import Trainer

log = logging.getLogger("dlrun")
SUPERVISED_NODE = {
    "_target_": "dlrun.objectives.supervised.supervised"
}  # of runs from before there was a choice


@dataclass
class BuiltFit:
    """Everything of one job, ready to be trained or scored.

    Attributes:
        job: Which fit it is.
        data: Prepared for this fit, on the device.
        trainer: Of the model.
        baseline: Of the baseline that has to be beaten; None where none is known.
        rows: Split → numbers of its development rows, in order.
        weights: Which checkpoint the trainer holds.
    """

    job: FitJob
    data: PreparedData
    trainer: Trainer
    baseline: Trainer | None
    rows: dict[str, np.ndarray]
    weights: str = ""

    @property
    def split(self) -> str:
        """The split that it is scored on."""
        return "train" if self.data.val is None else "val"


class ExperimentBuilder:
    """The parts that a config of plain values describes, its dataset and its run folder.

    Args:
        config: As config.yaml holds it.
        folder: Of the run.
        plugins: Packages whose parts may be named.
        processes: That share the run.

    Raises:
        UserError: if the config does not fit the data, or the data are not those of the run.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        plugins: tuple[str, ...] = (),
        processes: ProcessGroup = ONE_PROCESS,
    ) -> None:
        self.processes = processes
        # Configs of earlier versions lack the keys that came later.
        engine = {**DEFAULTS_OF_OLD_RUNS, **config["engine"]}
        self.config = {"objective": SUPERVISED_NODE, **config, "engine": engine}
        self.plugins = plugins
        self.run = RunFolder(folder)
        self.messages: dict[str, None] = {}  # what was said once, in order
        self.settings: Settings = self.build_part("engine")
        self.device = device.choose_device(processes.device or self.settings.single_device)
        self.plan = make_plan(config, plugins)
        self.schedule = self.build_part("scheduler")
        device.set_deterministic(self.settings.deterministic)
        # Denormal numbers cost a CPU many times what others do.
        device.flush_tiny_values()
        device.keep_freed_memory()
        # Two seconds of start-up for nothing.
        optimizers.avoid_dynamo_import()
        # Before any data are read: a wrong setting is an error at once.
        optimizers.validate_optimizer(lambda parameters: self.build_part("optimizer", parameters))
        self.dataset, self.fingerprint = self.processes.local_main_process_first(
            lambda: cache.load_cached_dataset(self.config["data"], self._build_dataset)
        )
        if self.settings.batch_size == "auto":
            self.settings = self.settings.with_batch_size(len(self.dataset))
            log.info(
                "engine.batch_size=auto: batches of %d, for %s rows",
                self.settings.batch_rows,
                f"{len(self.dataset):,}",
            )
        self._check_data()

    def _build_dataset(self) -> Dataset:
        dataset = self.build_part("data")
        if is_custom(self.config["data"]["_target_"]):
            from dlrun.data.custom_dataset import to_dataset

            return to_dataset(self.config["data"], dataset)
        return dataset  # type: ignore[no-any-return]

    def warn_once(self, text: str) -> None:
        """Say once in this run, and beside its results, what holds for all of its fits."""
        if text not in self.messages:
            self.messages[text] = None
            log.warning("%s", text)

    def build_part(self, name: str, *context: Any) -> Any:
        """The object that one group of the config describes."""
        return build_part(self.config[name], *context, kind=name, plugins=self.plugins)

    def _check_data(self) -> None:
        inputs: dict[str, str] = dict(self.dataset.inputs)
        targets: dict[str, str] = dict(self.dataset.targets)
        problem = get_input_error(self.config["model"], inputs, targets) or get_target_names_error(
            self.config, self.dataset.targets
        )
        if problem:
            raise UserError(problem)
        if self.config["test"] and self.dataset.test is None:
            raise UserError("test=true, but these data have no test rows")
        fingerprints = [mark or self.fingerprint for mark in self.dataset.row_fingerprints]
        data_record = {
            "fingerprint": self.fingerprint,
            "rows": len(self.dataset),
            "note": self.dataset.note,
            "synthetic": self.dataset.note if self.dataset.synthetic else "",
        }
        data_record |= {"development": fingerprints[0], "test": fingerprints[1]}
        recorded = self.run.read_json(RunFile.DATA)  # runs of before 0.1.1 have no marks
        if recorded is not None and any(recorded[key] != data_record.get(key) for key in recorded):
            raise UserError(
                f"the data are not those that {self.run.folder} began with: {recorded} then, "
                f"{data_record} now"
            )
        # Processes on several machines may find different files under one path.
        if self.processes.broadcast_object(data_record) != data_record:
            raise UserError(
                f"process {self.processes.rank + 1} has other data than the first: {data_record}"
            )
        self.run.write_json(RunFile.DATA, data_record)

    def build_fit(self, job: FitJob) -> BuiltFit:
        """Split and prepare the data and build all objects of a job, with the settings that it
        changes.
        """
        return self.with_changes(job.patch)._build(job)

    def check_batches(self, data: PreparedData) -> None:
        """Check that the model can be trained on batches of these rows.

        Raises:
            UserError: if batch normalization would see too few rows at once.
        """
        step_runner.check_batch_norm(
            self._build_objective(data), data.train, self.settings.batch_rows
        )

    def with_plan(self, config: dict[str, Any], plan: EvaluationPlan) -> ExperimentBuilder:
        """The same data and folder with another plan, and another protocol and metrics."""
        builder = copy.copy(self)
        # The engine's settings stay: those of earlier versions are completed there.
        builder.config = {**self.config, **config, "engine": self.config["engine"]}
        builder.plan = plan
        return builder

    def with_changes(self, patch: dict[str, Any]) -> ExperimentBuilder:
        """The same data and folder with other settings."""
        builder = copy.copy(self)
        # A shallow copy: the dataset is shared, only what the settings decide is built anew.
        builder.config = apply_patch(self.config, patch)
        builder.settings, builder.schedule = (
            builder.build_part("engine").with_batch_size(len(self.dataset)),
            builder.build_part("scheduler"),
        )
        return builder

    def _build(self, job: FitJob) -> BuiltFit:
        data, rows = self._split_and_prepare(job)
        fit_seed = derive_seed(self.config["seed"], job.repeat, job.fold)
        # Initial weights are a function of seed, repeat and fold.
        torch.manual_seed(fit_seed)
        objective = self._build_objective(data)
        if objective.ticks is not None:
            data = replace(data, train=EmptyBatches(objective.ticks))
        if job.start:
            self._start_from(objective, job.start)
        if self.settings.compile is True and not objective.losses:
            raise UserError(
                "engine.compile=true compiles a model that predicts targets, and this objective "
                "has none"
            )
        if self.processes.world_size > 1:
            from dlrun.training.distributed.data_parallel import check_data_parallel

            check_data_parallel(objective, data.train, self.settings, self.processes)
        optimization = self._build_optimization(objective)
        trainer = self._build_trainer(objective, optimization, data, job)
        baseline = self._build_baseline(objective, data, job)
        fit = BuiltFit(job, data, trainer, baseline, rows)
        trainer.callbacks = [
            *build_callbacks(self.config["callback"], trainer, self.schedule, self.plugins)
        ]
        val_table = None if data.val is None else self._with_cached_features(fit, "val", data.val)
        fit.data = trainer.data = replace(
            data, train=self._with_cached_features(fit, "train", data.train), val=val_table
        )
        steps = describe_preprocessing(data.preprocessors)
        self.run.write_json(RunFile.PREPARATION, steps, job=job.name)
        # A reader of the run folder needs to know what it predicts, without the data.
        fields = spec_to_dict(Spec(data.spec.inputs, get_loss_targets(objective, data.spec)))
        for file in (RunFile.FIELDS, RunFile.FIT_FIELDS):
            self.run.write_json(file, fields, job=job.name)
        model = objective.model
        if isinstance(model, Model):
            model.check_validation_rows(self.run.folder, job, rows.get("val"))
        return fit

    def _build_baseline(
        self, objective: Objective, data: PreparedData, job: FitJob
    ) -> Trainer | None:
        """What scores the baseline of an objective; None where it has none."""
        baseline = objective.baseline_objective()
        if baseline is None:
            return None
        baseline = as_objective(baseline).to(self.device)
        return self._build_trainer(baseline, self._build_optimization(baseline), data, job)

    def _split_and_prepare(self, job: FitJob) -> tuple[PreparedData, dict[str, np.ndarray]]:
        train, val = self.plan.split_rows(self.dataset, job, get_split_seed(self.config))
        if self.settings.overfit:
            # Memorizing them is the test: validation is on the same rows.
            train = val = np.asarray(train)[: self.settings.overfit]
        data = prepare(self.dataset, train, val)
        held_out = data.val.to(self.device) if data.val is not None else None
        rows = {"train": np.asarray(train)} | ({} if val is None else {"val": np.asarray(val)})
        return replace(data, train=data.train.to(self.device), val=held_out), rows

    def get_source(self, fit: BuiltFit, split: str) -> Table:
        if split == "test":
            from dlrun.data.preprocessing.unseen_values import warn_new_values

            warn_new_values(self.dataset, fit.data, self.test_rows, fit.rows["train"], "test rows")
            return self._with_cached_features(
                fit, split, transform_rows(self.dataset, fit.data, self.test_rows).to(self.device)
            )
        source = fit.data.train if split == "train" else fit.data.val
        if source is None:
            raise UserError(
                f"protocol={self.config['protocol']['_target_'].rpartition('.')[2]} holds no "
                f"{split} rows out"
            )
        return source  # type: ignore[return-value]

    def _with_cached_features(self, fit: BuiltFit, split: str, table: Any) -> Table:
        """A split with a frozen network's features, where the model asks for them."""
        model = fit.trainer.objective.model
        networks = model.cacheable_networks() if isinstance(model, Model) else {}
        if not networks:
            return table  # type: ignore[no-any-return]
        from dlrun.experiment.feature_cache import cache_split, check_cacheable

        check_cacheable(fit.trainer.objective, table)
        rows = self.get_raw_rows(fit, split)
        return cache_split(table, networks, self.dataset, fit.data, rows, self.processes)

    @cached_property
    def test_rows(self) -> RawColumns:
        """The sealed rows, read when they are first asked for."""
        if self.dataset.test is None:
            raise UserError("these data have no test rows")
        return self.dataset.test()

    def get_raw_rows(self, fit: BuiltFit, split: str) -> tuple[RawColumns, np.ndarray]:
        """The raw columns that a split comes from, and which of their rows it holds, in order."""
        if split == "test":
            return self.test_rows, np.arange(len(next(iter(self.test_rows.values()))))
        return self.dataset.dev, fit.rows[split]

    def _build_augment(self, spec: Spec) -> Callable[[Batch], Batch] | None:
        """What is done to training images; None where nothing is asked for."""
        steps = {
            name: build_part(node, kind="augment", plugins=self.plugins)
            for name, node in self.config["augment"].items()
        }
        if not steps:
            return None
        from dlrun.data.augmentation.pipeline import build_augmentation

        return build_augmentation(steps, spec)

    def _build_objective(self, data: PreparedData) -> Objective:
        """What is minimised, with the model that the config names; on the device."""
        loss_node = lambda target: get_target_part(self.config, "loss", target)  # noqa: E731
        model = build_model(self.config["model"], data.spec, self.plugins, self.warn_once)
        if self._is_sharded:
            from dlrun.training.distributed import fsdp

            # Before the optimizer is built: it has to know the shards, not the whole weights.
            fsdp.shard_model(model, self.settings, self.device, self.processes)
        make_loss = lambda name, field: build_loss(loss_node(name), field, self.plugins)  # noqa: E731
        losses = {
            name: self._build_for_target("loss", name, partial(make_loss, name, field))
            for name, field in data.spec.targets.items()
        }
        weights, augment = self.config["loss_weights"], self._build_augment(data.spec)
        parts = losses, weights, augment
        context = ObjectiveContext(model, data, self.dataset, *parts, self.device, self.processes)
        return as_objective(self.build_part("objective", context)).to(self.device)

    @property
    def _is_sharded(self) -> bool:
        """Whether there are several processes, and each keeps only a part of the weights."""
        return self.settings.shard and self.processes.world_size > 1

    def _start_from(self, objective: Objective, job_name: str) -> None:
        """Let a fit begin where another one ended, the job of this name."""
        if self._is_sharded:
            raise UserError(
                "engine.shard=true cannot begin where another fit ended: say stages=none"
            )
        file = self.run.checkpoint_file(job_name, "best")
        state = self.processes.on_main_process(lambda: checkpoint.load_best(file.parent))
        objective.begin_with(state)

    def _build_optimization(self, objective: Objective) -> Optimization:
        build_optimizer = lambda parameters: self._build_optimizer(parameters, objective)  # noqa: E731
        parts = objective.groups, build_optimizer, self.settings, self.schedule, self.device
        return Optimization(*parts, processes=self.processes)

    def _build_optimizer(self, parameters: list[nn.Parameter], objective: Objective) -> Optimizer:
        """The optimizer over these parameters, one group for each factor on the learning rate."""
        factors = objective.rates()
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        optimizer: Optimizer = self.build_part(
            "optimizer", [{"params": group} for group in groups.values()]
        )
        for group, factor in zip(optimizer.param_groups, groups, strict=True):
            # After building: whatever rate the optimizer's part has chosen.
            group["lr"] = group["lr"] * factor
        return optimizer

    def _build_trainer(
        self, objective: Objective, optimization: Optimization, data: PreparedData, job: FitJob
    ) -> Trainer:
        metrics_by_name = self._build_metrics(get_loss_targets(objective, data.spec))
        settings = (
            self.settings if objective.groups else replace(self.settings, epochs=1)
        )  # there is nothing to learn
        trainer = Trainer(
            objective,
            data,
            settings,
            optimization,
            metrics_by_name,
            self.run.checkpoint_folder(job),
        )
        trainer.seed = derive_seed(self.config["seed"], job.repeat, job.fold)
        return trainer

    def _build_for_target(self, group: str, target: str, build: Callable[[], Any]) -> Any:
        """Build a loss or metric; an error names its target, where there are several."""
        try:
            return build()
        except UserError as error:
            if len(self.dataset.targets) < 2 or target in (
                self.config.get(PER_TARGET_GROUPS[group]) or {}
            ):
                raise
            raise UserError(add_target_hint(str(error), group, target)) from error

    def _build_metrics(self, targets: dict[str, Field]) -> TargetMetrics:
        target_metrics: TargetMetrics = {}
        for target, field in targets.items():
            nodes = get_target_part(self.config, "metric", target)
            make_metric = partial(
                metrics.build_metric, field=field, plugins=self.plugins, tell=self.warn_once
            )
            chosen = {
                name: self._build_for_target("metric", target, partial(make_metric, node, name))
                for name, node in nodes.items()
            }
            prefix = f"{target}_" if len(targets) > 1 else ""
            for name, metric in (chosen or metrics.get_default_metrics(field)).items():
                target_metrics[prefix + name] = (target, metric)
        return target_metrics
