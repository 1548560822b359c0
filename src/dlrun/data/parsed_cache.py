"""What is slow to read from an official file, kept in the user's cache once it has been read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from dlrun.core.dataset import Ragged
from dlrun.core.files import atomic_write
from dlrun.core.paths import user_cache
from dlrun.data.downloads import RemoteFile

FORMAT_VERSION = 1  # goes up when what is read from the same file changes


def load_or_parse(file: RemoteFile, member: str, read: Callable[[], Ragged]) -> Ragged:
    """What `read` gives for a member of an official file whose checksum was found right.

    The copy is named by that checksum and carries its own (the archive's CRC): a damaged one is read anew. Where the
    cache cannot be written to, nothing is kept.
    """
    path = user_cache() / "parsed" / f"{file.name}-{file.sha256[:16]}-{member}-{FORMAT_VERSION}.npz"
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as kept:
            return Ragged(kept["values"], kept["offsets"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        found = read()
    with suppress(OSError), atomic_write(path) as fresh, fresh.open("wb") as target:
        np.savez(target, values=found.values, offsets=found.offsets)
    return found
