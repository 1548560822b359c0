"""Callbacks after each epoch: best weights, early stopping, samples, activations, TensorBoard."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.config.annotations import Count, Natural, NonNegative
from dlrun.core.device import derive_seed
from dlrun.core.files import atomic_write, optional_write
from dlrun.core.formatting import counted
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.training.schedules import get_monitored_values, is_better
from dlrun.training.trainer import Trainer

log = logging.getLogger("dlrun")


class Callback:
    """Called after each epoch, once its training and its validation are done.

    It is a function of `trainer.history` and keeps no state: a fit that is resumed has nothing but
    its history, and must do as if it had never been interrupted. A plain function `(trainer)` is a
    callback, too.

    Example:
        class StopAt(Callback):
            def __init__(self, loss):
                self.loss = loss

            def __call__(self, trainer):
                if trainer.history[-1].values["loss"] < self.loss:
                    trainer.stop = f"the loss is below {self.loss}"
    """

    def begin(self, trainer: Trainer) -> None:
        """Called when a fit begins or goes on; whoever writes files sets them to the trainer's
        epoch.

        Args:
            trainer: At the epoch that the fit goes on from, with the history up to it.

        Raises:
            UserError: if the callback cannot do its work with this trainer.
        """

    def __call__(self, trainer: Trainer) -> None:
        """Called after each epoch.

        Args:
            trainer: Has `epoch` (from 1), `history`, `folder`, `keep("best")`; the fit ends where
                `stop` is set to a reason.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no __call__(trainer)")


@dataclass(frozen=True)
class BestCheckpoint(Callback):
    """Keeps the weights of the best epoch so far by `monitor` in checkpoints/<job>/best.pt."""

    monitor: str
    goal: str = "min"

    def __call__(self, trainer: Trainer) -> None:
        values = get_monitored_values(trainer.history, self.monitor)
        if find_best_epoch(values, self.goal) == len(values):
            trainer.keep("best")
        warn_undefined_monitor(trainer, self.monitor, values, "the last one is kept as the best")


@dataclass(frozen=True)
class EarlyStopping(Callback):
    """Stops when `monitor` has not become better by more than `least` for `patience` epochs in a
    row.

    Attributes:
        since: Only epochs after this one are waited for; where a fit that had stopped was asked to
            go on.
    """

    monitor: str
    patience: int
    least: float
    goal: str = "min"
    since: int = 0

    def __call__(self, trainer: Trainer) -> None:
        best: float | None = None
        waited = 0
        values = get_monitored_values(trainer.history, self.monitor)
        for epoch, value in enumerate(values, 1):
            if best is None or is_better(value, best, self.goal, self.least):
                best, waited = value, 0
            # A best of nan is no value: the patience does not run yet.
            elif best == best:
                waited += epoch > self.since
        warn_undefined_monitor(trainer, self.monitor, values, "nothing could be stopped early")
        if waited >= self.patience:
            trainer.stop = f"{self.monitor} has not become better for {counted(waited, 'epoch')}"


@dataclass(frozen=True)
class CollapseDetector(Callback):
    """Warns, or stops, when `monitor` has stayed below a bound for `patience` epochs in a row."""

    monitor: str
    below: float
    patience: int
    stop: bool
    goal: str = "max"

    def __call__(self, trainer: Trainer) -> None:
        latest = get_monitored_values(trainer.history, self.monitor)[-self.patience :]
        # Too few epochs to judge.
        if len(latest) < self.patience or not all(value < self.below for value in latest):
            return
        message = (
            f"{self.monitor} has been below {self.below:g} for {counted(self.patience, 'epoch')}: "
            f"{latest[-1]:.3g}"
        )
        if self.stop:
            trainer.stop = message
        else:
            log.warning("epoch %d: %s", trainer.epoch, message)


@dataclass(frozen=True)
class StopAtThreshold(Callback):
    """Stops when `monitor` has gone past `most`: above it where more is better, else below it."""

    monitor: str
    most: float
    goal: str = "max"

    def __call__(self, trainer: Trainer) -> None:
        latest = get_monitored_values(trainer.history, self.monitor)[-1:]
        if any(is_better(value, self.most, self.goal) for value in latest):
            trainer.stop = f"{self.monitor} has gone past {self.most:g}"


