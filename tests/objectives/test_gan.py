"""Laws of two networks that learn from each other: the loop, the losses, who is touched, and how it is judged."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from laboratory import node, same
from torch import nn

from dlrun.cli.main import main
from dlrun.config.compose import configure
from dlrun.config.instantiate import build_part
from dlrun.core.device import derive_seed
from dlrun.core.types import Field, FitJob, Spec
from dlrun.data.loading.images import ImageColumn
from dlrun.data.loading.table import Table
from dlrun.experiment.builder import ExperimentBuilder
from dlrun.models.generative.dcgan import DCGAN
from dlrun.objectives import frechet_distance
from dlrun.objectives.frechet_distance import FrechetMetric
from dlrun.objectives.gan import (
    GANObjective,
    find_nearest_images,
    mean_pixel_std,
    spherical_interpolation,
)
from dlrun.objectives.gan_losses import GANLoss, gradient_penalty
from dlrun.training import generation

SMALL = ("model.generator=[8,4]", "model.discriminator=[4,8]", "model.latent=5")
WORDS = (
    "task=digits",
    "objective=adversarial",
    "model=dcgan",
    *SMALL,
    "callback=none",
    "engine.device=cpu",
)


def fit(folder, *words):
    """The fit that these words ask for, not begun."""
    return ExperimentBuilder(configure([*WORDS, *words], []), folder).build_fit(FitJob())


def spec(*shape):
    return Spec({"image": Field("image", shape)})


def model(*shape, name="dcgan", **changes):
    """A network of the shipped part for images of this shape."""
    return build_part(node("model", name, **changes), spec(*shape))


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


def test_the_engine_is_a_hand_written_alternating_loop(tmp_path):
    words = (
        "engine.max_steps=7",
        "engine.batch_size=20",
        "engine.clip_value=0.01",
        "optimizer.lr=8e-4",
    )
    ours = fit(
        tmp_path,
        *words,
        "objective.label_noise=0.05",
        "objective.generator_rate=0.5",
        "protocol=whole",
    ).trainer
    ours.seed = 7
    twin: DCGAN = copy.deepcopy(ours.objective.model)
    judge, maker = twin.discriminator, twin.generator
    made = lambda model, lr: build_part(  # noqa: E731
        node("optimizer", "rmsprop", lr=lr), list(model.parameters())
    )
    optimizers = [made(judge, 8e-4), made(maker, 4e-4)]
    torch.manual_seed(derive_seed(7, 0, 0))
    twin.train()
    for number, batch in enumerate(ours.data.train.batches(20, seed=7)):
        if number == 7:
            break
        real = 2 * batch["image"] - 1
        with torch.no_grad():
            made = maker(torch.randn(20, 5))
        says = judge(torch.cat([real, made]))
        wanted = torch.ones(20) - 0.05 * torch.rand(20), torch.zeros(20) - 0.05 * torch.rand(20)
        parts = [
            F.binary_cross_entropy_with_logits(s, w)
            for s, w in zip(says.chunk(2), wanted, strict=True)
        ]
        step((parts[0] + parts[1]) / 2, judge, optimizers)
        passing = F.binary_cross_entropy_with_logits(
            judge(maker(torch.randn(20, 5))), torch.ones(20)
        )
        step(passing, maker, optimizers[::-1])
    ours.fit()
    assert ours.optimization.steps_taken == {"discriminator": 7, "generator": 7}
    assert same(list(ours.objective.model.state_dict().values()), list(twin.state_dict().values()))


def step(loss, part, optimizers):
    """Change a part by the first optimizer, in the usual way."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(part.parameters(), 0.01)
    optimizers[0].step()


@pytest.mark.parametrize(
    "words", [[], ["objective.loss=hinge"], ["objective.loss=wasserstein", "objective.penalty=10"]]
)
def test_each_step_touches_the_weights_of_one_network_alone(tmp_path, words):
    trainer = fit(tmp_path, *words).trainer
    batch = next(trainer.data.train.batches(16))
    parts = {
        name: list(getattr(trainer.objective.model, name).parameters())
        for name in trainer.objective.groups
    }
    for taken, step in zip(
        ("discriminator", "generator"), trainer.objective.steps(batch), strict=True
    ):
        before = {
            name: [weight.detach().clone() for weight in weights] for name, weights in parts.items()
        }
        trainer.optimization.step(step, 16, True)
        assert step.group == taken and all(
            weight.grad is None for weights in parts.values() for weight in weights
        )
        changed = {
            name
            for name, weights in parts.items()
            if not same(before[name], [w.detach() for w in weights])
        }
        assert changed == {taken}


