"""Laws of the engine: it is the hand-written loop, resumes bit for bit, and looking changes nothing."""

from __future__ import annotations

import math
import signal

import pytest
import torch
import torch.nn.functional as F
from laboratory import SPEC, node, same, table, trainer, weights, wired
from torch import nn

from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.device import derive_seed
from dlrun.core.errors import TrainingDiverged, TrainingInterrupted
from dlrun.core.types import EpochRecord, Step
from dlrun.training.callbacks import BestCheckpoint, EarlyStopping, find_best_epoch
from dlrun.training.optimization import Optimization
from dlrun.training.schedules import Plateau, ScheduleState, cosine, onecycle, step, with_warmup
from dlrun.training.trainer import Trainer


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "adamw", "nadam", "adagrad", "sgd"])
def test_engine_is_the_hand_written_loop(tmp_path, optimizer):
    ours = trainer(tmp_path, optimizer=optimizer)
    ours.seed = 7
    model = trainer(tmp_path, optimizer=optimizer).objective.model
    optimizer = build_part(node("optimizer", optimizer), list(model.parameters()))
    rows = table()
    losses = []
    for epoch in range(3):
        torch.manual_seed(derive_seed(7, epoch, 0))
        model.train()
        order = torch.randperm(50, generator=torch.Generator().manual_seed(derive_seed(7, epoch)))
        total = 0.0
        for start in range(0, 50, 8):
            batch = order[start : start + 8]
            optimizer.zero_grad()
            raw = model({"x": rows.columns["x"].values[batch]})["y"]
            loss = F.cross_entropy(raw, rows.columns["y"].values[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / 50)
    ours.fit()
    assert same(weights(ours), [v.detach() for v in model.state_dict().values()])
    assert [row.values["loss"] for row in ours.history if row.split == "train"] == losses


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {},
            {"accumulate": 2},
            {"ema": 0.9},
            {"clip_norm": 0.5},
            {"schedule": cosine(floor=0.1, warmup=0.2)},
        ),
        *(
            {"batch_size": 3, "clip_norm": 0.5},
            {"batch_size": 7},
        ),  # whose batches begin anywhere in memory
    ],
)
@pytest.mark.parametrize("cut", [1, 2, 4, 5, 7, 10, 11, 13])
def test_resume_anywhere_is_no_stop_at_all(tmp_path, settings, cut):
    whole = trainer(tmp_path / "whole", **settings)
    whole.callbacks = [BestCheckpoint("val/loss")]
    whole.fit()
    first = trainer(tmp_path / "cut", **settings)
    first.callbacks = [BestCheckpoint("val/loss")]
    take, taken = first.runner.steps, []

    def counted(batch):
        taken.append(1)
        if len(taken) == cut:
            first.interrupted = signal.SIGTERM
        return take(batch)

    first.runner.steps = counted
    with pytest.raises(TrainingInterrupted):
        first.fit()
    second = trainer(tmp_path / "cut", **settings)
    second.callbacks = [BestCheckpoint("val/loss")]
    second.restore(checkpoint.load_latest_or_none(tmp_path / "cut" / "last.pt"))
    second.fit()
    assert same(weights(second), weights(whole))
    assert second.history == whole.history
    best = [
        checkpoint.load(tmp_path / name / "best.pt")["objective"].values()
        for name in ("whole", "cut")
    ]
    assert same(list(best[0]), list(best[1]))


def test_looking_leaves_no_trace(tmp_path):
    quiet, watched = trainer(tmp_path), trainer(tmp_path)
    quiet.fit()
    watched.callbacks = [lambda t: t.run_epoch("test", t.data.val)]
    watched.fit()
    assert same(weights(quiet), weights(watched)) and quiet.history == watched.history


def test_same_seed_same_rows_other_seed_others(tmp_path):
    runs = []
    for seed in (3, 3, 4):
        runs.append(trainer(tmp_path))
        runs[-1].seed = seed
        runs[-1].fit()
    assert runs[0].history == runs[1].history != runs[2].history


