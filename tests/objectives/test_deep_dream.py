"""DeepDream: the engine's ascent is the plain one, octaves go on from one another, and a network is only looked at."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from laboratory import node
from PIL import Image
from torch import nn

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.dataset import PreparedData
from dlrun.core.errors import UserError
from dlrun.core.types import EpochRecord, Field, Result, Spec
from dlrun.data.images.single_image import content_style, photograph
from dlrun.data.loading.table import EmptyBatches
from dlrun.evaluation.protocols.octaves import octaves
from dlrun.models.pretrained.backbones import Backbone
from dlrun.models.pretrained.feature_extractor import FeatureExtractor
from dlrun.models.pretrained.feature_extractor import layers as layers_of
from dlrun.objectives.deep_dream import DeepDreamObjective, activation_energy
from dlrun.objectives.image_optimization import resize_images
from dlrun.training.callbacks import limit
from dlrun.training.optimization import Optimization
from dlrun.training.optimizers import MeanNormalizedGradientDescent
from dlrun.training.trainer import Trainer

SQUEEZENET = Path(os.environ.get("DLRUN_DATA", "none"), "pretrained")
real = pytest.mark.skipif(
    not list(SQUEEZENET.glob("squeezenet1_1*.pth")), reason="needs the weights of squeezenet1_1"
)
ROLES = {"dream": {"1": 1.0, "3": 0.5}}


def tiny(roles=ROLES):
    """A random network of five layers, and the last of them, which no role names."""
    torch.manual_seed(3)
    parts = [
        nn.Conv2d(3, 6, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(inplace=True),
    ]
    return FeatureExtractor(
        Backbone("tiny", nn.Sequential(*parts), 3, (24, 24), (0.5,) * 3, (0.25,) * 3), roles, ""
    )


def photo(height=24, width=30):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def painter(objective, folder, ticks, **settings):
    """The engine over a dream."""
    settings = {"epochs": 2, "batch_size": 1, "device": "cpu", **settings}
    engine = build_part(node("engine", "default", **settings))
    make = lambda pixels: build_part(node("optimizer", "normalized"), pixels)  # noqa: E731
    learner = Optimization(objective.groups, make, engine, None, torch.device("cpu"))
    return Trainer(
        objective, PreparedData(Spec({}), EmptyBatches(ticks)), engine, learner, {}, folder
    )


def test_the_engine_climbs_like_a_plain_loop_bit_for_bit(tmp_path):
    model, start = tiny(), photo()
    trainer = painter(DeepDreamObjective(model, start, (24, 30), ticks=5, edge=2), tmp_path, 5)
    trainer.fit()
    plain, seen = start.clone().requires_grad_(), []
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    first, relu, pool, second, _ = model.blocks[1:]
    for _ in range(10):
        one = relu(first((plain - mean) / std))
        two = second(pool(one))
        squares = [
            w * a[:, :, 2:-2, 2:-2].square().sum() / a.numel() for w, a in ((1.0, one), (0.5, two))
        ]
        excited = torch.stack(squares).sum()
        (slope,) = torch.autograd.grad(-excited, plain)
        with torch.no_grad():
            plain -= 0.01 * slope / slope.abs().mean().clamp(min=1e-7)
        seen.append(float(excited.detach()))
    assert torch.equal(trainer.objective.pictures, plain)
    rows = [row.values for row in trainer.history]
    assert [row["excitement"] for row in rows] == pytest.approx(
        [np.mean(seen[:5]), np.mean(seen[5:])]
    )
    assert (
        rows[1]["excitement"] > rows[0]["excitement"] and rows[0]["loss"] == -rows[0]["excitement"]
    )


def test_the_network_is_only_looked_at(tmp_path):
    model = tiny()
    before = [value.clone() for part in model.blocks for value in part.state_dict().values()]
    trainer = painter(DeepDreamObjective(model, photo(), (24, 30), ticks=3), tmp_path, 3)
    trainer.fit()
    after = [value for part in model.blocks for value in part.state_dict().values()]
    assert len(before) == 4 and all(map(torch.equal, before, after))
    assert list(trainer.objective.state_dict()) == ["pictures"] and not list(model.parameters())
    assert list(checkpoint.load(tmp_path / "last.pt")["objective"]) == ["pictures"]
    model.train()
    assert not any(part.training for held in model.blocks for part in held.modules())
    model.to(torch.float64)
    assert {value.dtype for part in model.blocks for value in part.parameters()} == {torch.float64}


def test_no_layer_is_run_behind_the_last_one_that_is_heard():
    model, run = tiny(), []
    for number, part in enumerate(model.blocks[1:]):
        part.register_forward_hook(lambda *_, number=number: run.append(number))
    heard = model(photo(), ["1"])
    assert run == [0, 1] and list(heard) == ["1"] and float(heard["1"].min()) == 0
    raw = tiny({"dream": {"0": 1.0, "1": 1.0}})(photo(), ["0", "1"])[
        "0"
    ]  # in which the next layer works
    assert float(raw.detach().min()) < 0 and torch.equal(raw.relu(), heard["1"])


def test_what_does_not_count_is_not_asked_for_and_a_wrong_name_is_told():
    assert tiny({"dream": {"1": 1.0, "3": 0}}).layers("dream") == {"1": 1.0}
    with pytest.raises(
        UserError, match=r"model.layers.style names no layer.*tiny has: 0, 1, 2, 3, 4"
    ):
        tiny().layers("style")
    with pytest.raises(UserError, match=r"tiny has no layer '9'.*There are: 0, 1, 2, 3, 4"):
        tiny({"dream": {"9": 1.0}})
    with pytest.raises(UserError, match="tiny cannot read images of 2 × 30"):
        tiny()(photo(2), ["1"])


def test_layers_of_a_real_architecture_are_named_at_any_depth():
    spec = Spec({"image": Field("image", (3, 40, 40))})
    arguments = {"architecture": "resnet18", "weights": "DEFAULT", "source": "sample"}
    wanted = {
        "layer2": 128,
        "layer2.0.conv1": 128,
        "relu": 64,
    }  # a sequence of blocks, inside of one, a block
    model = layers_of(
        spec, **arguments, layers={"dream": dict.fromkeys(wanted, 1.0), "style": None}
    )
    assert "SYNTHETIC" in model.note
    assert {
        name: answer.shape[1] for name, answer in model(photo(40, 40), wanted).items()
    } == wanted


def test_an_edge_is_left_out_as_far_as_something_is_left():
    answer = torch.arange(49.0).reshape(1, 1, 7, 7)
    assert float(activation_energy(answer, 2)) == float(
        answer[:, :, 2:-2, 2:-2].square().sum() / 49
    )
    assert float(activation_energy(answer, 100)) == pytest.approx(24**2 / 49)
    assert float(activation_energy(answer, 0)) == pytest.approx(float(answer.square().mean()))


def test_jitter_looks_at_the_picture_from_elsewhere_and_only_in_training():
    objective = DeepDreamObjective(tiny(), photo(), (24, 30), ticks=1, edge=2, jitter=8)
    torch.manual_seed(0)
    moved = {round(float(next(objective.steps({})).loss.detach()), 6) for _ in range(4)}
    still = {float(next(objective.eval().steps({})).loss.detach()) for _ in range(4)}
    assert len(moved) > 1 and len(still) == 1


def test_a_larger_octave_begins_with_the_dream_and_the_detail_that_was_lost():
    small = resize_images(photo(), (17, 21))
    objective = DeepDreamObjective(tiny(), photo(), (24, 30), ticks=1)
    objective.begin_with({"objective": {"pictures": small}})
    assert torch.allclose(objective.pictures, photo(), atol=1e-6)  # nothing dreamt, nothing lost
    dreamt = small + 0.1
    objective.begin_with({"objective": {"pictures": dreamt}})
    assert torch.allclose(objective.pictures, photo() + 0.1, atol=1e-6)


def test_the_plan_is_a_function_of_what_is_done():
    plan, done = octaves(count=3), []
    while (job := plan(done)) is not None:
        assert plan(list(done)) == job
        done.append(Result(job, "train", {}))
    told = [(result.job.name, result.job.patch, result.job.start) for result in done]
    assert told == [
        ("octave-1", {"objective.octave": 2}, ""),
        ("octave-2", {"objective.octave": 1}, "octave-1"),
        ("octave-3", {"objective.octave": 0}, "octave-2"),
    ]


def test_a_normalized_step_has_one_size_but_for_slopes_of_nothing():
    for scale, moved in ((1e6, 0.01), (1e-3, 0.01), (1e-9, 1e-4)):
        pixels = nn.Parameter(torch.zeros(50))
        pixels.grad = scale * torch.linspace(-1, 1, 50) / torch.linspace(-1, 1, 50).abs().mean()
        MeanNormalizedGradientDescent([pixels], lr=0.01, eps=1e-7).step()
        assert float(pixels.detach().abs().mean()) == pytest.approx(moved, rel=1e-4)
        assert bool((pixels.detach() * pixels.grad <= 0).all())


def test_a_limit_is_a_function_of_the_history(tmp_path):
    trainer = painter(
        DeepDreamObjective(tiny(), photo(), (24, 30), ticks=1), tmp_path, 1, epochs=50
    )
    trainer.callbacks = [limit(monitor="train/excitement", most=5.0)]
    trainer.fit()
    seen = [row.values["excitement"] for row in trainer.history]
    assert max(seen[:-1]) <= 5 < seen[-1] and "train/excitement has gone past 5" in trainer.stop
    trainer.stop, trainer.history[:] = "", [EpochRecord(1, "train", {"excitement": 4.0})]
    trainer.callbacks[0](trainer)
    assert trainer.stop == ""


# --- photographs --------------------------------------------------------------------------------------------------


def test_a_photograph_keeps_its_shape_and_is_turned_as_it_is_meant(tmp_path):
    pixels = np.zeros((40, 20, 3), np.uint8)
    pixels[:20] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    plain = photograph(source="official", image=str(tmp_path / "plain.png"), size=20).dev["image"]
    turned = photograph(source="official", image=str(tmp_path / "turned.png"), size=20).dev["image"]
    assert plain.shape == (1, 3, 20, 10) and turned.shape == (1, 3, 20, 40)
    assert (
        plain[0, :, :9].min() == 255
        and turned[0, :, :, 21:].min() == 255
        and turned[0, :, :, :18].max() == 0
    )
    assert photograph(source="official", image=str(tmp_path / "plain.png"), size=None).dev[
        "image"
    ].shape[2:] == (
        40,
        20,
    )


def test_what_gives_no_picture_is_refused_with_its_name(tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    Image.new("RGB", (9000, 2)).save(tmp_path / "thin.png")
    said = {
        "bad.jpg": "no image in a format",
        "none.jpg": "No such file",
        "": "a folder",
        "thin.png": "900,000 pixels",
    }
    for name, reason in said.items():
        with pytest.raises(UserError, match=f"image={tmp_path}.*{reason}"):
            photograph(source="official", image=str(tmp_path / name), size=200)
    with pytest.raises(UserError, match="style=.*none.jpg: cannot be opened"):
        content_style(
            source="official",
            content=None,
            style=[str(tmp_path / "none.jpg")],
            size=20,
            style_size=None,
        )


def test_with_nothing_said_there_are_photographs_offline_and_a_sample_is_small():
    found = content_style(source="official", content=None, style=None, size=40, style_size=30)
    assert {name: column.shape for name, column in found.dev.items()} == {
        "content": (1, 3, 40, 60), "style": (1, 3, 30, 45)
    }  # fmt: skip
    assert found.note == "" and len(found) == 1 and found.targets == {}
    small = photograph(source="sample", image=None, size=400)
    assert small.dev["image"].shape[2] == 96 and "SYNTHETIC" in small.note


# --- from words to an image --------------------------------------------------------------------------------------

SMOKE = ["preset=smoke", "callback=[samples]", "objective.ticks=3"]


def test_a_picture_named_from_here_is_found_from_elsewhere(tmp_path, monkeypatch):
    Image.new("RGB", (60, 50), "teal").save(tmp_path / "own.png")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["task=deepdream", "image=own.png", "data.size=50", "output=out", *SMOKE]) == 0
    (config,) = tmp_path.rglob("config.yaml")
    said = yaml.safe_load(config.read_text())
    assert said["image"] == said["data"]["image"] == str(tmp_path / "own.png")
    monkeypatch.chdir(tmp_path / "other")
    assert main(["generate", str(config.parent)]) == 0 and main(["rerun", str(config.parent)]) == 0
    with Image.open(config.parent / "generated" / "picture-1.png") as made:
        assert made.size == (60, 50) and "squeezenet1_1" in made.text["Description"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=deepdream", "image=nothing.jpg"], "image=nothing.jpg: cannot be opened"),
        (["task=deepdream", "data=wine"], "no setting 'data.image' for wine"),
        (["task=digits", "image=x.jpg"], "no setting 'image'"),
        (["task=deepdream", "repeat=2"], "this protocol makes several"),
        (["task=deepdream", "model=dense"], "objective=dream is not made for model=dense"),
        (
            ["task=deepdream", "image=[a.jpg,b.jpg]"],
            "data.image=['a.jpg', 'b.jpg']: it must be text or null",
        ),
        (["task=deepdream", "data.size=4"], "cannot read images of 2 × 3"),
        (["task=deepdream", "model=layers"], "'model.layers.dream={LAYER: 1}'"),
    ],
)
def test_words_that_make_no_dream_are_refused(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "source=sample", "output=out"]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.rglob("config.yaml"))


def test_cut_in_the_second_octave_it_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    assert main(["task=deepdream", f"output={tmp_path}/whole", *SMOKE]) == 0
    taken, pause = {"steps": 0}, Trainer._should_stop

    def cut(trainer, learn):
        taken["steps"] += learn
        if taken["steps"] == 10:  # of 6 an octave
            trainer.interrupted = 15
        return pause(trainer, learn)

    monkeypatch.setattr(Trainer, "_should_stop", cut)
    assert main(["task=deepdream", f"output={tmp_path}/cut", *SMOKE]) == 143
    monkeypatch.setattr(Trainer, "_should_stop", pause)
    (whole,), (cut_off,) = (
        [p.parent for p in (tmp_path / n).rglob("config.yaml")] for n in ("whole", "cut")
    )
    assert len((cut_off / "results.jsonl").read_text().splitlines()) == 1
    assert main(["resume", str(cut_off)]) == 0
    assert (whole / "history.jsonl").read_text() == (cut_off / "history.jsonl").read_text()
    for octave in ("octave-1", "octave-2", "octave-3"):
        ours, theirs = (
            checkpoint.load(run / "checkpoints" / octave / "last.pt")["objective"]["pictures"]
            for run in (whole, cut_off)
        )
        assert torch.equal(ours, theirs)
    sizes = [
        checkpoint.load(whole / "checkpoints" / f"octave-{n}" / "last.pt")["objective"][
            "pictures"
        ].shape[2]
        for n in (1, 2, 3)
    ]
    assert sizes == [48, 68, 96]


@real
@pytest.mark.slow
def test_a_real_network_dreams_more_in_every_epoch_of_every_octave(tmp_path):
    assert (
        main(["task=deepdream", "data.size=200", "objective.jitter=0", f"output={tmp_path}"]) == 0
    )
    (history,) = tmp_path.rglob("history.jsonl")
    by_octave: dict[str, list[float]] = {}
    for line in map(json.loads, history.read_text().splitlines()):
        by_octave.setdefault(line["job"], []).append(line["values"]["excitement"])
    assert len(by_octave) == 3 and all(
        len(seen) == 4 and seen == sorted(seen) for seen in by_octave.values()
    )
    assert all(seen[-1] > 3 * seen[0] for seen in by_octave.values())
    assert not any(math.isnan(value) for seen in by_octave.values() for value in seen)
