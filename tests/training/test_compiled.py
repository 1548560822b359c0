"""Laws of engine.compile=step: the same training but for rounding, or refused with the reason."""

import logging
import os
import shutil

import pytest
import torch
from laboratory import SPEC, node, same, trainer, weights, wired
from test_replay import Restless, many

from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.errors import TrainingDiverged, UserError
from dlrun.training.fast import aot_inductor
from dlrun.training.fast.aot_inductor import compile_function

BUILDS = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler is here"
)
COSINE = {"_target_": "dlrun.training.schedules.cosine", "floor": 0.0, "warmup": 0.2}


def fitted(folder, compile_, **settings):
    """A trainer of a network with dropout after its fit; each begins with the same weights."""
    found = many(
        trainer(folder, **{"compile": compile_, "schedule": build_part(COSINE), **settings})
    )
    found.fit()
    return found


def close(ours, plain):
    """The same weights and history but for rounding."""
    history = zip(ours.history, plain.history, strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(weights(ours), weights(plain), strict=True)) \
        and all(a.values == pytest.approx(b.values, rel=1e-3, abs=1e-4) for a, b in history)  # fmt: skip


@BUILDS
def test_a_compiled_step_learns_what_torch_does(tmp_path, caplog, monkeypatch):
    """Dropout draws the same, and the rate changes; it is told what it cost, and another fit pays nothing."""
    # What calls the kernels need not be fast here: to optimize it is most of the compiling.
    monkeypatch.setitem(aot_inductor.OPTIONS, "aot_inductor.compile_wrapper_opt_level", "O0")
    caplog.set_level(logging.INFO, "dlrun")
    plain, ours = (fitted(tmp_path / str(how), how) for how in (False, "step"))
    assert (
        ours.runner.replay.verified
        and ours.optimization.updates["model"].fast.run is not None
        and close(ours, plain)
    )
    told = [text for text in caplog.messages if text.startswith("engine.compile=step: ")]
    assert [" to compile" in text for text in told] == [True, True]
    again = fitted(tmp_path / "again", "step")
    assert len(told) == sum("engine.compile=step: " in text for text in caplog.messages)
    assert same(weights(again), weights(ours)) and again.history == ours.history


@BUILDS
@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {"optimizer": "adamw"}, {"optimizer": "sgd", "optimizer_momentum": 0.9, "optimizer_nesterov": True},
    {"clip_norm": 0.5, "ema": 0.9},
])  # fmt: skip
def test_so_it_does_with_other_optimizers_and_settings(tmp_path, settings):
    plain, ours = (fitted(tmp_path / str(how), how, **settings) for how in (False, "step"))
    assert ours.runner.replay.verified and close(ours, plain)


@BUILDS
@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_but_for_rounding(tmp_path):
    whole = fitted(tmp_path / "whole", "step", schedule=None)
    fitted(tmp_path / "cut", "step", schedule=None, epochs=1)
    ours = many(trainer(tmp_path / "cut", compile="step"))
    ours.restore(checkpoint.load_latest_or_none(tmp_path / "cut" / "last.pt"))
    ours.fit()
    assert close(ours, whole)


@BUILDS
@pytest.mark.slow
def test_bf16_is_compiled_too(tmp_path):
    plain, ours = (fitted(tmp_path / str(how), how, precision="bf16") for how in (False, "step"))
    assert ours.runner.replay.verified
    assert ours.history[-1].values["loss"] == pytest.approx(
        plain.history[-1].values["loss"], rel=0.1
    )


@pytest.mark.parametrize(("settings", "reason"), [
    ({"accumulate": 2}, "accumulate is above 1"), ({"precision": "fp16"}, "precision=fp16"),
])  # fmt: skip
def test_what_cannot_be_compiled_is_refused_before_it_begins(tmp_path, settings, reason):
    with pytest.raises(UserError, match=f"engine.compile=step: .*{reason}.*engine.compile=false"):
        trainer(tmp_path, compile="step", **settings)


def test_so_is_a_model_that_does_not_say_that_it_is_steady(tmp_path):
    engine = build_part(node("engine", "default", compile="step", device="cpu"))
    model = build_part(node("model", "dense", units=[8]), SPEC)
    model.register_module("extra", type("Own", (torch.nn.Identity,), {})())
    with pytest.raises(UserError, match="Own is not known to do the same calls"):
        wired(model, engine, tmp_path, node("optimizer", "sgd"))


