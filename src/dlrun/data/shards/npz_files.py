"""A folder of .npz files with the same arrays in each: their headers, and their rows."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.core import files
from dlrun.core.errors import UserError, format_names
from dlrun.core.files import user_cache, write_text

READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    NotImplementedError,
)
ArrayHeader = tuple[tuple[int, ...], np.dtype[Any]]  # the shape of a row, and its type


@dataclass(frozen=True, eq=False)
class ShardSet:
    """Files of one folder, in the order of their names.

    Attributes:
        paths: The files.
        file_offsets: The index of each file's first row, and of the row after the last one.
        headers: Array name → the shape of a row, and its type.
    """

    paths: tuple[Path, ...]
    file_offsets: np.ndarray
    headers: dict[str, ArrayHeader]

    def __len__(self) -> int:
        return int(self.file_offsets[-1])

    def read_array(self, file: int, name: str) -> np.ndarray:
        """One whole array of one file.

        Raises:
            UserError: It cannot be read, has changed, or has missing or infinite values.
        """
        path = self.paths[file]
        try:
            # Read in one go: np.load reads piece by piece, and holds up all threads.
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(archive.read(f"{name}.npy"))
            values = np.lib.format.read_array(content, allow_pickle=False)
        except READ_ERRORS as error:
            raise UserError(f"{path}: array '{name}' cannot be read: {error}") from error
        # The row indices of this run were made for the old length.
        if len(values) != self.file_offsets[file + 1] - self.file_offsets[file]:
            raise UserError(f"{path} has changed since this run began")
        # Checked when read: a pass over all files beforehand would take too long.
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(
                f"{path}: array '{name}' has values that are missing or infinite: fill them in"
            )
        return values

    @cached_property
    def digest(self) -> str:
        """The sha256 of the files' contents; each is read again only when it has changed."""
        return hashlib.sha256("".join(map(_hash_file, self.paths)).encode()).hexdigest()


def open_shards(folder: Path, needed: Iterable[str] | None = None) -> ShardSet:
    """The .npz files of a folder.

    Args:
        folder: Where they are.
        needed: Names of the arrays that each must have; None for those of the first file.

    Raises:
        UserError: A file is damaged, lacks an array, has one of another shape or type, or arrays
            of different lengths.
    """
    paths = tuple(sorted(folder.glob("*.npz"))) if folder.is_dir() else ()
    if not paths:
        raise UserError(
            f"no .npz file in {folder}: write some, each with numpy.savez(file, x=…, y=…)"
        )
    headers = [read_array_headers(path) for path in paths]
    first = headers[0]
    names = list(needed if needed is not None else first)
    counts = [
        _count_rows(path, file_headers, names, first)
        for path, file_headers in zip(paths, headers, strict=True)
    ]
    file_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    row_headers = {name: (first[name][0][1:], first[name][1]) for name in names}
    return ShardSet(paths, file_offsets, row_headers)


def read_array_headers(path: Path) -> dict[str, ArrayHeader]:
    """Array name → shape (rows first) and type, without reading the arrays.

    Raises:
        UserError: The file is not an .npz file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _read_header(archive, name) for name in names}
    except READ_ERRORS as error:
        raise UserError(f"{path} is no .npz file that can be read: {error}") from error


def _read_header(archive: zipfile.ZipFile, name: str) -> ArrayHeader:
    with archive.open(name) as handle:
        version = np.lib.format.read_magic(handle)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(handle)
    # Objects are pickles, which could run code.
    if dtype.hasobject:
        raise ValueError(f"'{name}' holds Python objects, not numbers")
    return shape, dtype


def _count_rows(
    path: Path, headers: dict[str, ArrayHeader], names: list[str], first: dict[str, ArrayHeader]
) -> int:
    """The number of rows of a file, whose arrays must be those of the first file."""
    for name in names:
        if name not in headers or not headers[name][0]:
            raise UserError(
                f"{path} has no array '{name}' with rows; "
                f"it has: {format_names(headers, name) or 'none'}"
            )
        (_, *shape), dtype = headers[name]
        if name in first and (tuple(shape), dtype) != (first[name][0][1:], first[name][1]):
            raise UserError(
                f"{path}: '{name}' is {dtype} of shape {tuple(shape)} a row, "
                f"in the first file {first[name][1]} of {first[name][0][1:]}"
            )
    counts = {name: headers[name][0][0] for name in names}
    if len(set(counts.values())) > 1:
        raise UserError(f"{path} has arrays of different lengths: {counts}")
    return next(iter(counts.values()))


def _hash_file(path: Path) -> str:
    """The sha256 of a file, remembered in the user's cache by its size and time."""
    stat = path.stat()
    # A path may have any characters, the name of a cache file may not.
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    record_path = user_cache() / "shards" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError):
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if (record["size"], record["time"]) == (stat.st_size, stat.st_mtime_ns):
            return str(record["sha256"])
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    record = {"size": stat.st_size, "time": stat.st_mtime_ns, "sha256": digest}
    with suppress(OSError):  # a cache that cannot be written costs another pass, no more
        write_text(record_path, files.to_json(record))
    return digest