def test_accumulated_windows_equal_one_large_batch_even_the_last(tmp_path):
    large = trainer(tmp_path, batch_size=16, dropout=0.0, optimizer="sgd", optimizer_fused=False)
    small = trainer(
        tmp_path, batch_size=4, accumulate=4, dropout=0.0, optimizer="sgd", optimizer_fused=False
    )
    large.fit(), small.fit()  # 50 rows: windows of 16, 16, 16 and 2
    assert small.optimization.steps_taken == large.optimization.steps_taken == {"model": 12}
    for a, b in zip(weights(small), weights(large), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_measures_do_not_depend_on_the_batch_size(tmp_path):
    found = []
    for size in (1, 7, 50):
        t = trainer(tmp_path, eval_batch_size=size)
        found.append(t.run_epoch("val", t.data.train).scores())
    for name in ("loss", "accuracy"):
        assert all(
            math.isclose(found[0][name].value, other[name].value, rel_tol=1e-6) for other in found
        )


def test_max_steps_stops_in_the_middle_of_an_epoch(tmp_path):
    t = trainer(tmp_path, epochs=10, max_steps=9)
    t.fit()
    assert t.optimization.steps_taken == {"model": 9} and [
        row.epoch for row in t.history if row.split == "val"
    ] == [
        1,
        2,
    ]


def test_running_average_is_what_is_evaluated(tmp_path):
    t = trainer(tmp_path, ema=0.5, epochs=1, max_steps=1)
    before = weights(t)
    t.fit()
    raw = weights(t)
    with t.optimization.ema_weights():
        averaged = weights(t)
    assert all(
        torch.allclose(m, (a + b) / 2, atol=1e-6)
        for a, b, m in zip(before, raw, averaged, strict=True)
    )
    assert same(raw, weights(t))


def test_clipping_bounds_the_step(tmp_path):
    plain, clipped = (
        trainer(tmp_path, optimizer="sgd", optimizer_lr=1.0, max_steps=1, clip_norm=bound)
        for bound in (None, 0.01)
    )
    start = weights(plain)
    plain.fit(), clipped.fit()
    moved = [
        math.sqrt(
            sum(float((a - b).square().sum()) for a, b in zip(start, weights(t), strict=True))
        )
        for t in (plain, clipped)
    ]
    assert moved[0] > 0.02 and moved[1] == pytest.approx(0.01, rel=1e-3)


class Broken(nn.Module):
    """Answers nan from some call on."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.layer, self.good = nn.Linear(5, 3), good

    def forward(self, batch):
        self.good -= 1
        return {"y": self.layer(batch["x"]) * (math.nan if self.good < 0 else 1)}


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path):
    t = trainer(tmp_path)
    t = wired(Broken(9), t.settings, tmp_path, {"_target_": "torch.optim.SGD", "lr": 0.0})
    with pytest.raises(TrainingDiverged, match=r"epoch 2, train, step 2: the loss is nan"):
        t.fit()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(tmp_path, precision):
    t = trainer(tmp_path, precision=precision, epochs=20, dropout=0.0)
    t.fit()
    losses = [row.values["loss"] for row in t.history if row.split == "train"]
    assert losses[-1] < 0.8 * losses[0]


def test_more_than_one_group_is_stepped_by_its_own_optimizer(tmp_path):
    """An objective with two groups that only its own steps may move."""
    t = trainer(tmp_path, optimizer="sgd", epochs=1)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
            self.groups = {"a": [self.a], "b": [self.b]}

        def steps(self, batch):
            yield Step("a", (self.a * self.b).mean())
            self.seen = self.a.item()  # resumed only after the step was taken
            yield Step("b", (self.a * 0 + self.b * 2).mean())

    two = Two()
    learner = Optimization(
        two.groups,
        lambda ps: build_part(node("optimizer", "sgd", lr=0.5), ps),
        t.settings,
        None,
        torch.device("cpu"),
    )
    t = Trainer(two, t.data, t.settings, learner, {}, tmp_path)
    t.run_split("train", table(8), train=True)
    assert two.a.item() == 0.5 == two.seen and two.b.item() == 0.0
    assert set(t.history[0].values) == {"loss_a", "loss_b"}


def rows_of(*values):
    return [EpochRecord(number, "val", {"loss": value}) for number, value in enumerate(values, 1)]


class Told:
    """Looks like a trainer to a callback."""

    def __init__(self, *values):
        self.history, self.stop, self.saved = rows_of(*values), "", []

    def keep(self, name):
        self.saved.append(name)


def test_callbacks_are_functions_of_the_history():
    stopping = EarlyStopping("val/loss", 2, 0.0)
    for values, stops in (
        ((3, 2, 1), False),
        ((1, 2, 3), True),
        ((1, 2, 0.5), False),
        ((1, math.nan, math.nan), True),
    ):
        told = Told(*values)
        stopping(told)
        assert bool(told.stop) == stops, values
    for values, saves in (((3,), 1), ((3, 2), 1), ((2, 3), 0), ((2, 2), 0), ((math.nan, 2), 1)):
        told = Told(*values)
        BestCheckpoint("val/loss")(told)
        assert len(told.saved) == saves, values
    assert find_best_epoch([1, 3, 3], "max") == 2


def test_schedules():
    at = lambda schedule, share, total=1000: schedule(ScheduleState(int(share * total), total, []))  # noqa: E731
    curve = cosine(floor=0.1, warmup=0.1)
    assert (
        at(curve, 0) == pytest.approx(0.01)
        and at(curve, 0.1) == pytest.approx(1)
        and at(curve, 1) == pytest.approx(0.1)
    )
    stairs = step(every=0.5, factor=0.1, warmup=0.0)
    assert [at(stairs, share) for share in (0, 0.49, 0.5, 0.99)] == pytest.approx([1, 1, 0.1, 0.1])
    hill = onecycle(peak=10.0, rise=0.3, floor=0.001)
    assert (
        at(hill, 0) == pytest.approx(0.4)
        and at(hill, 0.3) == pytest.approx(10)
        and at(hill, 1) == pytest.approx(0.001)
    )
    plateau = Plateau("val/loss", 2, 0.1)
    assert plateau(ScheduleState(0, 1, rows_of(3, 2, 2, 2, 2, 2))) == pytest.approx(0.01)
    assert with_warmup(lambda moment: 1.0, 0)(ScheduleState(0, 1, [])) == 1


def test_a_schedule_moves_the_optimizer(tmp_path):
    t = trainer(tmp_path, schedule=step(every=0.5, factor=0.1, warmup=0.0))
    t.fit()
    assert t.optimization.optimizers["model"].param_groups[0]["lr"] == pytest.approx(1e-4)


def test_checkpoints_are_atomic_plain_and_checked(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"a": torch.ones(3), "n": 1})
    checkpoint.save(path, {"a": torch.zeros(3), "n": 2})
    assert (
        checkpoint.load(path)["n"] == 2
        and checkpoint.load(checkpoint.previous_path(path))["n"] == 1
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "last.pt.previous"]
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1
    path.write_bytes(broken)
    assert checkpoint.load_latest_or_none(path)["n"] == 1
    assert SPEC.targets["y"].num_outputs == 3


def test_a_fit_knows_how_long_it_has_taken_over_all_its_starts(tmp_path, monkeypatch):
    """A budget in seconds would else grow with each interruption."""
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr("dlrun.training.trainer.time.monotonic", lambda: float(next(clock)))
    first = trainer(tmp_path)
    first.fit()
    state = first.state()
    again = trainer(tmp_path)
    again.restore(state)
    assert again.seconds >= state["seconds"] > 0
