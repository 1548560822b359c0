"""A fit is shown as a bar on a terminal, and as one plain line an epoch anywhere else."""

import io
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace

import pytest
from beside import LIMIT
from rich.console import Console

from dlrun.launch import progress
from dlrun.launch.progress import ProgressDisplay, ProgressView


@dataclass
class FakeTrainer:
    epoch: int = 0
    split: str = ""
    position: int = 0
    batches: int = 10
    epochs: int = 3
    pause: Callable = lambda trainer: None  # noqa: E731
    history: list = field(default_factory=list)
    callbacks: list = field(default_factory=list)
    looks: int = 0

    @property
    def objective(self):
        return SimpleNamespace(goals={"loss": "min", "accuracy": "max"})

    @property
    def settings(self):
        return SimpleNamespace(epochs=self.epochs)

    @property
    def latest_loss(self):
        self.looks += 1
        return 0.25

    def fit(self):
        while self.epoch < self.epochs:
            for split in ("train", "val"):
                self.split = split
                for position in range(self.batches):
                    self.position = position
                    self.pause(self)
                values = {"loss": 0.1 * (self.epoch + 1), "accuracy": 0.9 - 0.1 * self.epoch}
                self.history.append(
                    SimpleNamespace(epoch=self.epoch + 1, split=split, values=values)
                )
            self.epoch += 1
            for callback in self.callbacks:
                callback(self)


BASELINE = {"loss": SimpleNamespace(value=2.3), "accuracy": SimpleNamespace(value=0.51)}
JOB = SimpleNamespace(name="fold-2")


class Heard(io.StringIO):
    """What is written, for another thread to wait for."""

    def __init__(self):
        super().__init__()
        self.more = threading.Condition()

    def write(self, text):
        with self.more:
            self.more.notify_all()
            return super().write(text)

    def plain(self):
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())

    def wait_for(self, pattern, times=1):
        with self.more:
            assert self.more.wait_for(
                lambda: len(re.findall(pattern, self.plain())) >= times, LIMIT
            )


def shown(trainer, terminal, stream=None, **options):
    stream = stream or Heard()
    console = Console(file=stream, force_terminal=terminal, width=80)
    with ProgressDisplay(console, options.pop("quiet", False), **options)(trainer, JOB, BASELINE):
        trainer.fit()
    return stream.getvalue()


def test_off_a_terminal_each_epoch_is_exactly_one_plain_line(monkeypatch):
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 5.0))
    trainer = FakeTrainer()
    lines = shown(trainer, False).splitlines()
    assert lines[0] == "fold-2  baseline to beat: accuracy 0.5100" and len(lines) == 4
    expected = "fold-2  epoch 2/3  train loss 0.2000 accuracy 0.8000  val loss 0.2000 accuracy 0.8000  0.0 s"
    assert lines[2] == expected
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", "\n".join(lines)) and trainer.callbacks == []


def test_a_long_epoch_gives_signs_of_life():
    heard = Heard()
    long = FakeTrainer(
        epochs=1, pause=lambda trainer: trainer.position < 9 or heard.wait_for(" batch ", 2)
    )
    beats = [
        line for line in shown(long, False, heard, heartbeat=0.01).splitlines() if " batch " in line
    ]
    assert len(beats) >= 2
    assert re.fullmatch(
        r"fold-2  epoch 1/1  (train|val) batch \d+/10  loss 0.2500  \d+ s", beats[0]
    )


def test_a_terminal_shows_a_bar_and_leaves_one_line():
    heard = Heard()

    def pause(trainer):
        if (trainer.epoch, trainer.split, trainer.position) == (1, "train", 5):
            heard.wait_for("epoch 2/3 train(.|\\n)*about [0-9]+ s left")

    shown(FakeTrainer(pause=pause), True, heard)
    text = heard.plain()
    for piece in (
        "━━━━",
        "epoch 2/3 train",
        "loss 0.2500",
        "best val accuracy 0.9000 (epoch 1)",
        "baseline to beat",
    ):
        assert piece in text
    assert re.search(r"about \d+ s left", text)
    last = text.rstrip().splitlines()[-1]
    assert last.startswith("fold-2  3 epochs  ") and "best val accuracy 0.9000 (epoch 1)" in last


def test_the_running_loss_is_looked_at_four_times_a_second_however_often_it_is_drawn(monkeypatch):
    clock = count(1000)  # of hundredths of a second
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock) / 100))
    trainer = FakeTrainer()
    look = ProgressView(trainer, "fit", BASELINE, "")
    for _ in range(200):
        assert "loss 0.2500" in look.render_live().plain
    assert 4 <= trainer.looks <= 2 + 4 * (next(clock) - 1000) / 100


def test_quiet_says_nothing_and_touches_nothing():
    trainer = FakeTrainer()
    assert shown(trainer, True, quiet=True) == "" and trainer.looks == 0


def test_a_fit_that_fails_leaves_no_callback_and_no_thread():
    trainer = FakeTrainer()
    with (
        pytest.raises(KeyError),
        ProgressDisplay(Console(file=io.StringIO()), quiet=False)(trainer, JOB, {}),
    ):
        raise KeyError
    assert trainer.callbacks == []
