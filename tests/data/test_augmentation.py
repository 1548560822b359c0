"""Augmentation: each image has its own draw, nothing else is touched, and a run that was cut draws the same."""

from __future__ import annotations

import math
import signal

import pytest
import torch
import torch.nn.functional as F
import yaml
from laboratory import same, weights
from rich.console import Console
from torchvision.transforms.v2 import functional as tv

from dlrun.cli.explain import build_first_fit
from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.config.parts import get_builtin_conf
from dlrun.core import checkpoint
from dlrun.core.errors import TrainingInterrupted, UserError
from dlrun.core.types import Field, Spec
from dlrun.data.augmentation import geometric
from dlrun.data.augmentation.color import color, hue_rotation
from dlrun.data.augmentation.geometric import (
    apply_affine,
    crop,
    flip,
    rotate,
    rotation_matrix,
    shear,
    shift,
    translation_matrix,
    warp,
    zoom,
)
from dlrun.data.augmentation.mixup import cutmix, mixup
from dlrun.data.augmentation.pipeline import build_augmentation
from dlrun.objectives.losses import cross_entropy, focal, mae, mse
from dlrun.objectives.supervised import Supervised

OPTIONS = sorted(
    path for path in (get_builtin_conf() / "augment").glob("*.yaml") if path.stem != "none"
)
STILL = {  # settings under which nothing happens
    "flip": flip(probability=0, axis="horizontal"),
    "rotate": rotate(degrees=0, fill="nearest"),
    "shift": shift(width=0, height=0, fill="nearest"),
    "shear": shear(degrees=0, fill="nearest"),
    "zoom": zoom(amount=0, keep_ratio=False, fill="nearest"),
    "crop": crop(area=1, ratio=1),
    "color": color(brightness=0, contrast=0, saturation=0, hue=0),
}
CLASSES = Field("category", (), 4, ("a", "b", "c", "d"))
KINDS = {
    "category": CLASSES,
    "binary": Field("binary", (1,)),
    "multilabel": Field("multilabel", (3,), 3),
}
TARGETS = {
    "category": torch.tensor([0, 1, 2, 3, 0, 1]),
    "binary": torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]]),
    "multilabel": torch.tensor(
        [[1.0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 0, 0]]
    ),
}
WORDS = [
    "task=digits",
    "model.units=[16]",
    "model.dropout=0.3",
    "engine.epochs=2",
    "engine.batch_size=256",
]
WORDS += ["engine.device=cpu", "callback=keep_best", "augment=[book,color,erase]"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pictures(channels=3, height=24, width=24, count=6):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def spec_of(images=1, **targets):
    inputs = {f"image{place}": Field("image", (3, 24, 24)) for place in range(images)}
    return Spec(inputs, targets or {"y": CLASSES})


def once(step, batch):
    return build_augmentation({"step": step}, spec_of())(
        {"image0": batch, "y": TARGETS["category"][: len(batch)]}
    )["image0"]


def option(path):
    return {name: build_part(node) for name, node in yaml.safe_load(path.read_text()).items()}


def near(first, second, tolerance=2e-6):
    return first.shape == second.shape and (first - second).abs().max() <= tolerance


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
@pytest.mark.parametrize(("channels", "size"), [(1, 12), (3, 24)])
def test_every_option_draws_anew_and_keeps_shape_range_and_the_batch(path, channels, size):
    assert len(OPTIONS) == 12
    spec = Spec(
        {"x": Field("image", (channels, size, size)), "n": Field("image", (channels, size, size))},
        KINDS,
    )
    batch = {"x": pictures(channels, size, size), "n": pictures(channels, size, size), **TARGETS}
    before = {name: column.clone() for name, column in batch.items()}
    augment = build_augmentation(option(path), spec)
    first, second = augment(batch), augment(batch)
    assert all(torch.equal(batch[name], column) for name, column in before.items())
    for new in (first, second):
        assert new["x"].shape == batch["x"].shape and new["x"].dtype == torch.float32
        assert new["x"].min() >= -1e-6 and new["x"].max() <= 1 + 1e-6
    assert not torch.equal(first["x"], second["x"])
    torch.manual_seed(5)
    third = augment(batch)
    torch.manual_seed(5)
    assert all(torch.equal(column, third[name]) for name, column in augment(batch).items())


@pytest.mark.parametrize(
    "name", ["flip", "rotate", "shift", "shear", "zoom", "crop", "color", "erase", "book"]
)
def test_each_picture_and_each_input_has_its_own_draw(name):
    batch = pictures(count=1).repeat(16, 1, 1, 1)
    augment = build_augmentation(
        option(get_builtin_conf() / "augment" / f"{name}.yaml"), spec_of(2)
    )
    new = augment({"image0": batch, "image1": batch, "y": torch.zeros(16, dtype=torch.long)})
    assert len({picture.numpy().tobytes() for picture in new["image0"]}) > (
        1 if name == "flip" else 4
    )
    assert not torch.equal(new["image0"], new["image1"])


@pytest.mark.parametrize("name", STILL)
def test_settings_under_which_nothing_happens(name):
    for batch in (pictures(), pictures(1, 150, 100)):
        assert near(once(STILL[name], batch), batch, 2e-5)


def test_two_flips_are_none_and_one_is_a_mirror():
    for axis, dimension in (("horizontal", 3), ("vertical", 2)):
        sure, batch = flip(probability=1, axis=axis), pictures(3, 24, 17)
        assert near(apply_affine((sure,), "nearest", batch), batch.flip(dimension))
        assert near(apply_affine((sure, sure), "nearest", batch), batch)
        assert near(once(sure, once(sure, batch)), batch, 1e-5)


def test_a_quarter_turn_is_exact():
    batch = pictures()
    quarter = torch.full((len(batch),), math.pi / 2)
    assert near(
        warp(batch, rotation_matrix(batch, quarter), "nearest"), batch.rot90(1, (2, 3)), 1e-5
    )
    wide = pictures(3, 20, 30)  # pixels stay square
    turned_wide = warp(wide, rotation_matrix(wide, quarter), "nearest")[..., 5:25]
    assert near(turned_wide, wide[..., 5:25].rot90(1, (2, 3)), 1e-5)


@pytest.mark.parametrize("fill", ["nearest", "reflect", "black"])
def test_a_shift_by_whole_pixels_and_what_fills_the_gap(fill):
    batch = pictures()
    two, three = torch.full((len(batch),), 2.0), torch.full((len(batch),), 3.0)
    new = warp(batch, translation_matrix(batch, two, three), fill)
    padding = {"nearest": "replicate", "black": "constant"}.get(fill)
    expected = batch[..., :-3, :-2]
    if fill == "reflect":  # about the edge of the image: the outermost pixel comes twice
        expected = torch.cat([expected[..., :3, :].flip(2), expected], 2)
        expected = torch.cat([expected[..., :2].flip(3), expected], 3)
    else:
        expected = F.pad(expected, (2, 0, 3, 0), padding)
    assert near(new, expected, 1e-5)


def test_moves_are_made_in_their_order_by_one_resampling(monkeypatch):
    batch = pictures()
    quarter, two = torch.full((6,), math.pi / 2), torch.full((6,), 2.0)
    turn = geometric.RandomAffine(lambda x: rotation_matrix(x, quarter), "black")
    right = geometric.RandomAffine(lambda x: translation_matrix(x, two, 0 * two), "black")
    calls, sample = [], F.grid_sample
    monkeypatch.setattr(
        geometric.F, "grid_sample", lambda *args, **keys: calls.append(1) or sample(*args, **keys)
    )
    expected = F.pad(batch.rot90(1, (2, 3))[..., :-2], (2, 0))
    assert near(apply_affine((turn, right), "black", batch), expected, 1e-5) and len(calls) == 1
    assert not near(apply_affine((right, turn), "black", batch), expected, 0.1)


def test_draws_fill_the_range_that_was_asked_for():
    many = torch.zeros(4000, 3, 40, 20)
    turns = rotate(degrees=40, fill="nearest").sample_matrix(many)
    angles = torch.atan2(turns[:, 1, 0], turns[:, 0, 0]).rad2deg()
    places = shift(width=0.2, height=0.1, fill="nearest").sample_matrix(many)[:, :2, 2]
    zooms = zoom(amount=0.2, keep_ratio=False, fill="nearest").sample_matrix(many)
    slants = shear(degrees=30, fill="nearest").sample_matrix(many)
    drawn = {
        40.0: angles, 4.0: places, 0.2: torch.stack([zooms[:, 0, 0], zooms[:, 1, 1]]) - 1, 0.5: slants[:, 1, 0],
    }  # fmt: skip
    for most, values in drawn.items():
        assert (
            0.98 * most < values.max() <= most * 1.0001
            and -most * 1.0001 <= values.min() < -0.98 * most
        )
    assert not torch.equal(zooms[:, 0, 0], zooms[:, 1, 1])
    same_ratio = zoom(amount=0.2, keep_ratio=True, fill="nearest").sample_matrix(many)
    assert torch.equal(same_ratio[:, 0, 0], same_ratio[:, 1, 1])
    turned_over = flip(probability=0.3, axis="horizontal").sample_matrix(many)[:, 0, 0]
    assert (
        set(turned_over.tolist()) == {-1.0, 1.0} and 0.26 < (turned_over < 0).float().mean() < 0.34
    )


def test_crops_stay_inside_and_keep_their_area():
    many = torch.zeros(4000, 3, 40, 20)
    found = crop(area=0.4, ratio=4 / 3).sample_matrix(many)
    width, height = found[:, 0, 0], found[:, 1, 1]
    assert max(width.max(), height.max()) <= 1
    for size, centre, side in ((width, found[:, 0, 2], 20), (height, found[:, 1, 2], 40)):
        assert (centre.abs() + size * side / 2 <= side / 2 + 1e-4).all()
    assert ((width * height)[(width < 1) & (height < 1)] >= 0.4 - 1e-6).all() and (
        width * height
    ).min() > 0.3
    assert (width / height).max() <= 4 / 3 + 1e-5 and (height / width).max() <= 4 / 3 + 1e-5


def test_a_shear_is_that_of_keras():
    slant = shear(degrees=11.459, fill="nearest").sample_matrix(pictures())
    for found in slant:
        angle = math.asin(-found[1, 0])
        assert abs(angle) <= 0.2 + 1e-6  # radians
        rows_then_columns = found[[1, 0, 2]][:, [1, 0, 2]]
        wanted = torch.tensor([[1, -math.sin(angle), 0], [0, math.cos(angle), 0], [0, 0, 1]])
        assert near(rows_then_columns, wanted)


def test_colors_are_those_of_torchvision_with_the_same_factors(monkeypatch):
    batch = pictures() * 0.5 + 0.2
    for name, change in (
        ("brightness", tv.adjust_brightness), ("contrast", tv.adjust_contrast), ("saturation", tv.adjust_saturation),
    ):  # fmt: skip
        amounts = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0} | {name: 0.5}
        factors = torch.tensor([0.5, 0.8, 1.0, 1.1, 1.3, 1.5])
        draw = lambda _, amount, factors=factors: factors if amount else torch.ones(6)  # noqa: E731
        monkeypatch.setattr("dlrun.data.augmentation.color.sample_factor", draw)
        expected = torch.stack([change(x, float(f)) for x, f in zip(batch, factors, strict=True)])
        assert near(color(**amounts)(batch), expected, 1e-3), name
    thirds = hue_rotation(torch.tensor([0.0, 2 * math.pi / 3]))
    red, green = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    assert (
        near(thirds[0] @ red, red)
        and near(thirds[1] @ red, green)
        and near(thirds[1].sum(1), torch.ones(3))
    )


