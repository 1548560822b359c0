"""A folder of .npz files with the same arrays in each: what they hold, told by their heads alone, and their rows."""

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

from dlrun.core import json_text
from dlrun.core.errors import UserError, format_names
from dlrun.core.files import write_text
from dlrun.core.paths import user_cache

READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    NotImplementedError,
)
ArrayHeader = tuple[tuple[int, ...], np.dtype[Any]]  # of an array: shape of a row, and type


@dataclass(frozen=True, eq=False)
class ShardSet:
    """Files in the order of their names. edges: the number of each one's first row, and of the row behind the last.

    heads: array name → what one row of it is.
    """

    paths: tuple[Path, ...]
    file_offsets: np.ndarray
    headers: dict[str, ArrayHeader]

    def __len__(self) -> int:
        return int(self.file_offsets[-1])

    def read_array(self, file: int, name: str) -> np.ndarray:
        """One array of one file, whole. Raises UserError when it cannot be read, or has changed."""
        try:
            with zipfile.ZipFile(
                self.paths[file]
            ) as archive:  # in one go: np.load holds up all threads piece by piece
                values = np.lib.format.read_array(
                    io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False
                )
        except READ_ERRORS as error:
            raise UserError(
                f"{self.paths[file]}: array '{name}' cannot be read: {error}"
            ) from error
        if len(values) != self.file_offsets[file + 1] - self.file_offsets[file]:
            raise UserError(f"{self.paths[file]} has changed since this run began")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(
                f"{self.paths[file]}: array '{name}' has values that are missing or infinite: fill them in"
            )
        return values

    @cached_property
    def digest(self) -> str:
        """The sha256 of what the files hold; each is read once, and again only when its size or time has changed."""
        return hashlib.sha256("".join(map(_hash_file, self.paths)).encode()).hexdigest()


def open_shards(folder: Path, needed: Iterable[str] | None = None) -> ShardSet:
    """The .npz files of a folder. needed: names of arrays that there must be; None: those of the first file.

    Raises UserError, naming the file, where one is damaged, lacks an array, or has one of another shape or type, and
    where the arrays of a file have different lengths.
    """
    paths = tuple(sorted(folder.glob("*.npz"))) if folder.is_dir() else ()
    if not paths:
        raise UserError(
            f"no .npz file in {folder}: write some, each with numpy.savez(file, x=…, y=…)"
        )
    found = [read_array_headers(path) for path in paths]
    names = list(needed if needed is not None else found[0])
    counts = [
        _count_rows(path, all_heads, names, found[0])
        for path, all_heads in zip(paths, found, strict=True)
    ]
    edges = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ShardSet(
        paths, edges, {name: (found[0][name][0][1:], found[0][name][1]) for name in names}
    )


def read_array_headers(path: Path) -> dict[str, ArrayHeader]:
    """Array name → shape (rows first) and type, without reading the arrays. Raises UserError."""
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
    if dtype.hasobject:
        raise ValueError(f"'{name}' holds Python objects, not numbers")
    return shape, dtype


def _count_rows(
    path: Path, found: dict[str, ArrayHeader], names: list[str], first: dict[str, ArrayHeader]
) -> int:
    """How many rows a file has. Raises UserError where its arrays are not those of the first file."""
    for name in names:
        if name not in found or not found[name][0]:
            raise UserError(
                f"{path} has no array '{name}' with rows; it has: {format_names(found, name) or 'none'}"
            )
        (_, *shape), dtype = found[name]
        if name in first and (tuple(shape), dtype) != (first[name][0][1:], first[name][1]):
            raise UserError(
                f"{path}: '{name}' is {dtype} of shape {tuple(shape)} a row, "
                f"in the first file {first[name][1]} of {first[name][0][1:]}"
            )
    counts = {name: found[name][0][0] for name in names}
    if len(set(counts.values())) > 1:
        raise UserError(f"{path} has arrays of different lengths: {counts}")
    return next(iter(counts.values()))


def _hash_file(path: Path) -> str:
    about = path.stat()
    place = (
        user_cache()
        / "shards"
        / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    )
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads(place.read_text(encoding="utf-8"))
        if (kept["size"], kept["time"]) == (about.st_size, about.st_mtime_ns):
            return str(kept["sha256"])
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    with suppress(OSError):
        write_text(
            place,
            json_text.to_json({"size": about.st_size, "time": about.st_mtime_ns, "sha256": found}),
        )
    return found
