"""Fits trained as one are what they are alone: the same orders, masks, rows, best epochs, ends and checkpoints.

What differs is the rounding of sums. Where an optimizer divides by what it is about, differences grow from step to
step.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from laboratory import node
from torch import nn

from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.dataset import PreparedData
from dlrun.core.device import derive_seed
from dlrun.core.errors import NotStackable, TrainingDiverged, TrainingInterrupted
from dlrun.core.types import Field, FitJob, Spec
from dlrun.data.loading.table import DenseColumn, SparseCounts, Table
from dlrun.evaluation import metrics
from dlrun.experiment.builder import BuiltFit
from dlrun.experiment.parallel_fits.batches import ParallelBatches, split_into_segments
from dlrun.experiment.parallel_fits.loop import Member, train_members
from dlrun.experiment.parallel_fits.stack import FitStack
from dlrun.experiment.parallel_fits.stack_modules import ModuleStack, StackedDropout
from dlrun.models.layers import InputProjection
from dlrun.objectives.supervised import Supervised
from dlrun.training.callbacks import BestCheckpoint, EarlyStopping
from dlrun.training.optimization import Optimization
from dlrun.training.schedules import cosine
from dlrun.training.trainer import Trainer

CPU = torch.device("cpu")
NUMBERS = Spec({"x": Field("number", (5,))}, {"y": Field("category", (), 3, ("a", "b", "c"))})
MIXED = Spec(
    {
        "x": Field("number", (2, 3)),
        "words": Field("bag", (40,), 40),
        "kind": Field("category", (), 4),
        "more": Field("bag", (7,), 7),
    },
    {
        "y": Field("binary", (1,)),
        "z": Field("number", (2,)),
        "c": Field("category", (), 3, ("a", "b", "c")),
    },
)


def bag(rows, width, generator):
    counts = torch.randint(0, 4, (rows,), generator=generator)  # some rows have no word at all
    columns = [torch.randperm(width, generator=generator)[:count].sort().values for count in counts]
    starts = torch.cat([torch.zeros(1), counts.cumsum(0)]).int()
    return SparseCounts(starts, torch.cat(columns).int(), torch.ones(int(counts.sum())), width)


def table(spec, rows, seed):
    """Made-up rows of any of the fields above, from which something can be learned."""
    generator = torch.Generator().manual_seed(seed)
    columns = {}
    for name, field in {**spec.inputs, **spec.targets}.items():
        if field.kind == "bag":
            columns[name] = bag(rows, field.size, generator)
        elif field.kind == "category":
            columns[name] = DenseColumn(torch.randint(0, field.size, (rows,), generator=generator))
        else:
            values = torch.randn(rows, *field.shape, generator=generator)
            columns[name] = DenseColumn((values > 0).float() if field.kind == "binary" else values)
    return Table(columns)


def fit(folder, number, spec=NUMBERS, rows=50, val=20, **changes):
    """One fit with settings of its own: of the engine, or model_, optimizer_, loss_ and their values."""
    part = lambda name: {  # noqa: E731
        k.partition("_")[2]: v for k, v in changes.items() if k.startswith(f"{name}_")
    }
    known = (
        "epochs",
        "batch_size",
        "ema",
        "max_steps",
        "epoch_batches",
        "clip_value",
        "eval_batch_size",
    )
    engine = {"epochs": 3, "batch_size": 8, "device": "cpu"} | {
        k: v for k, v in changes.items() if k in known
    }
    settings = build_part(node("engine", "default", **engine))
    torch.manual_seed(number)
    model = build_part(node("model", "dense", **{"units": [6, 4], **part("model")}), spec)
    loss = lambda f: build_part(node("loss", "auto"), f)  # noqa: E731
    losses = {name: loss(field) for name, field in spec.targets.items()} | changes.get("losses", {})
    objective = Supervised(model, losses, changes.get("weights"))
    optimizer = node("optimizer", changes.get("optimizer", "sgd"), **part("optimizer"))
    schedule = changes.get("schedule")
    learner = Optimization(
        objective.groups, lambda ps: build_part(optimizer, ps), settings, schedule, CPU
    )
    data = PreparedData(
        spec, table(spec, rows, number), table(spec, val, number + 100) if val else None
    )
    measures = {
        f"{target}_{name}": (target, metric)
        for target, field in spec.targets.items()
        for name, metric in metrics.get_default_metrics(field).items()
    }
    trainer = Trainer(objective, data, settings, learner, measures, folder / f"fit-{number}")
    trainer.seed = derive_seed(number, 5)
    trainer.callbacks = [
        *changes.get("callbacks", []),
        BestCheckpoint("val/loss" if val else "train/loss"),
    ]
    return trainer


class Alone:
    """What carries on with a fit that is in step with no other."""

    def train_fit(self, fit, baseline, watch):
        fit.trainer.fit()

    def record_failure(self, fit, error):
        fit.trainer.write_pending_checkpoints()


def members(trainers, means=("y", "z", "c")):
    return [
        Member(Alone(), BuiltFit(FitJob(), t.data, t, None, {}), {}, list(means)) for t in trainers
    ]  # type: ignore[arg-type]


def together(trainers, means=("y", "z", "c")):
    found = members(trainers, means)
    train_members(found)
    return [member.error for member in found]


def rows(trainer):
    return [(row.epoch, row.split, list(row.values)) for row in trainer.history]


def values(trainer):
    return torch.tensor(
        [value for row in trainer.history for value in row.values.values()], dtype=torch.float64
    )


def weights(trainer):
    return torch.cat(
        [value.double().flatten() for value in trainer.objective.state_dict().values()]
    )


def same(one, other, tolerance=1e-5):
    """Two fits have the same history, weights, counts, end, and best epoch on the disk, but for rounding."""
    assert rows(one) == rows(other) and one.epoch == other.epoch and one.stop == other.stop
    torch.testing.assert_close(values(one), values(other), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(weights(one), weights(other), rtol=tolerance, atol=tolerance)
    assert one.optimization.steps_taken == other.optimization.steps_taken
    for name in ("best", "last"):
        first, second = (checkpoint.load(trainer.folder / f"{name}.pt") for trainer in (one, other))
        assert first["epoch"] == second["epoch"]
        states = [state["learner"]["optimizers"]["model"]["state"] for state in (first, second)]
        assert states[0].keys() == states[1].keys()
        for mine, others in zip(states[0].values(), states[1].values(), strict=True):
            assert mine.keys() == others.keys()
            for key in mine:
                torch.testing.assert_close(
                    mine[key], others[key], rtol=10 * tolerance, atol=10 * tolerance
                )


def both(tmp_path, each, **common):
    """The same fits alone and together: each is what differs from fit to fit."""
    alone = [fit(tmp_path / "alone", number, **common | own) for number, own in enumerate(each)]
    for trainer in alone:
        trainer.fit()
    stacked = [fit(tmp_path / "stacked", number, **common | own) for number, own in enumerate(each)]
    assert together(stacked) == [None] * len(each)
    return alone, stacked


FOLDS = [
    {"rows": 50, "val": 19},
    {"rows": 49, "val": 20},
    {"rows": 48, "val": 20},
    {"rows": 50, "val": 19},
]


@pytest.mark.parametrize("batch_size", [1, 7, 8, 64])
@pytest.mark.parametrize(
    ("optimizer", "tolerance"), [("sgd", 1e-5), ("rmsprop", 1e-4), ("adam", 1e-4)]
)
def test_uneven_folds_together_are_the_folds_alone(tmp_path, batch_size, optimizer, tolerance):
    common = {
        "batch_size": batch_size,
        "optimizer": optimizer,
        "model_dropout": 0.3,
        "eval_batch_size": 16,
    }
    for one, other in zip(*both(tmp_path, FOLDS, **common), strict=True):
        same(one, other, tolerance)


@pytest.mark.parametrize(
    "common",
    [
        {"optimizer_momentum": 0.9, "optimizer_nesterov": True},
        {"optimizer": "rmsprop", "optimizer_momentum": 0.5},
        {"optimizer": "adamw", "schedule": cosine(floor=0.1, warmup=0.2)},
        {"ema": 0.9, "epoch_batches": 4},
        {"max_steps": 11, "clip_value": 0.01},
        {"model_batch_norm": True, "model_l1": 0.001, "model_l2": 0.01},
    ],
)
def test_what_all_have_in_common_is_as_alone(tmp_path, common):
    for one, other in zip(*both(tmp_path, [{}, {"rows": 51}, {"rows": 51}], **common), strict=True):
        same(one, other, 1e-4 if "optimizer" in common else 1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_members_differ_in_rates_decay_momentum_and_dropout(tmp_path, optimizer):
    momentum = {} if optimizer == "adamw" else {"optimizer_momentum": 0.8}
    each = [
        {"optimizer_lr": 0.01, "model_dropout": 0.2},
        {"optimizer_lr": 0.003, "model_dropout": 0.0, "optimizer_weight_decay": 0.1},
        {"optimizer_lr": 0.02, "model_dropout": 0.7} | momentum,
    ]
    for one, other in zip(*both(tmp_path, each, optimizer=optimizer), strict=True):
        torch.testing.assert_close(values(one), values(other), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(weights(one), weights(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("embedding", ["onehot", "embedding"])
def test_bags_categories_and_several_weighted_targets(tmp_path, embedding):
    balanced = build_part(
        node("loss", "cross_entropy", class_weights=[0.2, 1.0, 3.0]), MIXED.targets["c"]
    )
    each = [{"weights": {"y": 0.5, "c": 2.0}}, {"rows": 49}, {"weights": {"z": 0.1}}]
    common = {
        "spec": MIXED,
        "model_category": embedding,
        "losses": {"c": balanced},
        "model_l2": 0.01,
    }
    alone = [fit(tmp_path / "alone", number, **common | own) for number, own in enumerate(each)]
    stacked = [fit(tmp_path / "stacked", number, **common | own) for number, own in enumerate(each)]
    for trainer in alone:
        trainer.fit()
    assert together(stacked, ["y", "z"]) == [None] * 3
    for one, other in zip(alone, stacked, strict=True):
        same(one, other)


def test_a_member_that_stops_early_leaves_and_each_keeps_its_own_best_epoch(tmp_path):
    stop = EarlyStopping("val/loss", 1, 0.0)
    each = [
        {"callbacks": [stop]},
        {"optimizer_lr": 0.3},
        {"callbacks": [stop], "optimizer_lr": 3.0},
        {"rows": 47},
    ]
    alone, stacked = both(
        tmp_path, each, epochs=12, batch_size=4, optimizer_lr=0.2, model_dropout=0.5
    )
    for one, other in zip(alone, stacked, strict=True):
        same(one, other, 1e-4)
    assert len({trainer.epoch for trainer in alone}) > 1, "somebody has to leave before the end"
    best = [checkpoint.load(trainer.folder / "best.pt")["epoch"] for trainer in stacked]
    assert len(set(best)) > 1


def test_each_member_has_the_batches_of_its_own_table_in_its_own_order():
    tables = [table(MIXED, 23, seed) for seed in (1, 2, 3)]
    source = ParallelBatches(tables, [11, 12, 13], 0, 23)
    alone = [
        list(t.batches(5, seed=seed, epoch=4)) for t, seed in zip(tables, (11, 12, 13), strict=True)
    ]
    batches = list(source.batches(5, seed=0, epoch=4))
    assert len(batches) == 5
    for number, batch in enumerate(batches):
        for member, own in enumerate(each[number] for each in alone):
            for name, column in own.items():
                assert torch.equal(part(batch[name], member, len(own["x"])), column.to_dense())
    tail = list(ParallelBatches(tables, [11, 12, 13], 15, 8).batches(5, seed=0, epoch=4))
    assert [torch.equal(a["x"], b["x"]) for a, b in zip(tail, batches[3:], strict=True)] == [
        True,
        True,
    ]
    unshuffled = next(source.batches(4))
    assert torch.equal(unshuffled["c"][:, 1], tables[1].columns["c"].values[:4])


def part(column, member, rows):
    """One member's part of a column of a batch."""
    if column.layout == torch.strided:
        return column[:, member]
    width = column.shape[1] // 3
    mine = column.to_dense()[member * rows : (member + 1) * rows]
    assert mine.sum() == mine[:, member * width : (member + 1) * width].sum(), (
        "words stand in columns of others"
    )
    return mine[:, member * width : (member + 1) * width]


