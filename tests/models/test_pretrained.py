"""Pretrained bases: cut whole, frozen bit for bit, unfrozen as asked, computed once, and found or refused by name."""

from __future__ import annotations

import hashlib
import io
import json
import os
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from laboratory import node
from rich.console import Console
from torch import nn

from dlrun.cli.explain import build_first_fit
from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.errors import UserError
from dlrun.core.files import user_cache
from dlrun.core.types import Field, Spec
from dlrun.data.images.decode import Reading, decode_image
from dlrun.experiment import feature_cache
from dlrun.models.pretrained import backbones, weights
from dlrun.models.pretrained.backbones import (
    Backbone,
    find_last_block,
    freeze_layers,
    list_blocks,
    load_backbone,
    remove_head,
)
from dlrun.models.pretrained.earlier_run import load_run_model
from dlrun.models.pretrained.transfer import ImagePreprocessor

SMALL = "shufflenet_v2_x0_5"
TARGETS = {"y": Field("category", (), 3)}
RANDOM = {"weights": None, "preprocess": "normalize", "architecture": SMALL}
WORDS = [
    "task=digits",
    "model=pretrained",
    f"model.architecture={SMALL}",
    "model.weights=null",
    "engine.epochs=2",
]
WORDS += ["data.test=0.9"]  # few rows to learn from
WORDS += ["model.preprocess=normalize", "engine.device=cpu", "callback=keep_best"]


def made(channels=3, side=32, **changes):
    torch.manual_seed(0)
    spec = Spec({"image": Field("image", (channels, side, side))}, TARGETS)
    return build_part(node("model", "pretrained", **{**RANDOM, **changes}), spec)


def batch(rows=6, channels=3, side=32):
    torch.manual_seed(1)
    return {"image": torch.rand(rows, channels, side, side), "y": torch.randint(0, 3, (rows,))}


def run(folder, *words):
    assert main([*WORDS, *words, f"output={folder}"]) == 0
    (found,) = [path.parent for path in Path(folder).rglob("results.jsonl")]
    return found


def history(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return np.array([list(line["values"].values()) for line in lines])


def refusal(capsys, *words):
    assert main([*WORDS, *words]) == 2
    return capsys.readouterr().err


# What comes before the head, and what the head makes of it, is the whole network:


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        SMALL,
        "mobilenet_v3_small",
        "mnasnet0_5",
        "densenet121",
        "swin_t",
        "regnet_x_400mf",
    ],
)
def test_the_base_and_the_head_are_the_network(name):
    from torchvision import models

    torch.manual_seed(0)
    net = models.get_model(name).eval()
    x, seen = torch.rand(1, 3, 64, 64), []
    head = next(getattr(net, part) for part in ("fc", "classifier", "head") if hasattr(net, part))
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        net(x)
        assert torch.allclose(remove_head(net, name)(x).mean((2, 3)), seen[0].flatten(1), atol=1e-5)


@pytest.mark.slow
def test_every_architecture_of_the_zoo_gives_a_feature_map():
    from torchvision import models

    names = [name for name in models.list_models(module=models) if not name.startswith("vit_")]
    names = [
        name
        for name in names
        if not name.endswith(("_l", "_h", "128gf", "32gf", "large", "b7", "b6"))
    ]
    assert len(names) > 60
    for name in names:
        base = load_backbone(name, None, "image")
        with torch.no_grad():
            answer = base.net.eval()(torch.zeros(1, 3, *base.size))
        assert answer.dim() == 4 and answer.shape[1] > answer.shape[2] == answer.shape[3], name
        assert len(freeze_layers(base, "last_block")) < len(list(base.net.modules())), name


@pytest.mark.parametrize(
    ("name", "block"),
    [
        pytest.param("vgg16", "features.24", marks=pytest.mark.slow),
        ("squeezenet1_1", "features.9"),
        ("resnet18", "layer4.0"),
        (SMALL, "stage4.0"),
    ],
)
def test_the_last_block_works_at_the_last_size(name, block):
    assert (
        find_last_block(load_backbone(name, None, "image")) == block
    )  # VGG16: the book's block5_conv1


