"""Laws of played steps and of weights in one buffer: the same bits as the ordinary step, or not used at all."""

from __future__ import annotations

import copy

import pytest
import torch
from laboratory import SPEC, node, same, trainer, weights, wired
from torch import nn

from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.dataset import PreparedData
from dlrun.core.types import Field, Spec, Step
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.objectives.supervised import Supervised
from dlrun.training.fast import flat_optimizer
from dlrun.training.fast.flat_optimizer import FlatOptimizer
from dlrun.training.fast.replay import Replay
from dlrun.training.optimization import Optimization
from dlrun.training.optimizers import FusedOptimizer, RMSprop, find_fused_kernel
from dlrun.training.step_runner import has_dynamic_calls
from dlrun.training.trainer import Trainer


def plainly(of):
    """The same trainer, whose steps are all taken by autograd."""
    of.runner.replay = None
    return of


def many(of, rows=200):
    """The same trainer on more rows."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 5, generator=generator)
    of.data = type(of.data)(
        of.data.spec,
        Table({"x": DenseColumn(x), "y": DenseColumn((x[:, 0] > 0).long())}),
        of.data.val,
    )
    return of


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "adamw", "sgd", "nadam"])
@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.5}, {"ema": 0.9}])
def test_played_steps_are_the_ordinary_ones(tmp_path, optimizer, settings):
    ours, plain = (
        many(trainer(tmp_path, optimizer=optimizer, **settings)),
        many(trainer(tmp_path, optimizer=optimizer, **settings)),
    )
    ours.fit(), plainly(plain).fit()
    assert len(ours.runner.replay.verified) == 1  # 25 whole batches an epoch
    assert same(weights(ours), weights(plain)) and ours.history == plain.history


@pytest.mark.parametrize(
    "model", [{"batch_norm": True}, {"l2": 0.01}, {"activation": "gelu", "dropout": 0.5}]
)
def test_of_all_that_a_dense_network_may_have(tmp_path, model):
    found = []
    for play in (True, False):
        torch.manual_seed(0)
        engine = build_part(node("engine", "default", epochs=2, batch_size=8, device="cpu"))
        network = build_part(node("model", "dense", units=[16, 8], **model), SPEC)
        found.append(many(wired(network, engine, tmp_path, node("optimizer", "rmsprop"))))
        found[-1] = found[-1] if play else plainly(found[-1])
        found[-1].fit()
    assert found[0].runner.replay.verified
    assert same(weights(found[0]), weights(found[1])) and found[0].history == found[1].history


@pytest.mark.parametrize(("field", "loss"), [
    (Field("binary", (1,)), "bce"), (Field("binary", (1,)), "mse"), (Field("number", (1,)), "mae"),
    (Field("number", (1,)), "huber"), (Field("category", (), 3), "focal"), (Field("multilabel", (3,), 3), "bce"),
])  # fmt: skip
def test_every_loss_is_played(tmp_path, field, loss):
    spec = Spec({"x": Field("number", (5,))}, {"y": field})
    y = (
        torch.arange(200) % 3
        if field.kind == "category"
        else (torch.randn(200, *field.shape) > 0).float()
    )
    rows = Table({"x": DenseColumn(torch.randn(200, 5)), "y": DenseColumn(y)})
    found = []
    for play in (True, False):
        torch.manual_seed(0)
        objective = Supervised(
            build_part(node("model", "dense", units=[8]), spec),
            {"y": build_part(node("loss", loss), field)},
        )
        settings = build_part(node("engine", "default", epochs=1, batch_size=8, device="cpu"))
        make = lambda parameters: build_part(node("optimizer", "rmsprop"), parameters)  # noqa: E731
        learner = Optimization(objective.groups, make, settings, None, torch.device("cpu"))
        found.append(Trainer(objective, PreparedData(spec, rows), settings, learner, {}, tmp_path))
        found[-1] = found[-1] if play else plainly(found[-1])
        found[-1].fit()
    assert found[0].runner.replay.verified and same(weights(found[0]), weights(found[1]))


def test_batches_of_several_sizes_have_notes_of_their_own(tmp_path):
    ours, plain = (many(trainer(tmp_path, epochs=6), rows=203) for _ in range(2))
    ours.fit(), plainly(plain).fit()
    assert len(ours.runner.replay.verified) == 2
    assert same(weights(ours), weights(plain)) and ours.history == plain.history


class Restless(nn.Module):
    """Says that it is steady, and is not: what it does depends on the batch, or on how often it was asked."""

    steady = True

    def __init__(self, how):
        super().__init__()
        self.linear, self.how, self.asked = nn.Linear(5, 3), how, 0

    def forward(self, batch):
        self.asked += 1
        x = batch["x"]
        if self.how == "branch" and float(x[0, 0]) > 0:
            x = -x
        if self.how == "count":
            x = x * self.asked
        if self.how == "elsewhere":
            x = torch.from_numpy(x.numpy() * 2)
        return {"y": self.linear(x)}


@pytest.mark.parametrize("how", ["branch", "count", "elsewhere"])
def test_a_step_that_is_not_the_same_calls_each_time_is_taken_as_ever(tmp_path, how):
    found = []
    for play in (True, False):
        torch.manual_seed(0)
        engine = build_part(node("engine", "default", epochs=2, batch_size=8, device="cpu"))
        found.append(many(wired(Restless(how), engine, tmp_path, node("optimizer", "sgd"))))
        found[-1] = found[-1] if play else plainly(found[-1])
        found[-1].fit()
    assert same(weights(found[0]), weights(found[1]))
    assert not found[0].runner.replay.verified


def test_only_what_says_so_is_steady(tmp_path):
    class Own(nn.Linear):
        pass

    ours = trainer(tmp_path)
    assert has_dynamic_calls(ours.objective) == ""
    ours.objective.model.extra = Own(1, 1)
    assert has_dynamic_calls(ours.objective) == "Own"
    ours.objective.augment = ours.objective.steady = False
    assert has_dynamic_calls(ours.objective) == "Supervised"


def made(name, shapes, **settings):
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    found = node("optimizer", name, **settings)
    if found["_target_"] == "torch.optim.RMSprop":
        found.pop("fused")  # dlrun's own has it
    return parameters, build_part(found, parameters)


SHAPES = [(16, 5), (16,), (3, 16), (3,)]
OPTIMIZERS = [
    ("rmsprop", {}),
    ("rmsprop", {"momentum": 0.5, "weight_decay": 0.1}),
    ("sgd", {}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("adam", {}),
    ("adam", {"fused": False, "weight_decay": 0.1}),
    ("adamw", {}),
    ("adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
]


def strange(shape, size):
    """A gradient with many zeros that lies in another order than the weights."""
    gradient = size * torch.randn(shape[::-1]).permute(*reversed(range(len(shape))))
    gradient[torch.rand(shape) < 0.3] = 0.0
    return gradient


@pytest.mark.parametrize("make", [FlatOptimizer, FusedOptimizer])
@pytest.mark.parametrize(("name", "settings"), OPTIMIZERS)
def test_a_step_in_our_place_is_that_of_torch_also_after_a_restart(name, settings, make):
    """Gradients may be of any size, zero, and lie in any order."""
    by_torch = {"_target_": "torch.optim.RMSprop", "foreach": True} if name == "rmsprop" else {}
    plain, theirs = made(name, SHAPES, **settings, **by_torch)
    flat_ones, ours = made(name, SHAPES, **settings)
    if make is FusedOptimizer and find_fused_kernel(flat_ones, ours) is None:
        pytest.skip("torch has no kernel for this")
    buffer = make(flat_ones, ours)
    for number in range(12):
        gradients = [strange(shape, 10.0**-number) for shape in SHAPES]
        for parameter, gradient in zip(plain, gradients, strict=True):
            parameter.grad = gradient.contiguous()
        theirs.step()
        with torch.no_grad():
            buffer.step(gradients)
        if number == 5:  # written down, and begun again from there
            buffer.state_view.write_step_counts()
            state = ours.state_dict()
            flat_ones = [nn.Parameter(parameter.detach().clone()) for parameter in flat_ones]
            ours = type(ours)(flat_ones, lr=1.0)
            ours.load_state_dict(state)
            buffer = make(flat_ones, ours)
    for a, b in zip(plain, flat_ones, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-6)
    buffer.state_view.write_step_counts()
    theirs.load_state_dict(ours.state_dict())  # torch takes the state as its own


@pytest.mark.parametrize(("name", "settings"), OPTIMIZERS)
def test_members_are_updated_as_each_would_be_alone(name, settings):
    rates, decays = [0.1, 0.01, 0.001], [0.0, 0.1, 0.2]
    alone = [
        made(name, SHAPES, **{**settings, "lr": lr, "weight_decay": wd})
        for lr, wd in zip(rates, decays, strict=True)
    ]
    together = [
        nn.Parameter(torch.stack([ps[n].detach() for ps, _ in alone])) for n in range(len(SHAPES))
    ]
    optimizer = build_part(node("optimizer", name, **{**settings, "weight_decay": 0.1}), together)
    optimizer.param_groups[0].update(
        lr=torch.tensor(rates)[:, None], weight_decay=torch.tensor(decays)[:, None]
    )
    buffer = FlatOptimizer(together, optimizer, members=3)
    for _ in range(8):
        gradients = [torch.randn(3, *shape) for shape in SHAPES]
        for member, (parameters, theirs) in enumerate(alone):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient[member].clone()
            theirs.step()
        with torch.no_grad():
            buffer.step(gradients)
    for number, stacked in enumerate(together):
        for member, (parameters, _) in enumerate(alone):
            assert torch.allclose(stacked[member], parameters[number], rtol=1e-5, atol=1e-6)


def test_a_state_that_is_put_back_is_gone_on_with(tmp_path):
    """Also that of before the first step; and its learning rate, which is in another mapping then."""
    ours = many(trainer(tmp_path, epochs=2))
    before = copy.deepcopy(ours.state())
    ours.optimization.optimizers["model"].param_groups[0]["lr"] = 1.0
    ours.fit()
    ours.restore(before)
    assert (
        ours.optimization.optimizers["model"].state_dict()
        == before["learner"]["optimizers"]["model"]
    )
    ours.fit()
    fresh = many(trainer(tmp_path, epochs=2))
    fresh.fit()
    assert same(weights(ours), weights(fresh)) and ours.history == fresh.history


def test_what_is_large_or_strange_is_left_to_torch():
    small, optimizer = made("rmsprop", SHAPES)
    assert flat_optimizer.supports_flat_step(small, optimizer)
    assert not flat_optimizer.supports_flat_step(*made("rmsprop", [(600, 600)]))
    assert not flat_optimizer.supports_flat_step(*made("nadam", SHAPES))
    assert not flat_optimizer.supports_flat_step(small, torch.optim.RMSprop(small, centered=True))
    assert not flat_optimizer.supports_flat_step(
        small, torch.optim.SGD([{"params": small[:1]}, {"params": small[1:], "lr": 1.0}], lr=0.1)
    )
    assert not flat_optimizer.supports_flat_step(
        [*small, nn.Parameter(torch.zeros(1, dtype=torch.float64))], optimizer
    )


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "sgd"])
def test_a_weight_that_is_not_always_used_is_stepped_as_torch_does(tmp_path, optimizer):
    """Also after it was written down: each weight's count of steps is its own."""
    found = []
    for by_torch in (False, True):
        ours = trainer(tmp_path, optimizer=optimizer)
        ours.optimization.updates["model"].chosen = by_torch
        parameters = ours.optimization.groups["model"]
        for number in range(8):
            used = parameters[1:] if number in (0, 2) else parameters
            ours.optimization.step(
                Step("model", torch.stack([p.square().sum() for p in used]).sum()), 8, True
            )
            if number == 4:
                ours.optimization.restore(copy.deepcopy(ours.optimization.state()))
        found.append(ours)
    assert isinstance(found[0].optimization.updates["model"].fast, FusedOptimizer) == (
        optimizer != "sgd"
    )
    assert all(map(torch.allclose, weights(found[0]), weights(found[1])))
    steps = [
        each["step"]
        for each in found[0].optimization.state()["optimizers"]["model"]["state"].values()
        if "step" in each
    ]
    assert set(map(float, steps)) == (set() if optimizer == "sgd" else {8.0, 6.0})


