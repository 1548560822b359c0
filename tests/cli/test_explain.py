"""`dlrun explain`: its counts are the model's, its first loss is the loss, it warns of faults and leaves no trace."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from laboratory import same, trainer, weights
from rich.console import Console
from torch import nn

from dlrun.cli.explain import (
    build_first_fit,
    explain_command,
    get_initial_loss_warnings,
    get_training_sample,
)
from dlrun.core.errors import UserError
from dlrun.data.preprocessing.numeric import StandardScaler
from dlrun.experiment import builder
from dlrun.interpret.initial_loss import InitialLoss, compute_initial_losses
from dlrun.interpret.memory import count_optimizer_bytes, count_saved_bytes, estimate_memory
from dlrun.interpret.model_summary import summarize_layers
from dlrun.interpret.sandbox import restore_trainer_state

CASES = [
    "task=digits model=dense",
    "task=digits model=linear",
    "task=digits model=convnet model.batch_norm=true model.dropout=0.5",
    "task=digits model=constant",
    "task=breast_cancer model=dense model.l2=0.01",
    "task=breast_cancer model=linear",
    "task=diabetes model=dense",
    "task=diabetes model=linear loss=mae",
    "task=imdb source=sample model=dense",
    "task=imdb source=sample model=linear",
    "task=reuters source=sample model=dense",
    "task=california_housing source=sample model=dense model.category=embedding",
]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """In an empty folder, with a folder for temporary files that is looked at afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir()), "something was left behind"


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """The words of a case, and the fit that they describe."""
    return request.param, fit_of(request.param)


def fit_of(words):
    with build_first_fit(words.split(), Console()) as (_, fit):
        return fit


def test_counts_and_shapes_are_those_of_the_model(case):
    _, fit = case
    model, (batch, *_) = fit.trainer.objective.model, get_training_sample(fit)
    before = weights(fit.trainer)
    found = summarize_layers(model, batch)
    assert sum(layer.parameters for layer in found) == sum(map(torch.numel, model.parameters()))
    assert sum(layer.trainable for layer in found) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    ((_, field),) = fit.data.spec.targets.items()
    assert found[-1].shape == f"(B, {field.num_outputs})"
    assert (
        same(before, weights(fit.trainer))
        and model.training
        and not any(m._forward_hooks for m in model.modules())
    )


def test_frozen_and_shared_weights_are_counted_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    found = summarize_layers(Reads(model), {"x": torch.zeros(3, 4)})
    assert [(layer.name, layer.shape, layer.parameters, layer.trainable) for layer in found] == [
        ("inner.0", "(B, 4)", 20, 16),
        ("inner.1", "(B, 4)", 0, 0),
        ("inner.2", "(B, 4)", 4, 4),
    ]


