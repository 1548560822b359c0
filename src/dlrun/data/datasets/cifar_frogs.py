"""Frogs, or another of the ten classes of CIFAR-10: pictures of 32 × 32 pixels, without a target."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.core.dataset import Raw, Rows
from dlrun.core.errors import Refused
from dlrun.core.paths import data_root
from dlrun.data.datasets import synthetic
from dlrun.data.downloads import Official, fetch, present
from dlrun.data.images.archives import DAMAGE, Files, bodies, members
from dlrun.data.images.decode import Reading
from dlrun.data.images.image_column import pictures
from dlrun.data.legacy_pickle import read_mapping

log = logging.getLogger("dlrun")

Class = Literal["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NAMES: tuple[Class, ...] = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR = Official(
    "cifar10",
    "cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
)
SIDE = 32
PARTS = {"train": "data_batch_", "test": "test_batch"}


def frogs(*, source: Literal["official", "sample"], which: Class) -> Raw:
    """One class of CIFAR-10 (Krizhevsky 2009; book §8.5): 5,000 pictures to learn from, 1,000 test pictures.

    Where the official archive is not there, but frog.zip is (in it the 5,000 frogs as JPEG files), it is taken, which
    is said: then there are no test pictures. Input `image` uint8 (N, 3, 32, 32), no target. Raises Refused when neither
    can be had.
    """
    if source == "sample":
        made = lambda split: {"image": synthetic.animals(split, 3, (SIDE, SIDE))[0]}  # noqa: E731
        return _raw(made("train"), lambda: made("test"), synthetic.note("frogs"))
    zipped = data_root() / "cifar10" / "frog.zip"
    if which == "frog" and zipped.is_file() and present(CIFAR) is None:
        return _raw(
            _unzipped(zipped), None, "frog.zip: the frogs of CIFAR-10 saved again as JPEG, not the official file"
        )
    archive = fetch(CIFAR)
    return _raw(_unpacked(archive, "train", which), lambda: _unpacked(archive, "test", which), "")


def _raw(dev: Rows, test: Callable[[], Rows] | None, note: str) -> Raw:
    return Raw(dev, {"image": "image"}, {}, {}, test, note=note)


def _unzipped(path: Path) -> Rows:
    place, names = members(path)
    return {
        "image": pictures(
            Files(place, tuple(sorted(names))), Reading((SIDE, SIDE), 3, "stretch"), keep=True, skip=False
        )
    }


def _unpacked(path: Path, part: str, which: Class) -> Rows:
    """The pictures of one class in the official archive. Raises Refused when it is not what it should be."""
    try:
        found = list(_of_class(bodies(path), PARTS[part], NAMES.index(which)))
        return {"image": np.concatenate(found).reshape(-1, 3, SIDE, SIDE)}
    except (*DAMAGE, OSError, KeyError, ValueError) as error:
        raise Refused(f"{path} does not hold the pictures of CIFAR-10: {error}") from error


def _of_class(files: Iterable[tuple[str, bytes]], part: str, label: int) -> Iterable[np.ndarray]:
    wanted = [(name, body) for name, body in files if name.rpartition("/")[2].startswith(part)]
    for _, body in sorted(wanted):
        content = read_mapping(body)
        yield content["data"][np.asarray(content["labels"]) == label]
