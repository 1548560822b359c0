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
from dlrun.core.dataset import Raw
from dlrun.core.errors import Refused, in_short
from dlrun.data.images import image_folder
from dlrun.data.images.archives import Files, content, packed
from dlrun.data.images.decode import Unreadable
from dlrun.data.images.image_column import listed
from dlrun.data.tabular import csv_dataset, csv_file, holdout, schema
from dlrun.data.tabular import targets as answers
from dlrun.data.tabular.csv_file import Cells
from dlrun.data.tabular.number_format import Numbers
from dlrun.data.tabular.targets import Classes, MissingTarget, Target
from dlrun.data.tabular.text_encoding import checked, decoded

log = logging.getLogger("dlrun")

Empty = Literal["refuse", "skip"]
TEXT, LABEL = "text", "label"  # columns that a folder gives
UNUSED = {"scale": "none", "impute": "constant", "indicator": False}  # of number columns, of which there are none


def texts(
    *,
    path: str | None,
    text: str | None,
    target: str | None,
    kind: Literal["auto", "binary", "category", "number", "fraction"],
    test: Probability,
    test_path: str | None,
    encoding: str,
    empty: Empty,
    separator: str | None,
    header: list[str] | None,
    vectors: TextPart,
    numbers: Numbers = "plain",
    missing: list[str] | None = None,
    classes: Classes = "numbers",
    missing_target: MissingTarget = "refuse",
    validation: image_folder.Validation = "mixed",
    check_test: bool = False,
    seed: Natural | None = None,
) -> Raw:
    """Texts of a folder (or a zip or tar archive), or of the column `text` of a CSV file, with what is asked of them.

    The defaults are what dlrun 0.1.0 did.

    In a folder, the folders inside are the classes, or the parts train, validation and test with the classes inside;
    their .txt files are the texts: input `text`, target `label`. Test rows: the folder test, or test_path, or else the
    share `test`, the same of each class. encoding: of all files. empty: what becomes of rows without a text. vectors:
    the step that prepares texts. numbers, missing, classes, missing_target, check_test, seed: see `table_csv.csv`.
    validation: see `images`. Raises Refused for whatever is wrong with the files or the question.
    """
    if path is None:
        raise Refused("say where the texts are: data.path=FOLDER (one folder a class), "
                      "or data.path=FILE.csv data.text=COLUMN data.target=COLUMN")  # fmt: skip
    checked(encoding)
    place = Path(path).expanduser()
    if place.is_dir() or packed(place):
        if named := [key for key, value in (("text", text), ("target", target), ("test_path", test_path)) if value]:
            raise Refused(f"data.{named[0]} is for a CSV file, but {path} is none: its folders are the classes")
        return _of_folder(path, (test, seed), encoding, empty, vectors, validation)
    reading: dict[str, Any] = {"separator": separator, "header": header, "encoding": encoding}
    reading |= {"numbers": numbers, "missing": missing or ()}

    def clean(found: Cells) -> Cells:
        return answers.with_target(_without_empty(found, text, empty), target, kind, missing_target)

    whole = clean(csv_file.read(path, **reading))
    sealed = None if test_path is None else clean(csv_dataset.test_file(test_path, whole, reading))
    plan = _plan(whole, text, answers.find(whole, target, kind, classes, sealed if check_test else None))
    return csv_dataset.of_plan(whole, plan, sealed, (test, seed), reading, {**UNUSED, "text": vectors}, check_test)


def _plan(whole: Cells, text: str | None, targets: tuple[Target, ...]) -> schema.Plan:
    assert text is not None
    if text == targets[0].name:
        raise Refused(f"column '{text}' cannot be the text and the target")
    return schema.Plan((), (), (), targets, texts=(text,))


def _without_empty(found: Cells, text: str | None, empty: Empty) -> Cells:
    """The rows that have a text. Raises Refused where that is asked for, and where there is no such column."""
    if text is None:
        raise Refused(f"say which column holds the texts: data.text=COLUMN. There are: {in_short(found.columns)}")
    found.need([text], "text")
    none = np.array([not cell for cell in found.columns[text]], bool)
    if not none.any():
        return found
    _refuse_or_tell(found.where(none), found.place, int(none.sum()), len(found), empty)
    return found.take(np.flatnonzero(~none))


def _refuse_or_tell(where: str, place: str, count: int, total: int, empty: Empty) -> None:
    if empty == "refuse":
        raise Refused(f"{place}: the text is empty in {where}: fill them in, or data.empty=skip leaves them out")
    if count == total:
        raise Refused(f"{place}: all {total:,} texts are empty")
    log.warning("%s: left out, for their text is empty: %s", place, where)


def _of_folder(
    path: str,
    share: tuple[float, int | None],
    encoding: str,
    empty: Empty,
    vectors: Any,
    validation: image_folder.Validation,
) -> Raw:
    found = image_folder.found(path, (".txt",), "text")
    files, named, part = image_folder.classes(found, path, "text")
    order = sorted(range(len(files)), key=lambda row: part[row] == "validation")  # train first; test goes elsewhere
    files, classes, parts = ([column[row] for row in order] for column in (files, named, part))
    names = tuple(sorted(set(classes)))
    dev, sealed = _divided(np.array(classes), np.array(parts), *share)
    log.info("label: %s", listed([f"{number} = {name}" for number, name in enumerate(names)]))
    read = partial(_read, Files(found.place, tuple(files)), classes, path, encoding, empty)
    later: Callable[[], Cells] | None = (lambda: read(sealed)) if len(sealed) else None
    kind: Any = "binary" if len(names) == 2 else "category"
    plan = schema.Plan((), (), (), (Target(LABEL, kind, (LABEL,), names, "written"),), texts=(TEXT,))
    rows = read(dev)
    apart = sum(parts[line - 1] == "validation" for line in rows.lines)
    raw = schema.dataset(plan, rows, later, text=vectors, **UNUSED)  # type: ignore[arg-type]
    return replace(raw, validation=image_folder.validated(apart, "texts", validation))


def _divided(classes: np.ndarray, parts: np.ndarray, share: float, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Development rows and test rows: those of the folder test, where there is one."""
    test = parts == "test"
    if test.any() or not share:
        return np.flatnonzero(~test), np.flatnonzero(test)
    return holdout.stratified(classes, share, seed)


def _read(files: Files, classes: list[str], path: str, encoding: str, empty: Empty, rows: np.ndarray) -> Cells:
    """The texts of these files, and their classes. Raises Refused, naming the file that cannot be read."""
    found, lines = [], []
    without: list[str] = []
    for row in rows.tolist():
        name = files.names[row]
        try:
            text = decoded(content(files.place, name), encoding, f"{path}/{name}").strip()
        except Unreadable as error:
            raise Refused(f"{path}/{name} cannot be read: {error}") from error
        if text:
            found.append(text)
            lines.append(row)
        else:
            without.append(name)
    if without:
        _refuse_or_tell(f"{len(without):,} files: {listed(without)}", path, len(without), len(rows), empty)
    columns = {TEXT: found, LABEL: [classes[row] for row in lines]}
    return Cells(path, columns, [row + 1 for row in lines], words=frozenset({""}))  # a folder may be called null