def test_a_base_of_one_size_has_its_last_layer_as_last_block():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    assert find_last_block(Backbone("plain", net, 3, (6, 6))) == "2"


# Frozen means frozen:


@pytest.mark.parametrize("unfreeze", ["none", "last_block", "stage4.3", "all"])
def test_only_the_layers_that_were_asked_for_change(unfreeze):
    model = made(unfreeze=unfreeze)
    base = model.towers["image"].base
    names = [name for name, _ in base.named_modules()]
    start = {"none": len(names), "all": 0}.get(unfreeze)
    start = (
        names.index({"last_block": "stage4.0"}.get(unfreeze, unfreeze)) if start is None else start
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.1, weight_decay=0.1)
    for _ in range(2):
        model.eval()
        model.train()
        torch.nn.functional.cross_entropy(model(batch())["y"], batch()["y"]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        inside = name.removeprefix("towers.image.base.")
        moves = inside == name or names.index(inside.rpartition(".")[0]) >= start
        assert torch.equal(value, before[name]) != moves, name


def test_a_frozen_base_answers_the_same_in_training():
    model = made(architecture="mobilenet_v3_small")
    tower, x = model.towers["image"], batch()["image"]
    with torch.no_grad():
        first = tower(x)
        model.train()
        assert torch.equal(tower(x), first) and not any(
            part.training for part in tower.base.modules()
        )
    assert model.tail.training


def test_unfrozen_layers_have_their_own_rate():
    model = made(unfreeze="stage4", rate=0.1)
    inside = {weight for weight in model.towers.parameters() if weight.requires_grad}
    assert inside and model.lr_factors() == dict.fromkeys(inside, 0.1)
    assert (
        made(unfreeze="none", rate=0.1).lr_factors()
        == {}
        == made(unfreeze="all", rate=1.0).lr_factors()
    )


def test_the_optimizer_has_a_group_for_them():
    words = [*WORDS, "model.unfreeze=stage4", "model.rate=0.1", "optimizer=sgd", "optimizer.lr=0.2"]
    with build_first_fit(words, Console(quiet=True)) as (_, fit):
        towers = fit.trainer.objective.model.towers
        groups = fit.trainer.optimization.optimizers["model"].param_groups
        rates = {weight: group["lr"] for group in groups for weight in group["params"]}
    inside = [weight for weight in towers.parameters() if weight.requires_grad]
    assert {rates.pop(weight) for weight in inside} == {0.2 * 0.1} and len(inside) > 10
    assert len(rates) == 2 and set(rates.values()) == {0.2}  # the head's


# Answers computed once:


def test_computed_once_is_computed_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    each = run(tmp_path / "each", "model.cache=false")
    once = run(tmp_path / "once", "test=true")
    files = sorted((user_cache() / "features").glob("*"))
    assert [path.suffix for path in files] == [".npy"] * 2  # development and test rows
    assert np.abs(history(each) - history(once)).max() < 1e-5
    again = run(tmp_path / "again")
    assert (history(once) == history(again)).all() and sorted(
        (user_cache() / "features").glob("*")
    ) == files


def test_all_folds_share_what_was_computed_once(tmp_path, monkeypatch):
    from torchvision.models import get_model

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.save(get_model(SMALL, weights=None).state_dict(), tmp_path / "some.pth")
    run(tmp_path, f"model.weights={tmp_path / 'some.pth'}", "protocol=kfold", "protocol.folds=3")
    assert len(list((user_cache() / "features").glob("*"))) == 1


def test_answers_belong_to_pictures_weights_and_settings():
    seen = {}
    for name, model in {
        "first": made(), "same": made(), "flat": made(ends="flatten"), "book": made(preprocess="book"),
    }.items():  # fmt: skip
        seen[name] = feature_cache.get_feature_path(
            model.cacheable_networks()["image"], "these images"
        )
    other = made()
    with torch.no_grad():
        next(other.towers.parameters()).mul_(1.001)
    seen["weights"] = feature_cache.get_feature_path(
        other.cacheable_networks()["image"], "these images"
    )
    seen["pictures"] = feature_cache.get_feature_path(
        made().cacheable_networks()["image"], "others"
    )
    assert seen.pop("same") == seen["first"] and len(set(seen.values())) == len(seen) == 5


def test_a_cache_that_cannot_be_written_or_read_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    user_cache().mkdir(parents=True)
    (user_cache() / "features").write_text("a file is in the way")
    memory = run(tmp_path / "memory")
    (user_cache() / "features").unlink()
    disk = run(tmp_path / "disk")
    assert (history(memory) == history(disk)).all() and "kept in memory" in (
        memory / "log.txt"
    ).read_text()
    (path,) = (user_cache() / "features").glob("*.npy")
    for length in (0, 100):  # empty, as a power cut leaves it, and cut off
        path.write_bytes(path.read_bytes()[:length])
        mended = run(tmp_path / f"mended-{length}")
        assert (history(disk) == history(mended)).all() and "computed again" in (
            mended / "log.txt"
        ).read_text()


def test_changing_pictures_cannot_be_computed_once(tmp_path, capsys):
    assert "model.cache=false" in refusal(capsys, "augment=flip", f"output={tmp_path}")
    run(tmp_path / "free", "augment=flip", "model.cache=false", "engine.epochs=1")
    assert (
        made(unfreeze="last_block").cacheable_networks()
        == {}
        == made(cache=False).cacheable_networks()
    )


# The stages, and runs on runs:


def test_head_first_then_the_last_block(tmp_path):
    words = ["stages=fine_tune", "model.rate=0.5", "engine.epochs=1", "optimizer.lr=0.01"]
    folder = run(tmp_path, *words)
    head, fit = (
        checkpoint.load_best(folder / "checkpoints" / name)["objective"] for name in ("head", "fit")
    )
    changed = {name for name in head if not torch.equal(head[name], fit[name])}
    assert any(".base." in name for name in changed) and any(".tail." in name for name in changed)
    assert all(
        ".base.stage4." in name or ".base.conv5." in name or ".tail." in name for name in changed
    )


def test_running_averages_go_over_to_the_second_stage_by_name(tmp_path):
    words = ["stages=fine_tune", "engine.epochs=1", "engine.ema=0.5", "optimizer.lr=0.01"]
    folder = run(
        tmp_path, *words, "+stages.then.engine.max_steps=1", "stages.then.optimizer.lr=1e-12"
    )
    state = checkpoint.load_best(folder / "checkpoints" / "head")
    averages = dict(
        zip(state["groups"]["model"], state["learner"]["average"]["model"], strict=True)
    )
    begun = checkpoint.load_best(folder / "checkpoints" / "fit")["objective"]
    assert averages and all(".tail." in name for name in averages)
    for name, weight in state["objective"].items():
        assert (
            torch.allclose(begun[name].float(), averages.get(name, weight).float(), atol=1e-6)
            or "running" in name
            or "num_b" in name
        )


def test_an_earlier_run_is_a_base(tmp_path):
    words = [
        "task=digits",
        "data.test=0.9",
        "model=convnet",
        "model.filters=[4,8]",
        "engine.epochs=1",
    ]
    assert main([*words, "callback=keep_best", f"output={tmp_path / 'first'}"]) == 0
    (first,) = [path.parent for path in (tmp_path / "first").rglob("results.jsonl")]
    second = run(tmp_path / "second", f"model.weights={first}", "model.dense=[8]")
    before, after = load_run_model(first).model, load_run_model(second).model
    kept = dict(before.towers["image"].named_parameters())
    base = dict(after.towers["image"].base.named_parameters())
    assert base.keys() == kept.keys() and all(torch.equal(base[name], kept[name]) for name in base)
    again = load_backbone(SMALL, str(second), "image").net.state_dict()  # the base of a base
    assert {f"base.{name}" for name in base} == again.keys()
    assert (
        main(
            [
                "task=digits",
                "model=dense",
                "data.test=0.9",
                "engine.epochs=1",
                f"output={tmp_path / 'dense'}",
            ]
        )
        == 0
    )
    (dense,) = [path.parent for path in (tmp_path / "dense").rglob("results.jsonl")]
    for folder, unfreeze, message in (
        (second, "layer4", "no such layer.*preprocess, base.0"),
        (dense, "none", "no convolutional part"),
        (tmp_path, "none", "no run folder"),
    ):
        with pytest.raises(UserError, match=message):
            made(1, 8, weights=str(folder), unfreeze=unfreeze)
    assert all(
        weight.requires_grad
        for weight in made(1, 8, weights=str(second), unfreeze="all").parameters()
    )


def test_a_base_that_has_seen_the_validation_rows_is_refused(tmp_path, capsys):
    words = [
        "task=digits",
        "model=convnet",
        "model.filters=[4]",
        "engine.epochs=1",
        "data.test=0.9",
    ]
    for name, more in (("same", []), ("other", ["seed=5"]), ("whole", ["protocol=whole"])):
        assert main([*words, *more, f"output={tmp_path / name}"]) == 0
    found = {
        path.relative_to(tmp_path).parts[0]: path.parent for path in tmp_path.rglob("results.jsonl")
    }
    assert "trained on" in refusal(
        capsys, f"model.weights={found['other']}", f"output={tmp_path / 'no'}"
    )
    assert "protocol=whole" in refusal(
        capsys, f"model.weights={found['whole']}", f"output={tmp_path / 'no'}"
    )
    run(tmp_path / "yes", f"model.weights={found['same']}")


def test_runs_on_runs_are_read_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "task=digits",
        "data.test=0.9",
        "model=convnet",
        "model.filters=[4]",
        "engine.epochs=1",
        "output=first",
    ]
    assert main(words) == 0
    (first,) = [
        path.parent.relative_to(tmp_path) for path in (tmp_path / "first").rglob("results.jsonl")
    ]
    second = run(tmp_path / "second", f"model.weights={first}")
    assert (
        main(
            [
                "task=digits",
                "data.test=0.9",
                "model=ensemble",
                f"model.members=[{first}]",
                "output=third",
            ]
        )
        == 0
    )
    (third,) = [path.parent for path in (tmp_path / "third").rglob("results.jsonl")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_run_model(second).model.runs == [(tmp_path / first, "fit")]
    assert [member.folder for member in load_run_model(third).model.runs] == [tmp_path / first]


def test_a_run_folder_holds_all_of_its_weights(tmp_path, monkeypatch):
    file = tmp_path / "mine.pth"
    torch.save(load_backbone(SMALL, None, "image").net.state_dict(), file)
    folder = run(tmp_path / "run", f"model.weights={file}")
    wanted = torch.load(file)
    file.unlink()
    found = load_run_model(folder).model.towers["image"].base.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_explain_counts_frozen_and_trainable(capsys):
    assert main(["explain", *WORDS]) == 0
    said = capsys.readouterr().out
    base, head = (
        sum(w.numel() for w in load_backbone(SMALL, None, "image").net.parameters()),
        1024 * 10 + 10,
    )
    assert f"{base + head:,} parameters: {head:,} trainable, {base:,} frozen" in " ".join(
        said.split()
    )


# What a base is given to see:


def test_preprocessing_is_that_of_torchvision():
    from torchvision.models import ResNet18_Weights

    picture = torch.rand(2, 3, 40, 40)
    base = load_backbone("resnet18", None, "image")
    wants = ResNet18_Weights.DEFAULT.transforms(resize_size=224, antialias=True)
    ours = ImagePreprocessor(base.channels, base.size, base.mean, base.std)(picture)
    assert ours.shape == (2, 3, 224, 224) and torch.allclose(ours, wants(picture), atol=1e-5)
    seen = {
        how: made(1, 32, preprocess=how).towers["image"].preprocess
        for how in ("weights", "normalize", "book")
    }
    grey = torch.rand(2, 1, 32, 32)
    assert torch.equal(seen["book"](grey), grey.expand(-1, 3, -1, -1))
    assert seen["normalize"](grey).shape == (2, 3, 32, 32) and seen["weights"](grey).shape == (
        2,
        3,
        224,
        224,
    )


def test_inception_and_googlenet_see_what_torchvision_shows_them():
    from torchvision.models import GoogLeNet_Weights, googlenet

    whole = googlenet(init_weights=False, transform_input=True, aux_logits=False)
    base, picture = load_backbone("googlenet", None, "image"), torch.rand(1, 3, 224, 224)
    shown = whole._transform_input(GoogLeNet_Weights.DEFAULT.transforms(resize_size=224)(picture))
    assert torch.allclose(
        ImagePreprocessor(3, None, base.mean, base.std)(picture), shown, atol=1e-5
    )


# Names and files:


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet_18"}, "did you mean resnet18.*75 in all"),
        ({"architecture": "vit_b_16"}, "no convolutional part"),
        ({"weights": "IMAGENET"}, "neither weights of shufflenet.*IMAGENET1K_V1.*nor a file"),
        ({"unfreeze": "stage9"}, "did you mean stage.*none, last_block, all, conv1"),
        ({"channels": 2}, "3 channels, and these have 2"),
        ({"side": 8, "architecture": "squeezenet1_1"}, "3×8×8 is too small for squeezenet1_1"),
    ],
)
def test_what_is_not_there_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        made(**changes)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "data" / "pretrained").mkdir(parents=True)
    return tmp_path / "data" / "pretrained"


