"""Images without classes: frogs as they are found, folders of one's own; and what is said when a GAN collapses."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dlrun.cli.main import main
from dlrun.core.errors import UserError
from dlrun.core.types import EpochRecord
from dlrun.data.datasets import cifar_frogs
from dlrun.training.callbacks import CollapseDetector

LIGHT = (
    "model.generator=[4]",
    "model.discriminator=[4]",
    "preset=smoke",
    "source=official",
    "engine.max_steps=3",
)


def jpeg(seed, size=32):
    """An image file of one color, and noise."""
    random = np.random.RandomState(seed)
    pixels = (random.randint(0, 200, 3) + random.randint(0, 40, (size, size, 3))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root of its own."""
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def zipped(root):
    with zipfile.ZipFile(root / "cifar10" / "frog.zip", "w") as archive:
        for number in range(24):
            archive.writestr(f"frog/{number:04}.jpg", jpeg(number))


def official(root, monkeypatch):
    """An archive like the official one, of eight images a file; its pixels tell file and row."""
    path = root / "cifar10" / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number, name in enumerate(
            ("data_batch_2", "data_batch_1", "test_batch", "batches.meta")
        ):
            pixels = (
                np.full((8, 3072), 10 * number, np.uint8) + np.arange(8, dtype=np.uint8)[:, None]
            )
            content = pickle.dumps({"data": pixels, "labels": [6, 2, 6, 6, 9, 0, 2, 6]}, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    known = replace(cifar_frogs.CIFAR, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar_frogs, "CIFAR", known)
    return path


def test_frogs_of_the_zip_say_what_they_are(root, zipped):
    raw = cifar_frogs.frogs(source="official", which="frog")
    assert raw.dev["image"].shape == (24, 3, 32, 32) and raw.targets == {} and raw.test is None
    assert "saved again as JPEG, not the official file" in raw.note and "SYNTHETIC" not in raw.note


def test_the_official_archive_comes_first_and_has_every_class(root, zipped, monkeypatch):
    official(root, monkeypatch)
    raw = cifar_frogs.frogs(source="official", which="frog")
    first = raw.dev["image"][:, 0, 0, 0].tolist()
    assert (
        first == [10, 12, 13, 17, 0, 2, 3, 7] and raw.note == ""
    )  # data_batch_1 comes before data_batch_2
    assert raw.test()["image"][:, 2, 31, 31].tolist() == [20, 22, 23, 27]
    assert len(cifar_frogs.frogs(source="official", which="bird").dev["image"]) == 4


def test_an_archive_of_something_else_is_refused(root, monkeypatch):
    path = official(root, monkeypatch)
    with tarfile.open(path, "w:gz") as archive:
        content = pickle.dumps(SimpleNamespace(data=1), protocol=2)
        member = tarfile.TarInfo("data_batch_1")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match="is not the official"):
        cifar_frogs.frogs(source="official", which="cat")
    monkeypatch.setattr(cifar_frogs, "CIFAR", replace(cifar_frogs.CIFAR, sha256=""))
    with pytest.raises(UserError, match=r"gz is not read: a checksum of .* is not known$"):
        cifar_frogs.frogs(source="official", which="cat")


def test_a_sample_is_made_up_and_says_so():
    raw = cifar_frogs.frogs(source="sample", which="frog")
    assert (
        "SYNTHETIC" in raw.note
        and raw.dev["image"].shape[1:] == (3, 32, 32)
        and len(raw.test()["image"])
    )


def results(folder):
    (path,) = folder.rglob("results.jsonl")
    return json.loads(path.read_text())


def test_frogs_from_words_to_report(root, zipped, tmp_path, capsys):
    assert main(["task=frogs", *LIGHT, f"output={tmp_path / 'out'}"]) == 0
    found = results(tmp_path / "out")
    assert (
        found["baseline"] == {}
        and "frechet_pixels" in found["scores"]
        and "not the official file" in found["note"]
    )
    assert (
        main(["task=frogs", *LIGHT, "test=true", "reason=a try", f"output={tmp_path / 'more'}"])
        == 2
    )
    assert "these data have no test rows" in capsys.readouterr().err


@pytest.mark.parametrize("folders", [False, True])
def test_pictures_of_ones_own_with_classes_or_without(folders, tmp_path):
    for number in range(30):
        place = tmp_path / "mine" / ("ab"[number % 2] if folders else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(jpeg(number, 20))
    words = (
        ["task=images", "objective=adversarial", "model=dcgan"] if folders else ["task=pictures"]
    )
    where = (f"data.path={tmp_path / 'mine'}", "data.size=[16,20]", f"output={tmp_path / 'out'}")
    assert main([*words, *LIGHT, *where]) == 0
    assert "frechet_pixels" in results(tmp_path / "out")["scores"]
    assert list((tmp_path / "out").rglob("followed-epoch-0001.png"))


def test_pictures_that_are_not_there_are_refused(tmp_path, capsys):
    assert main(["task=pictures", *LIGHT, f"output={tmp_path}"]) == 2
    assert "say where the images are: data.path=FOLDER" in capsys.readouterr().err


def seen(values, watch):
    """A trainer with this history of diversity, after the callback has looked at it."""
    rows = [
        EpochRecord(epoch, "train", {"diversity": value}) for epoch, value in enumerate(values, 1)
    ]
    trainer = SimpleNamespace(history=rows, stop="", epoch=len(rows))
    watch(trainer)
    return trainer


def test_a_collapse_is_noticed_after_some_epochs_in_a_row(caplog):
    stops, warns = (CollapseDetector("train/diversity", 0.5, 3, stop) for stop in (True, False))
    for quiet in ([], [0.1, 0.1], [0.1, 0.1, 0.6], [0.1, 0.6, 0.1, 0.1], [float("nan")] * 3):
        assert (
            seen(quiet, stops).stop == "" and seen(quiet, warns).stop == "" and not caplog.records
        )
    assert (
        "train/diversity has been below 0.5 for 3 epochs: 0.1"
        in seen([0.9, 0.2, 0.2, 0.1], stops).stop
    )
    assert seen([0.9, 0.2, 0.2, 0.1], warns).stop == "" and "epoch 4" in caplog.text
