"""Frogs, or another of the ten classes of CIFAR-10: images of 32 × 32 pixels, without a target."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.files import data_root
from dlrun.data.cache import RemoteFile, find_local_file
from dlrun.data.datasets import synthetic
from dlrun.data.images.archives import FileList, list_members
from dlrun.data.images.decode import Reading
from dlrun.data.images.image_column import load_image_column
from dlrun.data.legacy_pickle import read_mappings

log = logging.getLogger("dlrun")

Class = Literal[
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]
# In the order of the labels in CIFAR-10's files.
NAMES: tuple[Class, ...] = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR = RemoteFile(
    "cifar10",
    "cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
)
IMAGE_SIZE = 32
SPLIT_FILES = {"train": "data_batch_", "test": "test_batch"}


def frogs(*, source: Literal["official", "sample"], which: Class) -> Dataset:
    """One class of CIFAR-10 (Krizhevsky 2009; book §8.5): 5,000 images and 1,000 test images.

    Input `image` uint8 (N, 3, 32, 32), no target. Without the official archive, frog.zip (the
    5,000 frogs as JPEG files) is used where it is there; the dataset's note then says so, and
    there are no test rows.

    Args:
        source: `official`, or `sample` for synthetic images.
        which: The class.

    Raises:
        UserError: Neither archive is available.
    """
    if source == "sample":

        def generate(split: str) -> RawColumns:
            images, _ = synthetic.generate_shapes(split, 3, (IMAGE_SIZE, IMAGE_SIZE))
            return {"image": images}

        note = synthetic.sample_note("frogs")
        sample = _build_dataset(generate("train"), lambda: generate("test"), note)
        return replace(sample, synthetic=True)
    # Used only where the official archive is absent: JPEG has changed its pixels.
    zipped = data_root() / "cifar10" / "frog.zip"
    if which == "frog" and zipped.is_file() and find_local_file(CIFAR) is None:
        return _build_dataset(
            _decompress(zipped),
            None,
            "frog.zip: the frogs of CIFAR-10 saved again as JPEG, not the official file",
        )
    return _build_dataset(
        _load_class_images("train", which), lambda: _load_class_images("test", which), ""
    )


def _build_dataset(dev: RawColumns, test: Callable[[], RawColumns] | None, note: str) -> Dataset:
    return Dataset(dev, {"image": "image"}, {}, {}, test, note=note)


def _decompress(path: Path) -> RawColumns:
    archive, names = list_members(path)
    return {
        "image": load_image_column(
            FileList(archive, tuple(sorted(names))),
            Reading((IMAGE_SIZE, IMAGE_SIZE), 3, "stretch"),
            keep=True,
            skip=False,
        )
    }


def _load_class_images(split: str, class_name: Class) -> RawColumns:
    """Return the images of one class in the official archive."""
    label = NAMES.index(class_name)
    images = [
        batch["data"][np.asarray(batch["labels"]) == label]
        for batch in read_mappings(CIFAR, SPLIT_FILES[split])
    ]
    return {"image": np.concatenate(images).reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)}