class Reads(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        return self.inner(batch["x"])


def test_the_first_loss_of_zero_weights_is_the_expected_one(case):
    words, fit = case
    sample = get_training_sample(fit)
    with restore_trainer_state(fit.trainer):
        for parameter in fit.trainer.objective.parameters():
            nn.init.zeros_(parameter)
        ((name, first),) = compute_initial_losses(fit.trainer, fit.baseline, sample).items()
    field, y = fit.data.spec.targets[name], torch.cat([batch[name] for batch in sample]).double()
    mean = float(y.mean()) if field.kind != "category" else 0
    shares = np.array(field.prior.tolist() if field.kind == "category" else [mean, 1 - mean])
    entropy = (
        -(shares[shares > 0] * np.log(shares[shares > 0])).sum() if field.kind != "number" else None
    )
    away = abs if "loss=mae" in words else np.square
    by_kind = {
        "category": (math.log(max(1, field.size)), entropy),
        "binary": (math.log(2), entropy),
    }
    best = float(y.median()) if "loss=mae" in words else mean
    number = (away(y.numpy()).mean(), away(y.numpy() - best).mean())
    zero, constant = by_kind.get(field.kind, number)
    assert first.zero == pytest.approx(zero, rel=1e-5)
    assert first.constant == pytest.approx(constant, rel=1e-3)
    assert first.measured == pytest.approx(
        first.constant if "constant" in words else zero, rel=1e-5
    )


def test_sound_data_raise_no_doubt(case):
    _, fit = case
    sample = get_training_sample(fit)
    assert not list(
        get_initial_loss_warnings(
            fit, compute_initial_losses(fit.trainer, fit.baseline, sample), sample
        )
    )


def test_unscaled_inputs_raise_a_doubt(monkeypatch, capsys):
    monkeypatch.setattr(
        StandardScaler, "__call__", lambda self, column: np.asarray(column, np.float64)
    )
    assert explain_command(["task=breast_cancer"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"WARNING: target diagnosis: the first loss is .*expected.*not scaled.* is \d{4}, in features",
        said,
    )


@pytest.mark.parametrize(("kind", "factor", "plausible"), [("binary", 1.9, True), ("binary", 2.1, False)] + [
    ("number", 3.9, True), ("number", 4.1, False)
])  # fmt: skip
def test_plausible_is_a_band_around_both_expectations(kind, factor, plausible):
    assert InitialLoss(2.0, 1.0, 2.0 * factor).is_expected(kind) is plausible
    assert InitialLoss(2.0, 1.0, 1.0 / factor).is_expected(kind) is plausible
    assert not InitialLoss(2.0, 1.0, math.nan).is_expected(kind)


def test_memory_is_what_it_says(tmp_path):
    fit = fit_of("task=digits model.units=[32] optimizer=adam")
    (batch, *_), made = get_training_sample(fit), fit.trainer
    rows, count = len(batch["image"]), 64 * 32 + 32 + 32 * 10 + 10
    sizes = {part.name: part.size for part in estimate_memory(made, batch)}
    assert sizes["weights"] == sizes["gradients"] == 4 * count
    assert (
        2 * 4 * count <= sizes["optimizer"] <= 2 * 4 * count + 64
    )  # two averages a weight, and step counts
    assert sizes["batch"] == rows * (64 * 4 + 8)
    assert (
        rows * 4 * (32 + 10) <= sizes["activations"] <= rows * 4 * (32 + 10) + 64
    )  # after ReLU, after log-softmax
    assert (
        count_optimizer_bytes(
            fit_of("task=digits optimizer=sgd").trainer.optimization.optimizers["model"]
        )
        == 0
    )


def test_measuring_memory_changes_nothing(tmp_path_factory):
    made = trainer(tmp_path_factory.mktemp("run"))
    before, random, (batch, *_) = (
        weights(made),
        torch.get_rng_state(),
        list(made.data.train.batches(8)),
    )
    assert count_saved_bytes(made, batch) > 0 and estimate_memory(made, batch)
    assert same(before, weights(made)) and torch.equal(random, torch.get_rng_state())
    assert not made.optimization.optimizers["model"].state


def test_piped_output_is_plain_and_no_test_row_is_read(monkeypatch, capsys):
    part = builder.ExperimentBuilder.build_part

    def poisoned(self, name, *context):
        found = part(self, name, *context)
        return (
            replace(found, test=lambda: pytest.fail("test rows were read"))
            if name == "data"
            else found
        )

    monkeypatch.setattr(builder.ExperimentBuilder, "build_part", poisoned)
    assert explain_command(["task=imdb", "source=sample", "model.l2=0.001", "test=true"]) == 0
    said = capsys.readouterr().out
    assert (
        not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said) and max(map(len, said.splitlines())) <= 80
    )
    for what in (
        "SYNTHETIC",
        "InputProjection",
        "(B, 64)",
        "644,289 parameters",
        "ln 2",
        "penalty, L1 and L2",
        "bce (auto)",
        "MB",
    ):
        assert what in said, what


@pytest.mark.parametrize(("words", "message"), [
    (["task=digits", "model=dnse"], "did you mean 'dense'"),
    (["task=imdb", "source=sample", "model=convnet"], "needs an image"),
    (["run"], "neither a command nor a setting"),
])  # fmt: skip
def test_bad_words_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        explain_command(words)