class Weights(Enum):
    """As torchvision's are: two files for one architecture, with the beginning of their sha256 in their names."""

    IMAGENET1K_V1 = b"the older weights"
    IMAGENET1K_V2 = b"the weights"

    @property
    def url(self):
        return (
            f"https://example.org/models/{SMALL}-{hashlib.sha256(self.value).hexdigest()[:8]}.pth"
        )


@pytest.fixture
def entry():
    return Weights.IMAGENET1K_V2


def offline(*_, **__):
    raise requests.ConnectionError("no network")


def answering(body):
    def get(*_, **__):
        answer = requests.Response()
        answer.status_code, answer.raw = 200, io.BytesIO(body)
        return answer

    return get


def test_offline_says_which_file_goes_where(place, entry, monkeypatch):
    monkeypatch.setattr(requests, "get", offline)
    with pytest.raises(UserError) as caught:
        weights.find_weights(SMALL, entry)
    said = str(caught.value)
    assert (
        weights.weight_file_name(entry) in said
        and entry.url in said
        and str(place) in said
        and "weights=null" in said
    )
    assert not list(place.iterdir())
    (place / weights.weight_file_name(Weights.IMAGENET1K_V1)).write_bytes(
        Weights.IMAGENET1K_V1.value
    )
    with pytest.raises(
        UserError, match="there is: weights=IMAGENET1K_V1"
    ):  # other weights do not stand in for them
        weights.find_weights(SMALL, entry)


