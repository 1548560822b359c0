"""The one loop. It visits batches, takes the steps that an objective yields, and writes down what happened."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from dlrun.config.settings import Settings
from dlrun.core import checkpoint, device, random
from dlrun.core.dataset import PreparedData, Source
from dlrun.core.errors import FileWriteError, TrainingInterrupted
from dlrun.core.objective import Objective
from dlrun.core.random import derive_seed
from dlrun.core.types import Batch, EpochRecord, FitJob, History, Score, Step
from dlrun.training import batch_norm
from dlrun.training.distributed import data_parallel, fsdp, process_group
from dlrun.training.fast import replay
from dlrun.training.meter import Meter, TargetMetrics
from dlrun.training.optimization import Optimization

log = logging.getLogger("dlrun")
# After each epoch: `callbacks.Callback`, or a plain function of the trainer.
AfterEpoch = Callable[["Trainer"], None]
SPLITS = ("train", "val", "test")


class Trainer:
    """Fits one objective on one dataset. The order of batches and all noise are functions of (seed, epoch, split)."""

    def __init__(
        self,
        objective: Objective,
        data: PreparedData,
        settings: Settings,
        learner: Optimization,
        measures: TargetMetrics,
        folder: Path,
    ) -> None:
        self.objective, self.data, self.settings = objective, data, settings
        self.optimization, self.metrics, self.folder = learner, measures, folder
        self.device = next(
            iter((*objective.parameters(), *objective.buffers())), torch.empty(0)
        ).device
        self.seed = 0
        self.callbacks: list[AfterEpoch] = []
        self.history: History = learner.history
        self.epoch = self.position = self.batches = 0
        self.split = ""
        self.stop = ""  # why the fit ends early, once it does
        self.interrupted = 0
        self.meter: Meter | None = None
        self.pending_checkpoints: dict[str, dict[str, Any]] = {}
        self.saved_at = self.began_at = time.monotonic()
        self.earlier_seconds = 0.0  # seconds of fitting before this start
        self.needs_row_pairs = batch_norm.uses_batch_norm(
            objective
        )  # no batch that is learned from may be a single row
        self.shared = learner.shared  # by several processes, each with its part of every batch
        if self.shared:
            learner.get_control_flags = lambda: data_parallel.control_flags(self)
        self.replay = replay.build_replay(objective, self._take_steps, settings, self.device)
        if settings.compile is True:
            for child in objective.children():
                child.compile()

    def fit(self) -> None:
        """Train until the epochs or steps are used up, or a callback sets `stop`. Goes on from a restored state."""
        self.optimization.total_steps, self.began_at = self.total_steps, time.monotonic()
        if self.shared:
            data_parallel.broadcast_initial_state(self)
        with self.save_best_on_error():
            try:
                while not self.finished:
                    self._train_one_epoch()
            except TrainingInterrupted:
                if self.split != "train":  # a cut validation starts anew
                    self.meter, self.position = None, 0
                self.save()
                raise
            self.save()

    def _train_one_epoch(self) -> None:
        self.run_split("train", self.data.train, learn=True)
        if self.data.val is not None:
            self.run_split("val", self.data.val)
        self.epoch += 1
        for callback in self.callbacks:
            callback(self)
        self.stop = process_group.broadcast_object(self.stop)

    @contextmanager
    def save_best_on_error(self) -> Iterator[None]:
        """Inside, no exception loses the best epoch: it is written, and the state of now, which may be cut, is not."""
        try:
            yield
        except BaseException as error:
            self.write_pending_checkpoints(tell=not isinstance(error, FileWriteError))
            raise

    def write_pending_checkpoints(self, tell: bool = True) -> None:
        """Write what is kept and nothing else. Raises nothing: what ended the fit is what is to be read."""
        try:
            self._write(self.pending_checkpoints)
        except Exception as error:
            level = logging.WARNING if tell else logging.DEBUG
            log.log(level, "the best epoch of %s could not be written: %s", self.folder.name, error)

    def run_split(self, split: str, source: Source, *, learn: bool = False) -> None:
        """Sweep a split, unless the history says that this epoch has done so already."""
        done = any(
            row.epoch == self.epoch + 1 and row.split == split
            for row in reversed(self.history[-2:])
        )
        if not done:
            scores = self.run_epoch(split, source, learn=learn).scores()
            values, rates = (
                {name: score.value for name, score in scores.items()},
                self.optimization.rates if learn else {},
            )
            self.history.append(EpochRecord(self.epoch + 1, split, values, rates))

    def run_epoch(
        self, split: str, source: Source, *, learn: bool = False, keep: bool = False
    ) -> Meter:
        """Visit every batch of a split once, and answer with what was seen."""
        meter, size = self._start_epoch(split, source, learn, keep), self._batch_size(learn)
        with (
            torch.set_grad_enabled(learn),
            nullcontext() if learn else self.optimization.ema_weights(),
        ):
            for batch in self._batches(source, learn):
                rows = len(next(iter(batch.values()))) if batch else 1
                if self.shared:
                    rows = process_group.begin_batch(
                        min(size, len(source) - self.position * size), rows
                    )
                last = self._is_window_end()
                for step in self.steps(batch):
                    if learn:
                        self.optimization.accumulate_and_step(step, rows, last)
                    meter.add(step, batch, rows)
                self.position += 1
                self._save_or_stop(learn)
                if learn and self.out_of_steps:
                    break
        meter.flush()
        if self.shared:
            data_parallel.all_reduce_meter(self.objective, meter)
        self.meter, self.position = None, 0
        return meter

    def steps(self, batch: Batch) -> Iterator[Step]:
        """What the objective yields for this batch, each computed in the precision that was asked for."""
        played = self.replay is not None and self.objective.training
        return self.replay.steps(batch) if played else self._take_steps(batch)  # type: ignore[union-attr]

    def _take_steps(self, batch: Batch) -> Iterator[Step]:
        steps = self.objective.steps(batch)
        return device.iter_in_precision(steps, self.device, self.settings.precision)

    def _start_epoch(self, split: str, source: Source, learn: bool, keep: bool) -> Meter:
        size = self._batch_size(learn)
        self.split, self.batches = split, self._count_batches(source, size, learn)
        self.objective.train(learn)
        if self.meter is None:
            process_group.seed_processes(
                derive_seed(self.seed, self.epoch, SPLITS.index(split)), self.device
            )
            self.meter = self._build_meter(split, keep)
        return self.meter

    def _build_meter(self, split: str, keep: bool = False) -> Meter:
        where = f"epoch {self.epoch + 1}, {split}, "
        return Meter(self.metrics, self.data.spec.targets, self.device, where, keep)

    def _batches(self, source: Source, learn: bool) -> Iterator[Batch]:
        seed, here = self.seed if learn else None, process_group.this_process
        part = {"rank": here.rank, "world": here.world_size} if self.shared else {}
        found = source.batches(
            self._batch_size(learn), seed=seed, epoch=self.epoch, start=self.position, **part
        )
        return islice(found, max(0, self.batches - self.position)) if learn else found

    def _batch_size(self, learn: bool) -> int:
        return (
            self.settings.batch_rows
            if learn
            else self.settings.get_inference_batch_size(self.data.spec)
        )

    def _count_batches(self, source: Source, size: int, learn: bool) -> int:
        """How many batches a sweep takes."""
        if not learn:
            return -(-len(source) // size)
        count = -(-self.count_training_rows(source) // size)
        return min(count, self.settings.epoch_batches or count)

    def count_training_rows(self, source: Source) -> int:
        """How many of these rows an epoch learns from, unless epoch_batches ends it before."""
        return batch_norm.count_training_rows(
            source, self.settings.batch_rows, self.needs_row_pairs
        )

    def _is_window_end(self) -> bool:
        return (
            self.position + 1
        ) % self.settings.accumulate == 0 or self.position + 1 == self.batches

    def _save_or_stop(self, learn: bool) -> None:
        """Between two batches: save when it is time, and leave when a signal asks for it (`fit` saves then)."""
        late, number = (
            data_parallel.should_save_or_stop(self, learn)
            if self.shared
            else (self.checkpoint_due, self.interrupted)
        )
        if late and learn and self.optimization.at_step_boundary:
            self.save()
        if number and self.optimization.at_step_boundary:
            raise TrainingInterrupted(number)

    @property
    def checkpoint_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved_at >= self.settings.save_every

    @property
    def seconds(self) -> float:
        """How long this fit has taken, earlier starts included."""
        return self.earlier_seconds + time.monotonic() - self.began_at

    @property
    def num_batches(self) -> int:
        """Training batches of an epoch."""
        return self._count_batches(self.data.train, self.settings.batch_rows, True)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole fit."""
        planned = self.settings.epochs * -(-self.num_batches // self.settings.accumulate)
        return min(planned, self.settings.max_steps or planned)

    @property
    def out_of_steps(self) -> bool:
        """Whether max_steps optimizer steps have been taken."""
        limit = self.settings.max_steps
        return (
            limit is not None
            and max(self.optimization.steps_taken.values(), default=limit) >= limit
        )

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.stop) or self.epoch >= self.settings.epochs or self.out_of_steps

    @property
    def latest_loss(self) -> float | None:
        """The loss of the latest step, for whoever looks on from another thread."""
        meter = self.meter
        pending = meter.pending if meter is not None else []
        return float(pending[-1][1]) if pending else None

    def keep(self, name: str) -> None:
        """Remember the state of now, to be written as <name>.pt with the next checkpoint: a disk is slow to be sure."""
        state = self.state()
        rows = state.pop(
            "history"
        )  # which do not change: to copy them all takes longer than a small epoch
        self.pending_checkpoints[name] = {**copy.deepcopy(state), "history": rows}

    def save(self) -> None:
        """Write what is kept, then last.pt: weights, and all that the next step depends on."""
        if self.meter is not None:
            self.meter.check()
            data_parallel.raise_first_divergence(self.meter)
        self._write({**self.pending_checkpoints, "last": self.state()})
        self.saved_at = time.monotonic()

    def _write(self, states: dict[str, dict[str, Any]]) -> None:
        for name, state in list(states.items()):
            if process_group.this_process.rank == 0:
                checkpoint.save(self.folder / f"{name}.pt", state)
            self.pending_checkpoints.pop(name, None)

    def state(self) -> dict[str, Any]:
        """The whole state as tensors and plain values."""
        state = {
            "objective": self.objective.state_dict(),
            "learner": self.optimization.state(),
            "groups": self._named_groups(),
            "history": [[row.epoch, row.split, row.values, row.rates] for row in self.history],
            "epoch": self.epoch,
            "position": self.position,
            "stop": self.stop,
            "seconds": self.seconds,
            "random": random.get_random_state(self.device),
            "meter": self.meter.state() if self.meter is not None else None,
        }
        state = fsdp.unshard(state) if self.optimization.sharded else state
        return data_parallel.gather_trainer_state(self, state) if self.shared else state

    def _named_groups(self) -> dict[str, list[str]]:
        """Group → the names of its parameters, so that running averages can be told apart elsewhere."""
        names = {id(parameter): name for name, parameter in self.objective.named_parameters()}
        return {
            group: [names[id(each)] for each in parameters]
            for group, parameters in self.optimization.groups.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state: the same weights and rows come out as if it had never stopped."""
        if self.optimization.sharded:
            state = fsdp.shard_trainer_state(state, self.objective, self.optimization.optimizers)
        checkpoint.load_weights(self.objective, state["objective"])
        self.optimization.restore(state["learner"])
        self.history[:] = [EpochRecord(*entry) for entry in state["history"]]
        self.epoch, self.position, self.stop = state["epoch"], state["position"], state["stop"]
        self.earlier_seconds, self.began_at = state["seconds"], time.monotonic()
        random.restore_random_state(state["random"], self.device)
        if state["meter"] is not None:
            self.meter = self._build_meter("train")
            self.meter.restore(state["meter"])
        if self.shared:
            data_parallel.restore_local_state(self, state)


FitWatcher = Callable[[Trainer, FitJob, dict[str, Score]], AbstractContextManager[object]]
