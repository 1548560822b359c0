"""Pictures of the user's own, in a folder a class, with a table of labels, or without any."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlrun.config.constraints import Count, Natural, Probability
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Kind
from dlrun.data.fingerprints import fingerprint
from dlrun.data.images import decode, image_folder
from dlrun.data.images.archives import FileList, normalize_name
from dlrun.data.images.decode import ResizeMode
from dlrun.data.images.image_column import format_file_list, load_image_column
from dlrun.data.images.image_column import load_image_column as read_pictures
from dlrun.data.tabular import csv_file, holdout, targets
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.targets import ClassNaming

log = logging.getLogger("dlrun")
LABEL_COLUMNS = ("file", "label")  # the columns of a file of labels


@dataclass(frozen=True)
class ImageLabels:
    """Picture files with what is asked of them. values: class numbers (N,), or a 0/1 table (N, labels).

    test: which of them are test rows; None where nothing says so. validation: which ones a folder sets apart for it.
    """

    files: FileList
    values: np.ndarray
    names: tuple[str, ...]
    test: np.ndarray | None = None
    validation: np.ndarray | None = None

    @property
    def target(self) -> tuple[str, Kind]:
        if self.values.ndim == 2:
            return "labels", "multilabel"
        return "label", "binary" if len(self.names) == 2 else "category"


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
    """Pictures of a folder, or of a zip or tar archive, with their classes or labels. The defaults are dlrun 0.1.0's.

    labels: a CSV file, whose `columns` hold the file and the label (None: file, label); without it the folders are the
    classes, and folders train, validation and test are known by their names. separator: stands between several labels
    of one picture. Test rows: the folder test, or else the share `test`, the same of each class. Input `image` uint8
    (N, channels, *size), target `label` or `labels`. encoding, classes: of the labels' file, see `table_csv.csv`.
    seed: see `aside`. validation: folder holds out the pictures of a folder validation; mixed takes them as it takes
    others. Raises UserError for whatever is wrong with the files or the question.
    """
    if path is None:
        raise UserError(
            "say where the pictures are: data.path=FOLDER (one folder a class), or data.labels=FILE.csv too"
        )
    reading = decode.parse_image_options(size, channels, fit)
    found = image_folder.find_files(path)
    if labels:
        known = _labels_from_table(
            found, path, labels, columns or [*LABEL_COLUMNS], separator, encoding, classes
        )
    else:
        known = _labels_from_folders(found, path)
    dev, sealed = _split_rows(known, test, seed)
    target, kind = known.target
    advice = "; data.unreadable=skip leaves such files out"

    def read(which: np.ndarray) -> RawColumns:
        column = load_image_column(
            known.files.take(which.tolist()),
            reading,
            keep=cache,
            skip=unreadable == "skip",
            advice=advice,
        )
        return {"image": column, target: known.values[which][column.rows]}

    later: Callable[[], RawColumns] | None = (lambda: read(sealed)) if len(sealed) else None
    rows = read(dev)
    apart = 0 if known.validation is None else int(known.validation[dev[rows["image"].rows]].sum())
    last = image_folder.count_validation_files(apart, "pictures", validation)
    column = rows["image"]
    own = fingerprint(
        {"files": column.store.file_hashes[column.rows], target: np.asarray(rows[target])}
    )
    names = np.array([known.files.names[row] for row in sealed], object)
    marks = (
        own,
        fingerprint({"files": names, target: known.values[sealed], "beside": np.array([own])}),
    )
    about: dict[str, Any] = {
        "labels": {target: known.names},
        "num_validation_rows": last,
        "row_fingerprints": marks,
    }
    return Dataset(rows, {"image": "image"}, {target: kind}, {}, later, **about)


def _labels_from_folders(found: FileList, path: str) -> ImageLabels:
    files, named, part = image_folder.classes_from_folders(found, path)
    order = sorted(
        range(len(files)), key=lambda row: part[row] == "validation"
    )  # train first; test goes elsewhere
    files, named, part = ([column[row] for row in order] for column in (files, named, part))
    names, values = np.unique(np.array(named), return_inverse=True)
    test = np.array(part) == "test"
    classes = tuple(map(str, names))
    _log_classes("label", classes)
    validation = np.array(part) == "validation"
    sealed = test if test.any() else None
    return ImageLabels(
        FileList(found.root, tuple(files)), values.reshape(-1), classes, sealed, validation
    )


def _labels_from_table(
    found: FileList,
    path: str,
    labels: str,
    columns: list[str],
    separator: str | None,
    encoding: str,
    classes: ClassNaming,
) -> ImageLabels:
    inside = Path(path).expanduser() / labels
    table = csv_file.read_csv(
        str(inside) if inside.is_file() else labels, separator=None, header=None, encoding=encoding
    )
    table = _rename_columns(table, columns)
    files = FileList(found.root, _match_files(table, found, path))
    if separator:
        texts = [cell.split(separator) for cell in table.columns["label"]]
        each = [{normalize_name(label.strip()) for label in row if label.strip()} for row in texts]
        names = tuple(sorted(set().union(*each)))
        if len(names) < 2:
            raise UserError(
                f"{table.source} has {len(names)} different labels with data.separator='{separator}'; 2 or more"
            )
        _log_classes("labels", names)
        return ImageLabels(
            files, np.array([[name in row for name in names] for row in each], np.int64), names
        )
    empty = table.missing_mask("label")
    if empty.any():
        raise UserError(f"{table.source}: the label is missing in {table.describe_rows(empty)}")
    kind = "category" if len(set(table.columns["label"])) > 2 else "binary"
    target = targets.find_targets(table, "label", kind, classes)[0]
    names = targets.with_class_names(target, (table,)).class_names
    values = np.array([names.index(name) for name in target.read_values(table)], np.int64)
    return ImageLabels(files, values, names)


def _rename_columns(table: CsvTable, columns: list[str]) -> CsvTable:
    """The same table, with the columns that hold file and label called so. Raises UserError where it has none such."""
    if len(columns) != 2:
        raise UserError(
            f"data.columns={columns!r}: expected two, the column of files and that of labels"
        )
    if missing := [name for name in columns if name not in table.columns]:
        raise UserError(f"'{missing[0]}' is not a column of {table.source}; available: "
                      f"{format_names(table.columns, missing[0])}; say which hold file and label: "
                      "data.columns=[FILE,LABEL]")  # fmt: skip
    known = dict(zip(LABEL_COLUMNS, columns, strict=True))
    renamed = {called: table.columns[name] for called, name in known.items()}
    written = {
        called: table.number_formats[name]
        for called, name in known.items()
        if name in table.number_formats
    }
    return replace(
        table, columns=table.columns | renamed, number_formats={**table.number_formats, **written}
    )


def _log_classes(target: str, names: tuple[str, ...]) -> None:
    log.info(
        "%s: %s",
        target,
        format_file_list([f"{number} = {name}" for number, name in enumerate(names)]),
    )


def _match_files(table: CsvTable, found: FileList, path: str) -> tuple[str, ...]:
    """The file of each line. Raises UserError when a file is absent, lies outside, or is named twice."""
    known = {normalize_name(name): name for name in found.names}
    wanted = [
        normalize_name(cell).replace("\\", "/").removeprefix("./") for cell in table.columns["file"]
    ]
    outside = np.array([name.startswith("/") or ".." in name.split("/") for name in wanted])
    if outside.any():
        raise UserError(
            f"{table.source}: files outside {path} are not read: {table.describe_rows(outside)}"
        )
    absent = np.array([name not in known for name in wanted])
    if absent.any():
        some = format_file_list([wanted[row] for row in np.flatnonzero(absent)])
        raise UserError(
            f"{table.source}: {table.describe_rows(absent)} name no picture in {path}: {some}"
        )
    _, first = np.unique(wanted, return_index=True)
    again = np.ones(len(wanted), bool)
    again[first] = False
    if again.any():
        hint = "several labels stand in one line, with data.separator between them"
        raise UserError(
            f"{table.source}: {table.describe_rows(again)} name a file that an earlier line has: {hint}"
        )
    if unused := len(known) - len(wanted):
        log.warning(
            "%s: %s pictures have no line in %s and are left out", path, f"{unused:,}", table.source
        )
    return tuple(known[name] for name in wanted)


def _split_rows(
    known: ImageLabels, share: float, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Development rows and test rows."""
    rows = np.arange(len(known.files))
    if known.test is not None:
        return rows[~known.test], rows[known.test]
    if not share:
        return rows, rows[:0]
    if known.values.ndim == 2:
        return holdout.random_holdout(len(rows), share, seed)
    return holdout.stratified_holdout(known.values, share, seed)


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
    """All pictures of a folder, of the folders in it, or of a zip or tar archive; a share `test` is set aside.

    Input `image` uint8 (N, channels, *size), no target. Raises UserError for whatever is wrong with the files.
    """
    if path is None:
        raise UserError("say where the pictures are: data.path=FOLDER, or a zip or tar archive")
    reading = decode.parse_image_options(size, channels, fit)
    found = image_folder.find_files(path)
    dev, sealed = holdout.random_holdout(len(found), test)
    advice = "; data.unreadable=skip leaves such files out"

    def read(which: np.ndarray) -> RawColumns:
        files = found.take(which.tolist())
        return {
            "image": read_pictures(
                files, reading, keep=cache, skip=unreadable == "skip", advice=advice
            )
        }

    later: Callable[[], RawColumns] | None = (lambda: read(sealed)) if len(sealed) else None
    return Dataset(read(dev), {"image": "image"}, {}, {}, later)