def test_grey_pictures_have_no_colors_to_change():
    batch = pictures(1)
    assert near(color(brightness=0, contrast=0, saturation=0.9, hue=0.5)(batch), batch)
    assert not near(color(brightness=0.3, contrast=0, saturation=0, hue=0)(batch), batch, 1e-3)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_all_targets_are_mixed_in_the_shares_of_the_pictures(name):
    batch = {"image0": pictures(), "image1": pictures(), **TARGETS}
    augment = build_augmentation(
        option(get_builtin_conf() / "augment" / f"{name}.yaml"), spec_of(2, **KINDS)
    )
    one_hot = F.one_hot(TARGETS["category"], 4).float()
    shares = set()
    for _ in range(10):
        new = augment(batch)
        own = float(
            new["category"][0, 0]
        )  # the first is of class 0, and mixed with the last, which is not
        for target, before in {**TARGETS, "category": one_hot}.items():
            assert near(new[target], own * before + (1 - own) * before.roll(1, 0))
        assert near(new["category"].sum(1), torch.ones(6)) and torch.equal(
            new["image0"], new["image1"]
        )
        if name == "mixup":
            assert near(
                new["image0"], own * batch["image0"] + (1 - own) * batch["image0"].roll(1, 0)
            )
        shares.add(own)
    assert len(shares) > 5


