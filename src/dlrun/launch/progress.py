"""Shows the progress of a fit: a live bar on a terminal, one plain line an epoch anywhere else."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import filterfalse
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.control import Control

from dlrun.core.formatting import counted, format_duration, format_number, get_direction, is_loss

if TYPE_CHECKING:
    from rich.text import Text

    from dlrun.core.types import EpochRecord, FitJob, Score
    from dlrun.training.trainer import Trainer


WIDTH = 120  # of tables in the log


class RecordingConsole(Console):
    """A console that also writes what it prints to log handlers.

    Attributes:
        logs: The handlers that receive every printed line as plain text.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(highlight=False, quiet=quiet)
        self.logs: list[logging.Handler] = []

    def print(self, *objects: Any, **options: Any) -> None:
        """Print on the terminal and, as plain text, into the logs.

        Args:
            objects: What to print, as for `rich.console.Console.print`.
            options: Keyword arguments of that method.
        """
        super().print(*objects, **options)
        # Control codes move the cursor of a live display; in a file they would be noise.
        if self.logs and not self.quiet and not all(isinstance(item, Control) for item in objects):
            # A second console with a fixed width, so that the log does not depend on the
            # terminal's.
            plain = Console(file=io.StringIO(), width=WIDTH, highlight=False, color_system=None)
            plain.print(*objects, **options)
            self.log_only(plain.file.getvalue())  # type: ignore[attr-defined]

    def print_only(self, text: str) -> None:
        """Print text that the logs already hold."""
        super().print(text, soft_wrap=True, markup=False)

    def log_only(self, text: str) -> None:
        """Write text to the logs that the terminal does not show."""
        lines = [line.rstrip() for line in text.splitlines()]
        if any(lines):
            # The record goes past the logger: its terminal handler would print the text a second
            # time.
            record = logging.LogRecord(
                "dlrun", logging.INFO, "", 0, "\n".join(lines).strip("\n"), (), None
            )
            for handler in self.logs:
                handler.handle(record)


REFRESH_RATE = 4  # times a second
BAR_WIDTH = 24  # characters


class ProgressDisplay:
    """Shows the progress of fits on one console.

    Attributes:
        console: Where progress is shown.
        quiet: Show nothing.
        monitor: The metric of 'best so far' and 'baseline to beat'; "" for the baseline's first
            that is no loss.
        heartbeat: Seconds of silence after which a line says how far the epoch is.
        brief: Off a terminal, one line a fit instead of one an epoch.
    """

    def __init__(
        self,
        console: Console,
        quiet: bool,
        monitor: str = "",
        heartbeat: float = 30.0,
        brief: bool = False,
    ) -> None:
        self.console, self.quiet, self.brief = console, quiet, brief
        self.monitor, self.heartbeat = monitor, heartbeat

    @contextmanager
    def __call__(self, trainer: Trainer, job: FitJob, baseline: dict[str, Score]) -> Iterator[None]:
        """Show a fit as long as the block lasts.

        It only reads the trainer, and never from the inner loop.

        Args:
            trainer: The trainer of the fit.
            job: The fit.
            baseline: The baseline's scores by metric.
        """
        if self.quiet:
            yield
            return
        view = ProgressView(trainer, job.name, baseline, self.monitor)
        with self._live(view) if self.console.is_terminal else self._log_epochs(view):
            yield
        if self.console.is_terminal or self.brief:
            self._print(view.summary_line())

    @contextmanager
    def _live(self, view: ProgressView) -> Iterator[None]:
        from rich.live import Live

        def log_epoch(trainer: Trainer) -> None:
            self._write_line(view.epoch_line())

        # The live display is wiped at the end; the log keeps a line an epoch.
        view.trainer.callbacks.append(log_epoch)
        try:
            with Live(
                get_renderable=view.render_live,
                console=self.console,
                refresh_per_second=REFRESH_RATE,
                transient=True,
            ):
                yield
        finally:
            view.trainer.callbacks.remove(log_epoch)

    def _write_line(self, line: str) -> None:
        if isinstance(self.console, RecordingConsole):
            self.console.log_only(line)

    @contextmanager
    def _log_epochs(self, view: ProgressView) -> Iterator[None]:
        done = threading.Event()
        # Its own thread, so that even one batch that takes minutes is reported.
        heartbeat = threading.Thread(target=self._log_heartbeat, args=(view, done), daemon=True)

        def after_epoch(trainer: Trainer) -> None:
            line = view.epoch_line()
            self._write_line(line) if self.brief else self._print(line)

        if view.format_baseline() and not self.brief:
            self._print(f"{view.name}  {view.format_baseline()}")
        view.trainer.callbacks.append(after_epoch)
        heartbeat.start()
        try:
            yield
        finally:
            done.set()
            heartbeat.join()
            view.trainer.callbacks.remove(after_epoch)

    def _log_heartbeat(self, view: ProgressView, done: threading.Event) -> None:
        while not done.wait(max(0.01, view.printed_at + self.heartbeat - time.monotonic())):
            if time.monotonic() - view.printed_at >= self.heartbeat:
                self._print(view.heartbeat_line())

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


