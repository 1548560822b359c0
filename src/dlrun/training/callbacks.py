"""What looks on after each epoch. A callback is a function of what has been written down, and keeps no state.

One that writes files of its own has a `begin` too: it sets them to what the trainer knows when a fit begins or goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from dlrun.config.constraints import Count, Natural, NonNegative
from dlrun.core import artifacts
from dlrun.core.files import spared, whole
from dlrun.core.formatting import counted
from dlrun.core.random import mix
from dlrun.training import generation
from dlrun.training.schedules import better, monitored
from dlrun.training.trainer import Trainer

log = logging.getLogger("dlrun")


@dataclass(frozen=True)
class KeepBest:
    """Keeps the weights of the best epoch so far by `monitor` in checkpoints/<job>/best.pt."""

    monitor: str
    goal: str = "min"

    def __call__(self, trainer: Trainer) -> None:
        values = monitored(trainer.history, self.monitor)
        if best_epoch(values, self.goal) == len(values):
            trainer.keep("best")
        tell_undefined(trainer, self.monitor, values, "the last one is kept as the best")


@dataclass(frozen=True)
class EarlyStopping:
    """Stops when `monitor` has not become better by more than `least` for `patience` epochs in a row.

    since: only epochs after this one are waited for; where a fit that had stopped was asked to go on.
    """

    monitor: str
    patience: int
    least: float
    goal: str = "min"
    since: int = 0

    def __call__(self, trainer: Trainer) -> None:
        best: float | None = None
        wait = 0
        values = monitored(trainer.history, self.monitor)
        for epoch, value in enumerate(values, 1):
            if best is None or better(value, best, self.goal, self.least):
                best, wait = value, 0
            elif best == best:
                wait += epoch > self.since
        tell_undefined(trainer, self.monitor, values, "nothing could be stopped early")
        if wait >= self.patience:
            trainer.stop = f"{self.monitor} has not become better for {counted(wait, 'epoch')}"


@dataclass(frozen=True)
class Collapse:
    """Warns, or stops, when `monitor` has stayed below a bound for `patience` epochs in a row."""

    monitor: str
    below: float
    patience: int
    stop: bool
    goal: str = "max"

    def __call__(self, trainer: Trainer) -> None:
        latest = monitored(trainer.history, self.monitor)[-self.patience :]
        if len(latest) < self.patience or not all(value < self.below for value in latest):
            return
        told = f"{self.monitor} has been below {self.below:g} for {counted(self.patience, 'epoch')}: {latest[-1]:.3g}"
        if self.stop:
            trainer.stop = told
        else:
            log.warning("epoch %d: %s", trainer.epoch, told)


@dataclass(frozen=True)
class Limit:
    """Stops when `monitor` has gone past `most`: above it where more is better, else below it."""

    monitor: str
    most: float
    goal: str = "max"

    def __call__(self, trainer: Trainer) -> None:
        latest = monitored(trainer.history, self.monitor)[-1:]
        if any(better(value, self.most, self.goal) for value in latest):
            trainer.stop = f"{self.monitor} has gone past {self.most:g}"


@dataclass(frozen=True)
class TensorBoard:
    """Adds the epoch's rows to the run's TensorBoard event files, and what else is asked for (see `tensorboard`)."""

    histograms: int = 0
    graph: bool = False
    embeddings: bool = False
    images: int = 0

    def begin(self, trainer: Trainer) -> None:
        """Set the files to what the trainer knows, and write what does not change."""
        from dlrun.training import tensorboard_events, tensorboard_views

        run, job = run_and_job(trainer)
        tensorboard_events.rewrite(run, [row for row in trainer.history if row.epoch <= trainer.epoch], job)
        tensorboard_events.forget(run, job, trainer.epoch)
        if self.embeddings:
            tensorboard_views.words(trainer)
        pictures = (
            {"summary": tensorboard_events.pictures(tensorboard_views.pictures(trainer, self.images))}
            if self.images
            else {}
        )
        graph = {"graph_def": tensorboard_events.graph(tensorboard_views.graph(trainer))} if self.graph else {}
        if self.histograms or self.graph or self.embeddings or self.images:  # TensorBoard knows a run by its first file
            tensorboard_events.write_epoch(run, job, 0, graph | pictures)

    def __call__(self, trainer: Trainer) -> None:
        from dlrun.training import tensorboard_events, tensorboard_views

        run, job = run_and_job(trainer)
        with spared("TensorBoard event files are", run / "tensorboard"):
            tensorboard_events.append(run, [row for row in trainer.history if row.epoch == trainer.epoch], job)
            if self.histograms and trainer.epoch % self.histograms == 0:
                tensorboard_events.write_epoch(
                    run,
                    job,
                    trainer.epoch,
                    {"summary": tensorboard_events.histograms(tensorboard_views.weights(trainer))},
                )
            if self.embeddings:
                tensorboard_events.projector(run, job, tensorboard_views.words(trainer))


@dataclass(frozen=True)
class Activations:
    """Writes what all layers answer to the first `rows` validation rows: activations/<job>/epoch-001.npz."""

    rows: int

    def begin(self, trainer: Trainer) -> None:
        """Take away what was written of epochs that will be done again, and find out whether all can be seen."""
        from dlrun.training import tensorboard_views

        for file in self._place(trainer).glob("epoch-*.npz"):
            if int(file.stem.partition("-")[2]) > trainer.epoch:
                file.unlink()
        tensorboard_views.activations(trainer, self.rows)

    def __call__(self, trainer: Trainer) -> None:
        import numpy as np

        from dlrun.training import tensorboard_views

        path = self._place(trainer) / f"epoch-{trainer.epoch:03}.npz"
        with spared("activations are", path.parent), whole(path) as fresh, fresh.open("wb") as file:
            np.savez_compressed(file, **tensorboard_views.activations(trainer, self.rows))  # type: ignore[arg-type]

    def _place(self, trainer: Trainer) -> Path:
        run, job = run_and_job(trainer)
        return run / "activations" / job


@dataclass(frozen=True)
class Samples:
    """Writes what the objective has to show: samples/<job>/<kind>-epoch-0001.png or .txt; nothing where it has nothing.

    every: after so many epochs, and after the last one.
    """

    every: int
    kinds: tuple[str, ...] | None = None

    def begin(self, trainer: Trainer) -> None:
        """Take away what was made in epochs that will be done again. Raises Refused for a kind that is not made."""
        for kind in self._kinds(trainer):
            generation.maker(trainer.objective, kind)
        for file in self._place(trainer).glob("*-epoch-*.*"):
            if int(file.stem.rpartition("-epoch-")[2].partition("-")[0]) > trainer.epoch:
                file.unlink()

    def __call__(self, trainer: Trainer) -> None:
        if trainer.epoch % self.every and not trainer.finished:
            return
        for kind in self._kinds(trainer):
            found = generation.made(trainer, kind, mix(trainer.seed, trainer.epoch))
            with spared("samples are", self._place(trainer)):
                artifacts.write(found, self._place(trainer), f"{kind}-epoch-{trainer.epoch:04}")

    def _kinds(self, trainer: Trainer) -> tuple[str, ...]:
        return getattr(trainer.objective, "shown", ()) if self.kinds is None else self.kinds  # type: ignore[return-value]

    def _place(self, trainer: Trainer) -> Path:
        run, job = run_and_job(trainer)
        return run / "samples" / job


def run_and_job(trainer: Trainer) -> tuple[Path, str]:
    """The run folder, and the name of the job in it."""
    return trainer.folder.parent.parent, trainer.folder.name


def tell_undefined(trainer: Trainer, monitor: str, values: list[float], so: str) -> None:
    """Say, once a fit has ended, that what was to be watched never had a value, and what follows from that."""
    if all(value != value for value in values) and trainer.finished:
        log.warning("%s was not defined in any epoch, so that %s", monitor, so)


def best_epoch(values: list[float], goal: str) -> int:
    """The first epoch (from 1) with the best value; 0 for no values. nan is best only where nothing else is there."""
    best = 0
    for number, value in enumerate(values, 1):
        undefined = best == 0 or values[best - 1] != values[best - 1]
        if undefined or better(value, values[best - 1], goal):
            best = number
    return best


def keep_best(*, monitor: str) -> KeepBest:
    """Keep the best epoch's weights; they are the ones that are evaluated in the end."""
    return KeepBest(monitor)


