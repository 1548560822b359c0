"""Images of the user's own: in a folder a class, with a table of labels, or without labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from dlrun.config.annotations import Count, Natural, Probability
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError
from dlrun.data.cache import fingerprint
from dlrun.data.images import decode, image_folder
from dlrun.data.images.archives import FileList
from dlrun.data.images.decode import Reading, ResizeMode
from dlrun.data.images.image_column import ImageFileColumn, load_image_column
from dlrun.data.images.image_labels import ImageLabels, labels_from_folders, labels_from_table
from dlrun.data.tabular import holdout
from dlrun.data.tabular.targets import ClassNaming

SKIP_ADVICE = "; data.unreadable=skip leaves such files out"


def images(
    *,
    path: str | None,
    labels: str | None,
    separator: str | None,
    test: Probability,
    unreadable: Literal["refuse", "skip"],
    size: list[Count],
    channels: Literal[1, 3],
    fit: ResizeMode,
    cache: bool,
    encoding: str = "utf-8",
    classes: ClassNaming = "numbers",
    validation: image_folder.ValidationMode = "mixed",
    columns: list[str] | None = None,
    seed: Natural | None = None,
) -> Dataset:
    """Images of a folder, or of a zip or tar archive, with their classes or labels.

    Input `image` uint8 (N, channels, *size), target `label` or `labels`.

    Args:
        path: The folder or archive.
        labels: A CSV file with the labels. Without it each folder is a class, and the folders
            train, validation and test are recognized by their names.
        separator: Stands between several labels of one image.
        test: Share of each class that becomes test rows, where there is no folder test.
        unreadable: What to do with files that give no image.
        size: Height and width in pixels.
        channels: 3 (RGB), or 1 (grayscale).
        fit: How images of another aspect ratio fill the size, see `Reading`.
        cache: Keep the decoded pixels on the disk.
        encoding: Encoding of the labels' file.
        classes: How classes are named, see `table_csv.csv`.
        validation: `folder` holds out the images of a folder validation; `mixed` treats them as
            any others.
        columns: The columns that hold file and label; None: file, label.
        seed: Which rows become test rows; None: always the same ones.

    Raises:
        UserError: The files or the settings are unusable.
    """
    # The defaults are those of dlrun 0.1.0, which wrote fewer settings into its run folders.
    if path is None:
        raise UserError(
            "say where the images are: data.path=FOLDER (one folder a class), "
            "or data.labels=FILE.csv too"
        )
    reading = decode.parse_image_options(size, channels, fit)
    files = image_folder.find_files(path)
    labeled = (
        labels_from_table(files, path, labels, columns, separator, encoding, classes)
        if labels
        else labels_from_folders(files, path)
    )
    dev, sealed = _split_rows(labeled, test, seed)
    target, kind = labeled.target

    def read(rows: np.ndarray) -> RawColumns:
        column = _load_column(labeled.files.take(rows.tolist()), reading, cache, unreadable)
        # Files that were left out take their labels with them.
        return {"image": column, target: labeled.values[rows][column.rows]}

    columns_read = read(dev)
    column = columns_read["image"]
    in_folder = labeled.validation
    num_validation = 0 if in_folder is None else int(in_folder[dev[column.rows]].sum())
    return Dataset(
        columns_read,
        {"image": "image"},
        {target: kind},
        {},
        (lambda: read(sealed)) if len(sealed) else None,
        labels={target: labeled.names},
        num_validation_rows=image_folder.count_validation_files(
            num_validation, "images", validation
        ),
        row_fingerprints=_fingerprint_rows(column, columns_read[target], target, labeled, sealed),
    )


def _load_column(
    files: FileList, reading: Reading, cache: bool, unreadable: str
) -> ImageFileColumn:
    skip = unreadable == "skip"
    return load_image_column(files, reading, keep=cache, skip=skip, advice=SKIP_ADVICE)


def _fingerprint_rows(
    column: ImageFileColumn,
    values: np.ndarray,
    target: str,
    labeled: ImageLabels,
    sealed: np.ndarray,
) -> tuple[str, str]:
    """Fingerprints of the training + validation rows and of the test rows."""
    dev = fingerprint(
        {"files": column.image_store.file_hashes[column.rows], target: np.asarray(values)}
    )
    # Test images stay unread until the final evaluation, so their names stand for their content,
    # together with the fingerprint of the other rows.
    names = np.array([labeled.files.names[row] for row in sealed], object)
    sealed_columns = {"files": names, target: labeled.values[sealed], "beside": np.array([dev])}
    return dev, fingerprint(sealed_columns)


def _split_rows(
    labeled: ImageLabels, share: float, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training + validation rows, and of the test rows."""
    rows = np.arange(len(labeled.files))
    if labeled.test is not None:
        return rows[~labeled.test], rows[labeled.test]
    if not share:
        return rows, rows[:0]
    # Rows with several labels have no single class to stratify by.
    if labeled.values.ndim == 2:
        return holdout.random_holdout(len(rows), share, seed)
    return holdout.stratified_holdout(labeled.values, share, seed)


def unlabeled(
    *,
    path: str | None,
    test: Probability,
    unreadable: Literal["refuse", "skip"],
    size: list[Count],
    channels: Literal[1, 3],
    fit: ResizeMode,
    cache: bool,
) -> Dataset:
    """All images of a folder, of the folders in it, or of a zip or tar archive.

    Input `image` uint8 (N, channels, *size), no target.

    Args:
        path: The folder or archive.
        test: Share of the rows that becomes test rows.
        unreadable: What to do with files that give no image.
        size: Height and width in pixels.
        channels: 3 (RGB), or 1 (grayscale).
        fit: How images of another aspect ratio fill the size, see `Reading`.
        cache: Keep the decoded pixels on the disk.

    Raises:
        UserError: The files or the settings are unusable.
    """
    if path is None:
        raise UserError("say where the images are: data.path=FOLDER, or a zip or tar archive")
    reading = decode.parse_image_options(size, channels, fit)
    files = image_folder.find_files(path)
    dev, sealed = holdout.random_holdout(len(files), test)

    def read(rows: np.ndarray) -> RawColumns:
        return {"image": _load_column(files.take(rows.tolist()), reading, cache, unreadable)}

    read_test: Callable[[], RawColumns] | None = (lambda: read(sealed)) if len(sealed) else None
    return Dataset(read(dev), {"image": "image"}, {}, {}, read_test)
