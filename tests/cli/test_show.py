"""`dlrun show`: a sheet of training images of all classes, and what augmentation makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dlrun.cli.explain import build_first_fit
from dlrun.cli.main import main
from dlrun.cli.show import COLUMNS, build_image_grid, format_target_label
from dlrun.core.errors import UserError
from dlrun.core.types import Field

DIGITS = ["task=digits", "model.units=[4]"]


def lines_of(*words):
    with build_first_fit(list(words), Console()) as (_, fit):
        return fit, build_image_grid(fit)


@pytest.mark.parametrize(
    "words",
    [
        [*DIGITS, "augment=book"], [*DIGITS, "augment=[flip,mixup]"], DIGITS,
        ["task=mnist", "source=sample", "augment=light"], ["task=fashion_mnist", "source=sample"],
    ],
)  # fmt: skip
def test_the_sheet_is_a_picture_and_its_path_is_printed(words, tmp_path, capsys):
    assert main(["show", *words, f"output={tmp_path}"]) == 0
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert f"images: {file}" in capsys.readouterr().out and file.name == "show.png"
    width, height = Image.open(file).size
    assert width > 1000 and height > 1500
    assert np.asarray(Image.open(file).convert("L")).std() > 50


def test_the_first_is_a_training_picture_of_its_class_and_the_others_are_changed():
    fit, lines = lines_of(*DIGITS, "augment=rotate")
    assert [line.title for line in lines] == list("0123456789")
    images, digits = fit.data.train.columns["image"].values, fit.data.train.columns["digit"].values
    for line in lines:
        assert len(line.pictures) == COLUMNS and not any(line.captions)
        original, *others = line.pictures
        place = (images[:, 0].numpy() == original).all((1, 2)).nonzero()[0]
        assert line.title in {str(int(digits[row])) for row in place}
        assert all((other != original).any() for other in others)
        assert (
            len({other.tobytes() for other in others}) >= COLUMNS // 2
        )  # some turns are too small


def test_without_augmentation_a_row_is_a_class():
    fit, lines = lines_of(*DIGITS)
    images, digits = (
        fit.data.train.columns["image"].values[:, 0].numpy(),
        fit.data.train.columns["digit"].values,
    )
    assert [line.title for line in lines] == list("0123456789")
    for line in lines:
        own = {picture.tobytes() for picture in images[(digits == int(line.title)).numpy()]}
        assert (
            len(line.pictures) == COLUMNS
            and {picture.tobytes() for picture in line.pictures} <= own
        )


def test_mixed_labels_stand_below_and_the_same_words_show_the_same():
    _, lines = lines_of(*DIGITS, "augment=mixup", "augment.mixup.alpha=2.0")
    told = [caption for line in lines for caption in line.captions[1:]]
    assert all(caption.count(",") == 1 for caption in told if caption) and sum(map(bool, told)) > 40
    shares = [float(part.split()[1]) for part in told[0].split(", ")]
    assert sum(shares) == pytest.approx(1, abs=0.011)
    _, again = lines_of(*DIGITS, "augment=mixup", "augment.mixup.alpha=2.0")
    assert [line.captions for line in again] == [line.captions for line in lines]


def test_to_names_the_file_and_nothing_else_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", *DIGITS, "augment=flip", "to=sheet.png"]) == 0
    assert [path.name for path in tmp_path.rglob("*")] == ["sheet.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=wine"], "these data have no image input to show; the inputs are features (number)"),
        (["task=wine", "augment=book"], "these data have no image input"),
        ([*DIGITS, "to=no/such/folder.png"], "to=no/such/folder.png: it must be a file"),
        ([*DIGITS, "to=sheet.txt"], "end in .png"),
        ([*DIGITS, "augment=flop"], "no augment 'flop': did you mean 'flip'?"),
    ],
)
def test_what_cannot_be_shown_is_refused_and_leaves_nothing(
    words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["show", *words]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_classes_and_labels_have_their_names():
    pair = ("cat", "dog")
    assert format_target_label(Field("category", (), 2, pair), torch.tensor(1)) == "dog"
    assert format_target_label(Field("binary", (1,), 0, pair), torch.tensor([0.0])) == "cat"
    assert format_target_label(Field("binary", (1,)), torch.tensor([1.0])) == "1"
    many = Field("multilabel", (3,), 3, ("sea", "sky", "sun"))
    assert (
        format_target_label(many, torch.tensor([1.0, 0, 1])) == "sea, sun"
        and format_target_label(many, torch.zeros(3)) == "none"
    )
    assert format_target_label(Field("number", (1,)), torch.tensor([2.5])) == "2.5"


def test_features_computed_ahead_are_no_pictures():
    with build_first_fit(DIGITS, Console()) as (_, fit):
        columns = fit.data.train.columns
        fit.data.train.columns = {"image.ahead": columns["image"], "digit": columns["digit"]}
        with pytest.raises(UserError, match="computed ahead instead of image"):
            build_image_grid(fit)


def test_pictures_are_shown_whatever_is_made_of_them():
    fit, lines = lines_of("task=digits", "objective=variational", "model=vae_dense")
    assert not fit.trainer.objective.losses and len(lines) == 10
    fit, (line,) = lines_of("task=frogs", "source=sample")
    assert not fit.data.spec.targets and len(line.pictures) == COLUMNS


def test_a_photograph_that_changes_has_no_training_pictures():
    with pytest.raises(UserError, match="nothing is learned from rows here"):
        lines_of("task=deepdream", "preset=smoke")
