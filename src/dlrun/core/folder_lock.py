"""One dlrun at a time changes what is in a folder; the lock of one that has died is no obstacle. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlrun.core.errors import UserError

log = logging.getLogger("dlrun")
_held: set[Path] = set()  # by this process, so that a command may call another one


@contextmanager
def lock_folder(folder: Path, instead: str = "") -> Iterator[None]:
    """Inside, no other dlrun changes this folder. instead: what else can be done, in words.

    Raises UserError where another one is at work on it, and where nothing can be written there.
    """
    from filelock import FileLock, Timeout

    if (place := folder.resolve()) in _held:
        yield
        return
    lock = FileLock(place / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another dlrun is at work on {folder}{instead and f'; {instead}'}"
        ) from None
    except NotImplementedError:  # a file system without locks
        log.warning("%s cannot be locked: see to it that no other dlrun is at work on it", folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    _held.add(place)
    try:
        yield
    finally:
        _held.discard(place)
        lock.release()
