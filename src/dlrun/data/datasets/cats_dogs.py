"""Photographs of cats and dogs from Kaggle's competition: the book's small dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.config.annotations import Count, Natural
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError
from dlrun.core.files import data_root
from dlrun.core.types import Kind
from dlrun.data.cache import OFFLINE_HINT
from dlrun.data.datasets import synthetic
from dlrun.data.images import decode
from dlrun.data.images.archives import FileList, list_members
from dlrun.data.images.decode import Reading, ResizeMode
from dlrun.data.images.image_column import load_image_column

# In the order of their class numbers.
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
    """Cats and dogs (Kaggle 2013; book §5.2): the first files of each class, then the test files.

    Input `image` uint8 (N, channels, *size), target `animal`, 1 for a dog. Rows are cat.0, dog.0,
    cat.1, dog.1, …: with 1,500 of each the last third are the book's validation rows.

    Args:
        source: `official` reads Kaggle's train.zip under the data root; `sample` is synthetic.
        development: Training + validation files of each class, from number 0 on.
        test: Test files of each class, after those.
        size: Height and width in pixels.
        channels: 3 (RGB), or 1 (grayscale).
        fit: How images of another aspect ratio fill the size, see `Reading`.
        cache: Keep the decoded pixels on the disk.

    Raises:
        UserError: The archive is missing, or lacks a file.
    """
    reading = decode.parse_image_options(size, channels, fit)
    if source == "sample":

        def generate(split: str) -> RawColumns:
            images, classes = synthetic.generate_shapes(split, channels, reading.size)
            return {"image": images, "animal": classes}

        note = synthetic.sample_note("cats_dogs")
        sample = _build_dataset(generate("train"), lambda: generate("test"), note)
        return replace(sample, synthetic=True)
    dev = _list_file_names(0, development)
    sealed = _list_file_names(development, development + test)
    archive, members = list_members(_find_archive())
    prefix = _archive_prefix(set(members), dev + sealed)

    def load(names: list[str]) -> RawColumns:
        files = FileList(archive, tuple(prefix + name for name in names))
        return _load_rows(files, reading, cache)

    return _build_dataset(load(dev), (lambda: load(sealed)) if test else None, "")


def _build_dataset(dev: RawColumns, test: Callable[[], RawColumns] | None, note: str) -> Dataset:
    kinds: dict[str, Kind] = {"animal": "binary"}
    return Dataset(dev, {"image": "image"}, kinds, {}, test, labels={"animal": CLASSES}, note=note)


def _load_rows(files: FileList, reading: Reading, cache: bool) -> RawColumns:
    column = load_image_column(files, reading, keep=cache, skip=False)
    # Files alternate, as `_list_file_names` lists them: even rows are cats.
    return {"image": column, "animal": np.arange(len(column)) % 2}


def _list_file_names(first: int, last: int) -> list[str]:
    return [f"{animal}.{number}.jpg" for number in range(first, last) for animal in CLASSES]


def _find_archive() -> Path:
    path = data_root() / "dogs_vs_cats" / "train.zip"
    if not path.is_file():
        raise UserError(
            f"{path} is not there. It is Kaggle's train.zip, of {DOWNLOAD_PAGE}, which gives it to "
            "whoever has an account and accepts the rules of the competition; put it there as it "
            f"is. Otherwise: {OFFLINE_HINT}"
        )
    return path


def _archive_prefix(members: set[str], needed: list[str]) -> str:
    """Return the folder of the images in the archive; raise UserError if files are missing."""
    # Kaggle's archive has a folder train; one that was packed again may not.
    prefix = "train/" if "train/cat.0.jpg" in members else ""
    missing = [name for name in needed if prefix + name not in members]
    if missing:
        raise UserError(
            f"{data_root() / 'dogs_vs_cats' / 'train.zip'} lacks {len(missing):,} of "
            f"{len(needed):,} files, as train/{missing[0]}: take fewer with data.development and "
            f"data.test, or Kaggle's own train.zip of {DOWNLOAD_PAGE}"
        )
    return prefix