def test_losses_by_hand():
    real, made = torch.tensor([2.0, -0.5]), torch.tensor([-3.0, 0.5])
    hinge, far, standard = GANLoss("hinge"), GANLoss("wasserstein"), GANLoss("standard")
    assert hinge.discriminator_loss(real, made).item() == pytest.approx(
        (0 + 1.5) / 2 + (0 + 1.5) / 2
    )
    assert (
        hinge.generator_loss(made).item() == far.generator_loss(made).item() == pytest.approx(1.25)
    )
    assert far.discriminator_loss(real, made).item() == pytest.approx(-1.25 - 0.75)
    sure = lambda logit: -math.log(1 / (1 + math.exp(-logit)))  # noqa: E731
    assert standard.discriminator_loss(real, made).item() == pytest.approx(
        (sure(2) + sure(-0.5) + sure(3) + sure(-0.5)) / 4
    )
    assert standard.generator_loss(made).item() == pytest.approx((sure(-3) + sure(0.5)) / 2)
    assert standard.discriminator_loss(torch.zeros(9), torch.zeros(9)).item() == pytest.approx(
        math.log(2)
    )


def test_noisy_labels_are_the_books_seen_from_the_other_side():
    """The book: made images are 1, real ones 0, and .05 · U is added to both; its network answers the opposite."""
    real, made = torch.randn(6), torch.randn(6)
    torch.manual_seed(3)
    ours = GANLoss("standard").discriminator_loss(real, made, 0.05)
    torch.manual_seed(3)
    labels = torch.cat([0.05 * torch.rand(6), 1 + 0.05 * torch.rand(6)])
    opposite = torch.cat([-real, -made]).sigmoid()
    books = -(labels * opposite.log() + (1 - labels) * (1 - opposite).log()).mean()
    assert ours.item() == pytest.approx(books.item(), abs=1e-6) and ours != GANLoss(
        "standard"
    ).discriminator_loss(real, made)


def test_the_gradient_penalty_is_how_far_the_slope_is_from_1():
    direction = torch.randn(12)
    real, made = torch.randn(8, 3, 2, 2), torch.randn(8, 3, 2, 2)
    for length in (1.0, 0.5, 3.0):
        critic = lambda x, length=length: x.flatten(1) @ (direction * length / direction.norm())  # noqa: E731
        assert gradient_penalty(critic, real, made).item() == pytest.approx(
            (length - 1) ** 2, abs=1e-6
        )


def test_the_penalty_is_of_training_alone(tmp_path):
    words = (
        "objective.loss=wasserstein",
        "objective.penalty=10",
        "objective.critic_steps=3",
        "engine.epochs=1",
    )
    trainer = fit(tmp_path, *words, "engine.max_steps=6").trainer
    trainer.fit()
    train, val = (row.values for row in trainer.history)
    assert trainer.optimization.steps_taken == {"discriminator": 6, "generator": 2}
    assert (
        set(train) - {"loss_penalty"} == set(trainer.objective.goals) == set(val)
        and train["loss_penalty"] > 0
    )


def test_the_books_networks_have_the_books_sizes():
    book = model(3, 32, 32, name="dcgan_book")
    assert count(book.generator) == 6_264_579 and count(book.discriminator) == 790_913


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 30, 45)])
@pytest.mark.parametrize("name", ["dcgan", "dcgan_book"])
def test_networks_take_their_size_from_the_pictures(shape, name):
    if name == "dcgan_book":
        changes = {"filters": 4, "discriminator": 2}
        if shape[1] < 22:
            with pytest.raises(Exception, match="too small"):
                model(*shape, name=name, **changes)
            return
    else:
        changes = {"generator": [4, 3], "discriminator": [2, 3, 4]}
    found = model(*shape, name=name, **changes)
    made = found.generator(found.sample_latent(3))
    assert made.shape == (3, *shape) and found.discriminator(made).shape == (3,)


@pytest.mark.parametrize(
    ("output", "low", "shown"), [("sigmoid", 0, 0.3), ("tanh", -1, 0.65), ("book", -1, 0.3)]
)
def test_what_the_generator_makes_lies_where_the_real_pictures_do_but_for_the_books(
    output, low, shown
):
    found = model(1, 8, 8, output=output)
    made = found.generator(50 * found.sample_latent(200))
    assert made.min() >= low and made.max() <= 1 and (made.min() < 0) == (low < 0)
    pictures = torch.rand(4, 1, 8, 8)
    assert (
        found.normalize_images(pictures).min() < 0
        if output == "tanh"
        else torch.equal(found.normalize_images(pictures), pictures)
    )
    assert torch.allclose(found.to_images(found.normalize_images(pictures)), pictures, atol=1e-6)
    assert found.to_images(torch.tensor(0.3)).item() == pytest.approx(shown)