@pytest.mark.parametrize(
    "counts", [[50, 50, 50], [51, 51, 50, 50], [50, 51, 50], [16, 17], [3, 40, 7, 40], [5]]
)
@pytest.mark.parametrize("size", [1, 8, 64])
def test_stretches_are_each_members_batches_in_order(counts, size):
    seen = [[] for _ in counts]
    for low, high, first, rows_ in split_into_segments(counts, size):
        for member in range(low, high):
            seen[member] += [
                (start, min(size, first + rows_ - start))
                for start in range(first, first + rows_, size)
            ]
    for count, mine in zip(counts, seen, strict=True):
        assert mine == [(start, min(size, count - start)) for start in range(0, count, size)]
    if len(set(counts)) <= 2 and counts == sorted(counts, reverse=True):  # folds
        assert len(split_into_segments(counts, size)) <= 3


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_members_masks_are_those_that_dropout_draws_alone(rate):
    streams = [torch.Generator().manual_seed(seed) for seed in (3, 4, 5, 6)]
    layer, x = StackedDropout([rate, None, rate, 1.0], streams), torch.randn(4, 9, 7)
    stacked = [layer(x) for _ in range(3)]
    for member, alone in (
        (0, nn.Dropout(rate)),
        (1, nn.Identity()),
        (2, nn.Dropout(rate)),
        (3, nn.Dropout(1.0)),
    ):
        torch.manual_seed(3 + member)
        for found in stacked:
            assert torch.equal(found[member], alone(x[member]))
    assert torch.equal(layer.eval()(x), x)


