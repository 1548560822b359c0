"""Photographs of cats and dogs, a few thousand of the 25,000 of Kaggle's competition: the book's small dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.config.constraints import Count, Natural
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError
from dlrun.core.paths import data_root
from dlrun.core.types import Kind
from dlrun.data.datasets import synthetic
from dlrun.data.downloads import OFFLINE_HINT
from dlrun.data.images import decode
from dlrun.data.images.archives import FileList, list_members
from dlrun.data.images.decode import Reading, ResizeMode
from dlrun.data.images.image_column import load_image_column

CLASSES = ("cat", "dog")
DOWNLOAD_PAGE = "https://www.kaggle.com/c/dogs-vs-cats/data"


def cats_dogs(
    *,
    source: Literal["official", "sample"],
    development: Count,
    test: Natural,
    size: list[Count],
    channels: Literal[1, 3],
    fit: ResizeMode,
    cache: bool,
) -> Dataset:
    """Cats and dogs (Kaggle 2013; book §5.2): of each the first files, and then `test` test ones.

    development: files of each class, from number 0 on. Rows are cat.0, dog.0, cat.1, dog.1, …: the last third of 1,500
    of each are the book's validation rows. Input `image` uint8 (N, channels, *size), target `animal`, 1 for a dog.
    cache: see `pictures`. Raises UserError when Kaggle's train.zip is not under the data root, or lacks a file.
    """
    reading = decode.parse_image_options(size, channels, fit)
    if source == "sample":

        def drawn(split: str) -> RawColumns:
            return dict(
                zip(
                    ("image", "animal"),
                    synthetic.generate_shapes(split, channels, reading.size),
                    strict=True,
                )
            )

        return _build_dataset(
            drawn("train"), lambda: drawn("test"), synthetic.sample_note("cats_dogs")
        )
    dev, sealed = (
        _list_file_names(0, development),
        _list_file_names(development, development + test),
    )
    place, there = list_members(_find_archive())
    prefix = _archive_prefix(set(there), dev + sealed)
    files = [FileList(place, tuple(prefix + name for name in names)) for names in (dev, sealed)]
    return _build_dataset(
        _load_rows(files[0], reading, cache),
        (lambda: _load_rows(files[1], reading, cache)) if test else None,
        "",
    )


def _build_dataset(dev: RawColumns, test: Callable[[], RawColumns] | None, note: str) -> Dataset:
    kinds: dict[str, Kind] = {"animal": "binary"}
    return Dataset(dev, {"image": "image"}, kinds, {}, test, labels={"animal": CLASSES}, note=note)


def _load_rows(files: FileList, reading: Reading, cache: bool) -> RawColumns:
    column = load_image_column(files, reading, keep=cache, skip=False)
    return {"image": column, "animal": np.arange(len(column)) % 2}


def _list_file_names(first: int, last: int) -> list[str]:
    return [f"{animal}.{number}.jpg" for number in range(first, last) for animal in CLASSES]


def _find_archive() -> Path:
    path = data_root() / "dogs_vs_cats" / "train.zip"
    if not path.is_file():
        raise UserError(
            f"{path} is not there. It is Kaggle's train.zip, of {DOWNLOAD_PAGE}, which gives it to whoever has an account and "
            f"accepts the rules of the competition; put it there as it is. Otherwise: {OFFLINE_HINT}"
        )
    return path


def _archive_prefix(there: set[str], needed: list[str]) -> str:
    """The folder in the archive that holds the pictures."""
    prefix = "train/" if "train/cat.0.jpg" in there else ""
    missing = [name for name in needed if prefix + name not in there]
    if missing:
        raise UserError(
            f"{data_root() / 'dogs_vs_cats' / 'train.zip'} lacks {len(missing):,} of {len(needed):,} files, as "
            f"train/{missing[0]}: take fewer with data.development and data.test, or Kaggle's own train.zip of {DOWNLOAD_PAGE}"
        )
    return prefix
