"""Labels made from the inputs: turned back, every image is what it was, and no split parts the turns of one."""

from __future__ import annotations

import json
from dataclasses import replace

import made_up_pictures as made
import numpy as np
import pytest
import torch
from laboratory import node

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.types import FitJob
from dlrun.data.audit import duplicates
from dlrun.data.cache import fingerprint
from dlrun.data.images.image_column import ImageFileColumn
from dlrun.data.images.rotation_pretext import RotatedImages, rotations
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.evaluation.protocols.two_stages import make_protocol
from dlrun.experiment.inference import get_image_reader
from dlrun.models.pretrained.backbones import load_backbone
from dlrun.models.pretrained.earlier_run import load_run_model

TURNS = ("one", "all")
PROTOCOLS = ["holdout", "kfold", "iterated_kfold", "few_rows"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def digits(turns):
    return build_part(node("data", "digits")), build_part(node("data", "rotations", turns=turns))


def photos(tmp_path, turns, **changes):
    """The images of a folder as they are, and turned."""
    if not (tmp_path / "photos").is_dir():
        made.folder(tmp_path / "photos", {"cat": 9, "dog": 9})
    of = build_part(
        node("data", "images", path=str(tmp_path / "photos"), **{"size": [10, 10], **changes})
    )
    return of, rotations(of=of, turns=turns)


def own(count=8, side=3, **changes):
    """A dataset of random images with labels and owners."""
    random = np.random.RandomState(0)
    pictures = random.randint(0, 256, (count, 1, side, side)).astype(np.uint8)
    columns = {"look": pictures, "kind": np.arange(count) % 2, "who": np.arange(count) // 2}
    return replace(
        Dataset(columns, {"look": "image"}, {"kind": "binary"}, {}, group="who"), **changes
    )


def turned_back(rows, name="image"):
    """The images of these rows, each turned to the right by what the row says."""
    return np.stack(
        [
            np.rot90(rows[name][row], -turn, axes=(1, 2))
            for row, turn in enumerate(rows["rotation"].tolist())
        ]
    )


# --- turned, and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", TURNS)
def test_turned_back_every_picture_is_what_it_was(turns, tmp_path):
    for of, raw in (digits(turns), photos(tmp_path, turns), photos(tmp_path, turns, cache=False)):
        for before, after in ((of.dev, raw.dev), (of.test(), raw.test())):
            pictures = np.asarray(before["image"])
            wanted = pictures.repeat(4, 0) if turns == "all" else pictures
            assert (turned_back(after) == wanted).all() and len(after["image"]) == len(
                after["rotation"]
            )
            assert (np.asarray(after["image"]) != wanted).any()


def test_a_quarter_is_to_the_left():
    raw = rotations(of=own(group=None), turns="all")
    was, quarter = raw.dev["look"][0, 0], raw.dev["look"][1, 0]
    assert raw.dev["rotation"][:4].tolist() == [0, 1, 2, 3] and raw.labels["rotation"][1] == "90°"
    assert (
        quarter[0] == was[:, -1]
    ).all()  # the right edge, read downwards, has become the upper one


@pytest.mark.parametrize("turns", TURNS)
def test_every_turn_is_as_frequent_and_always_the_same(turns):
    raw, again = digits(turns)[1], digits(turns)[1]
    for split, other in ((raw.dev, again.dev), (raw.test(), again.test())):
        counts = np.bincount(split["rotation"])
        assert len(counts) == 4 and np.ptp(counts) <= 1 and fingerprint(split) == fingerprint(other)
    known = prepare(raw, np.arange(len(raw)), None).spec.targets["rotation"]
    assert known.labels == ("0°", "90°", "180°", "270°") and known.prior == pytest.approx(
        torch.full((4,), 0.25), abs=1e-3
    )


@pytest.mark.parametrize("turns", TURNS)
def test_labels_are_not_used(turns):
    raw, other = rotations(of=own(), turns=turns), own()
    other.dev["kind"] = other.dev["kind"][::-1].copy()
    assert fingerprint(raw.dev) == fingerprint(rotations(of=other, turns=turns).dev)
    assert (
        "kind" not in raw.dev and list(raw.targets) == ["rotation"] and list(raw.inputs) == ["look"]
    )
    assert "digit" not in digits(turns)[1].dev


@pytest.mark.parametrize("turns", TURNS)
def test_a_turn_depends_on_no_picture(turns):
    raw, other = rotations(of=own(), turns=turns), own()
    other.dev["look"][4:] = 255
    poisoned = rotations(of=other, turns=turns)
    same = 4 * (4 if turns == "all" else 1)
    assert (poisoned.dev["rotation"] == raw.dev["rotation"]).all()
    assert (poisoned.dev["look"][:same] == raw.dev["look"][:same]).all()


def test_test_rows_are_not_read_before_they_are_asked_for():
    asked = []
    of = own(test=lambda: asked.append(1) or own().dev)
    raw = rotations(of=of, turns="all")
    assert not asked and len(raw.test()["look"]) == 32 and asked == [1]
    assert rotations(of=own(test=None), turns="one").test is None


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_split_parts_the_turns_of_one_picture(protocol):
    changes = {"train": 100, "validation": 200} if protocol == "few_rows" else {}
    plan, raw = make_protocol(node("protocol", protocol, **changes)), digits("all")[1]
    for job in (FitJob(), FitJob(fold=1, repeat=1)):
        train, val = plan.split_rows(raw, job, 3)
        sides = [set(raw.dev["original"][rows].tolist()) for rows in (train, val)]
        assert not sides[0] & sides[1] and len(train) >= 100 and len(val) >= 200


def test_owners_that_the_data_name_are_kept():
    raw = rotations(of=own(), turns="all")
    assert (
        raw.group == "who"
        and (raw.dev["who"] == own().dev["who"].repeat(4)).all()
        and "original" not in raw.dev
    )
    train, val = make_protocol(node("protocol", "holdout", validation=0.5)).split_rows(
        raw, FitJob(), 0
    )
    assert not set(raw.dev["who"][train]) & set(raw.dev["who"][val])
    assert (
        rotations(of=own(), turns="one").group == "who"
        and rotations(of=own(group=None), turns="one").group is None
    )


# --- images on the disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
def test_pictures_on_the_disk_are_views(cache, tmp_path):
    of, raw = photos(tmp_path, "all", cache=cache)
    column = raw.dev["image"]
    assert (
        isinstance(of.dev["image"], ImageFileColumn)
        and isinstance(column, RotatedImages)
        and column.shape == (56, 3, 10, 10)
    )
    order = np.random.RandomState(0).permutation(56)
    batches = np.concatenate(list(column.batches(column.rows[order], 7)))
    assert (batches == np.asarray(column)[order]).all() and (
        batches == np.asarray(column[order])
    ).all()
    assert (column[-1] == np.asarray(column)[-1]).all() and column.file_name(5) == of.dev[
        "image"
    ].file_name(1)
    data = prepare(raw, order[:40], order[40:])
    seen = next(data.val.batches(16))
    assert (seen["image"].mul(255).round().byte().numpy() == np.asarray(column)[order[40:]]).all()
    assert seen["rotation"].tolist() == raw.dev["rotation"][order[40:]].tolist()


def test_kept_or_not_they_have_the_same_fingerprint_and_copies_are_found(tmp_path):
    first = made.encoded(made.pixels(0))
    made.folder(tmp_path / "photos", {"cat": 9, "dog": 9})
    (tmp_path / "photos" / "cat" / "copy.png").write_bytes(first)
    (tmp_path / "photos" / "cat" / "000.png").write_bytes(first)
    kept, streamed = (photos(tmp_path, "all", test=0.0, cache=cache)[1] for cache in (True, False))
    one = photos(tmp_path, "one", test=0.0)[1]
    assert fingerprint(kept.dev) == fingerprint(streamed.dev) != fingerprint(one.dev)
    assert len(np.unique(duplicates.compute_row_ids(kept, kept.inputs))) == len(kept) - 4


# --- from words to a report -------------------------------------------------------------------------------------------


def run(folder, *words):
    assert main([*words, f"output={folder}", "engine.device=cpu"]) == 0
    (found,) = [path.parent for path in folder.rglob("results.jsonl")]
    return found


def scores(folder):
    (line,) = (folder / "results.jsonl").read_text().splitlines()
    result = json.loads(line)
    return result["scores"]["accuracy"]["value"], result["baseline"]["accuracy"]["value"]


def test_turns_can_be_told_and_the_worst_are_shown(tmp_path):
    folder = run(tmp_path / "out", "task=rotations")
    right, bar = scores(folder)
    assert bar == pytest.approx(0.25, abs=0.02) and right > 0.6
    assert "°" in (folder / "report.html").read_text()


@pytest.mark.parametrize("words", [["data.turns=all"], ["data.of.cache=false"]])
def test_ones_own_pictures(words, tmp_path):
    made.folder(tmp_path / "photos", {"cat": 9, "dog": 9})
    own = [
        "data@data.of=images",
        f"data.of.path={tmp_path}/photos",
        "data.of.size=[12,12]",
        "data.of.fit=crop",
        "preset=smoke",
    ]
    folder = run(tmp_path / "out", "task=rotations", *own, *words)
    (worst,) = (folder / "errors").glob("*.json")
    assert all(entry["shown"]["file"].endswith(".png") for entry in json.loads(worst.read_text()))
    assert get_image_reader(load_run_model(folder), "image").fit == "crop"


def test_another_dataset_is_chosen_and_says_so(tmp_path):
    folder = run(tmp_path / "out", "task=rotations", "data@data.of=mnist", "preset=smoke")
    assert (
        "SYNTHETIC sample, not the real mnist"
        in json.loads((folder / "data.json").read_text())["note"]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data@data.of=wine"], "data.of gives number 'features', and only images can be turned"),
        (
            ["data.of=null"],
            "data.of=None is no dataset: choose a dataset of images, such as data@data.of=mnist",
        ),
        (["data.turns=two"], "data.turns='two': it must be one of one, all"),
        (["data@data.of=mnits"], "mnist"),
    ],
)
def test_what_cannot_be_turned_is_refused(words, said, tmp_path, capsys):
    assert main(["task=rotations", *words, f"output={tmp_path}"]) == 2
    assert said in capsys.readouterr().err


def test_oblong_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"10 × 14 .* make them square, data.of.size=\[10,10\]"):
        photos(tmp_path, "one", size=[10, 14])