def test_a_member_that_diverges_says_so_as_alone_and_takes_nobody_along(tmp_path):
    each = [{}, {"optimizer_lr": 1e30}, {"rows": 49}]
    common = {"spec": MIXED, "epochs": 4}
    alone = [fit(tmp_path / "alone", number, **common | own) for number, own in enumerate(each)]
    stacked = [fit(tmp_path / "stacked", number, **common | own) for number, own in enumerate(each)]
    found = together(stacked, ["y", "z"])
    with pytest.raises(TrainingDiverged) as told:
        alone[1].fit()
    assert isinstance(found[1], TrainingDiverged) and str(found[1]) == str(told.value)
    assert not (stacked[1].folder / "last.pt").exists()
    for number in (0, 2):
        alone[number].fit()
        assert found[number] is None
        same(alone[number], stacked[number])


def test_an_error_in_a_members_callback_is_its_own(tmp_path):
    def fail(trainer):
        if trainer.epoch == 2:
            raise OSError("disk full")

    stacked = [fit(tmp_path, 0), fit(tmp_path, 1, callbacks=[fail]), fit(tmp_path, 2)]
    errors = together(stacked)
    assert [type(error) for error in errors] == [type(None), OSError, type(None)]
    assert [trainer.epoch for trainer in stacked] == [3, 2, 3]


