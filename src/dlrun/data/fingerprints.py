"""Fingerprints of rows: equal for equal rows in equal order, on any machine."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from dlrun.core.dataset import RawColumn, RawColumns


def fingerprint(rows: RawColumns) -> str:
    """The sha256 of column names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(rows):
        column = rows[name]
        # Columns on disk know the digest of their files: nothing is read again.
        if isinstance(column, RawColumn) and (known := column.digest):
            digest.update(f"{name} {known};".encode())
            continue
        arrays = column.arrays if isinstance(column, RawColumn) else (np.asarray(column),)
        for array in arrays:
            digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
            digest.update(_to_bytes(array))
    return digest.hexdigest()


def _to_bytes(array: np.ndarray) -> Any:
    # Objects have addresses for bytes, and numpy pads strings: join the texts.
    if array.dtype.kind in "OU":
        return "\0".join(map(str, array.ravel())).encode("utf-8", "surrogatepass")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
