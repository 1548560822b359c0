"""The one loop: it visits batches, takes an objective's steps, measures, and ends on a signal."""

from __future__ import annotations

import copy
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from dlrun.config.settings import Settings
from dlrun.core import checkpoint, device
from dlrun.core.dataset import PreparedData, Source
from dlrun.core.device import derive_seed
from dlrun.core.errors import FileWriteError, TrainingInterrupted
from dlrun.core.objective import Objective
from dlrun.core.types import Batch, EpochRecord, FitJob, History, Score
from dlrun.training import step_runner
from dlrun.training.meter import Meter, TargetMetrics
from dlrun.training.optimization import Optimization
from dlrun.training.step_runner import StepRunner

log = logging.getLogger("dlrun")
# After each epoch: `callbacks.Callback`, or a plain function of the trainer.
AfterEpoch = Callable[["Trainer"], None]
SPLITS = ("train", "val", "test")


class Trainer:
    """Fits one objective on one dataset.

    The order of batches and all noise are functions of (seed, epoch, split): a fit that is resumed
    ends with the bits of one that was never interrupted.

    Args:
        objective: What is minimized, on its device.
        data: Training and validation rows, on the same device.
        settings: Of the engine.
        optimization: Changes the objective's parameters.
        metrics: Of the targets, by their names in the history.
        folder: Where the checkpoints of this fit are.

    Attributes:
        runner: Computes the objective's steps.
        strategy: How the fit is spread over processes.
        processes: That share the fit.
        seed: Of the fit.
        callbacks: Called after each epoch, in this order.
        history: A record for each epoch and split that is done.
        epoch: Epochs that are done.
        position: Batches of the current sweep that are done.
        batches: Batches of the current sweep.
        split: The split that is visited.
        stop: Why the fit ends early; '' while it does not.
        interrupted: The signal that asks to stop; 0 while none does.
        meter: What the current sweep has measured so far; None between two sweeps.
        pending_checkpoints: Name → state that the next save writes.
        saved_at: When the latest checkpoint was written, as time.monotonic() has it.
        began_at: When this start of the fit began.
        earlier_seconds: Seconds of fitting before this start.
    """

    def __init__(
        self,
        objective: Objective,
        data: PreparedData,
        settings: Settings,
        optimization: Optimization,
        metrics: TargetMetrics,
        folder: Path,
    ) -> None:
        self.objective, self.data, self.settings = objective, data, settings
        self.optimization, self.metrics, self.folder = optimization, metrics, folder
        tensors = (*objective.parameters(), *objective.buffers(), torch.empty(0))
        self.device = tensors[0].device
        self.seed = 0
        self.callbacks: list[AfterEpoch] = []
        self.history: History = optimization.history
        self.epoch = self.position = self.batches = 0
        self.split = ""
        self.stop = ""
        self.interrupted = 0
        self.meter: Meter | None = None
        self.pending_checkpoints: dict[str, dict[str, Any]] = {}
        self.saved_at = self.began_at = time.monotonic()
        self.earlier_seconds = 0.0
        # Batch norm has no variance over a single row: no training batch may be one.
        self.needs_row_pairs = step_runner.uses_batch_norm(objective)
        self.strategy, self.processes = optimization.strategy, optimization.strategy.processes
        self.strategy.attach(self)
        self.runner = StepRunner(objective, settings, self.device, self.strategy.sharded)

    def fit(self) -> None:
        """Train until the epochs or steps are used up, or a callback sets `stop`.

        Goes on from a restored state.

        Raises:
            TrainingInterrupted: if a signal asked to stop; the state is saved.
            TrainingDiverged: if a loss is not finite.
        """
        self.optimization.total_steps, self.began_at = self.total_steps, time.monotonic()
        self.strategy.begin_fit(self)
        with self.save_best_on_error():
            try:
                while not self.finished:
                    self._train_one_epoch()
            except TrainingInterrupted:
                if self.split != "train":
                    # No checkpoint holds half a validation: it is repeated from its beginning.
                    self.meter, self.position = None, 0
                self.save()
                raise
            self.save()

    def _train_one_epoch(self) -> None:
        self.run_split("train", self.data.train, train=True)
        if self.data.val is not None:
            self.run_split("val", self.data.val)
        self.epoch += 1
        for callback in self.callbacks:
            callback(self)
        self.stop = self.processes.broadcast_object(self.stop)

    @contextmanager
    def save_best_on_error(self) -> Iterator[None]:
        """Inside, an exception saves the best epoch, not the present, maybe incomplete state."""
        try:
            yield
        except BaseException as error:
            self.write_pending_checkpoints(tell=not isinstance(error, FileWriteError))
            raise

    def write_pending_checkpoints(self, tell: bool = True) -> None:
        """Write the pending checkpoints and nothing else.

        Args:
            tell: Whether to warn where that fails.
        """
        # Nothing is raised: whatever ended the fit is the error that the user has to read.
        try:
            self._write(self.pending_checkpoints)
        except Exception as error:
            level = logging.WARNING if tell else logging.DEBUG
            log.log(level, "the best epoch of %s could not be written: %s", self.folder.name, error)

    def run_split(self, split: str, source: Source, *, train: bool = False) -> None:
        """Visit a split and record its scores, unless the history has them, as after a resume.

        Args:
            split: 'train' or 'val'.
            source: Its rows.
            train: Whether to change the weights.
        """
        number = self.epoch + 1
        if any((row.epoch, row.split) == (number, split) for row in self.history[-2:]):
            return
        scores = self.run_epoch(split, source, train=train).scores()
        values = {name: score.value for name, score in scores.items()}
        rates = self.optimization.rates if train else {}
        self.history.append(EpochRecord(number, split, values, rates))

    def run_epoch(
        self, split: str, source: Source, *, train: bool = False, keep: bool = False
    ) -> Meter:
        """Visit every batch of a split once and return what was measured.

        Args:
            split: 'train', 'val' or 'test'; random numbers depend on it.
            source: Its rows.
            train: Whether to change the weights; if not, their running averages are measured.
            keep: Whether the meter keeps the prediction and the metrics of every row.

        Raises:
            TrainingInterrupted: if a signal asked to stop.
            TrainingDiverged: if a loss is not finite.
        """
        meter = self._start_epoch(split, source, train, keep)
        with torch.set_grad_enabled(train), self._weights_for(train):
            for batch, rows in self._batches(source, train):
                for step in self.runner.steps(batch):
                    if train:
                        self.optimization.step(step, rows, self._ends_window)
                    meter.add(step, batch, rows)
                self.position += 1
                if self._should_stop(train):
                    break
        return self._end_epoch(meter)

    def _start_epoch(self, split: str, source: Source, train: bool, keep: bool) -> Meter:
        self.split = split
        self.batches = self._count_batches(source, self._batch_size(train), train)
        self.objective.train(train)
        if self.meter is None:
            self.processes.seed(
                derive_seed(self.seed, self.epoch, SPLITS.index(split)), self.device
            )
            self.meter = self._build_meter(split, keep)
        return self.meter

    def _weights_for(self, train: bool) -> AbstractContextManager[None]:
        return nullcontext() if train else self.optimization.ema_weights()

    def _end_epoch(self, meter: Meter) -> Meter:
        meter.flush()
        self.strategy.end_epoch(self.objective, meter)
        self.meter, self.position = None, 0
        return meter

    def _build_meter(self, split: str, keep: bool = False) -> Meter:
        where = f"epoch {self.epoch + 1}, {split}, "
        several = self.processes.world_size > 1
        return Meter(self.metrics, self.data.spec.targets, self.device, where, keep, several)

    def _batches(self, source: Source, train: bool) -> Iterator[tuple[Batch, int]]:
        """The batches that are left of a sweep, and how many rows of each count."""
        size, rows = self._batch_size(train), len(source)
        batches = self.strategy.batches(
            source, size, seed=self.seed if train else None, epoch=self.epoch, start=self.position
        )
        # An epoch of training may end before its rows do.
        for batch in islice(batches, max(0, self.batches - self.position)) if train else batches:
            planned = min(size, rows - self.position * size)
            yield batch, self.strategy.count_rows(batch, planned)

    def _batch_size(self, train: bool) -> int:
        if train:
            return self.settings.batch_rows
        return self.settings.get_inference_batch_size(self.data.spec)

    def _count_batches(self, source: Source, size: int, train: bool) -> int:
        """How many batches a sweep has."""
        if not train:
            return -(-len(source) // size)
        count = -(-self.count_training_rows(source) // size)
        return min(count, self.settings.epoch_batches or count)

    def count_training_rows(self, source: Source) -> int:
        """How many rows of a source an epoch learns from, unless epoch_batches ends it earlier."""
        return step_runner.count_training_rows(
            source, self.settings.batch_rows, self.needs_row_pairs
        )

    @property
    def _ends_window(self) -> bool:
        """Whether the gradients that were accumulated are applied after this batch."""
        count = self.position + 1
        return count % self.settings.accumulate == 0 or count == self.batches

    def _should_stop(self, train: bool) -> bool:
        """Between batches: save when due, leave on a signal (`fit` saves), stop at max_steps."""
        due, signal_number = self.strategy.should_save_or_stop(self, train)
        # Amid an accumulation the gradients would be lost: they are in no checkpoint.
        if due and train and self.optimization.at_step_boundary:
            self.save()
        if signal_number and self.optimization.at_step_boundary:
            raise TrainingInterrupted(signal_number)
        return train and self.out_of_steps

    @property
    def checkpoint_due(self) -> bool:
        """Whether the latest checkpoint is older than `engine.save_every` seconds."""
        return time.monotonic() - self.saved_at >= self.settings.save_every

    @property
    def seconds(self) -> float:
        """Seconds that this fit has taken, earlier starts included."""
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
        if limit is None:
            return False
        # Without a group there is nothing to learn: such a fit is at its limit from the start.
        return max(self.optimization.steps_taken.values(), default=limit) >= limit

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.stop) or self.epoch >= self.settings.epochs or self.out_of_steps

    @property
    def latest_loss(self) -> float | None:
        """The loss of the latest step, for displays in other threads; None before the first."""
        meter = self.meter
        pending = meter.pending if meter is not None else []
        return float(pending[-1][1]) if pending else None

    def keep(self, name: str) -> None:
        """Remember the state of now, to be written as <name>.pt with the next checkpoint.

        Args:
            name: Such as 'best'.
        """
        # It is not written at once: an fsync would take longer than many an epoch.
        state = self.state()
        # Records never change: to copy them all would take longer than a small epoch.
        history = state.pop("history")
        self.pending_checkpoints[name] = {**copy.deepcopy(state), "history": history}

    def save(self) -> None:
        """Write the pending checkpoints, then last.pt: all that the next step depends on."""
        if self.meter is not None:
            self.meter.check()
            self.strategy.raise_divergence(self.meter)
        self._write({**self.pending_checkpoints, "last": self.state()})
        self.saved_at = time.monotonic()

    def _write(self, states: dict[str, dict[str, Any]]) -> None:
        for name, state in list(states.items()):
            if self.processes.rank == 0:
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
            "random": device.get_random_state(self.device),
            "meter": self.meter.state() if self.meter is not None else None,
        }
        return self.strategy.gather_state(self, state)

    def _named_groups(self) -> dict[str, list[str]]:
        """Group → the names of its parameters, by which others find their running averages."""
        names = {id(parameter): name for name, parameter in self.objective.named_parameters()}
        return {
            group: [names[id(parameter)] for parameter in parameters]
            for group, parameters in self.optimization.groups.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, as if the fit had never stopped.

        Args:
            state: As `state()` returned it.

        Raises:
            UserError: if these weights are of another model.
        """
        state = self.strategy.shard_state(self, state)
        checkpoint.load_weights(self.objective, state["objective"])
        self.optimization.restore(state["learner"])
        self.history[:] = [EpochRecord(*entry) for entry in state["history"]]
        self.epoch, self.position, self.stop = state["epoch"], state["position"], state["stop"]
        self.earlier_seconds, self.began_at = state["seconds"], time.monotonic()
        device.restore_random_state(state["random"], self.device)
        if state["meter"] is not None:
            self.meter = self._build_meter("train")
            self.meter.restore(state["meter"])
        self.strategy.end_restore(self, state)


FitWatcher = Callable[[Trainer, FitJob, dict[str, Score]], AbstractContextManager[object]]


class SignalTarget(Protocol):
    """What looks at `interrupted`, the number of a signal, and stops by itself when it is not 0."""

    interrupted: int


@contextmanager
def handle_stop_signal(trainer: SignalTarget) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM let the step end and the state be saved.

    A second one stops at once.
    """

    def ask(number: int, frame: object) -> None:
        if trainer.interrupted:
            # A second signal: the user does not want to wait for the end of the step.
            raise KeyboardInterrupt
        trainer.interrupted = number

    # Python lets only the main thread handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def evaluation_mode(trainer: Trainer, seed: int) -> Iterator[None]:
    """Inside, the objective is in evaluation with its averaged weights, and random numbers come
    from this seed.
    """
    cuda_devices = [trainer.device] if trainer.device.type == "cuda" else []
    with (
        # Afterwards the fit's random numbers go on as if nothing had been drawn.
        torch.random.fork_rng(devices=cuda_devices),
        torch.no_grad(),
        trainer.optimization.ema_weights(),
        device.autocast(trainer.device, trainer.settings.precision),
    ):
        torch.manual_seed(seed)
        trainer.objective.eval()
        yield