def early_stopping(*, monitor: str, patience: Count, least: NonNegative) -> EarlyStopping:
    """Stop when nothing has become better for a while (book §7.2)."""
    return EarlyStopping(monitor, patience, least)


def collapse(*, monitor: str, below: NonNegative, patience: Count, stop: bool) -> Collapse:
    """Notice when all that is made becomes the same: what `monitor` says of its variety stays below a bound."""
    return Collapse(monitor, below, patience, stop)


def limit(*, monitor: str, most: float) -> Limit:
    """Stop when a measure has gone far enough, however good more of it would be (book §8.2)."""
    return Limit(monitor, most)


def tensorboard(*, histograms: Natural, graph: bool, embeddings: bool, images: Natural) -> TensorBoard:
    """Write TensorBoard event files (book §7.2).

    histograms: of all weights after every so many epochs. graph: which layer reads which. embeddings: word vectors for
    the projector. images: so many training pictures, as they are before augmentation. 0 or false: none of it.
    """
    return TensorBoard(histograms, graph, embeddings, images)


def activations(*, rows: Count) -> Activations:
    """Write the activations of all layers for the first validation rows after every epoch (book §7.2)."""
    return Activations(rows)


def samples(*, every: Count, kinds: list[str] | None) -> Samples:
    """Keep what the objective makes, after every so many epochs. kinds: null for those that it shows by itself."""
    return Samples(every, None if kinds is None else tuple(kinds))