def test_a_cut_box_is_as_large_as_its_share():
    batch = {
        "image0": torch.arange(6.0)[:, None, None, None].expand(6, 3, 24, 24) / 6,
        "y": torch.arange(6) % 4,
    }
    for _ in range(10):
        new = build_augmentation({"cutmix": cutmix(alpha=1.0)}, spec_of())(batch)
        kept = (new["image0"] == batch["image0"]).float().mean((1, 2, 3))
        assert near(kept, new["y"].gather(1, batch["y"][:, None])[:, 0])


def test_of_mixup_and_cutmix_each_batch_has_one():
    batch = {"image0": pictures(), "y": TARGETS["category"]}
    augment = build_augmentation(
        {"mixup": mixup(alpha=1.0), "cutmix": cutmix(alpha=1.0)}, spec_of()
    )
    cut = [
        bool((augment(batch)["image0"] == batch["image0"]).float().mean() > 0.001)
        for _ in range(40)
    ]
    assert 5 < sum(cut) < 35


@pytest.mark.parametrize(
    "loss",
    [
        cross_entropy(CLASSES, label_smoothing=0.1, class_weights=None),
        cross_entropy(CLASSES, label_smoothing=0.0, class_weights=None),
        *(focal(CLASSES, gamma=gamma) for gamma in (0.0, 0.5, 2.0)), mse(CLASSES), mae(CLASSES),
    ],
)  # fmt: skip
def test_losses_take_shares_and_whole_shares_are_labels(loss):
    raw, labels = torch.randn(6, 4, requires_grad=True), TARGETS["category"]
    one_hot = F.one_hot(labels, 4).float()
    assert torch.allclose(loss(raw, labels), loss(raw, one_hot), atol=1e-6)
    (gradient,) = torch.autograd.grad(loss(raw, 0.3 * one_hot + 0.7 * one_hot.roll(1, 0)), raw)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_focal_loss_of_binary_shares_lies_between_its_ends():
    loss, raw = focal(KINDS["binary"], gamma=2.0), torch.tensor([[0.7], [-1.2]])
    zero, one = loss(raw, torch.zeros(2, 1)), loss(raw, torch.ones(2, 1))
    assert torch.allclose(loss(raw, torch.full((2, 1), 0.25)), 0.75 * zero + 0.25 * one)
    chance = raw.sigmoid()
    assert torch.allclose(one, (-((1 - chance) ** 2) * chance.log()).mean())


