"""Your own texts: a folder for each class, or a table with a column of texts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlrun.config.constraints import Natural, Probability, TextPart
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError, format_names
from dlrun.data.images import image_folder
from dlrun.data.images.archives import FileList, is_archive, read_bytes
from dlrun.data.images.decode import ImageDecodeError
from dlrun.data.images.image_column import format_file_list
from dlrun.data.tabular import csv_dataset, csv_file, holdout, schema
from dlrun.data.tabular import targets as answers
from dlrun.data.tabular.csv_file import CsvTable
from dlrun.data.tabular.number_format import DecimalStyle
from dlrun.data.tabular.targets import ClassNaming, MissingTarget, Target
from dlrun.data.tabular.text_encoding import canonical_encoding, decode_text

log = logging.getLogger("dlrun")

EmptyTextPolicy = Literal["refuse", "skip"]
TEXT, LABEL = "text", "label"  # columns that a folder gives
UNUSED_SETTINGS = {
    "scale": "none",
    "impute": "constant",
    "indicator": False,
}  # of number columns, of which there are none


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
    """Texts of a folder (or a zip or tar archive), or of the column `text` of a CSV file, with what is asked of them.

    The defaults are what dlrun 0.1.0 did.

    In a folder, the folders inside are the classes, or the parts train, validation and test with the classes inside;
    their .txt files are the texts: input `text`, target `label`. Test rows: the folder test, or test_path, or else the
    share `test`, the same of each class. encoding: of all files. empty: what becomes of rows without a text. vectors:
    the step that prepares texts. numbers, missing, classes, missing_target, check_test, seed: see `table_csv.csv`.
    validation: see `images`. Raises UserError for whatever is wrong with the files or the question.
    """
    if path is None:
        raise UserError("say where the texts are: data.path=FOLDER (one folder a class), "
                      "or data.path=FILE.csv data.text=COLUMN data.target=COLUMN")  # fmt: skip
    canonical_encoding(encoding)
    place = Path(path).expanduser()
    if place.is_dir() or is_archive(place):
        if named := [
            key
            for key, value in (("text", text), ("target", target), ("test_path", test_path))
            if value
        ]:
            raise UserError(
                f"data.{named[0]} is for a CSV file, but {path} is none: its folders are the classes"
            )
        return _load_folder(path, (test, seed), encoding, empty, vectors, validation)
    reading: dict[str, Any] = {"separator": separator, "header": header, "encoding": encoding}
    reading |= {"numbers": numbers, "missing": missing or ()}

    def clean(found: CsvTable) -> CsvTable:
        return answers.drop_missing_targets(
            _drop_empty_texts(found, text, empty), target, kind, missing_target
        )

    whole = clean(csv_file.read_csv(path, **reading))
    sealed = (
        None if test_path is None else clean(csv_dataset.read_test_file(test_path, whole, reading))
    )
    plan = _build_schema(
        whole,
        text,
        answers.find_targets(whole, target, kind, classes, sealed if check_test else None),
    )
    return csv_dataset.build_from_schema(
        whole, plan, sealed, (test, seed), reading, {**UNUSED_SETTINGS, "text": vectors}, check_test
    )


def _build_schema(
    whole: CsvTable, text: str | None, targets: tuple[Target, ...]
) -> schema.TableSchema:
    assert text is not None
    if text == targets[0].name:
        raise UserError(f"column '{text}' cannot be the text and the target")
    return schema.TableSchema((), (), (), targets, text_columns=(text,))


def _drop_empty_texts(found: CsvTable, text: str | None, empty: EmptyTextPolicy) -> CsvTable:
    """The rows that have a text. Raises UserError where that is asked for, and where there is no such column."""
    if text is None:
        raise UserError(
            f"say which column holds the texts: data.text=COLUMN. There are: {format_names(found.columns)}"
        )
    found.require_columns([text], "text")
    none = np.array([not cell for cell in found.columns[text]], bool)
    if not none.any():
        return found
    _report_empty_texts(found.describe_rows(none), found.source, int(none.sum()), len(found), empty)
    return found.take(np.flatnonzero(~none))


def _report_empty_texts(
    where: str, place: str, count: int, total: int, empty: EmptyTextPolicy
) -> None:
    if empty == "refuse":
        raise UserError(
            f"{place}: the text is empty in {where}: fill them in, or data.empty=skip leaves them out"
        )
    if count == total:
        raise UserError(f"{place}: all {total:,} texts are empty")
    log.warning("%s: left out, for their text is empty: %s", place, where)


def _load_folder(
    path: str,
    share: tuple[float, int | None],
    encoding: str,
    empty: EmptyTextPolicy,
    vectors: Any,
    validation: image_folder.ValidationMode,
) -> Dataset:
    found = image_folder.find_files(path, (".txt",), "text")
    files, named, part = image_folder.classes_from_folders(found, path, "text")
    order = sorted(
        range(len(files)), key=lambda row: part[row] == "validation"
    )  # train first; test goes elsewhere
    files, classes, parts = ([column[row] for row in order] for column in (files, named, part))
    names = tuple(sorted(set(classes)))
    dev, sealed = _split_test_rows(np.array(classes), np.array(parts), *share)
    log.info(
        "label: %s", format_file_list([f"{number} = {name}" for number, name in enumerate(names)])
    )
    read = partial(_read_texts, FileList(found.root, tuple(files)), classes, path, encoding, empty)
    later: Callable[[], CsvTable] | None = (lambda: read(sealed)) if len(sealed) else None
    kind: Any = "binary" if len(names) == 2 else "category"
    plan = schema.TableSchema(
        (), (), (), (Target(LABEL, kind, (LABEL,), names, "written"),), text_columns=(TEXT,)
    )
    rows = read(dev)
    apart = sum(parts[line - 1] == "validation" for line in rows.lines)
    raw = schema.build_table_dataset(plan, rows, later, text=vectors, **UNUSED_SETTINGS)  # type: ignore[arg-type]
    return replace(
        raw, num_validation_rows=image_folder.count_validation_files(apart, "texts", validation)
    )


def _split_test_rows(
    classes: np.ndarray, parts: np.ndarray, share: float, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Development rows and test rows: those of the folder test, where there is one."""
    test = parts == "test"
    if test.any() or not share:
        return np.flatnonzero(~test), np.flatnonzero(test)
    return holdout.stratified_holdout(classes, share, seed)


def _read_texts(
    files: FileList,
    classes: list[str],
    path: str,
    encoding: str,
    empty: EmptyTextPolicy,
    rows: np.ndarray,
) -> CsvTable:
    """The texts of these files, and their classes. Raises UserError, naming the file that cannot be read."""
    found, lines = [], []
    without: list[str] = []
    for row in rows.tolist():
        name = files.names[row]
        try:
            text = decode_text(read_bytes(files.root, name), encoding, f"{path}/{name}").strip()
        except ImageDecodeError as error:
            raise UserError(f"{path}/{name} cannot be read: {error}") from error
        if text:
            found.append(text)
            lines.append(row)
        else:
            without.append(name)
    if without:
        _report_empty_texts(
            f"{len(without):,} files: {format_file_list(without)}",
            path,
            len(without),
            len(rows),
            empty,
        )
    columns = {TEXT: found, LABEL: [classes[row] for row in lines]}
    return CsvTable(
        path, columns, [row + 1 for row in lines], missing_words=frozenset({""})
    )  # a folder may be called null