def cut_in_the_middle(stacked, epoch):
    """Train as one until a signal comes amid an epoch, as signals come: between two steps."""

    class Cutting(ParallelBatches):
        def batches(self, size, **rest):
            for number, batch in enumerate(super().batches(size, **rest)):
                if rest["epoch"] == epoch and number == 3:
                    stack.active_trainer.interrupted = 15
                yield batch

    found = members(stacked)
    stack = FitStack([member.trainer for member in found], ["y"])
    stack.segments["train"] = [
        (low, high, Cutting(s.tables, s.seeds, s.first, s.rows))
        for low, high, s in stack.segments["train"]
    ]
    with pytest.raises(TrainingInterrupted):
        while True:
            stack.run_epoch()
            for member in found:
                for callback in member.trainer.callbacks:
                    callback(member.trainer)
    for member in found:
        member.trainer.save()


def restored(folder, each, **common):
    found = [fit(folder, number, **common | own) for number, own in enumerate(each)]
    for trainer in found:
        trainer.restore(checkpoint.load(trainer.folder / "last.pt"))
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_cut_epoch_is_done_again_together_or_alone(tmp_path, optimizer):
    each = [{"rows": 50}, {"rows": 50, "optimizer_lr": 0.02}, {"rows": 50}]
    common = {
        "optimizer": optimizer,
        "optimizer_lr": 0.01,
        "model_dropout": 0.4,
        "epochs": 4,
        "ema": 0.8,
    }
    whole = [fit(tmp_path / "whole", number, **common | own) for number, own in enumerate(each)]
    together(whole)
    for folder in ("together", "alone"):
        cut_in_the_middle(
            [fit(tmp_path / folder, number, **common | own) for number, own in enumerate(each)], 2
        )
    again = restored(tmp_path / "together", each, **common)
    assert [trainer.epoch for trainer in again] == [2, 2, 2] and not any(
        trainer.position for trainer in again
    )
    together(again)
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(weights(one), weights(other)) and torch.equal(values(one), values(other))
    for one, other in zip(whole, restored(tmp_path / "alone", each, **common), strict=True):
        other.fit()
        same(one, other, 1e-4)