def test_a_run_goes_on_from_a_checkpoint_of_plain_steps(tmp_path):
    whole = many(trainer(tmp_path / "whole", epochs=4))
    whole.fit()
    first = plainly(many(trainer(tmp_path / "cut", epochs=2)))
    first.optimization.updates["model"].chosen = True
    first.fit()
    second = many(trainer(tmp_path / "cut", epochs=4))
    second.restore(checkpoint.load_latest_or_none(tmp_path / "cut" / "last.pt"))
    second.fit()
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(weights(second), weights(whole), strict=True)
    )
    assert [row.epoch for row in second.history] == [row.epoch for row in whole.history]
    assert isinstance(second.runner.replay, Replay) and second.runner.replay.verified


def test_fused_rmsprop_is_torch_s_by_itself_too():
    """Also with parts of a model at other rates, with momentum, and where a weight has no gradient."""
    for settings in ({}, {"weight_decay": 0.1}, {"momentum": 0.5}):
        plain, _ = made("sgd", SHAPES)
        own, _ = made("sgd", SHAPES)
        steps = [
            kind([{"params": of[:2]}, {"params": of[2:], "lr": 0.1}], lr=0.01, **settings, **more)
            for kind, of, more in (
                (torch.optim.RMSprop, plain, {}),
                (RMSprop, own, {"fused": True}),
            )
        ]
        for number in range(6):
            gradients = [strange(shape, 1.0) for shape in SHAPES]
            for some in (plain, own):
                for parameter, gradient in zip(some, gradients, strict=True):
                    parameter.grad = (
                        None if number == 2 and parameter is some[1] else gradient.clone()
                    )
            for each in steps:
                each.step()
            assert all(map(torch.equal, [p.grad for p in own if p.grad is not None],
                           [p.grad for p in plain if p.grad is not None]))  # fmt: skip
        assert all(map(torch.allclose, own, plain))
        steps[0].load_state_dict(steps[1].state_dict())


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "adamw", "sgd", "nadam", "adagrad"])
def test_a_gradient_may_lie_otherwise_than_its_weights(tmp_path, optimizer):
    """torch's fused kernels take numbers as they lie in memory, and do not look."""
    found = []
    for turn in (True, False):
        weight = nn.Parameter(torch.ones(600, 500))
        settings = build_part(node("engine", "default", device="cpu"))
        make = lambda ps: build_part(node("optimizer", optimizer), ps)  # noqa: E731
        learner = Optimization({"model": [weight]}, make, settings, None, torch.device("cpu"))
        gradient = torch.arange(300_000.0).view(500, 600).T
        learner.step(
            Step("model", torch.zeros(()), gradient=[gradient if turn else gradient.contiguous()]),
            1,
            True,
        )
        found.append(weight.detach())
    assert torch.equal(*found) and not torch.equal(found[0], torch.ones(600, 500))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_and_groups_without_any_are_torch_s_affair():
    weight = nn.Parameter(torch.ones(10, 3))
    settings = build_part(node("engine", "default", device="cpu"))
    for name, more in (("sgd", {"fused": False}), ("adagrad", {})):
        make = lambda ps, name=name, more=more: build_part(node("optimizer", name, **more), ps)  # noqa: E731
        learner = Optimization({"model": [weight]}, make, settings, None, torch.device("cpu"))
        learner.step(
            Step("model", nn.functional.embedding(torch.tensor([1, 2]), weight, sparse=True).sum()),
            2,
            True,
        )
        assert torch.equal((weight != 1).any(1), torch.isin(torch.arange(10), torch.tensor([1, 2])))
    still, moved = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    moved.grad = torch.ones(2)
    RMSprop([{"params": [still]}, {"params": [moved]}], lr=0.1, fused=True).step()
    assert torch.equal(still, torch.ones(2)) and not torch.equal(moved, torch.ones(2))


class Spare(nn.Module):
    """Has a weight that no step uses."""

    steady = True

    def __init__(self):
        super().__init__()
        self.normed, self.used, self.spare = nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, batch):
        return {"y": self.used(self.normed(batch["x"]))}


def test_a_weight_that_is_never_used_is_no_reason_to_fail(tmp_path):
    found = []
    for play in (True, False):
        torch.manual_seed(0)
        engine = build_part(node("engine", "default", epochs=2, batch_size=8, device="cpu"))
        found.append(many(wired(Spare(), engine, tmp_path, node("optimizer", "rmsprop"))))
        found[-1] = found[-1] if play else plainly(found[-1])
        found[-1].fit()
    assert found[0].runner.replay.disabled and same(weights(found[0]), weights(found[1]))