def test_an_official_file_is_checked(place, entry):
    path = place / weights.weight_file_name(entry)
    path.write_bytes(b"the weights")
    assert weights.find_weights(SMALL, entry) == path
    path.write_bytes(b"other weights")
    with pytest.raises(UserError, match="is not the official file"):
        weights.find_weights(SMALL, entry)


def test_a_download_is_checked(place, entry, monkeypatch):
    monkeypatch.setattr(requests, "get", answering(b"half the wei"))
    with pytest.raises(UserError, match="another hash"):
        weights.find_weights(SMALL, entry)
    assert not list(place.iterdir())
    monkeypatch.setattr(requests, "get", answering(b"the weights"))
    assert (
        weights.find_weights(SMALL, entry).read_bytes() == b"the weights"
        and len(list(place.iterdir())) == 1
    )
    monkeypatch.setattr(requests, "get", offline)
    assert weights.find_weights(SMALL, entry).parent == place


def test_torchs_own_folder_is_looked_at_too(place, entry, tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / weights.weight_file_name(entry)).write_bytes(b"the weights")
    assert weights.find_weights(SMALL, entry).parent == folder


def test_a_file_of_that_name_that_is_not_official_is_used_and_said(place, entry, caplog):
    for name in (f"{SMALL}-rounded.pth", f"{SMALL}0.pth", f"{SMALL}_bn.pth"):
        (place / name).write_bytes(b"")
    assert weights.find_weights(SMALL, entry).name == f"{SMALL}-rounded.pth"
    assert "not the official" in caplog.text and "rounded" in caplog.text
    (place / f"{SMALL}.pth").write_bytes(b"")
    with pytest.raises(UserError, match="several files"):
        weights.find_weights(SMALL, entry)