class ProgressView:
    """The progress of one fit as text.

    Attributes:
        trainer: The trainer that is read.
        name: The name of the fit.
        baseline: The baseline's scores by metric.
        monitor: The metric that is shown; "" where the baseline has none beside the loss.
        started_at: When the fit began, by `time.monotonic`.
        epoch_at: When the current epoch began.
        printed_at: When the last line was printed.
        initial_epochs: Epochs that were done already, of a resumed fit.
        loss: The loss that was read last.
        loss_at: When it was read.
    """

    def __init__(
        self, trainer: Trainer, label: str, baseline: dict[str, Any], monitor: str
    ) -> None:
        self.trainer, self.name, self.baseline = trainer, label, baseline
        self.monitor = monitor or next(filterfalse(is_loss, baseline), "")
        self.started_at = self.epoch_at = self.printed_at = time.monotonic()
        self.initial_epochs = count_epochs(trainer)
        self.loss: float | None = None
        self.loss_at = 0.0

    def epoch_line(self) -> str:
        """Describe the epoch that has just ended, its time counted from the end of the last."""
        now = time.monotonic()
        seconds = now - self.epoch_at
        self.epoch_at = self.printed_at = now
        rows = [row for row in self.trainer.history[-2:] if row.epoch == self.trainer.epoch]
        parts = [
            f"{self.name}  epoch {self.trainer.epoch}/{self.trainer.settings.epochs}",
            *map(format_epoch_scores, rows),
        ]
        return "  ".join([*parts, f"{seconds:.1f} s"])

    def heartbeat_line(self) -> str:
        """Describe how far a long epoch is, on one line."""
        trainer = self.trainer
        self.printed_at = time.monotonic()
        head = f"{self.name}  epoch {trainer.epoch + 1}/{trainer.settings.epochs}"
        loss = "" if self._loss() is None else f"  loss {format_number(self.loss)}"
        batches = (
            f"  {trainer.split} batch {trainer.position}/{trainer.batches}" if trainer.split else ""
        )
        return f"{head}{batches}{loss}  {self.printed_at - self.epoch_at:.0f} s"

    def render_live(self) -> Text:
        """Render the live display: three short lines."""
        from rich.text import Text

        trainer = self.trainer
        done = min(1.0, count_epochs(trainer) / max(trainer.settings.epochs, 1))
        filled = round(done * BAR_WIDTH)
        line = Text(f"{self.name}  ", style="bold", no_wrap=True, overflow="ellipsis")
        line.append("━" * filled, style="green").append(
            "━" * (BAR_WIDTH - filled), style="bright_black"
        )
        epoch = min(trainer.epoch + 1, trainer.settings.epochs)
        line.append(f"  epoch {epoch}/{trainer.settings.epochs} {trainer.split}", style="not bold")
        loss = "" if self._loss() is None else f"loss {format_number(self.loss)}"
        for parts in (
            (loss, self._format_best(), self._remaining()),
            (self.format_last_losses(), self.format_baseline()),
        ):
            text = " · ".join(filter(None, parts))
            line.append(f"\n{text}" if text else "", style="not bold cyan")
        return line

    def summary_line(self) -> str:
        """Summarize a fit that is over, on one line."""
        seconds = f"{time.monotonic() - self.started_at:.1f} s"
        score = self._format_checkpoint() or self._format_best()
        parts = (
            f"{self.name}  {counted(self.trainer.epoch, 'epoch')}",
            self.format_last_losses(),
            score,
            self.format_baseline(),
            seconds,
        )
        return "  ".join(filter(None, parts))

    def format_last_losses(self) -> str:
        """Format the losses of the last finished epoch: 'epoch 3: train loss 0.2810, val loss
        0.3012'.
        """
        rows = [
            row
            for row in self.trainer.history[-3:]
            if row.epoch == self.trainer.epoch and "loss" in row.values
        ]
        losses = ", ".join(f"{row.split} loss {format_number(row.values['loss'])}" for row in rows)
        return f"epoch {self.trainer.epoch}: {losses}" if losses else ""

    def format_baseline(self) -> str:
        """Format 'baseline to beat: accuracy 0.5100', or nothing."""
        score = self.baseline.get(self.monitor)
        return (
            f"baseline to beat: {self.monitor} {format_number(score.value)}"
            if score and score.value == score.value
            else ""
        )

    def _format_best(self) -> str:
        from dlrun.training.monitors import get_direction_by_metric

        rows, measure = list(self.trainer.history), self.monitor or "loss"
        return format_best_epoch(
            rows, measure, get_direction(measure, get_direction_by_metric(self.trainer))
        )

    def _format_checkpoint(self) -> str:
        """Format 'kept epoch 7 (best val/loss): val accuracy 0.8890', or nothing."""
        from dlrun.training.callbacks import BestCheckpoint, find_best_epoch
        from dlrun.training.schedules import get_monitored_values

        callbacks = self.trainer.callbacks
        checkpoint = next((item for item in callbacks if isinstance(item, BestCheckpoint)), None)
        rows = [row for row in self.trainer.history if row.split == "val"]
        measure = self.monitor or "loss"
        if checkpoint is None or not rows or measure not in rows[-1].values:
            return ""
        values = get_monitored_values(self.trainer.history, checkpoint.monitor)
        row = rows[find_best_epoch(values, checkpoint.goal) - 1]
        score = f"val {measure} {format_number(row.values[measure])}"
        return f"kept epoch {row.epoch} (best {checkpoint.monitor}): {score}"

    def _remaining(self) -> str:
        done = count_epochs(self.trainer)
        seconds = time.monotonic() - self.started_at
        # An estimate from the first moments would be wild.
        if done - self.initial_epochs < 0.02 or seconds < 1:
            return ""
        seconds_left = (
            seconds / (done - self.initial_epochs) * max(0.0, self.trainer.settings.epochs - done)
        )
        return f"about {format_duration(seconds_left)} left"

    def _loss(self) -> float | None:
        """Return the recent loss; on a GPU every reading waits for the device, so it is read
        rarely.
        """
        now = time.monotonic()
        if now - self.loss_at >= 1 / REFRESH_RATE:
            self.loss, self.loss_at = self.trainer.latest_loss, now
        return self.loss


