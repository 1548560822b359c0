"""Your own pictures, without classes or labels: for what learns from the pictures alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from dlrun.config.constraints import Count, Probability
from dlrun.core.dataset import Raw, Rows
from dlrun.core.errors import Refused
from dlrun.data import aside, folders, picture_files
from dlrun.data.picture_files import Fit
from dlrun.data.pictures import pictures as read_pictures


def pictures(
    *,
    path: str | None,
    test: Probability,
    unreadable: Literal["refuse", "skip"],
    size: list[Count],
    channels: Literal[1, 3],
    fit: Fit,
    cache: bool,
) -> Raw:
    """All pictures of a folder, of the folders in it, or of a zip or tar archive; a share `test` is set aside.

    Input `image` uint8 (N, channels, *size), no target. Raises Refused for whatever is wrong with the files.
    """
    if path is None:
        raise Refused("say where the pictures are: data.path=FOLDER, or a zip or tar archive")
    reading = picture_files.reading(size, channels, fit)
    found = folders.found(path)
    dev, sealed = aside.random(len(found), test)
    advice = "; data.unreadable=skip leaves such files out"

    def read(which: np.ndarray) -> Rows:
        files = found.take(which.tolist())
        return {"image": read_pictures(files, reading, keep=cache, skip=unreadable == "skip", advice=advice)}

    later: Callable[[], Rows] | None = (lambda: read(sealed)) if len(sealed) else None
    return Raw(read(dev), {"image": "image"}, {}, {}, later)
