"""Your own arrays in many files, more of them than fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from dlrun.config.constraints import Count
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError, format_names
from dlrun.core.files import atomic_write
from dlrun.core.paths import user_cache
from dlrun.core.types import Kind
from dlrun.data.datasets.synthetic import sample_note
from dlrun.data.shards.npz_column import (
    BinaryTarget,
    IdentityTarget,
    ShardedArray,
    StreamingLabelEncoder,
    StreamingScaler,
)
from dlrun.data.shards.npz_files import ShardSet, open_shards

log = logging.getLogger("dlrun")

FILE_COLUMN = ".shard"  # a column with the number of each row's file
OF_INPUTS, OF_TARGET = ("number", "category", "image"), ("number", "category", "binary")
SAMPLE_FILES = {"": 6, "test": 2}  # folder → files of the sample
ROWS_PER_SAMPLE_FILE = 60  # rows of each of them


def shards(
    *,
    source: Literal["official", "sample"],
    path: str | None,
    inputs: list[str] | None,
    target: str,
    kinds: dict[str, Any],
    labels: list[str] | None,
    hold_out: Literal["shards", "rows"],
    scale: Literal["standardise", "none"],
    window: Count,
) -> Dataset:
    """A folder of .npz files with the same arrays in each, as `numpy.savez("photos/000.npz", x=…, y=…)` writes them.

    Row i of all arrays of a file belongs together; inputs (N, …) are numbers, uint8 pictures (N, C, H, W), or whole
    numbers that stand for levels; the target is numbers (N,) or (N, k), or whole numbers (N,) for classes. Files of a
    folder `test` inside are the test rows, sealed as elsewhere. Files may differ in length. In memory are the row
    numbers (8 bytes a row) and the rows of `window` files at a time; a row is mixed with those of so many files.

    inputs: names of arrays; None: all but the target. kinds: array → number, category, image or binary, where that is
    not what its type says: floats are numbers, a target of whole numbers is classes, uint8 with 1 or 3 channels is
    pictures. labels: names of the classes 0, 1, 2, … hold_out: validation rows are whole files, or any rows. source:
    with sample and no path, small made-up files in the user's cache. Raises UserError for whatever is wrong with a file.
    """
    folder = (
        write_sample_shards() if path is None and source == "sample" else check_shard_folder(path)
    )
    found = open_shards(folder, None if inputs is None else [*inputs, target])
    chosen = infer_array_types(found, target, kinds)
    kind = chosen.pop(target)
    if not chosen:
        raise UserError(f"{found.paths[0]} has no array besides the target '{target}'")
    names = tuple(labels or ())
    learn: dict[str, Any] = {name: make_input_steps(name, chosen[name], scale) for name in chosen}
    learn[target] = make_target_steps(target, kind, names)
    dev = build_columns(found, window)
    group = FILE_COLUMN if hold_out == "shards" and len(found.paths) > 1 else None
    dev |= (
        {
            FILE_COLUMN: np.repeat(
                np.arange(len(found.paths), dtype=np.int32), np.diff(found.file_offsets)
            )
        }
        if group
        else {}
    )
    made = sample_note("shards") if path is None else ""
    return Dataset(dev, chosen, {target: kind}, learn, make_test_reader(folder, found, window), None, group,
               {target: names} if names else {}, made)  # fmt: skip


def check_shard_folder(path: str | None) -> Path:
    """The folder that was named. Raises UserError."""
    if path is None:
        raise UserError(
            "say where the files are: data.path=FOLDER, with files that numpy.savez(file, x=…, y=…) wrote"
        )
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.path={path}: there is no such folder")
    return folder


def build_columns(found: ShardSet, window: int) -> RawColumns:
    """One column for each array."""
    rows = np.arange(len(found))
    return {name: ShardedArray(found, name, rows, window) for name in found.headers}


def make_test_reader(folder: Path, found: ShardSet, window: int) -> Callable[[], RawColumns] | None:
    """What reads the test rows; None where there are none."""
    if not (folder / "test").is_dir():
        return None

    def read() -> RawColumns:
        test = open_shards(folder / "test", found.headers)
        wrong = [name for name in found.headers if test.headers[name] != found.headers[name]]
        if wrong:
            here, there = (
                f"{one.headers[wrong[0]][1]} {one.headers[wrong[0]][0]}" for one in (test, found)
            )
            raise UserError(
                f"'{wrong[0]}' is {here} a row in {folder / 'test'}, and {there} in {folder}"
            )
        return build_columns(test, window)

    return read


def infer_array_types(found: ShardSet, target: str, kinds: dict[str, Any]) -> dict[str, Kind]:
    """The kind of every array, said in the log. Raises UserError."""
    if target not in found.headers:
        raise UserError(
            f"data.target={target}: there is no such array; there are: {format_names(found.headers, target)}"
        )
    chosen = {name: infer_array_kind(found, name, name == target, kinds) for name in found.headers}
    strangers = [name for name in kinds if name not in chosen]
    if strangers:
        raise UserError(
            f"data.kinds names '{strangers[0]}'; there are: {format_names(chosen, strangers[0])}"
        )
    told = format_names(f"'{name}' is {kind}" for name, kind in chosen.items())
    log.info(
        "%s rows in %d files: %s (else say data.kinds=…)", f"{len(found):,}", len(found.paths), told
    )
    return chosen


def infer_array_kind(found: ShardSet, name: str, answer: bool, kinds: dict[str, Any]) -> Kind:
    """The kind of an array: as it is told, or as its type says. Raises UserError."""
    shape, dtype = found.headers[name]
    allowed = OF_TARGET if answer else OF_INPUTS
    picture = dtype == np.uint8 and len(shape) == 3 and shape[0] in (1, 3)
    whole_numbers = dtype.kind in "iub" and not shape
    guessed = "category" if answer and whole_numbers else "image" if picture else "number"
    kind = kinds.get(name, "binary" if answer and dtype.kind == "b" else guessed)
    if kind not in allowed:
        what = "a target" if answer else "an input"
        raise UserError(f"data.kinds: '{name}' is {kind}; {what} may be {', '.join(allowed)}")
    unfit = dtype.kind not in "iubf" or (kind in ("category", "binary") and not whole_numbers)
    if unfit or (kind == "image" and not picture):
        needs = {"image": "uint8 of shape (1 or 3, H, W) a row", "number": "numbers"}.get(
            kind, "one whole number a row"
        )
        raise UserError(
            f"'{name}' in {found.paths[0]} is {dtype} of shape {shape} a row; kind {kind} needs {needs}"
        )
    return cast(Kind, kind)


def make_input_steps(name: str, kind: Kind, scale: str) -> tuple[Any, ...]:
    """What is learnt of an input."""
    if kind == "category":
        return (StreamingLabelEncoder(name, level=True),)
    return (StreamingScaler(),) if kind == "number" and scale == "standardise" else ()


def make_target_steps(name: str, kind: Kind, names: tuple[str, ...]) -> tuple[Any, ...]:
    """What is learnt of the target."""
    if kind == "number":
        return (IdentityTarget(),)
    classes = StreamingLabelEncoder(name, names)
    return (classes, BinaryTarget()) if kind == "binary" else (classes,)


def write_sample_shards() -> Path:
    """Small files in the user's cache: eight numbers a row, and three classes that follow from them."""
    folder = user_cache() / "samples" / "shards-1"
    direction = np.random.RandomState(0).normal(size=(8, 3))
    for place, count in SAMPLE_FILES.items():
        for number in range(count):
            path = folder / place / f"{number:03}.npz"
            if path.exists():
                continue
            random = np.random.RandomState(100 * len(place) + number + 1)
            x = random.normal(size=(ROWS_PER_SAMPLE_FILE, 8)).astype(np.float32)
            y = (x @ direction + random.normal(0, 0.3, (ROWS_PER_SAMPLE_FILE, 3))).argmax(1)
            with atomic_write(path) as fresh, fresh.open("wb") as handle:
                np.savez(handle, x=x * np.float32(3) + np.float32(1), y=y)
    return folder