def count_epochs(trainer: Trainer) -> float:
    """Count the epochs done; of the current one, the fraction of its training."""
    # The training rows of this epoch have their record; its validation is still going on.
    if trainer.history and trainer.history[-1].epoch > trainer.epoch:
        return trainer.epoch + 1.0
    return trainer.epoch + (trainer.position / trainer.batches if trainer.batches else 0.0)


def format_best_epoch(rows: list[EpochRecord], measure: str, goal: str) -> str:
    """Format 'best val accuracy 0.8890 (epoch 7)'.

    Args:
        rows: The history of a fit.
        measure: The metric.
        goal: "min" or "max".

    Returns:
        "" before the first epoch in which the metric is defined.
    """
    scored = [row for row in rows if row.split == "val" and measure in row.values]
    defined = [row for row in scored if row.values[measure] == row.values[measure]]  # not nan
    if not defined:
        return ""
    best = (min if goal == "min" else max)(defined, key=lambda row: row.values[measure])
    return f"best val {measure} {format_number(best.values[measure])} (epoch {best.epoch})"


def format_epoch_scores(row: EpochRecord) -> str:
    """Format 'val loss 0.2790 accuracy 0.8890'."""
    return " ".join(
        [row.split, *(f"{name} {format_number(value)}" for name, value in row.values.items())]
    )