# --- its weights serve another task -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["convnet", "residual"])
def test_its_weights_serve_a_task_with_labels(model, tmp_path):
    first = run(tmp_path / "turned", "task=rotations", f"model={model}", "preset=smoke")
    base = load_backbone("none", str(first), "image")
    kept = checkpoint.load_best(first / "checkpoints" / "fit")["objective"]
    assert base.run == (first, "fit") and all(
        torch.equal(value, kept[f"model.towers.image.{name}"])
        for name, value in base.net.state_dict().items()
    )
    words = [
        "task=digits",
        "model=pretrained",
        f"model.weights={first}",
        "preset=smoke",
        "protocol=few_rows",
    ]
    then = run(tmp_path / "digits", *words, "protocol.train=100")
    answers = load_run_model(then)
    assert (
        list(answers.spec.targets) == ["digit"]
        and json.loads((then / "data.json").read_text())["note"] == ""
    )
    held = answers.model.towers["image"].base.state_dict()
    assert all(torch.equal(held[name], value) for name, value in base.net.state_dict().items())


def test_held_out_rows_change_nothing_in_training(tmp_path):
    of, other = own(count=40), own(count=40)
    raw = rotations(of=of, turns="all")
    train, val = make_protocol(node("protocol", "holdout")).split_rows(raw, FitJob(), 0)
    other.dev["look"][np.unique(val // 4)] = 255
    poisoned = rotations(of=other, turns="all")
    batches = [
        next(prepare(each, train, val).train.batches(len(train))) for each in (raw, poisoned)
    ]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in ("look", "rotation"))
    held = [
        next(
            transform_rows(
                each, prepare(each, train, val), {n: c[val] for n, c in each.dev.items()}
            ).batches(999)
        )
        for each in (raw, poisoned)
    ]
    assert not torch.equal(held[0]["look"], held[1]["look"])