@dataclass(frozen=True)
class TensorBoard(Callback):
    """Adds the epoch's rows to the run's TensorBoard event files, and what else is asked for (see
    `tensorboard`).
    """

    histograms: int = 0
    graph: bool = False
    embeddings: bool = False
    images: int = 0

    def begin(self, trainer: Trainer) -> None:
        """Set the files to what the trainer knows, and write what does not change."""
        from dlrun.training import tensorboard_events

        run, job = get_run_and_job(trainer)
        tensorboard_events.rewrite_events(
            run, [row for row in trainer.history if row.epoch <= trainer.epoch], job
        )
        tensorboard_events.remove_later_events(run, job, trainer.epoch)
        # TensorBoard knows a run by its first file.
        if self.histograms or self.graph or self.embeddings or self.images:
            tensorboard_events.write_epoch_events(run, job, 0, self._summarize_start(trainer))

    def _summarize_start(self, trainer: Trainer) -> dict[str, Any]:
        """What does not change: training images and the graph. Refuses words that it cannot see."""
        from dlrun.training import tensorboard_events, tensorboard_views

        if self.embeddings:
            tensorboard_views.collect_word_vectors(trainer)
        graph: dict[str, Any] = {}
        summary: dict[str, Any] = {}
        if self.images:
            images = tensorboard_views.get_training_images(trainer, self.images)
            summary = {"summary": tensorboard_events.build_image_summary(images)}
        if self.graph:
            modules = tensorboard_views.build_module_graph(trainer)
            graph = {"graph_def": tensorboard_events.encode_graph(modules)}
        return graph | summary

    def __call__(self, trainer: Trainer) -> None:
        from dlrun.training import tensorboard_events

        run, job = get_run_and_job(trainer)
        # A full disk ends no fit for files that only display it.
        with optional_write(
            "TensorBoard event files are", RunFolder(run).path(RunFile.TENSORBOARD)
        ):
            tensorboard_events.append_events(
                run, [row for row in trainer.history if row.epoch == trainer.epoch], job
            )
            if self.histograms or self.embeddings:
                self._write_weights(trainer)

    def _write_weights(self, trainer: Trainer) -> None:
        """Histograms of all weights where they are due, and word vectors."""
        from dlrun.training import tensorboard_events, tensorboard_views

        run, job = get_run_and_job(trainer)
        if self.histograms and trainer.epoch % self.histograms == 0:
            weights = tensorboard_views.collect_weights(trainer)
            summary = {"summary": tensorboard_events.build_histogram_summary(weights)}
            tensorboard_events.write_epoch_events(run, job, trainer.epoch, summary)
        if self.embeddings:
            vectors = tensorboard_views.collect_word_vectors(trainer)
            tensorboard_events.write_projector(run, job, vectors)


@dataclass(frozen=True)
class ActivationWriter(Callback):
    """Writes what all layers answer to the first `rows` validation rows.

    Activations/<job>/epoch-001.npz.
    """

    rows: int

    def begin(self, trainer: Trainer) -> None:
        """Take away what was written of epochs that will be done again, and find out whether all
        can be seen.
        """
        from dlrun.training import tensorboard_views

        for file in self._get_folder(trainer).glob("epoch-*.npz"):
            if int(file.stem.partition("-")[2]) > trainer.epoch:
                file.unlink()
        tensorboard_views.compute_layer_outputs(trainer, self.rows)

    def __call__(self, trainer: Trainer) -> None:
        import numpy as np

        from dlrun.training import tensorboard_views

        path = self._get_folder(trainer) / f"epoch-{trainer.epoch:03}.npz"
        with (
            optional_write("activations are", path.parent),
            atomic_write(path) as fresh,
            fresh.open("wb") as file,
        ):
            np.savez_compressed(file, **tensorboard_views.compute_layer_outputs(trainer, self.rows))  # type: ignore[arg-type]

    def _get_folder(self, trainer: Trainer) -> Path:
        run, job = get_run_and_job(trainer)
        return RunFolder(run).path(RunFile.ACTIVATIONS) / job


