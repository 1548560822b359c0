"""What rows are known by: equal for equal rows in equal order, on any machine."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from dlrun.core.dataset import Ragged, RawColumns, SlidingWindows
from dlrun.data.images.image_column import ImageFileColumn
from dlrun.data.images.rotation_pretext import RotatedImages
from dlrun.data.shards.npz_column import ShardedArray


def fingerprint(rows: RawColumns) -> str:
    """The sha256 of column names, dtypes, shapes and values: equal for equal rows in equal order, on any machine."""
    digest = hashlib.sha256()
    for name in sorted(rows):
        column = rows[name]
        if isinstance(
            column, ImageFileColumn | RotatedImages | ShardedArray
        ):  # known by what its files hold: nothing is read
            digest.update(f"{name} {column.digest};".encode())
            continue
        parts = (
            tuple(vars(column).values())
            if isinstance(column, Ragged | SlidingWindows)
            else (np.asarray(column),)
        )
        for part in parts:
            digest.update(f"{name} {part.dtype.str} {part.shape};".encode())
            digest.update(_to_bytes(part))
    return digest.hexdigest()


def _to_bytes(part: np.ndarray) -> Any:
    if part.dtype.kind in "OU":
        return "\0".join(map(str, part.ravel())).encode("utf-8", "surrogatepass")
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
