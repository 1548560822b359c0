"""Laws of variational autoencoders: the loss is the written formula, codes go where they should, nothing leaks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from laboratory import node
from torch.distributions import Normal, kl_divergence

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core.device import derive_seed
from dlrun.core.errors import UserError
from dlrun.core.objective import ObjectiveContext
from dlrun.core.types import Field, Spec
from dlrun.data.datasets.mnist import fashion_mnist, mnist
from dlrun.data.datasets.sklearn_datasets import digits
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.objectives.latent_space import mean_difference
from dlrun.objectives.vae import standard_normal_kl
from dlrun.training.optimization import Optimization
from dlrun.training.trainer import Trainer

SMALL = {"filters": [4, 8], "strides": [2, 1], "dense": [8], "decoder_filters": [4]}
PICTURE = Spec({"image": Field("image", (1, 8, 8))})


def objective(raw=None, *, val=True, model="vae", latent=2, **settings):
    """A small variational autoencoder of the first digits; its starting weights are always the same."""
    raw = raw or digits(test=0.2)
    data = prepare(raw, np.arange(48), np.arange(48, 80) if val else None)
    torch.manual_seed(3)
    small = SMALL if model == "vae" else {"dense": [8], "decoder_dense": [8]}
    net = build_part(node("model", model, latent=latent, **small), data.spec)
    return build_part(
        node("objective", "variational", **settings), ObjectiveContext(net, data, raw)
    )


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_book_s_network_has_its_parameters():
    model = build_part(node("model", "vae"), Spec({"image": Field("image", (1, 28, 28))}))
    assert parameters(model) == 550_629
    encoder = sum(map(parameters, (model.towers, model.dense, model.heads)))
    assert encoder == 494_244 and encoder + parameters(model.decoder) == parameters(model)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (1, 9, 13), (3, 28, 28), (1, 5, 5)])
@pytest.mark.parametrize("strides", [[1, 2, 1, 1], [2, 2, 2, 1], [3, 2, 1, 1], [1, 1, 1, 1]])
def test_pictures_come_back_in_their_own_size(shape, strides):
    up = [8] * sum(stride > 1 for stride in strides)
    spec = Spec({"image": Field("image", shape)})
    model = build_part(
        node("model", "vae", filters=[4, 4, 4, 4], strides=strides, decoder_filters=up, latent=3),
        spec,
    )
    assert model({"image": torch.rand(2, *shape)})["image"].shape == (2, *shape)


@pytest.mark.parametrize(
    ("changes", "spec", "says"),
    [
        (
            {"decoder_filters": []},
            PICTURE,
            r"decoder_filters=\[\]: one for each stride above 1, which are \[2\]",
        ),
        ({"strides": [2]}, PICTURE, "4 filters but 1 strides"),
        ({"kernel": 4}, PICTURE, "kernel=4: it must be odd"),
        ({}, Spec({"x": Field("number", (4,))}), "it makes images, and the data give number 'x'"),
        (
            {},
            Spec({"a": Field("image", (1, 8, 8)), "b": Field("image", (1, 8, 8))}),
            "one image, and the data give",
        ),
        (
            {},
            Spec({"a": Field("tokens", (5,), 9)}),
            "an image or numbers, and the data give tokens 'a'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, spec, says):
    with pytest.raises(UserError, match=says):
        build_part(node("model", "vae", **changes), spec)


def test_the_divergence_is_that_of_torch_and_nothing_for_the_standard_normal():
    assert standard_normal_kl(torch.zeros(4, 3), torch.zeros(4, 3)).tolist() == [0.0] * 4
    torch.manual_seed(0)
    mean, log_std = torch.randn(50, 3), torch.randn(50, 3)
    theirs = kl_divergence(Normal(mean, log_std.exp()), Normal(torch.zeros(3), torch.ones(3))).sum(
        1
    )
    assert torch.allclose(standard_normal_kl(mean, log_std), theirs, rtol=1e-5, atol=1e-5)


def formula(loss, sampling, beta, pixels, model):
    """The loss, and the negative evidence lower bound, as they stand in the papers; draws its own noise."""
    mean, log_var = model.encode(pixels)
    std = log_var.exp() if sampling == "book" else (0.5 * log_var).exp()
    logits = model.decode(mean + std * torch.randn_like(mean))
    nats = F.binary_cross_entropy_with_logits(logits, pixels, reduction="sum") / len(pixels)
    apart = (
        kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), torch.ones_like(std)))
        .sum(1)
        .mean()
    )
    book = F.binary_cross_entropy(logits.sigmoid(), pixels) + beta * -5e-4 * torch.mean(
        1 + log_var - mean**2 - torch.exp(log_var)
    )
    return (book if loss == "book" else nats + beta * apart), nats + apart


@pytest.mark.parametrize("loss", ["book", "elbo"])
@pytest.mark.parametrize("sampling", ["book", "standard"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_loss_is_the_formula_and_the_sum_of_its_parts(loss, sampling, beta):
    ours = objective(loss=loss, sampling=sampling, beta=beta)
    batch = next(ours.train_rows.batches(16))
    torch.manual_seed(5)
    (step,) = ours.steps(batch)
    torch.manual_seed(5)
    wanted, bound = formula(loss, sampling, beta, batch["image"], ours.model)
    assert torch.allclose(step.loss, wanted, rtol=1e-5)
    assert torch.allclose(step.measured["negative_elbo"], bound, rtol=1e-5)
    assert torch.equal(step.loss, step.parts["reconstruction"] + step.parts["divergence"])
    if (loss, sampling, beta) == ("elbo", "standard", 1.0):
        assert torch.equal(step.loss, step.measured["negative_elbo"])


def test_the_engine_takes_the_hand_written_step(tmp_path):
    ours, theirs = (
        objective(sampling="book", loss="book"),
        objective(sampling="book", loss="book").model,
    )
    optimizer = lambda weights: build_part(node("optimizer", "rmsprop"), weights)  # noqa: E731
    settings = build_part(node("engine", "default", epochs=2, batch_size=16, device="cpu"))
    learner = Optimization(ours.groups, optimizer, settings, None, torch.device("cpu"))
    rows = ours.train_rows
    trainer = Trainer(
        ours,
        replace(prepare(digits(test=0.2), np.arange(48), None), train=rows),
        settings,
        learner,
        {},
        tmp_path,
    )
    trainer.seed = 7
    trainer.fit()
    by_hand = optimizer(list(theirs.parameters()))
    for epoch in range(2):
        torch.manual_seed(derive_seed(7, epoch, 0))
        for batch in rows.batches(16, seed=7, epoch=epoch):
            x = batch["image"]
            mean, log_var = theirs.encode(x)
            logits = theirs.decode(mean + log_var.exp() * torch.randn_like(mean))
            loss = (
                F.binary_cross_entropy_with_logits(logits, x)
                + -5e-4 * 1.0 * (1 + log_var - mean.square() - log_var.exp()).mean()
            )
            by_hand.zero_grad()
            loss.backward()
            by_hand.step()
    pairs = zip(ours.model.state_dict().values(), theirs.state_dict().values(), strict=True)
    assert all(torch.equal(mine, hand) for mine, hand in pairs)


def test_the_bar_is_the_mean_training_picture_and_poison_does_not_reach_it():
    raw = digits(test=0.2)
    dev = {name: column.copy() for name, column in raw.dev.items()}
    dev["image"][48:] = 255
    found = []
    for each in (raw, replace(raw, dev=dev)):
        bar = objective(each).baseline_objective()
        (step,) = bar.steps(next(bar.train_rows.batches(48)))
        assert torch.allclose(
            bar.mean, torch.from_numpy(raw.dev["image"][:48] / 255).float().mean(0)
        )
        assert step.parts["divergence"] == 0 and step.loss == step.measured["negative_elbo"] > 0
        found.append((bar.mean, step.loss))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


@pytest.mark.parametrize("pictures", [mnist, fashion_mnist])
def test_pooled_digits_end_with_the_official_test_rows(pictures):
    apart, pooled = (pictures(source="sample", pool=pool) for pool in (False, True))
    assert pooled.test is None and len(pooled) == len(apart) + len(apart.test()["image"])
    for name, column in apart.test().items():
        assert np.array_equal(pooled.dev[name], np.concatenate([apart.dev[name], column]))


def made(ours, kind, **arguments):
    with torch.no_grad():
        return list(ours.generators[kind](**arguments))


@pytest.mark.parametrize("val", [True, False])
def test_things_are_shown_of_rows_that_are_held_out(val):
    ours = objective(val=val)
    (shown,) = made(ours, "reconstructions", count=4)
    first = 48 if val else 0
    assert shown.pixels.shape == (8, 1, 8, 8) and shown.columns == 4
    assert torch.allclose(
        shown.pixels[0, 0], torch.from_numpy(digits(test=0.2).dev["image"][first, 0] / 255).float()
    )
    assert ("held-out" in shown.description) == val and ("training" in shown.description) != val


def test_interpolation_ends_at_the_reconstructions_of_its_two_pictures():
    ours = objective(latent=3)
    (rows,) = made(ours, "reconstructions", count=32)
    (way,) = made(ours, "interpolation", first=2, last=31, steps=7)
    assert len(way.pixels) == 7
    assert torch.allclose(way.pixels[0], rows.pixels[32 + 2], atol=1e-6)
    assert torch.allclose(way.pixels[-1], rows.pixels[32 + 31], atol=1e-6)


def test_a_concept_is_antisymmetric_and_nothing_at_strength_0():
    codes, some = torch.randn(20, 3), torch.arange(20) < 8
    assert torch.equal(mean_difference(codes, some, ~some), -mean_difference(codes, ~some, some))
    ours = objective()
    (there,) = made(ours, "concept", label="1", against="4", row=5, strength=[-1.0, 0.0, 2.0])
    (back,) = made(ours, "concept", label="4", against="1", row=5, strength=[1.0, 0.0, -2.0])
    (rows,) = made(ours, "reconstructions", count=32)
    assert torch.allclose(there.pixels, back.pixels, atol=1e-6) and not torch.equal(
        there.pixels[0], there.pixels[2]
    )
    assert torch.allclose(there.pixels[1], rows.pixels[32 + 5], atol=1e-6)


def test_the_grid_is_the_quantiles_and_leaves_other_numbers_at_0():
    ours = objective(latent=4)
    seen = []
    decode, ours.model.decode = ours.model.decode, lambda codes: seen.append(codes) or decode(codes)
    made(ours, "grid", side=3, low=0.1, high=0.9, across=4, down=1)
    (codes,) = seen
    edge = 1.2815516
    assert torch.allclose(codes[:3, 3], torch.tensor([-edge, 0, edge]), atol=1e-5)
    assert (
        torch.allclose(codes[::3, 0], torch.tensor([edge, 0, -edge]), atol=1e-5)
        and not codes[:, 1:3].any()
    )


@pytest.mark.parametrize(
    ("latent", "axes"),
    [(1, ("code 1", "")), (2, ("code 1", "code 2")), (5, ("component 1", "component 2"))],
)
def test_codes_lie_in_a_plane_by_their_labels(latent, axes):
    (points,) = made(objective(model="vae_dense", latent=latent), "latent", count=20)
    assert (
        points.positions.shape == (20, 2)
        and points.axes == axes
        and points.names == tuple("0123456789")
    )
    assert ("principal components" in points.description) == (latent > 2)


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        ("grid", {"across": 1, "down": 3}, "two different numbers of the code, from 1 to 2"),
        ("grid", {"low": 0.9, "high": 0.1}, "quantiles must lie between 0 and 1"),
        ("interpolation", {"last": 32}, "row 32: there are 32 held-out rows, 0 to 31"),
        ("concept", {"label": "ten"}, "no label 'ten'; there are: 0, 1"),
        ("concept", {"label": "1", "against": "1e"}, "no label '1e'"),
        (
            "concept",
            {"label": "1", "target": "size"},
            "target 'size' has no labels; there are: digit",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(kind, arguments, says):
    with pytest.raises(UserError, match=says):
        made(objective(), kind, **arguments)


def test_more_codes_give_a_tighter_bound():
    """The mean bound of 1 code is the negative evidence lower bound; with more it falls (Burda et al., theorem 1)."""
    found = {}
    for count in (1, 2, 50):
        ours = objective(importance=count)
        torch.nn.init.normal_(
            ours.model.heads["log_var"].bias
        )  # clouds that are far from the true ones
        torch.manual_seed(1)
        with torch.no_grad():
            (score,) = ours.split_scores([next(ours.train_rows.batches(48))] * 20).values()
            bound = torch.stack(
                [
                    step.measured["negative_elbo"]
                    for _ in range(40)
                    for step in ours.steps(next(ours.train_rows.batches(48)))
                ]
            )
        found[count] = score.value
    assert (
        found[1] == pytest.approx(float(bound.mean()), rel=0.01) and found[50] < found[2] < found[1]
    )
    assert objective().split_scores([]) == {}


def test_a_run_beats_the_mean_picture_and_keeps_what_it_was_told(tmp_path):
    words = [
        "task=digits",
        "objective=variational",
        "model=vae_dense",
        "optimizer=adam",
        "engine.epochs=30",
    ]
    assert (
        main(
            [
                *words,
                "objective.importance=5",
                "optimizer.lr=3e-3",
                "callback.samples.every=30",
                f"output={tmp_path}",
            ]
        )
        == 0
    )
    (folder,) = (path.parent for path in tmp_path.rglob("results.jsonl"))
    (result,) = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    scores = result["scores"]
    assert scores["negative_elbo"]["value"] < result["baseline"]["negative_elbo"]["value"]
    assert scores["negative_bound_of_5"]["value"] < scores["negative_elbo"]["value"]
    names = {path.name.partition("-")[0] for path in (folder / "samples" / "fit").iterdir()}
    assert names == {"grid", "reconstructions"}


def test_wrong_pairs_are_told_at_once(capsys):
    assert main(["task=digits", "objective=variational"]) == 2
    assert (
        "objective=variational is not made for model=dense; there are: vae"
        in capsys.readouterr().err
    )
    assert main(["task=digits", "model=vae"]) == 2
    assert (
        "model=vae predicts no target: it goes with objective=variational"
        in capsys.readouterr().err
    )
    assert main(["task=wine", "objective=variational", "model=vae"]) == 2
    assert "it makes images, and the data give number 'features'" in capsys.readouterr().err


def test_colors_and_a_run_without_held_out_rows(tmp_path):
    from PIL import Image

    random = np.random.RandomState(0)
    for name in ("red", "blue"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = random.randint(0, 60, (11, 9, 3)).astype(np.uint8)
            pixels[..., 0 if name == "red" else 2] += 190
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    words = [
        "task=images",
        f"data.path={tmp_path}/photos",
        "data.size=[11,9]",
        "objective=variational",
        "model=vae",
    ]
    small = [
        "model.filters=[4,4]",
        "model.strides=[2,2]",
        "model.decoder_filters=[4,4]",
        "protocol=whole",
    ]
    assert (
        main([*words, *small, "engine.epochs=1", "model.latent=3", f"output={tmp_path}/out"]) == 0
    )
    (folder,) = (path.parent for path in (tmp_path / "out").rglob("results.jsonl"))
    assert main(["generate", str(folder), "kind=concept", "label=red", "against=blue"]) == 0
    assert main(["generate", str(folder), "kind=samples", "count=3"]) == 0