@pytest.mark.parametrize("how", ["branch", "count", "elsewhere"])
def test_a_step_that_is_not_the_same_calls_each_time_is_refused(tmp_path, monkeypatch, how):
    not_compiled(monkeypatch)  # the calls are noted down before there is a step to compile
    engine = build_part(
        node("engine", "default", epochs=2, batch_size=8, device="cpu", compile="step")
    )
    with pytest.raises(UserError, match="cannot be noted down: it .*engine.compile=false"):
        many(wired(Restless(how), engine, tmp_path, node("optimizer", "sgd"))).fit()


def not_compiled(monkeypatch, **places):
    """No compiler: in its place what these make of a function, by what it is for; else the function itself."""
    names = {"the training step": "replay", "the optimizer's step": "flat"}

    def compile_function(function, inputs, what):
        wrong = places.get(names[what], lambda function: lambda now: function(*now))
        return wrong(function)

    monkeypatch.setattr(aot_inductor, "compile_function", compile_function)


@pytest.mark.parametrize("place", ["replay", "flat"])
def test_a_compiler_that_errs_is_found_out(tmp_path, monkeypatch, place):
    """Its numbers, of a step and of an update, are held against torch's before they are used."""

    def wrong(function):
        def run(now):
            found = function(*now)
            now[0].add_(0.01)  # a batch's column, or the weights
            return [2 * part for part in found]

        return run

    not_compiled(monkeypatch, **{place: wrong})
    with pytest.raises(UserError, match="comes to other numbers"):
        fitted(tmp_path, "step")


def test_so_is_one_that_forgets_what_a_step_changes(tmp_path, monkeypatch):
    def forgetful(function):
        return lambda now: function(*(part.clone() for part in now))

    not_compiled(monkeypatch, replay=forgetful)
    with pytest.raises(UserError, match="comes to other numbers"):
        normed(tmp_path, 1.0).fit()


def normed(folder, scale):
    """A trainer of a network with batch norm, whose losses are of this size."""
    engine = build_part(
        node("engine", "default", epochs=2, batch_size=8, device="cpu", compile="step")
    )
    found = many(
        wired(
            build_part(node("model", "dense", units=[8], batch_norm=True), SPEC),
            engine,
            folder,
            node("optimizer", "sgd"),
        )
    )
    found.objective.weights = {"y": scale}
    return found


def test_gradients_that_are_all_rounding_are_no_reason_to_refuse(tmp_path, monkeypatch):
    """A bias before batch norm has none but what rounding leaves."""

    def rounds(function):
        def run(now):
            found = function(*now)
            return [part + 1e-7 * max(float(each.abs().max()) for each in found) for part in found]

        return run

    not_compiled(monkeypatch, replay=rounds)
    ours = normed(tmp_path, 1e4)
    ours.settings = ours.optimization.settings
    ours.fit()
    assert ours.runner.replay.verified


def test_a_loss_that_is_no_number_is_told_as_such(tmp_path, monkeypatch):
    not_compiled(monkeypatch)
    with pytest.raises(TrainingDiverged):
        fitted(tmp_path, "step", optimizer="sgd", optimizer_lr=1e30, schedule=None)


def test_an_optimizer_whose_step_is_not_compiled_is_refused(tmp_path):
    with pytest.raises(UserError, match="the step of NAdam cannot be compiled for these weights"):
        trainer(tmp_path, compile="step", optimizer="nadam")


def test_what_the_compiler_says_is_told_in_a_line():
    with pytest.raises(
        UserError, match="a sum cannot be compiled here .*; say engine.compile=false"
    ) as found:
        compile_function(lambda x: [torch.from_numpy(x.numpy().sum())], [torch.ones(3)], "a sum")
    assert "\n" not in str(found.value)


@BUILDS
@pytest.mark.slow
def test_only_the_same_function_is_taken_for_the_same():
    """Numbers and tensors inside it, shapes and strides tell functions apart."""
    here = torch.arange(6.0).view(2, 3)
    times = lambda factor: lambda x: [x * factor]  # noqa: E731
    inside = lambda values: lambda x: [x + torch.tensor(values)]  # noqa: E731
    for function in (
        times(2.0),
        times(3.0),
        times(2.0),
        inside([1.0, 2.0, 3.0]),
        inside([3.0, 2.0, 1.0]),
    ):
        for x in (here, here.T.contiguous().T):
            assert torch.equal(compile_function(function, [x], "a product")([x])[0], function(x)[0])