@pytest.mark.parametrize("content", [b"", b"nothing like it", None])
def test_a_damaged_file_of_weights_is_refused(tmp_path, content):
    file = tmp_path / "broken.pth"
    file.write_bytes(content) if content is not None else torch.save([1, 2], file)
    with pytest.raises(UserError, match="broken.pth"):
        made(weights=str(file))


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save(load_backbone("mobilenet_v3_small", None, "image").net.state_dict(), file)
    with pytest.raises(UserError, match="weights of another network: it has no conv1"):
        made(weights=str(file))
    net = load_backbone(SMALL, None, "image").net.state_dict()
    torch.save({**net, "conv1.0.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"size mismatch for conv1\.0\.weight"):
        made(weights=str(file))


def test_the_head_of_a_file_and_old_names_do_not_matter(tmp_path):
    from torchvision import models

    torch.manual_seed(3)
    net, file = models.densenet121(num_classes=7), tmp_path / "net.pth"
    state = net.state_dict()
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): value
        for name, value in state.items()
    }
    assert old.keys() != state.keys()
    torch.save(old, file)
    found = load_backbone("densenet121", str(file), "image").net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_the_parts_of_a_base_have_their_torchvision_names():
    names = [name for name, _ in list_blocks(load_backbone("squeezenet1_1", None, "image").net)]
    assert names == [f"features.{number}" for number in range(13)]
    assert backbones.describe_unknown_model("vgg_16", ["vgg16", "vgg19"]).startswith(
        "no architecture 'vgg_16': did you mean vgg16?"
    )


REAL = (
    Path(os.environ.get("DLRUN_DATA", ""))
    / "pretrained"
    / "squeezenet1_1-torchvision-fp16rounded.pth"
)


@pytest.mark.skipif(
    not REAL.is_file(), reason="no squeezenet1_1 weights under DLRUN_DATA/pretrained"
)
def test_the_real_squeezenet_sees_a_cat():
    from torchvision import models

    base = load_backbone("squeezenet1_1", str(REAL), "image")
    net = models.squeezenet1_1()
    net.load_state_dict(torch.load(REAL))
    picture = (
        torch.from_numpy(decode_image(REAL.parent / "cat.jpg", Reading((224, 224), 3, "stretch")))[
            None
        ]
        / 255
    )
    shown = ImagePreprocessor(3, base.size, base.mean, base.std)(picture)
    with torch.no_grad():
        answer = net.eval().classifier(base.net.eval()(shown)).flatten().softmax(0)
    assert int(answer.argmax()) in range(269, 288)  # wolves, foxes and cats
