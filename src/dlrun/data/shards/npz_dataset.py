"""Your own arrays in many .npz files that together do not fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from dlrun.config.annotations import Count
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.core.errors import UserError, format_names
from dlrun.core.files import atomic_write, user_cache
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

FILE_COLUMN = ".shard"  # a column with the index of each row's file
INPUT_KINDS, TARGET_KINDS = ("number", "category", "image"), ("number", "category", "binary")
SAMPLE_FILES = {"": 6, "test": 2}  # subfolder → number of files of the sample
ROWS_PER_SAMPLE_FILE = 60


def shards(
    *,
    source: Literal["official", "sample"],
    path: str | None,
    inputs: list[str] | None,
    target: str,
    kinds: dict[str, Any],
    labels: list[str] | None,
    hold_out: Literal["shards", "rows"],
    scale: Literal["standardize", "none"],
    window: Count,
) -> Dataset:
    """A folder of .npz files with the same arrays in each.

    Row i of all arrays of a file belongs together; files may differ in length. Inputs (N, …) are
    numbers, uint8 images (N, C, H, W), or whole numbers that stand for levels; the target is
    numbers (N,) or (N, k), or whole numbers (N,) for classes. Files of a folder `test` inside are
    the held-out test rows. In memory are the row indices (8 bytes a row) and the rows of `window`
    files at a time.

    Args:
        source: With "sample" and no path, small synthetic files are written to the user's cache.
        path: The folder.
        inputs: Names of arrays; None takes all but the target.
        target: The name of the target's array.
        kinds: Array → number, category, image or binary, where its type says otherwise: floats are
            numbers, a target of whole numbers is classes, uint8 with 1 or 3 channels is images.
        labels: Names of the classes 0, 1, 2, …
        hold_out: Whether validation rows are whole files, or any rows.
        scale: Whether number inputs are standardized.
        window: The number of files in memory at once; rows are shuffled among those.

    Raises:
        UserError: A file or an array cannot be used.

    Example:
        numpy.savez("photos/000.npz", x=images, y=classes)
    """
    is_sample = path is None and source == "sample"
    folder = write_sample_shards() if is_sample else check_shard_folder(path)
    shard_set = open_shards(folder, None if inputs is None else [*inputs, target])
    # Headers alone are read so far.
    input_kinds = infer_array_types(shard_set, target, kinds)
    target_kind = input_kinds.pop(target)
    if not input_kinds:
        raise UserError(f"{shard_set.paths[0]} has no array besides the target '{target}'")
    class_names = tuple(labels or ())
    preprocessors: dict[str, Any] = {
        name: make_input_steps(name, kind, scale) for name, kind in input_kinds.items()
    }
    preprocessors[target] = make_target_steps(target, target_kind, class_names)
    dev = build_columns(shard_set, window)
    by_file = hold_out == "shards" and len(shard_set.paths) > 1
    if by_file:  # a fold takes whole groups: the group of a row is its file
        files = np.arange(len(shard_set.paths), dtype=np.int32)
        dev[FILE_COLUMN] = np.repeat(files, np.diff(shard_set.file_offsets))
    return Dataset(
        dev=dev,
        inputs=input_kinds,
        targets={target: target_kind},
        preprocessors=preprocessors,
        test=make_test_reader(folder, shard_set, window),
        group=FILE_COLUMN if by_file else None,
        labels={target: class_names} if class_names else {},
        note=sample_note("shards") if path is None else "",
        synthetic=path is None,
    )


def check_shard_folder(path: str | None) -> Path:
    """The folder that was named.

    Raises:
        UserError: None was named, or it does not exist.
    """
    if path is None:
        raise UserError(
            "say where the files are: data.path=FOLDER, with files that "
            "numpy.savez(file, x=…, y=…) wrote"
        )
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.path={path}: there is no such folder")
    return folder


def build_columns(shard_set: ShardSet, window: int) -> RawColumns:
    """One column for each array."""
    rows = np.arange(len(shard_set))
    return {name: ShardedArray(shard_set, name, rows, window) for name in shard_set.headers}


def make_test_reader(folder: Path, dev: ShardSet, window: int) -> Callable[[], RawColumns] | None:
    """A function that reads the test rows; None without a folder `test`.

    Args:
        folder: The folder of all files.
        dev: The files of the development rows, whose arrays the test files must have.
        window: The number of files in memory at once.
    """
    if not (folder / "test").is_dir():
        return None

    def read() -> RawColumns:
        # Not before the held-out evaluation: test files stay unread until then.
        test = open_shards(folder / "test", dev.headers)
        for name, (shape, dtype) in dev.headers.items():
            test_shape, test_dtype = test.headers[name]
            if (test_shape, test_dtype) != (shape, dtype):
                raise UserError(
                    f"'{name}' is {test_dtype} {test_shape} a row in {folder / 'test'}, "
                    f"and {dtype} {shape} in {folder}"
                )
        return build_columns(test, window)

    return read


def infer_array_types(shard_set: ShardSet, target: str, kinds: dict[str, Any]) -> dict[str, Kind]:
    """The kind of every array, which is logged.

    Args:
        shard_set: The files.
        target: The name of the target's array.
        kinds: Stated kinds by array.

    Raises:
        UserError: An array does not exist, or cannot be of its kind.
    """
    headers = shard_set.headers
    if target not in headers:
        raise UserError(
            f"data.target={target}: there is no such array; "
            f"there are: {format_names(headers, target)}"
        )
    inferred = {name: infer_array_kind(shard_set, name, name == target, kinds) for name in headers}
    unknown = [name for name in kinds if name not in inferred]
    if unknown:
        raise UserError(
            f"data.kinds names '{unknown[0]}'; there are: {format_names(inferred, unknown[0])}"
        )
    log.info(
        "%s rows in %d files: %s (else say data.kinds=…)",
        f"{len(shard_set):,}",
        len(shard_set.paths),
        format_names(f"'{name}' is {kind}" for name, kind in inferred.items()),
    )
    return inferred


def infer_array_kind(
    shard_set: ShardSet, name: str, is_target: bool, kinds: dict[str, Any]
) -> Kind:
    """The kind of an array, stated or by its type.

    Raises:
        UserError: It cannot be of the stated kind, or of any.
    """
    shape, dtype = shard_set.headers[name]
    allowed = TARGET_KINDS if is_target else INPUT_KINDS
    can_be_image = dtype == np.uint8 and len(shape) == 3 and shape[0] in (1, 3)
    can_be_classes = dtype.kind in "iub" and not shape
    kind = kinds.get(name, _guess_kind(dtype, is_target, can_be_image, can_be_classes))
    if kind not in allowed:
        role = "a target" if is_target else "an input"
        raise UserError(f"data.kinds: '{name}' is {kind}; {role} may be {', '.join(allowed)}")
    is_unfit = dtype.kind not in "iubf"
    is_unfit |= kind in ("category", "binary") and not can_be_classes
    is_unfit |= kind == "image" and not can_be_image
    if is_unfit:
        needs = {"image": "uint8 of shape (1 or 3, H, W) a row", "number": "numbers"}
        raise UserError(
            f"'{name}' in {shard_set.paths[0]} is {dtype} of shape {shape} a row; "
            f"kind {kind} needs {needs.get(kind, 'one whole number a row')}"
        )
    return cast(Kind, kind)


def _guess_kind(
    dtype: np.dtype[Any], is_target: bool, can_be_image: bool, can_be_classes: bool
) -> str:
    if is_target and dtype.kind == "b":
        return "binary"
    if is_target and can_be_classes:
        return "category"
    return "image" if can_be_image else "number"


def make_input_steps(name: str, kind: Kind, scale: str) -> tuple[Any, ...]:
    """The unfitted steps of an input."""
    if kind == "category":
        return (StreamingLabelEncoder(name, level=True),)
    return (StreamingScaler(),) if kind == "number" and scale == "standardize" else ()


def make_target_steps(name: str, kind: Kind, class_names: tuple[str, ...]) -> tuple[Any, ...]:
    """The unfitted steps of the target."""
    if kind == "number":
        return (IdentityTarget(),)
    classes = StreamingLabelEncoder(name, class_names)
    return (classes, BinaryTarget()) if kind == "binary" else (classes,)


def write_sample_shards() -> Path:
    """Write small files to the user's cache: eight numbers a row, and three classes."""
    folder = user_cache() / "samples" / "shards-1"
    direction = np.random.RandomState(0).normal(size=(8, 3))
    for subfolder, count in SAMPLE_FILES.items():
        for number in range(count):
            path = folder / subfolder / f"{number:03}.npz"
            # Other runs may read these files at the same time: they are never rewritten.
            if path.exists():
                continue
            random = np.random.RandomState(100 * len(subfolder) + number + 1)
            x = random.normal(size=(ROWS_PER_SAMPLE_FILE, 8)).astype(np.float32)
            y = (x @ direction + random.normal(0, 0.3, (ROWS_PER_SAMPLE_FILE, 3))).argmax(1)
            with atomic_write(path) as fresh, fresh.open("wb") as handle:
                np.savez(handle, x=x * np.float32(3) + np.float32(1), y=y)
    return folder
