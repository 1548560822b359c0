"""Reads number lists that Python 2 pickled into .npz files, and nothing else a pickle can do."""

from __future__ import annotations

import gc
import io
import pickle
import zipfile
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from dlrun.core.dataset import Ragged
from dlrun.core.errors import UserError


def _encode(text: str, encoding: str) -> bytes:
    # Python 2 pickles bytes as text in latin1; nothing else is needed.
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _RestrictedUnpickler(pickle.Unpickler):
    """Admits the classes that lists and arrays of integers are made of."""

    def find_class(self, module: str, name: str) -> Any:
        # A pickle can call anything it can name.
        if (module, name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED_GLOBALS[module, name]


def read_lists(path: Path, member: str) -> Ragged:
    """The lists of integers in a member of an .npz file, whose checksum was verified.

    Args:
        path: The file.
        member: The array's name in it.

    Returns:
        The lists end to end: values int32 (total,), offsets int64 (N + 1,).

    Raises:
        UserError: The member holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as handle:
            lists = _unpickle(handle)
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(row) for row in lists], out=offsets[1:])
        return Ragged(np.fromiter(chain.from_iterable(lists), np.int32, offsets[-1]), offsets)
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(
            f"{path}: '{member}' does not hold lists of whole numbers: {error}"
        ) from error


def read_mapping(content: bytes) -> dict[str, Any]:
    """A pickled mapping of arrays and lists of plain values.

    Raises:
        ValueError: It is anything else.
    """
    try:
        mapping = _RestrictedUnpickler(io.BytesIO(content), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"a pickle that cannot be read: {error}") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"{type(mapping).__name__} where a mapping was expected")
    return mapping


def _unpickle(handle: IO[bytes]) -> list[list[int]]:
    if np.lib.format.read_magic(handle) != (1, 0):
        raise ValueError("an unknown version of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
    if len(shape) != 1 or not dtype.hasobject:
        raise ValueError(f"shape {shape}, dtype {dtype}")
    # Read ahead: five times faster than without.
    content = io.BufferedReader(io.BytesIO(handle.read()), 1 << 20)
    # Thousands of lists at once, none of them garbage: the collector would look at each again.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        lists = _RestrictedUnpickler(content, encoding="latin1").load()
    finally:
        if was_enabled:
            gc.enable()
    if not isinstance(lists, np.ndarray) or lists.shape != shape:
        raise ValueError(f"{type(lists).__name__} where an array of {shape} was announced")
    if not all(type(row) is list for row in lists):
        raise ValueError("not every row is a list")
    return lists.tolist()


def read_npz_array(path: Path, member: str) -> np.ndarray:
    """A plain array in an .npz file.

    Raises:
        UserError: It is not there, or holds objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[member]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot read '{member}': {error}") from error
