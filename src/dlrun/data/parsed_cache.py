"""The user's cache of what is slow to parse from an official file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from dlrun.core.dataset import Ragged
from dlrun.core.files import atomic_write
from dlrun.core.paths import user_cache
from dlrun.data.downloads import RemoteFile

FORMAT_VERSION = 1  # increased when the same file is parsed in another way


def load_or_parse(file: RemoteFile, member: str, parse: Callable[[], Ragged]) -> Ragged:
    """What a parser makes of a verified official file, from the cache if it is there.

    The copy is named by the file's checksum and carries its own (the archive's CRC): a damaged one
    is parsed anew. If the cache cannot be written to, nothing is stored.

    Args:
        file: The official file.
        member: What is parsed of it.
        parse: Parses it.
    """
    path = user_cache() / "parsed" / f"{file.name}-{file.sha256[:16]}-{member}-{FORMAT_VERSION}.npz"
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return Ragged(archive["values"], archive["offsets"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        rows = parse()
    with suppress(OSError), atomic_write(path) as fresh, fresh.open("wb") as target:
        np.savez(target, values=rows.values, offsets=rows.offsets)
    return rows