def test_a_spectral_norm_bounds_every_layer(tmp_path):
    trainer = fit(
        tmp_path, "model.spectral_norm=true", "engine.max_steps=40", "optimizer.lr=0.01"
    ).trainer
    trainer.fit()
    layers = [
        part
        for part in trainer.objective.model.discriminator.modules()
        if hasattr(part, "parametrizations")
    ]
    assert len(layers) == 3
    for layer in layers:
        own = layer.parametrizations.weight.original.detach().flatten(1)
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) <= 1.05
        assert torch.linalg.matrix_norm(own, 2) != pytest.approx(1.0, abs=1e-3)


def test_samples_are_made_by_the_averaged_generator(tmp_path):
    trainer = fit(tmp_path, "engine.ema=0.9", "engine.max_steps=5").trainer
    trainer.fit()
    (kept,) = generation.generate_artifacts(trainer, "samples", 4, count=3)
    own: DCGAN = trainer.objective.model.eval()
    torch.manual_seed(4)
    points = own.sample_latent(3)
    raw = own.to_images(own.generator(points))
    with torch.no_grad():
        for weight, average in zip(
            own.generator.parameters(),
            trainer.optimization.ema_parameters["generator"],
            strict=True,
        ):
            weight.copy_(average)
    assert torch.allclose(kept.pixels, own.to_images(own.generator(points)), atol=1e-6)
    assert not torch.allclose(kept.pixels, raw, atol=1e-4)


def test_the_followed_points_are_the_same_every_time(tmp_path):
    trainer = fit(tmp_path).trainer
    first, second = (
        next(generation.generate_artifacts(trainer, "followed", seed)).pixels for seed in (1, 2)
    )
    assert len(first) == 36 and torch.equal(first, second)
    first, second = (
        next(generation.generate_artifacts(trainer, "samples", seed)).pixels for seed in (1, 2)
    )
    assert not torch.equal(first, second)


def test_nearest_finds_a_copy():
    pictures = torch.rand(70, 1, 8, 8)
    found, far = find_nearest_images(pictures[[3, 50]], pictures.split(32))
    assert torch.equal(found, pictures[[3, 50]]) and far.tolist() == [0, 0]
    moved = pictures[[3]] + 0.01
    found, far = find_nearest_images(moved, pictures.split(32))
    assert torch.equal(found, pictures[[3]]) and far.item() == pytest.approx(0.01, rel=1e-3)


def test_the_way_between_two_points_is_on_the_sphere():
    begin, end = (F.normalize(torch.randn(5, 64)) * 8 for _ in range(2))
    assert torch.allclose(spherical_interpolation(begin, end, 0), begin, atol=1e-4)
    assert torch.allclose(spherical_interpolation(begin, end, 1), end, atol=1e-4)
    assert torch.allclose(
        spherical_interpolation(begin, end, 0.3).norm(dim=1), torch.full((5,), 8.0), atol=1e-3
    )


def test_diversity_is_a_share_of_that_of_the_real_pictures():
    real = torch.rand(64, 1, 8, 8)
    assert mean_pixel_std(real / 2 + 0.1) / mean_pixel_std(real) == pytest.approx(0.5, rel=1e-4)
    assert mean_pixel_std(real[:1].expand(64, -1, -1, -1)) / mean_pixel_std(real) < 1e-6


def gaussian(middle, spreads, turn, rows=400):
    """Rows whose mean and covariance are exactly these: spreads along the columns of `turn`."""
    rows = torch.randn(rows, len(spreads), dtype=torch.double)
    rows -= rows.mean(0)
    white = rows @ torch.linalg.inv(torch.linalg.cholesky(rows.T @ rows / len(rows))).T
    return white * spreads @ turn.T + middle


