"""`dlrun lr`: it suggests what works, leaves the model as it was, and refuses what makes no sense."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from laboratory import SPEC, same, trainer, weights, wired

from dlrun.cli.lr_finder import lr_command, split_lr_overrides
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Spec
from dlrun.interpret.lr_finder import (
    LRCurve,
    choose_lr,
    iter_step_batches,
    run_range_test,
    smooth_losses,
)
from dlrun.models.baselines import constant


@pytest.mark.parametrize("settings", [
    {}, {"accumulate": 3, "ema": 0.9, "max_steps": 1}, {"optimizer": "adam", "clip_norm": 1.0, "save_every": 0},
])  # fmt: skip
def test_everything_is_left_as_it_was(tmp_path, settings):
    made = trainer(tmp_path, **settings)
    before, random, state = (
        weights(made),
        torch.get_rng_state(),
        made.optimization.optimizers["model"].state_dict(),
    )
    parts = made.settings, made.metrics, made.optimization.schedule, made.saved_at
    curve = run_range_test(made, 1e-4, 1e3, 40)
    assert len(curve.losses) > 10 and curve.losses.max() > curve.losses[0] > curve.smoothed.min()
    assert same(before, weights(made)) and torch.equal(random, torch.get_rng_state())
    assert (
        made.optimization.optimizers["model"].state_dict() == state
        and made.epoch == made.position == 0
    )
    assert (
        made.settings,
        made.metrics,
        made.optimization.schedule,
        made.saved_at,
    ) == parts and not made.history
    assert not list(tmp_path.iterdir())


def test_a_fit_after_the_test_is_the_fit_without_it(tmp_path):
    plain, tested = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    run_range_test(tested, 1e-4, 1e3, 40)
    plain.fit()
    tested.fit()
    assert same(weights(plain), weights(tested)) and plain.history == tested.history


def test_it_trains_with_rising_rates_over_epochs_as_training_would(tmp_path):
    made = trainer(tmp_path, dropout=0.0, optimizer="sgd")
    curve = run_range_test(made, 0.01, 1.0, 15)  # 50 rows in batches of 8: two epochs and a batch
    other = trainer(tmp_path, dropout=0.0, optimizer="sgd")
    for rate, loss, window in zip(
        curve.rates, curve.losses, iter_step_batches(other), strict=False
    ):
        (batch,) = window.batch_list
        (step,) = other.objective.steps(batch)
        step.loss.backward()
        assert float(step.loss.detach()) == pytest.approx(loss, rel=1e-5)
        with torch.no_grad():
            for parameter in other.objective.parameters():
                parameter -= rate * parameter.grad
                parameter.grad = None
    assert len(curve.losses) == 15 and curve.rates[[0, -1]] == pytest.approx([0.01, 1.0])


def test_smoothing_is_a_weighted_mean_of_what_came_so_far():
    assert smooth_losses([3.0] * 9) == pytest.approx([3.0] * 9)
    assert smooth_losses([1.0, 2.0])[1] == pytest.approx((0.8 * 1 + 2) / 1.8)


def curve_of(shape, rates=None, noise=0.01):
    rates = np.geomspace(1e-6, 10, 100) if rates is None else rates
    losses = shape(np.log10(rates)) + noise * np.random.default_rng(0).standard_normal(len(rates))
    return LRCurve(rates, losses, smooth_losses(list(losses)))


def test_the_suggestion_is_a_tenth_of_the_lowest_or_the_steepest_if_that_is_smaller():
    found = choose_lr(
        curve_of(lambda x: 2 - 1 / (1 + np.exp(-8 * (x + 2))) + np.exp(4 * (x + 0.5)))
    )
    assert (
        found.rate == pytest.approx(found.lowest / 10)
        and "lowest" in found.why
        and found.steepest > found.rate
    )
    found = choose_lr(curve_of(lambda x: 2 - 1 / (1 + np.exp(-8 * (x + 4))) - 0.05 * x, noise=0))
    assert found.rate == found.steepest == pytest.approx(1e-4, rel=0.6) and "fastest" in found.why
    found = choose_lr(curve_of(lambda x: 2 - np.exp(x)))
    assert found.rate == pytest.approx(found.lowest / 10) and "larger high=" in found.why


def test_no_suggestion_where_the_loss_never_falls():
    flat, rising = curve_of(np.zeros_like), curve_of(lambda x: np.exp(x))
    for curve in (flat, rising, LRCurve(np.array([1.0]), np.array([2.0]), np.array([2.0]))):
        assert choose_lr(curve).rate is None and "no rate lowers the loss" in choose_lr(curve).why


def test_noise_alone_makes_no_suggestion_more_often_than_rarely():
    rates = np.geomspace(1e-6, 10, 100)
    draws = np.random.default_rng(1).standard_normal((400, 100))
    assert (
        np.mean(
            [
                choose_lr(LRCurve(rates, row, smooth_losses(list(row)))).rate is not None
                for row in draws
            ]
        )
        < 0.05
    )


def test_it_stops_when_the_loss_shoots_up_or_is_no_number(tmp_path):
    curve = run_range_test(trainer(tmp_path), 1e-3, 1e6, 60)
    assert (
        "more than 4 times its lowest" in curve.stopped
        and len(curve.rates) == len(curve.losses) < 60
    )
    curve = run_range_test(trainer(tmp_path, optimizer="sgd"), 1e30, 1e38, 60)
    assert "no number" in curve.stopped or "more than 4 times" in curve.stopped
    assert np.isfinite(curve.losses).all() and choose_lr(curve).rate is None


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def test_the_command_keeps_numbers_and_picture_and_says_how_to_use_them(output, capsys):
    assert lr_command(["task=digits", "optimizer.lr=0.5", "steps=80"]) == 0
    said = capsys.readouterr().out
    (folder,) = (output / "digits" / "lr").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["lr.json", "lr.png"]
    assert (folder / "lr.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "lr.json").read_text())
    assert 2e-4 <= record["rate"] <= 5e-3, "RMSprop's usual 1e-3, within a factor of 5"
    assert (
        record["use"] == f"dlrun task=digits optimizer.lr={record['rate']:.2g}"
        and record["use"] in said
    )
    assert f"suggestion: {record['rate']:.2g}" in said and not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f]", said
    )
    assert len(record["rates"]) == len(record["losses"]) == len(record["smoothed"]) <= 80


@pytest.mark.parametrize(("words", "message"), [
    ("task=digits low=a", "low=a: it must be a number above 0"),
    ("task=digits high=-1 steps=3", "high=-1: it must be a number above 0\nsteps=3: it must be a whole number from 20"),
    ("task=digits low=1 high=0.1", "low=1 high=0.1: the rate rises from low to high"),
    ("task=digits model=dnse", "did you mean 'dense'"),
    ("task=digits lower=1", "no setting 'lower'"),
    ("task=digits model=constant", "nothing to learn"),
])  # fmt: skip
def test_bad_words_are_refused_and_leave_nothing(output, words, message):
    with pytest.raises(UserError, match=message):
        lr_command(words.split())
    assert not list(output.parent.iterdir())


def test_its_own_words_are_taken_out():
    own, rest = split_lr_overrides(["task=imdb", "low=1e-5", "steps=50", "model.units=[8]"])
    assert own == {"low": 1e-5, "high": 10.0, "steps": 50} and rest == [
        "task=imdb",
        "model.units=[8]",
    ]


def test_nothing_to_learn_is_refused(tmp_path):
    spec = Spec(SPEC.inputs, {"y": Field("category", (), 3, prior=torch.tensor([0.2, 0.3, 0.5]))})
    made = wired(
        constant(spec),
        trainer(tmp_path).settings,
        tmp_path,
        {"_target_": "torch.optim.SGD", "lr": 0.1},
    )
    with pytest.raises(UserError, match="nothing to learn"):
        run_range_test(made, 1e-4, math.e, 30)
