"""Your own texts: a folder for each class, or a table with a column of texts."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlrun.config.annotations import Natural, Probability, TextPart
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError, format_names
from dlrun.core.formatting import format_file_list
from dlrun.core.types import Kind
from dlrun.data.images import image_folder
from dlrun.data.images.archives import FileList, is_archive, read_bytes
from dlrun.data.images.decode import ImageDecodeError
from dlrun.data.tabular import csv_dataset, holdout
from dlrun.data.tabular.csv_file import CsvTable, read_csv
from dlrun.data.tabular.number_format import DecimalStyle
from dlrun.data.tabular.schema import TableSchema, build_table_dataset
from dlrun.data.tabular.targets import (
    ClassNaming,
    MissingTarget,
    Target,
    drop_missing_targets,
    find_targets,
)
from dlrun.data.tabular.text_encoding import canonical_encoding, decode_text

log = logging.getLogger("dlrun")

EmptyTextPolicy = Literal["refuse", "skip"]
TEXT, LABEL = "text", "label"  # the columns of a folder of texts
# Settings of number columns, of which a dataset of texts has none.
UNUSED_SETTINGS = {"scale": "none", "impute": "constant", "indicator": False}


def texts(
    *,
    path: str | None,
    text: str | None,
    target: str | None,
    kind: Literal["auto", "binary", "category", "number", "fraction"],
    test: Probability,
    test_path: str | None,
    encoding: str,
    empty: EmptyTextPolicy,
    separator: str | None,
    header: list[str] | None,
    vectors: TextPart,
    numbers: DecimalStyle = "plain",
    missing: list[str] | None = None,
    classes: ClassNaming = "numbers",
    missing_target: MissingTarget = "refuse",
    validation: image_folder.ValidationMode = "mixed",
    check_test: bool = False,
    seed: Natural | None = None,
) -> Dataset:
    """Texts of a folder or archive, or of a column of a CSV file. Defaults are dlrun 0.1.0's.

    In a folder, the folders inside are the classes, or the parts train, validation and test with
    the classes inside; their .txt files are the texts: input `text`, target `label`.

    Args:
        path: The folder, a zip or tar archive of one, or the CSV file.
        text: The column of texts of a CSV file.
        target: The column of a CSV file to predict.
        kind: The target's kind; "auto" infers and logs it.
        test: The share of test rows, the same of each class, without a folder `test` or test_path.
        test_path: A CSV file of test rows.
        encoding: The encoding of all files.
        empty: What becomes of rows without a text.
        separator: See `read_csv`.
        header: See `read_csv`.
        vectors: The step that prepares texts.
        numbers: How numbers are written, see `infer_number_formats`.
        missing: Further words that mean a missing cell.
        classes: See `Target`.
        missing_target: What becomes of rows without a target.
        validation: What becomes of a folder `validation`, see `images`.
        check_test: See `csv_dataset.csv`.
        seed: Of another draw of test rows.

    Raises:
        UserError: The files or the question cannot be used.
    """
    if path is None:
        raise UserError(
            "say where the texts are: data.path=FOLDER (one folder a class), "
            "or data.path=FILE.csv data.text=COLUMN data.target=COLUMN"
        )
    # Before any file is read: a misspelled encoding fails on each of them.
    canonical_encoding(encoding)
    if _is_folder(path, {"text": text, "target": target, "test_path": test_path}):
        return _load_folder(path, (test, seed), encoding, empty, vectors, validation)
    reading: dict[str, Any] = {
        "separator": separator,
        "header": header,
        "encoding": encoding,
        "numbers": numbers,
        "missing": missing or (),
    }

    def clean(table: CsvTable) -> CsvTable:
        table = _drop_empty_texts(table, text, empty)
        return drop_missing_targets(table, target, kind, missing_target)

    table = clean(read_csv(path, **reading))
    test_table = None
    if test_path is not None:
        test_table = clean(csv_dataset.read_test_file(test_path, table, reading))
    targets = find_targets(table, target, kind, classes, test_table if check_test else None)
    schema = _build_schema(text, targets)
    preparing = {**UNUSED_SETTINGS, "text": vectors}
    return csv_dataset.build_from_schema(
        table, schema, test_table, (test, seed), reading, preparing, check_test
    )


def _is_folder(path: str, table_settings: dict[str, str | None]) -> bool:
    """Whether texts lie in a folder or archive, where settings of a table would say nothing."""
    location = Path(path).expanduser()
    if not location.is_dir() and not is_archive(location):
        return False
    if used := [key for key, value in table_settings.items() if value]:
        raise UserError(
            f"data.{used[0]} is for a CSV file, but {path} is none: its folders are the classes"
        )
    return True


def _build_schema(text: str | None, targets: tuple[Target, ...]) -> TableSchema:
    assert text is not None
    if text == targets[0].name:
        raise UserError(f"column '{text}' cannot be the text and the target")
    return TableSchema((), (), (), targets, text_columns=(text,))


def _drop_empty_texts(table: CsvTable, text: str | None, empty: EmptyTextPolicy) -> CsvTable:
    """The rows that have a text, or an error where that is the policy."""
    if text is None:
        raise UserError(
            "say which column holds the texts: data.text=COLUMN. "
            f"There are: {format_names(table.columns)}"
        )
    table.require_columns([text], "text")
    is_empty = np.array([not cell for cell in table.columns[text]], bool)
    if not is_empty.any():
        return table
    rows, count = table.describe_rows(is_empty), int(is_empty.sum())
    _report_empty_texts(rows, table.source, count, len(table), empty)
    return table.take(np.flatnonzero(~is_empty))


def _report_empty_texts(
    rows: str, source: str, count: int, total: int, empty: EmptyTextPolicy
) -> None:
    if empty == "refuse":
        raise UserError(
            f"{source}: the text is empty in {rows}: fill them in, or data.empty=skip leaves them "
            "out"
        )
    if count == total:
        raise UserError(f"{source}: all {total:,} texts are empty")
    log.warning("%s: left out, for their text is empty: %s", source, rows)


def _load_folder(
    path: str,
    share: tuple[float, int | None],
    encoding: str,
    empty: EmptyTextPolicy,
    vectors: Any,
    validation: image_folder.ValidationMode,
) -> Dataset:
    tree = image_folder.find_files(path, (".txt",), "text")
    files, classes, splits = image_folder.classes_from_folders(tree, path, "text")
    # Rows of the folder `validation` come last, as a Dataset has them; test rows leave anyway.
    order = sorted(range(len(files)), key=lambda row: splits[row] == "validation")
    files, classes, splits = ([column[row] for row in order] for column in (files, classes, splits))
    names = tuple(sorted(set(classes)))
    dev, test = _split_test_rows(np.array(classes), np.array(splits), *share)
    numbered = [f"{number} = {name}" for number, name in enumerate(names)]
    log.info("label: %s", format_file_list(numbered))
    read = partial(_read_texts, FileList(tree.root, tuple(files)), classes, path, encoding, empty)
    kind: Kind = "binary" if len(names) == 2 else "category"
    # Folder names are the classes as they are written: 1 and 01 are two.
    target = Target(LABEL, kind, (LABEL,), names, "written")
    schema = TableSchema((), (), (), (target,), text_columns=(TEXT,))
    rows = read(dev)
    dataset = build_table_dataset(
        schema,
        rows,
        (lambda: read(test)) if len(test) else None,
        text=vectors,
        **UNUSED_SETTINGS,  # type: ignore[arg-type]
    )
    # Counted after reading: files without a text were dropped.
    num_validation = sum(splits[line - 1] == "validation" for line in rows.lines)
    return replace(
        dataset,
        num_validation_rows=image_folder.count_validation_files(
            num_validation, "texts", validation
        ),
    )


def _split_test_rows(
    classes: np.ndarray, splits: np.ndarray, share: float, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Development rows and test rows: those of the folder test, if there is one."""
    # A folder of test texts was set apart by whoever made the data: no draw beside it.
    is_test = splits == "test"
    if is_test.any() or not share:
        return np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return holdout.stratified_holdout(classes, share, seed)


def _read_texts(
    files: FileList,
    classes: list[str],
    path: str,
    encoding: str,
    empty: EmptyTextPolicy,
    rows: np.ndarray,
) -> CsvTable:
    """The texts of these files, and their classes; an error names the file."""
    texts, text_rows = [], []
    empty_files: list[str] = []
    for row in rows.tolist():
        name = files.names[row]
        try:
            text = decode_text(read_bytes(files.root, name), encoding, f"{path}/{name}").strip()
        except ImageDecodeError as error:
            raise UserError(f"{path}/{name} cannot be read: {error}") from error
        if text:
            texts.append(text)
            text_rows.append(row)
        else:
            empty_files.append(name)
    if empty_files:
        count = len(empty_files)
        described = f"{count:,} files: {format_file_list(empty_files)}"
        _report_empty_texts(described, path, count, len(rows), empty)
    columns = {TEXT: texts, LABEL: [classes[row] for row in text_rows]}
    lines = [row + 1 for row in text_rows]
    # Not the usual words for a missing cell: a folder may be called null.
    return CsvTable(path, columns, lines, missing_words=frozenset({""}))