def test_frechet_distance_of_known_gaussians():
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.double))[0]
    one, other = (
        torch.tensor([1.0, 2.0, 0.5, 0.0]).double(),
        torch.tensor([3.0, 1.0, 0.5, 1.0]).double(),
    )
    middle = torch.tensor([1.0, 0.0, -1.0, 2.0]).double()
    first, second = gaussian(0 * middle, one, turn), gaussian(middle, other, turn)
    wanted = middle.square().sum() + (one - other).square().sum()  # they share their axes
    assert frechet_distance.gaussian_distance(first, second) == pytest.approx(wanted.item())
    assert frechet_distance.gaussian_distance(first, first) == pytest.approx(0, abs=1e-6)
    turned = gaussian(middle, other, torch.eye(4).double())
    from scipy.linalg import sqrtm

    covariances = [each.T.cov(correction=0).numpy() for each in (first, turned)]
    mixed = sqrtm(covariances[0] @ covariances[1]).real.trace()
    wanted = middle.square().sum() + sum(c.trace() for c in covariances) - 2 * mixed
    assert frechet_distance.gaussian_distance(first, turned) == pytest.approx(
        wanted.item(), rel=1e-6
    )


def test_rows_are_drawn_evenly_and_once():
    batches = torch.arange(1000.0)[:, None].split(30)
    found = torch.stack([frechet_distance.sample_rows(batches, 100)[:, 0] for _ in range(40)])
    assert all(len(set(each.tolist())) == 100 for each in found)
    assert found.mean().item() == pytest.approx(500, abs=30) and (found[0].diff() < 0).any()
    assert sorted(frechet_distance.sample_rows(batches, 5000)[:, 0].tolist()) == list(range(1000))


def test_the_floor_is_reached_by_the_real_pictures_and_not_by_noise():
    real = torch.rand(600, 1, 4, 4) * torch.rand(16).reshape(1, 4, 4)
    space = lambda: frechet_distance.fit_pca_features([real], 600, 8)  # noqa: E731
    judge = FrechetMetric("x", "", 400, space)
    honest = judge(lambda n: real[torch.randint(600, (n,))], real.split(64))
    noise = judge(lambda n: torch.rand(n, 1, 4, 4), real.split(64))
    assert set(honest) == {"x", "x_floor"} and honest["x"].n == 200
    assert honest["x"].value < 2 * honest["x_floor"].value < noise["x"].value / 10
    assert FrechetMetric("x", "", 400, space)(lambda n: real[:n], [real[:3]]) == {}


def test_an_earlier_run_can_be_the_judge(tmp_path, capsys):
    assert (
        main(["task=digits", "model=convnet", "preset=smoke", f"output={tmp_path / 'judge'}"]) == 0
    )
    (run,) = (tmp_path / "judge").glob("digits/*/*")
    own = ("preset=smoke", f"objective.judge.features={run}", f"output={tmp_path / 'out'}")
    assert main([*WORDS, *own]) == 0
    (result,) = (tmp_path / "out").rglob("results.jsonl")
    found = json.loads(result.read_text())
    assert {"frechet_run", "frechet_run_floor"} <= set(found["scores"]) and "is no FID" in found[
        "note"
    ]
    capsys.readouterr()
    assert main([*WORDS, "objective.judge.features=squeezenet"]) == 2
    assert "did you mean squeezenet1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["task=digits", "objective=adversarial"],
            "objective=adversarial is not made for model=dense; there are: dcgan",
        ),
        (
            ["task=digits", "model=dcgan"],
            "model=dcgan predicts no target: it goes with objective=adversarial",
        ),
        (
            ["task=wine", "objective=adversarial", "model=dcgan"],
            "one image input; the data give features (number)",
        ),
        (
            [*WORDS, "objective.loss=hinge", "objective.label_noise=0.1"],
            "objective.loss=hinge has no labels",
        ),
        (["task=digits", "callback=[collapse]"], "monitor=train/diversity is not measured"),
    ],
)
def test_what_makes_no_sense_is_refused(words, said, tmp_path, capsys):
    assert main([*words, "preset=smoke", f"output={tmp_path}"]) == 2
    assert said in capsys.readouterr().err


def test_an_objective_of_its_own_parts(tmp_path):
    """The class needs no config: a model, a contest and images are enough, and without a judge nothing is judged."""
    table = Table({"image": ImageColumn(torch.randint(0, 256, (40, 3, 12, 12), dtype=torch.uint8))})
    objective = GANObjective(
        model(3, 12, 12, generator=[4, 4], discriminator=[4]),
        GANLoss("standard", critic_steps=2),
        table,
    )
    steps = list(objective.steps(next(table.batches(8))))
    assert [step.group for step in steps] == ["discriminator", "discriminator", "generator"]
    assert objective.split_scores(table.batches(8)) == {} and set(objective.rates().values()) == {
        1.0
    }
