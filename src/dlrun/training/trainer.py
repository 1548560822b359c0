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
from torch import nn

from dlrun.config.settings import Settings
from dlrun.core import checkpoint, device, random
from dlrun.core.dataset import Data, Source
from dlrun.core.errors import Interrupted, Unwritable
from dlrun.core.random import mix
from dlrun.core.types import Batch, History, Job, Row, Score, Step
from dlrun.training import batch_norm
from dlrun.training.distributed import data_parallel, fsdp, process_group
from dlrun.training.fast import replay
from dlrun.training.meter import Measures, Meter
from dlrun.training.optimization import Learner

log = logging.getLogger("dlrun")
Callback = Callable[["Trainer"], None]  # after each epoch: reads the history, may set trainer.stop; keeps no state
SPLITS = ("train", "val", "test")


class Trainer:
    """Fits one objective on one dataset. The order of batches and all noise are functions of (seed, epoch, split)."""

    def __init__(
        self, objective: nn.Module, data: Data, settings: Settings, learner: Learner, measures: Measures, folder: Path
    ) -> None:
        self.objective, self.data, self.settings = objective, data, settings
        self.learner, self.measures, self.folder = learner, measures, folder
        self.device = next(iter((*objective.parameters(), *objective.buffers())), torch.empty(0)).device
        self.seed = 0
        self.callbacks: list[Callback] = []
        self.history: History = learner.history
        self.epoch = self.position = self.batches = 0
        self.split = ""
        self.stop = ""  # why the fit ends early, once it does
        self.interrupted = 0
        self.meter: Meter | None = None
        self.kept: dict[str, dict[str, Any]] = {}
        self.saved_at = self.began_at = time.monotonic()
        self.spent = 0.0  # seconds of fitting before this start
        self.paired = batch_norm.normalizes(objective)  # no batch that is learned from may be a single row
        self.shared = learner.shared  # by several processes, each with its part of every batch
        if self.shared:
            learner.wishes = lambda: data_parallel.wishes(self)
        self.replay = replay.of(objective, self._taken, settings, self.device)
        if settings.compile is True:
            for child in objective.children():
                child.compile()

    def fit(self) -> None:
        """Train until the epochs or steps are used up, or a callback sets `stop`. Goes on from a restored state."""
        self.learner.total, self.began_at = self.steps_planned, time.monotonic()
        if self.shared:
            data_parallel.begin(self)
        with self.rescued():
            try:
                while not self.finished:
                    self._epoch()
            except Interrupted:
                if self.split != "train":  # a cut validation starts anew
                    self.meter, self.position = None, 0
                self.save()
                raise
            self.save()

    def _epoch(self) -> None:
        self.visit("train", self.data.train, learn=True)
        if self.data.val is not None:
            self.visit("val", self.data.val)
        self.epoch += 1
        for callback in self.callbacks:
            callback(self)
        self.stop = process_group.agreed(self.stop)

    @contextmanager
    def rescued(self) -> Iterator[None]:
        """Inside, no exception loses the best epoch: it is written, and the state of now, which may be cut, is not."""
        try:
            yield
        except BaseException as error:
            self.rescue(tell=not isinstance(error, Unwritable))
            raise

    def rescue(self, tell: bool = True) -> None:
        """Write what is kept and nothing else. Raises nothing: what ended the fit is what is to be read."""
        try:
            self._write(self.kept)
        except Exception as error:
            level = logging.WARNING if tell else logging.DEBUG
            log.log(level, "the best epoch of %s could not be written: %s", self.folder.name, error)

    def visit(self, split: str, source: Source, *, learn: bool = False) -> None:
        """Sweep a split, unless the history says that this epoch has done so already."""
        done = any(row.epoch == self.epoch + 1 and row.split == split for row in reversed(self.history[-2:]))
        if not done:
            scores = self.sweep(split, source, learn=learn).scores()
            values, rates = {name: score.value for name, score in scores.items()}, self.learner.rates if learn else {}
            self.history.append(Row(self.epoch + 1, split, values, rates))

    def sweep(self, split: str, source: Source, *, learn: bool = False, keep: bool = False) -> Meter:
        """Visit every batch of a split once, and answer with what was seen."""
        meter, size = self._begin(split, source, learn, keep), self._size(learn)
        with torch.set_grad_enabled(learn), nullcontext() if learn else self.learner.averaged():
            for batch in self._batches(source, learn):
                rows = len(next(iter(batch.values()))) if batch else 1
                if self.shared:
                    rows = process_group.begin(min(size, len(source) - self.position * size), rows)
                last = self._window_ends()
                for step in self.steps(batch):
                    if learn:
                        self.learner.learn(step, rows, last)
                    meter.add(step, batch, rows)
                self.position += 1
                self._pause(learn)
                if learn and self.out_of_steps:
                    break
        meter.flush()
        if self.shared:
            data_parallel.end(self.objective, meter)
        self.meter, self.position = None, 0
        return meter

    def steps(self, batch: Batch) -> Iterator[Step]:
        """What the objective yields for this batch, each computed in the precision that was asked for."""
        played = self.replay is not None and self.objective.training
        return self.replay.steps(batch) if played else self._taken(batch)  # type: ignore[union-attr]

    def _taken(self, batch: Batch) -> Iterator[Step]:
        found: Iterator[Step] = self.objective.steps(batch)  # type: ignore[operator]
        return device.in_precision(found, self.device, self.settings.precision)

    def _begin(self, split: str, source: Source, learn: bool, keep: bool) -> Meter:
        size = self._size(learn)
        self.split, self.batches = split, self._batches_of(source, size, learn)
        self.objective.train(learn)
        if self.meter is None:
            process_group.seed(mix(self.seed, self.epoch, SPLITS.index(split)), self.device)
            self.meter = self._meter(split, keep)
        return self.meter

    def _meter(self, split: str, keep: bool = False) -> Meter:
        where = f"epoch {self.epoch + 1}, {split}, "
        return Meter(self.measures, self.data.spec.targets, self.device, where, keep)

    def _batches(self, source: Source, learn: bool) -> Iterator[Batch]:
        seed, here = self.seed if learn else None, process_group.here
        part = {"rank": here.rank, "world": here.size} if self.shared else {}
        found = source.batches(self._size(learn), seed=seed, epoch=self.epoch, start=self.position, **part)
        return islice(found, max(0, self.batches - self.position)) if learn else found

    def _size(self, learn: bool) -> int:
        return self.settings.batch_rows if learn else self.settings.rows_at_once(self.data.spec)

    def _batches_of(self, source: Source, size: int, learn: bool) -> int:
        """How many batches a sweep takes."""
        if not learn:
            return -(-len(source) // size)
        count = -(-self.rows_learned(source) // size)
        return min(count, self.settings.epoch_batches or count)

    def rows_learned(self, source: Source) -> int:
        """How many of these rows an epoch learns from, unless epoch_batches ends it before."""
        return batch_norm.learned(source, self.settings.batch_rows, self.paired)

    def _window_ends(self) -> bool:
        return (self.position + 1) % self.settings.accumulate == 0 or self.position + 1 == self.batches

    def _pause(self, learn: bool) -> None:
        """Between two batches: save when it is time, and leave when a signal asks for it (`fit` saves then)."""
        late, number = data_parallel.asked(self, learn) if self.shared else (self.late, self.interrupted)
        if late and learn and self.learner.whole:
            self.save()
        if number and self.learner.whole:
            raise Interrupted(number)

    @property
    def late(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved_at >= self.settings.save_every

    @property
    def seconds(self) -> float:
        """How long this fit has taken, earlier starts included."""
        return self.spent + time.monotonic() - self.began_at

    @property
    def batches_planned(self) -> int:
        """Training batches of an epoch."""
        return self._batches_of(self.data.train, self.settings.batch_rows, True)

    @property
    def steps_planned(self) -> int:
        """Optimizer steps of the whole fit."""
        planned = self.settings.epochs * -(-self.batches_planned // self.settings.accumulate)
        return min(planned, self.settings.max_steps or planned)

    @property
    def out_of_steps(self) -> bool:
        """Whether max_steps optimizer steps have been taken."""
        limit = self.settings.max_steps
        return limit is not None and max(self.learner.taken.values(), default=limit) >= limit

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.stop) or self.epoch >= self.settings.epochs or self.out_of_steps

    @property
    def running(self) -> float | None:
        """The loss of the latest step, for whoever looks on from another thread."""
        meter = self.meter
        pending = meter.pending if meter is not None else []
        return float(pending[-1][1]) if pending else None

    def keep(self, name: str) -> None:
        """Remember the state of now, to be written as <name>.pt with the next checkpoint: a disk is slow to be sure."""
        state = self.state()
        rows = state.pop("history")  # which do not change: to copy them all takes longer than a small epoch
        self.kept[name] = {**copy.deepcopy(state), "history": rows}

    def save(self) -> None:
        """Write what is kept, then last.pt: weights, and all that the next step depends on."""
        if self.meter is not None:
            self.meter.check()
            data_parallel.fail_together(self.meter)
        self._write({**self.kept, "last": self.state()})
        self.saved_at = time.monotonic()

    def _write(self, states: dict[str, dict[str, Any]]) -> None:
        for name, state in list(states.items()):
            if process_group.here.rank == 0:
                checkpoint.save(self.folder / f"{name}.pt", state)
            self.kept.pop(name, None)

    def state(self) -> dict[str, Any]:
        """The whole state as tensors and plain values."""
        state = {
            "objective": self.objective.state_dict(),
            "learner": self.learner.state(),
            "groups": self._named_groups(),
            "history": [[row.epoch, row.split, row.values, row.rates] for row in self.history],
            "epoch": self.epoch,
            "position": self.position,
            "stop": self.stop,
            "seconds": self.seconds,
            "random": random.random_state(self.device),
            "meter": self.meter.state() if self.meter is not None else None,
        }
        state = fsdp.gathered(state) if self.learner.sharded else state
        return data_parallel.shared_state(self, state) if self.shared else state

    def _named_groups(self) -> dict[str, list[str]]:
        """Group → the names of its parameters, so that running averages can be told apart elsewhere."""
        names = {id(parameter): name for name, parameter in self.objective.named_parameters()}
        return {group: [names[id(each)] for each in parameters] for group, parameters in self.learner.groups.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state: the same weights and rows come out as if it had never stopped."""
        if self.learner.sharded:
            state = fsdp.parted_state(state, self.objective, self.learner.optimizers)
        checkpoint.load_weights(self.objective, state["objective"])
        self.learner.restore(state["learner"])
        self.history[:] = [Row(*entry) for entry in state["history"]]
        self.epoch, self.position, self.stop = state["epoch"], state["position"], state["stop"]
        self.spent, self.began_at = state["seconds"], time.monotonic()
        random.restore_random_state(state["random"], self.device)
        if state["meter"] is not None:
            self.meter = self._meter("train")
            self.meter.restore(state["meter"])
        if self.shared:
            data_parallel.restore_own(self, state)


Watch = Callable[[Trainer, Job, dict[str, Score]], AbstractContextManager[object]]
