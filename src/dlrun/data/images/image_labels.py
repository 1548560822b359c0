"""Labels of image files: by the folder each lies in, or from a table."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dlrun.core.errors import UserError, format_names
from dlrun.core.formatting import format_file_list
from dlrun.core.types import Kind
from dlrun.data.images import image_folder
from dlrun.data.images.archives import FileList, normalize_name
from dlrun.data.tabular import csv_file, targets
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.targets import ClassNaming

log = logging.getLogger("dlrun")
LABEL_COLUMNS = ("file", "label")


@dataclass(frozen=True)
class ImageLabels:
    """Image files with their labels.

    Attributes:
        files: The image files.
        values: Class numbers (N,), or for several labels an image a 0/1 table (N, labels).
        names: Names of the classes, or of the labels.
        test: Mask of the test rows (N,); None where the files do not say.
        validation: Mask of the rows in a folder `validation` (N,); None where the files do not say.
    """

    files: FileList
    values: np.ndarray
    names: tuple[str, ...]
    test: np.ndarray | None = None
    validation: np.ndarray | None = None

    @property
    def target(self) -> tuple[str, Kind]:
        """Name and kind of the target column."""
        if self.values.ndim == 2:
            return "labels", "multilabel"
        return "label", "binary" if len(self.names) == 2 else "category"


def labels_from_folders(image_files: FileList, path: str) -> ImageLabels:
    """Label images by the folder each lies in; the rows of a folder validation come last.

    Args:
        image_files: The image files.
        path: Where they lie, for messages.

    Raises:
        UserError: There is not a folder for each class, or only one class.
    """
    files, class_names, splits = image_folder.classes_from_folders(image_files, path)
    # Validation rows go last, where protocol=last_rows holds them out; test rows are split off.
    order = sorted(range(len(files)), key=lambda row: splits[row] == "validation")
    files, class_names, splits = (
        [column[row] for row in order] for column in (files, class_names, splits)
    )
    names, values = np.unique(np.array(class_names), return_inverse=True)
    test = np.array(splits) == "test"
    classes = tuple(map(str, names))
    _log_classes("label", classes)
    validation = np.array(splits) == "validation"
    sealed = test if test.any() else None
    return ImageLabels(
        FileList(image_files.root, tuple(files)), values.reshape(-1), classes, sealed, validation
    )


def labels_from_table(
    image_files: FileList,
    path: str,
    labels: str,
    columns: list[str] | None,
    separator: str | None,
    encoding: str,
    classes: ClassNaming,
) -> ImageLabels:
    """Label images by a CSV file with a line for each.

    Args:
        image_files: The image files; those without a line are left out.
        path: Where they lie.
        labels: The CSV file, in that folder or anywhere else.
        columns: The columns that hold file and label; None: file, label.
        separator: Stands between several labels of one image.
        encoding: Encoding of the CSV file.
        classes: How classes are named, see `table_csv.csv`.

    Raises:
        UserError: The table does not fit the files, or a label is missing.
    """
    # A table that lies among the images is named relative to them.
    path_in_folder = Path(path).expanduser() / labels
    table = csv_file.read_csv(
        str(path_in_folder) if path_in_folder.is_file() else labels,
        separator=None,
        header=None,
        encoding=encoding,
    )
    table = _rename_columns(table, columns or [*LABEL_COLUMNS])
    files = FileList(image_files.root, _match_files(table, image_files, path))
    if separator:
        return _read_label_sets(table, files, separator)
    missing = table.missing_mask("label")
    if missing.any():
        raise UserError(f"{table.source}: the label is missing in {table.describe_rows(missing)}")
    kind = "category" if len(set(table.columns["label"])) > 2 else "binary"
    target = targets.find_targets(table, "label", kind, classes)[0]
    names = targets.with_class_names(target, (table,)).class_names
    values = np.array([names.index(name) for name in target.read_values(table)], np.int64)
    return ImageLabels(files, values, names)


def _read_label_sets(table: CsvTable, files: FileList, separator: str) -> ImageLabels:
    """Return several labels an image, as a 0/1 table."""
    cells = [cell.split(separator) for cell in table.columns["label"]]
    label_sets = [
        {normalize_name(label.strip()) for label in row if label.strip()} for row in cells
    ]
    # Sorted: the order of labels must not depend on the order of lines.
    names = tuple(sorted(set().union(*label_sets)))
    if len(names) < 2:
        raise UserError(
            f"{table.source} has {len(names)} different labels with "
            f"data.separator='{separator}'; 2 or more"
        )
    _log_classes("labels", names)
    values = np.array([[name in row for name in names] for row in label_sets], np.int64)
    return ImageLabels(files, values, names)


def _rename_columns(table: CsvTable, columns: list[str]) -> CsvTable:
    """Add the columns of file and label under their usual names; raise UserError without them."""
    if len(columns) != 2:
        raise UserError(
            f"data.columns={columns!r}: expected two, the column of files and that of labels"
        )
    if missing := [name for name in columns if name not in table.columns]:
        raise UserError(
            f"'{missing[0]}' is not a column of {table.source}; available: "
            f"{format_names(table.columns, missing[0])}; say which hold file and label: "
            "data.columns=[FILE,LABEL]"
        )
    sources = dict(zip(LABEL_COLUMNS, columns, strict=True))
    renamed = {new_name: table.columns[name] for new_name, name in sources.items()}
    formats = {
        new_name: table.number_formats[name]
        for new_name, name in sources.items()
        if name in table.number_formats
    }
    return replace(
        table, columns=table.columns | renamed, number_formats={**table.number_formats, **formats}
    )


def _log_classes(target: str, names: tuple[str, ...]) -> None:
    log.info(
        "%s: %s",
        target,
        format_file_list([f"{number} = {name}" for number, name in enumerate(names)]),
    )


def _match_files(table: CsvTable, image_files: FileList, path: str) -> tuple[str, ...]:
    """Return the image of each line of the table.

    Raises:
        UserError: A file is absent, lies outside the folder, or is named twice.
    """
    # Tables and file systems write accents in different forms, so both sides are normalized.
    by_name = {normalize_name(name): name for name in image_files.names}
    listed = [
        normalize_name(cell).replace("\\", "/").removeprefix("./") for cell in table.columns["file"]
    ]
    _check_listed_files(table, listed, by_name, path)
    if unused := len(by_name) - len(listed):
        log.warning(
            "%s: %s images have no line in %s and are left out", path, f"{unused:,}", table.source
        )
    return tuple(by_name[name] for name in listed)


def _check_listed_files(
    table: CsvTable, listed: list[str], by_name: dict[str, str], path: str
) -> None:
    outside = np.array([name.startswith("/") or ".." in name.split("/") for name in listed])
    if outside.any():
        raise UserError(
            f"{table.source}: files outside {path} are not read: {table.describe_rows(outside)}"
        )
    absent = np.array([name not in by_name for name in listed])
    if absent.any():
        names = format_file_list([listed[row] for row in np.flatnonzero(absent)])
        raise UserError(
            f"{table.source}: {table.describe_rows(absent)} name no image in {path}: {names}"
        )
    # A file in two lines could be on both sides of a split.
    _, first_rows = np.unique(listed, return_index=True)
    repeated = np.ones(len(listed), bool)
    repeated[first_rows] = False
    if repeated.any():
        hint = "several labels stand in one line, with data.separator between them"
        raise UserError(
            f"{table.source}: {table.describe_rows(repeated)} name a file that an earlier line "
            f"has: {hint}"
        )
