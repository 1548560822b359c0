"""Photographs of cats and dogs, a few thousand of the 25,000 of Kaggle's competition: the book's small dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.config.constraints import Count, Natural
from dlrun.core.dataset import Raw, Rows
from dlrun.core.errors import Refused
from dlrun.core.paths import data_root
from dlrun.core.types import Kind
from dlrun.data.datasets import synthetic
from dlrun.data.downloads import OFFLINE
from dlrun.data.images import decode
from dlrun.data.images.archives import Files, members
from dlrun.data.images.decode import Fit, Reading
from dlrun.data.images.image_column import pictures

ANIMALS = ("cat", "dog")
PAGE = "https://www.kaggle.com/c/dogs-vs-cats/data"


def cats_dogs(
    *,
    source: Literal["official", "sample"],
    development: Count,
    test: Natural,
    size: list[Count],
    channels: Literal[1, 3],
    fit: Fit,
    cache: bool,
) -> Raw:
    """Cats and dogs (Kaggle 2013; book §5.2): of each the first files, and then `test` test ones.

    development: files of each class, from number 0 on. Rows are cat.0, dog.0, cat.1, dog.1, …: the last third of 1,500
    of each are the book's validation rows. Input `image` uint8 (N, channels, *size), target `animal`, 1 for a dog.
    cache: see `pictures`. Raises Refused when Kaggle's train.zip is not under the data root, or lacks a file.
    """
    reading = decode.reading(size, channels, fit)
    if source == "sample":

        def drawn(split: str) -> Rows:
            return dict(zip(("image", "animal"), synthetic.animals(split, channels, reading.size), strict=True))

        return _raw(drawn("train"), lambda: drawn("test"), synthetic.note("cats_dogs"))
    dev, sealed = _numbered(0, development), _numbered(development, development + test)
    place, there = members(_archive())
    prefix = _prefix(set(there), dev + sealed)
    files = [Files(place, tuple(prefix + name for name in names)) for names in (dev, sealed)]
    return _raw(_rows(files[0], reading, cache), (lambda: _rows(files[1], reading, cache)) if test else None, "")


def _raw(dev: Rows, test: Callable[[], Rows] | None, note: str) -> Raw:
    kinds: dict[str, Kind] = {"animal": "binary"}
    return Raw(dev, {"image": "image"}, kinds, {}, test, labels={"animal": ANIMALS}, note=note)


def _rows(files: Files, reading: Reading, cache: bool) -> Rows:
    column = pictures(files, reading, keep=cache, skip=False)
    return {"image": column, "animal": np.arange(len(column)) % 2}


def _numbered(first: int, last: int) -> list[str]:
    return [f"{animal}.{number}.jpg" for number in range(first, last) for animal in ANIMALS]


def _archive() -> Path:
    path = data_root() / "dogs_vs_cats" / "train.zip"
    if not path.is_file():
        raise Refused(
            f"{path} is not there. It is Kaggle's train.zip, of {PAGE}, which gives it to whoever has an account and "
            f"accepts the rules of the competition; put it there as it is. Otherwise: {OFFLINE}"
        )
    return path


def _prefix(there: set[str], needed: list[str]) -> str:
    """The folder in the archive that holds the pictures."""
    prefix = "train/" if "train/cat.0.jpg" in there else ""
    missing = [name for name in needed if prefix + name not in there]
    if missing:
        raise Refused(
            f"{data_root() / 'dogs_vs_cats' / 'train.zip'} lacks {len(missing):,} of {len(needed):,} files, as "
            f"train/{missing[0]}: take fewer with data.development and data.test, or Kaggle's own train.zip of {PAGE}"
        )
    return prefix