@dataclass(frozen=True)
class SampleWriter(Callback):
    """Writes what the objective has to show: samples/<job>/<kind>-epoch-0001.png or .txt; nothing
    where it has nothing.

    Attributes:
        every: After so many epochs, and after the last one.
    """

    every: int
    kinds: tuple[str, ...] | None = None

    def begin(self, trainer: Trainer) -> None:
        """Take away what was made in epochs that will be done again.

        Raises:
            UserError: for a kind that is not made.
        """
        for kind in self._get_generator_names(trainer):
            # Here, because most objectives make nothing.
            from dlrun.training.generation import find_generator

            find_generator(trainer.objective, kind)
        for file in self._get_folder(trainer).glob("*-epoch-*.*"):
            if int(file.stem.rpartition("-epoch-")[2].partition("-")[0]) > trainer.epoch:
                file.unlink()

    def __call__(self, trainer: Trainer) -> None:
        # The last epoch is always written.
        if trainer.epoch % self.every and not trainer.finished:
            return
        for kind in self._get_generator_names(trainer):
            from dlrun.core import objective
            from dlrun.training.generation import generate_artifacts

            samples = generate_artifacts(trainer, kind, derive_seed(trainer.seed, trainer.epoch))
            with optional_write("samples are", self._get_folder(trainer)):
                objective.write_artifacts(
                    samples, self._get_folder(trainer), f"{kind}-epoch-{trainer.epoch:04}"
                )

    def _get_generator_names(self, trainer: Trainer) -> tuple[str, ...]:
        return trainer.objective.default_samples if self.kinds is None else self.kinds

    def _get_folder(self, trainer: Trainer) -> Path:
        run, job = get_run_and_job(trainer)
        return RunFolder(run).path(RunFile.SAMPLES) / job


def get_run_and_job(trainer: Trainer) -> tuple[Path, str]:
    """The run folder, and the name of the job in it."""
    return trainer.folder.parent.parent, trainer.folder.name


def warn_undefined_monitor(trainer: Trainer, monitor: str, values: list[float], so: str) -> None:
    """Say, once a fit has ended, that what was to be watched never had a value, and what follows
    from that.
    """
    if all(value != value for value in values) and trainer.finished:
        log.warning("%s was not defined in any epoch, so that %s", monitor, so)


def find_best_epoch(values: list[float], goal: str) -> int:
    """The first epoch (from 1) with the best value; 0 for no values.

    Nan is best only where nothing else is there.
    """
    best = 0
    for number, value in enumerate(values, 1):
        undefined = best == 0 or values[best - 1] != values[best - 1]
        if undefined or is_better(value, values[best - 1], goal):
            best = number
    return best


def keep_best(*, monitor: str) -> BestCheckpoint:
    """Keep the best epoch's weights; they are the ones that are evaluated in the end."""
    return BestCheckpoint(monitor)


def early_stopping(*, monitor: str, patience: Count, least: NonNegative) -> EarlyStopping:
    """Stop when nothing has become better for a while (book §7.2)."""
    return EarlyStopping(monitor, patience, least)


def collapse(*, monitor: str, below: NonNegative, patience: Count, stop: bool) -> CollapseDetector:
    """Notice when all that is made becomes the same.

    What `monitor` says of its variety stays below a bound.
    """
    return CollapseDetector(monitor, below, patience, stop)


def limit(*, monitor: str, most: float) -> StopAtThreshold:
    """Stop when a measure has gone far enough, however good more of it would be (book §8.2)."""
    return StopAtThreshold(monitor, most)


def tensorboard(
    *, histograms: Natural, graph: bool, embeddings: bool, images: Natural
) -> TensorBoard:
    """Write TensorBoard event files (book §7.2).

    Args:
        histograms: Of all weights after every so many epochs.
        graph: Which layer reads which.
        embeddings: Word vectors for the projector.
        images: So many training images, as they are before augmentation. 0 or false: none of it.
    """
    return TensorBoard(histograms, graph, embeddings, images)


def activations(*, rows: Count) -> ActivationWriter:
    """Write the activations of all layers for the first validation rows after every epoch (book
    §7.2).
    """
    return ActivationWriter(rows)


def samples(*, every: Count, kinds: list[str] | None) -> SampleWriter:
    """Keep what the objective makes, after every so many epochs.

    Args:
        kinds: Null for those that it shows by itself.
    """
    return SampleWriter(every, None if kinds is None else tuple(kinds))