def test_what_was_begun_alone_goes_on_together_once_it_is_at_the_end_of_an_epoch(tmp_path):
    each = [{}, {"rows": 49}, {}]
    whole = [fit(tmp_path / "whole", number, epochs=4, **own) for number, own in enumerate(each)]
    cut = [fit(tmp_path / "cut", number, epochs=4, **own) for number, own in enumerate(each)]
    for trainer in whole:
        trainer.fit()
    for trainer, position in zip(cut, (0, 0, 3), strict=True):
        trainer.settings = replace(trainer.settings, epochs=2)
        trainer.fit()
        if position:  # amid an epoch: it goes on alone
            trainer.settings = replace(trainer.settings, epochs=4)
            source = trainer.data.train
            trainer.callbacks.append(lambda t: None)
            original = source.batches

            def batches(size, trainer=trainer, original=original, position=position, **rest):
                for number, batch in enumerate(original(size, **rest)):
                    trainer.interrupted = (
                        15 if number == position and rest.get("seed") is not None else 0
                    )
                    yield batch

            source.batches = batches
            with pytest.raises(TrainingInterrupted):
                trainer.fit()
    again = restored(tmp_path / "cut", each, epochs=4)
    assert again[2].position > 0 and again[0].epoch == 2
    together(again)
    for one, other in zip(whole, again, strict=True):
        same(one, other)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([nn.Linear(2, 2), nn.Linear(2, 3)], "different shapes"),
        ([nn.Linear(2, 2), nn.Linear(2, 2, bias=False)], "different shapes"),
        ([nn.Linear(2, 2), nn.ReLU()], "their layers differ: Linear, ReLU"),
        ([nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1)], "Conv1d is no layer"),
        ([nn.LayerNorm(2), nn.LayerNorm(2)], "LayerNorm is no layer"),
        ([nn.Linear(2, 2).requires_grad_(False)] * 2, "frozen"),
        ([nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=0.5)], "batch norms differ"),
        (
            [
                InputProjection(NUMBERS.inputs, 2),
                InputProjection({"other": Field("number", (5,))}, 2),
            ],
            "different inputs",
        ),
    ],
)
def test_layers_that_cannot_be_stacked_say_why(layers, reason):
    with pytest.raises(NotStackable, match=reason):
        ModuleStack([torch.Generator()] * 2)(layers)


def test_optimizers_that_differ_in_more_than_their_own_say_why(tmp_path):
    adam = [
        fit(tmp_path, 0, optimizer="adam"),
        fit(tmp_path, 1, optimizer="adam", optimizer_eps=1e-3),
    ]
    with pytest.raises(NotStackable, match="optimizer.eps differs"):
        FitStack(adam, ["y"])
    with pytest.raises(NotStackable, match="of different kinds"):
        FitStack([fit(tmp_path, 2), adam[0]], ["y"])
    with pytest.raises(NotStackable, match="NAdam cannot step"):
        FitStack([fit(tmp_path, number, optimizer="nadam") for number in (3, 4)], ["y"])
