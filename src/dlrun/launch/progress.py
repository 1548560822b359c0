"""Shows a fit while it goes on: a live bar on a terminal, one plain line an epoch anywhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dlrun.core.formatting import counted, format_duration, format_number
from dlrun.core.measure_names import get_direction
from dlrun.launch.console import RecordingConsole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from dlrun.core.types import EpochRecord, FitJob, Score
    from dlrun.training.trainer import Trainer


REFRESH_RATE = 4
BAR_WIDTH = 24


class ProgressDisplay:
    """Shows fits on one console.

    quiet: show nothing. brief: off a terminal one line a fit instead of one an epoch. monitor: the measure of 'so far'
    and 'baseline to beat'; without it the baseline's first that is no loss. heartbeat: seconds of silence after which a
    line says how far it is.
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
        """Show this fit as long as the block lasts. Only reads the trainer, and never from its inner loop."""
        if self.quiet:
            yield
            return
        look = ProgressView(trainer, job.name, baseline, self.monitor)
        with self._live(look) if self.console.is_terminal else self._log_epochs(look):
            yield
        if self.console.is_terminal or self.brief:
            self._print(look.summary_line())

    @contextmanager
    def _live(self, look: ProgressView) -> Iterator[None]:
        from rich.live import Live

        keep = lambda trainer: self._write_line(look.epoch_line())  # noqa: E731
        look.trainer.callbacks.append(keep)
        try:
            with Live(
                get_renderable=look.render_live,
                console=self.console,
                refresh_per_second=REFRESH_RATE,
                transient=True,
            ):
                yield
        finally:
            look.trainer.callbacks.remove(keep)

    def _write_line(self, line: str) -> None:
        if isinstance(self.console, RecordingConsole):
            self.console.log_only(line)

    @contextmanager
    def _log_epochs(self, look: ProgressView) -> Iterator[None]:
        done = threading.Event()
        watch = threading.Thread(target=self._log_heartbeat, args=(look, done), daemon=True)

        def after_epoch(trainer: Trainer) -> None:
            line = look.epoch_line()
            self._write_line(line) if self.brief else self._print(line)

        if look.format_baseline() and not self.brief:
            self._print(f"{look.name}  {look.format_baseline()}")
        look.trainer.callbacks.append(after_epoch)
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()
            look.trainer.callbacks.remove(after_epoch)

    def _log_heartbeat(self, look: ProgressView, done: threading.Event) -> None:
        while not done.wait(max(0.01, look.spoke_at + self.heartbeat - time.monotonic())):
            if time.monotonic() - look.spoke_at >= self.heartbeat:
                self._print(look.heartbeat_line())

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


class ProgressView:
    """What one fit looks like from outside, as text."""

    def __init__(self, trainer: Trainer, name: str, baseline: dict[str, Any], monitor: str) -> None:
        self.trainer, self.name, self.baseline = trainer, name, baseline
        self.monitor = monitor or next(
            (measure for measure in baseline if not measure.startswith("loss")), ""
        )
        self.began_at = self.epoch_at = self.spoke_at = time.monotonic()
        self.began_with = count_epochs(trainer)
        self.loss: float | None = None
        self.loss_at = 0.0

    def epoch_line(self) -> str:
        """The epoch that has just ended, on one line; its time counts from the end of the one before."""
        now = time.monotonic()
        seconds, self.epoch_at, self.spoke_at = now - self.epoch_at, now, now
        rows = [row for row in self.trainer.history[-2:] if row.epoch == self.trainer.epoch]
        parts = [
            f"{self.name}  epoch {self.trainer.epoch}/{self.trainer.settings.epochs}",
            *map(format_epoch_scores, rows),
        ]
        return "  ".join([*parts, f"{seconds:.1f} s"])

    def heartbeat_line(self) -> str:
        """How far a long epoch is, on one line."""
        trainer, self.spoke_at = self.trainer, time.monotonic()
        where = f"{self.name}  epoch {trainer.epoch + 1}/{trainer.settings.epochs}"
        loss = "" if self._loss() is None else f"  loss {format_number(self.loss)}"
        batches = (
            f"  {trainer.split} batch {trainer.position}/{trainer.batches}" if trainer.split else ""
        )
        return f"{where}{batches}{loss}  {self.spoke_at - self.epoch_at:.0f} s"

    def render_live(self) -> Text:
        """The live picture: three short lines."""
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
        """What stays on a terminal once the fit is over: one line."""
        seconds = f"{time.monotonic() - self.began_at:.1f} s"
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
        """The losses of the last epoch that is done: 'epoch 3: train loss 0.2810, val loss 0.3012'."""
        rows = [
            row
            for row in self.trainer.history[-3:]
            if row.epoch == self.trainer.epoch and "loss" in row.values
        ]
        losses = ", ".join(f"{row.split} loss {format_number(row.values['loss'])}" for row in rows)
        return f"epoch {self.trainer.epoch}: {losses}" if losses else ""

    def format_baseline(self) -> str:
        """'baseline to beat: accuracy 0.5100', or nothing."""
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
        """'kept epoch 7 (best val/loss): val accuracy 0.8890', what is scored; nothing where no epoch was chosen."""
        from dlrun.training.callbacks import BestCheckpoint, find_best_epoch
        from dlrun.training.schedules import get_monitored_values

        chosen = next(
            (one for one in self.trainer.callbacks if isinstance(one, BestCheckpoint)), None
        )
        rows, measure = (
            [row for row in self.trainer.history if row.split == "val"],
            self.monitor or "loss",
        )
        if chosen is None or not rows or measure not in rows[-1].values:
            return ""
        row = rows[
            find_best_epoch(get_monitored_values(self.trainer.history, chosen.monitor), chosen.goal)
            - 1
        ]
        return f"kept epoch {row.epoch} (best {chosen.monitor}): val {measure} {format_number(row.values[measure])}"

    def _remaining(self) -> str:
        done = count_epochs(self.trainer)
        seconds = time.monotonic() - self.began_at
        if done - self.began_with < 0.02 or seconds < 1:
            return ""
        left = seconds / (done - self.began_with) * max(0.0, self.trainer.settings.epochs - done)
        return f"about {format_duration(left)} left"

    def _loss(self) -> float | None:
        """The recent loss, read at most PER_SECOND times a second: on a GPU the reading waits for the device."""
        now = time.monotonic()
        if now - self.loss_at >= 1 / REFRESH_RATE:
            self.loss, self.loss_at = self.trainer.latest_loss, now
        return self.loss


def count_epochs(trainer: Trainer) -> float:
    """How many epochs are done; of the one that goes on, the share of its training."""
    if trainer.history and trainer.history[-1].epoch > trainer.epoch:  # trained, and now validated
        return trainer.epoch + 1.0
    return trainer.epoch + (trainer.position / trainer.batches if trainer.batches else 0.0)


def format_best_epoch(rows: list[EpochRecord], measure: str, goal: str) -> str:
    """'best val accuracy 0.8890 (epoch 7)', or nothing before the first epoch in which it is defined."""
    there = [row for row in rows if row.split == "val" and measure in row.values]
    known = [row for row in there if row.values[measure] == row.values[measure]]
    if not known:
        return ""
    best = (min if goal == "min" else max)(known, key=lambda row: row.values[measure])
    return f"best val {measure} {format_number(best.values[measure])} (epoch {best.epoch})"


def format_epoch_scores(row: EpochRecord) -> str:
    """'val loss 0.2790 accuracy 0.8890'."""
    return " ".join(
        [row.split, *(f"{name} {format_number(value)}" for name, value in row.values.items())]
    )
