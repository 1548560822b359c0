"""Laws of autoencoders: the best linear one is the principal components, noise is undone, clusters are k-means'."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from laboratory import node
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.device import derive_seed
from dlrun.core.errors import UserError
from dlrun.core.objective import ObjectiveContext
from dlrun.core.types import Field, Spec
from dlrun.data.datasets.sklearn_datasets import breast_cancer, diabetes, digits, wine
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.objectives.corruption import Noise
from dlrun.objectives.reconstruction_baselines import fit_pca
from dlrun.training.optimization import Optimization
from dlrun.training.trainer import Trainer

CONVOLUTIONS = {
    "filters": [4, 8],
    "strides": [2, 1],
    "dense": [],
    "decoder_dense": [],
    "decoder_filters": [4],
}


def objective(raw=None, *, rows=(48, 80), model=None, **settings):
    """A small autoencoder of the first rows; its starting weights are always the same."""
    raw = raw or wine(test=0.2)
    train, end = rows
    data = prepare(raw, np.arange(train), np.arange(train, end) if end > train else None)
    torch.manual_seed(3)
    net = build_part(
        node("model", "autoencoder", **(model or {"dense": [8], "decoder_dense": [8]})), data.spec
    )
    return build_part(
        node("objective", "autoencoder", **settings), ObjectiveContext(net, data, raw)
    )


def stepped(ours, batch, seed=5):
    torch.manual_seed(seed)
    (step,) = ours.steps(batch)
    return step


def batch_of(ours, size=16):
    return next(ours.data.train.batches(size))


def made(ours, kind, **arguments):
    with torch.no_grad():
        return list(ours.generators[kind](**arguments))


def test_principal_components_are_those_of_scikit_learn():
    rows = (
        torch.randn(90, 3, 4, generator=torch.Generator().manual_seed(1)).double()
        @ torch.randn(4, 4).double()
        + 7
    )
    found = fit_pca(rows.split(32), 5)
    theirs = PCA(5).fit(rows.flatten(1).numpy())
    again = theirs.inverse_transform(theirs.transform(rows.flatten(1).numpy()))
    assert np.allclose(found(rows).flatten(1).numpy(), again)
    assert torch.allclose(fit_pca(rows.split(32), 99)(rows), rows)


def test_the_best_linear_autoencoder_is_the_principal_components(tmp_path):
    words = [
        "task=breast_cancer",
        "objective=autoencoder",
        "model=autoencoder",
        "model.dense=[]",
        "model.latent=3",
    ]
    words += [
        "model.decoder_dense=[]",
        "model.activation=none",
        "protocol=whole",
        "optimizer=adam",
        "optimizer.lr=0.01",
    ]
    assert (
        main(
            [*words, "scheduler=cosine", "engine.epochs=150", "callback=none", f"output={tmp_path}"]
        )
        == 0
    )
    (line,) = [
        line for file in tmp_path.rglob("results.jsonl") for line in file.read_text().splitlines()
    ]
    scores = {name: score["value"] for name, score in json.loads(line)["scores"].items()}
    baseline = json.loads(line)["baseline"]
    assert scores["mse_pca"] <= scores["mse_undamaged"] < 1.01 * scores["mse_pca"]
    assert scores["mse"] == pytest.approx(scores["mse_undamaged"], rel=1e-5)
    assert scores["mse_pca"] < 0.4 and baseline["loss"]["value"] == pytest.approx(
        1, abs=1e-4
    )  # standardized columns


@pytest.mark.parametrize("loss", ["auto", "mse", "bce"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1])
def test_the_loss_is_the_formula_and_the_sum_of_its_parts(loss, sparsity):
    ours = objective(digits(test=0.2), loss=loss, sparsity=sparsity, noise="gaussian", amount=0.5)
    batch = batch_of(ours)
    step, x = stepped(ours, batch), batch["image"]
    torch.manual_seed(5)
    code = ours.model.encode((x + 0.5 * torch.randn_like(x)).clamp(0, 1))[0]
    answer = ours.model.decode(code).sigmoid()
    wanted = F.mse_loss(answer, x) if loss == "mse" else F.binary_cross_entropy(answer, x)
    assert torch.allclose(step.loss, wanted + sparsity * code.abs().sum(1).mean(), rtol=1e-5)
    assert torch.allclose(step.measured["mse"], F.mse_loss(answer, x))
    assert set(step.parts) == ({"reconstruction", "sparsity"} if sparsity else set())
    assert not step.parts or torch.equal(step.loss, sum(step.parts.values()))
    assert set(ours.goals) == {"loss", "mse", *(f"loss_{name}" for name in step.parts)}


def test_the_engine_takes_the_hand_written_step(tmp_path):
    ours, theirs = (objective(noise="mask", amount=0.25) for _ in range(2))
    optimizer = lambda weights: build_part(node("optimizer", "adam"), weights)  # noqa: E731
    settings = build_part(node("engine", "default", epochs=2, batch_size=16, device="cpu"))
    learner = Optimization(ours.groups, optimizer, settings, None, torch.device("cpu"))
    trainer = Trainer(ours, replace(ours.data, val=None), settings, learner, {}, tmp_path)
    trainer.seed = 7
    trainer.fit()
    by_hand = optimizer(list(theirs.model.parameters()))
    for epoch in range(2):
        torch.manual_seed(derive_seed(7, epoch, 0))
        for batch in theirs.data.train.batches(16, seed=7, epoch=epoch):
            x = batch["features"]
            kept = (torch.rand_like(x) >= 0.25).float()
            by_hand.zero_grad()
            F.mse_loss(theirs.model.decode(theirs.model.encode(x * kept)[0]), x).backward()
            by_hand.step()
    pairs = zip(ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True)
    assert all(torch.equal(mine, hand) for mine, hand in pairs)


def test_the_bar_is_the_mean_training_row_and_poison_does_not_reach_it():
    raw = wine(test=0.2)
    dev = {name: column.copy() for name, column in raw.dev.items()}
    dev["features"][48:] = 1e6
    found = []
    for each in (raw, replace(raw, dev=dev)):
        ours = objective(each)
        bar = ours.baseline_objective()
        (step,) = bar.steps(batch_of(ours, 48))
        assert (
            torch.allclose(bar.mean, torch.zeros(13), atol=1e-6)
            and step.loss == step.measured["mse"]
        )
        found.append((bar.mean, step.loss, ours.fit_components().directions))
    assert all(torch.equal(clean, poisoned) for clean, poisoned in zip(*found, strict=True))


def test_noise_is_what_it_is_called():
    torch.manual_seed(0)
    rows, pictures = torch.randn(4000, 5), torch.rand(200, 3, 9, 7) / 2 + 0.5
    assert Noise("none", 0.5)(rows) is rows
    assert float((Noise("gaussian", 0.5)(rows) - rows).std()) == pytest.approx(0.5, rel=0.03)
    noisy = Noise("gaussian", 0.5)(pictures)
    assert noisy.min() == 0 and noisy.max() == 1
    masked = Noise("mask", 0.3)(rows)
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(masked[masked != 0], rows[masked != 0])
    patched = Noise("mask", 0.4, 3)(pictures)
    gone = (patched == 0).float()
    assert torch.equal(gone.amin(1), gone.amax(1))  # all channels at once
    cells = gone[:, 0, :, :6].reshape(200, 3, 3, 2, 3)
    assert torch.equal(cells.amin((2, 4)), cells.amax((2, 4))) and float(
        cells.mean()
    ) == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize("model", [None, CONVOLUTIONS])
def test_pictures_come_back_with_their_damage_shown(model):
    ours = objective(digits(test=0.2), model=model, noise="mask", amount=0.9, patch=2)
    (shown,) = made(ours, "reconstructions", count=6)
    assert shown.pixels.shape == (18, 1, 8, 8) and "between: what was encoded" in shown.description
    assert shown.pixels[6:12].sum() < 0.5 * shown.pixels[:6].sum()
    (whole,) = made(objective(digits(test=0.2), model=model), "reconstructions", count=6)
    assert whole.pixels.shape == (12, 1, 8, 8) and torch.equal(whole.pixels[:6], shown.pixels[:6])


def test_clusters_are_k_means_of_the_codes_with_their_quality():
    ours = objective(rows=(60, 140))
    (points,) = made(ours, "clusters", k=3)
    codes = ours.model.encode(next(ours.data.val.batches(80))["features"])[0].detach()
    theirs = KMeans(3, n_init=10, random_state=0).fit_predict(codes.double().numpy())
    assert adjusted_rand_score(theirs, points.groups.numpy()) > 0.95
    assert torch.equal(points.positions, codes) and "silhouette 0." in points.description
    labels = wine(test=0.2).dev["grower"][60:140]
    assert f"labels {adjusted_rand_score(labels, points.groups.numpy()):.3f}" in points.description
    (usual,) = made(ours, "clusters")
    assert usual.names == ("cluster 1", "cluster 2", "cluster 3")


def test_codes_are_colored_by_labels_or_by_thirds_of_a_number():
    (points,) = made(objective(breast_cancer(test=0.2)), "codes")
    assert points.names == ("malignant", "benign") and set(points.groups.tolist()) == {0, 1}
    ours = objective(diabetes(test=0.2), rows=(48, 138))
    (points,) = made(ours, "codes")
    values = diabetes(test=0.2).dev["progression"][48:138]
    edges = np.quantile(values.astype(np.float32), [1 / 3, 2 / 3])
    assert points.groups.tolist() == [sum(value > edge for edge in edges) for value in values]
    assert (
        points.names[0].startswith("progression up to")
        and "thirds of 'progression'" in points.description
    )
    (points,) = made(ours, "clusters")
    assert len(points.names) == 8 and "Rand" not in points.description


@pytest.mark.parametrize("k", [1, 32, 40])
def test_clusters_that_cannot_be_are_refused(k):
    with pytest.raises(UserError, match=f"k={k}: 32 rows can be put into 2 to 31 clusters"):
        made(objective(), "clusters", k=k)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss": "bce"}, "loss=bce wants values in"),
        ({"noise": "mask", "amount": 1.0}, "amount=1: with noise=mask it is a share below 1"),
        ({"noise": "mask", "patch": 2}, "patch=2: patches are masked in images"),
        ({"model": CONVOLUTIONS}, "convolutions read images, and these are numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, says):
    with pytest.raises(UserError, match=says):
        objective(**settings)


def test_all_numbers_are_reproduced_and_other_inputs_are_named():
    inputs = {
        "a": Field("number", (2,)),
        "b": Field("number", (1,)),
        "town": Field("category", (), 3),
    }
    model = build_part(node("model", "autoencoder"), Spec(inputs))
    batch = {"a": torch.rand(4, 2), "b": torch.rand(4, 1), "town": torch.zeros(4, dtype=torch.long)}
    assert torch.equal(model.read(batch), torch.cat([batch["a"], batch["b"]], 1))
    assert (
        model(batch)["a+b"].shape == (4, 3) and model.note == "inputs that are not reproduced: town"
    )


def test_a_table_of_ones_own(tmp_path):
    lines = [f"{i % 40},{'ab'[i % 2]},{i % 40 * 2 + i % 3},{i % 7}" for i in range(90)]
    (tmp_path / "own.csv").write_text("\n".join(["size,town,price,rooms", *lines]))
    words = [
        "task=csv",
        f"data.path={tmp_path}/own.csv",
        "data.target=town",
        "objective=autoencoder",
    ]
    assert (
        main(
            [*words, "model=autoencoder", "engine.epochs=2", "loss=auto", f"output={tmp_path}/out"]
        )
        == 0
    )
    (folder,) = (path.parent for path in (tmp_path / "out").rglob("results.jsonl"))
    assert sorted(file.name for file in (folder / "samples" / "fit").iterdir())[0].startswith(
        "codes-epoch"
    )
    assert main(["generate", str(folder), "kind=clusters", "k=2"]) == 0
    assert main(["generate", str(folder), "kind=interpolation"]) == 2


def test_a_classifier_stands_on_an_encoder_that_has_filled_in_masked_pixels(tmp_path, capsys):
    words = [
        "task=digits",
        "engine.epochs=1",
        "objective=autoencoder",
        "objective.noise=mask",
        "objective.patch=2",
    ]
    small = [f"model.{key}={value}".replace(" ", "") for key, value in CONVOLUTIONS.items()]
    assert main([*words, "model=autoencoder_conv", *small, f"output={tmp_path}/a"]) == 0
    (base,) = (path.parent for path in (tmp_path / "a").rglob("results.jsonl"))
    stands = [
        "task=digits",
        "model=pretrained",
        f"model.weights={base}",
        "model.dense=[]",
        "engine.epochs=1",
    ]
    assert main([*stands, f"output={tmp_path}/b"]) == 0
    (state,) = (checkpoint.load(file)["objective"] for file in (tmp_path / "b").rglob("best.pt"))
    theirs = checkpoint.load(next(base.rglob("best.pt")))["objective"]
    kernels = [[value for name, value in of.items() if "towers" in name] for of in (state, theirs)]
    assert len(kernels[0]) == 4 and all(
        torch.equal(one, other) for one, other in zip(*kernels, strict=True)
    )
    capsys.readouterr()
    assert main([*stands, "seed=1", f"output={tmp_path}/c"]) == 2  # other rows are held out
    assert "it was trained on" in capsys.readouterr().err