def test_reduced_precision_moves_no_pixel():
    batch = {"image0": pictures(3, 24, 24), "y": TARGETS["category"]}
    augment = build_augmentation(option(get_builtin_conf() / "augment" / "book.yaml"), spec_of())
    exact = augment(batch)["image0"]
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(batch)["image0"], exact)


def test_evaluation_and_what_the_meter_reads_are_untouched():
    class Mean(torch.nn.Module):
        def forward(self, batch):
            seen.append(batch)
            return {"y": batch["image0"].mean((2, 3)) @ torch.ones(3, 4)}

    def loss(raw, target):
        learned.append(target)
        return F.cross_entropy(raw, target)

    seen, learned, batch = [], [], {"image0": pictures(), "y": TARGETS["category"]}
    augment = build_augmentation(
        {"flip": flip(probability=1, axis="vertical"), "mixup": mixup(alpha=1.0)}, spec_of()
    )
    objective = Supervised(Mean(), {"y": loss}, augment=augment)
    state = torch.get_rng_state()
    list(objective.eval().steps(batch))
    assert seen[0]["image0"] is batch["image0"] and learned[0] is batch["y"]
    assert torch.equal(state, torch.get_rng_state())
    list(objective.train().steps(batch))
    assert not near(seen[1]["image0"], batch["image0"], 0.1) and learned[1].shape == (6, 4)
    assert torch.equal(batch["y"], TARGETS["category"]) and torch.equal(batch["image0"], pictures())


@pytest.mark.parametrize(
    ("steps", "spec", "said"),
    [
        ({"flip": STILL["flip"]}, Spec({"x": Field("number", (3,))}, {}), r"augment=\[flip\].*no image.*x \(number\)"),
        (
            {"rotate": rotate(degrees=1, fill="black"), "zoom": STILL["zoom"]}, spec_of(),
            "augment.rotate.fill=black, augment.zoom.fill=nearest",
        ),
        ({"mixup": mixup(alpha=1.0)}, spec_of(price=Field("number", (1,))), "augment=mixup: the target price is"),
        (
            {"cutmix": cutmix(alpha=1.0)},
            Spec({"a": Field("image", (3, 8, 8)), "b": Field("number", (2,))}, {"y": CLASSES}), "the input b is a numb",
        ),
        (
            {"cutmix": cutmix(alpha=1.0)},
            Spec({"a": Field("image", (3, 8, 8)), "b": Field("image", (3, 9, 8))}, {"y": CLASSES}), "differ in size",
        ),
        ({"odd": "flip"}, spec_of(), "augment.odd is a str"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(steps, spec, said):
    with pytest.raises(UserError, match=said):
        build_augmentation(steps, spec)


def test_no_steps_are_no_augmentation_and_other_batches_are_refused():
    assert build_augmentation({}, Spec({"x": Field("number", (3,))}, {})) is None
    with pytest.raises(UserError, match="holds no image0, but image0.ahead"):
        build_augmentation({"flip": STILL["flip"]}, spec_of())({"image0.ahead": torch.zeros(2, 9)})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["augment=rotate", "augment.rotate.degrees=-1"],
            "augment.rotate.degrees=-1: it must be a number from 0 up",
        ),
        (["augment=rotate", "augment.rotate.fill=mirror"], "one of nearest, reflect, black"),
        (
            ["augment=shear", "augment.shear.degrees=90"],
            "shear: degrees=90 would make a line of an image",
        ),
        (["augment=crop", "augment.crop.ratio=0.5"], "a ratio from 1 up"),
        (["augment=color", "augment.color.hue=0.7"], "hue=0.7: half a turn"),
        (
            ["augment=mixup", "augment.mixup.alpha=0"],
            "augment.mixup.alpha=0: it must be a number above 0",
        ),
        (["augment=erase", "augment.erase.scale=[0.5,2]"], "Scale should be between 0 and 1"),
        (
            ["+augment.s={_target_:torchvision.transforms.v2.Resize,size:[4,4]}"],
            "augment.s: Resize makes (1, 4, 4)",
        ),
    ],
)
def test_a_wrong_setting_ends_before_training(words, said, tmp_path, capsys):
    assert main(["task=digits", "model.units=[4]", *words, f"output={tmp_path}"]) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not list(
        tmp_path.rglob("results.jsonl")
    )


def fit_of(*words):
    with build_first_fit([*WORDS, *words], Console()) as (_, fit):
        return fit.trainer


@pytest.mark.parametrize("cut", [2, 6])
def test_a_fit_cut_in_the_middle_of_an_epoch_draws_the_same(tmp_path, cut):
    trainers = [fit_of() for _ in range(3)]
    whole, first, second = trainers
    for each, name in zip(trainers, ("whole", "cut", "cut"), strict=True):
        each.folder = tmp_path / name
    whole.fit()
    take, taken = first.runner.steps, []

    def counted(batch):
        taken.append(1)
        first.interrupted = signal.SIGTERM if len(taken) == cut else 0
        return take(batch)

    first.runner.steps = counted
    with pytest.raises(TrainingInterrupted):
        first.fit()
    second.restore(checkpoint.load_latest_or_none(tmp_path / "cut" / "last.pt"))
    second.fit()
    assert same(weights(second), weights(whole)) and second.history == whole.history


def test_the_same_words_come_to_the_same_rows_and_validation_is_that_of_no_augmentation():
    rows = {}
    for name, words in {"a": [], "b": [], "plain": ["augment=none"]}.items():
        trainer = fit_of("optimizer.lr=0.0", *words)
        trainer.fit()
        rows[name] = {
            split: [row.values for row in trainer.history if row.split == split]
            for split in ("train", "val")
        }
    assert rows["a"] == rows["b"] and rows["a"]["val"] == rows["plain"]["val"]
    assert rows["a"]["train"] != rows["plain"]["train"]


def test_any_transform_of_torchvision_may_be_named_and_mixed_runs_learn():
    blur = "+augment.blur={_target_:torchvision.transforms.v2.GaussianBlur,kernel_size:3}"
    trainer = fit_of("augment=[flip,mixup,cutmix]", blur, "engine.epochs=4", "loss=focal")
    trainer.fit()
    losses = [row.values["loss"] for row in trainer.history if row.split == "val"]
    assert losses[-1] < losses[0] and all("accuracy" in row.values for row in trainer.history)
