"""One dlrun at a time changes a folder; the lock of a process that died is no obstacle.

Needs no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFile, RunFolder

log = logging.getLogger("dlrun")
# Locked by this process. The lock is not reentrant, and a command may call another one.
_held: set[Path] = set()


@contextmanager
def lock_folder(folder: Path, instead: str = "") -> Iterator[None]:
    """Inside, no other dlrun changes this folder.

    Args:
        folder: An existing folder.
        instead: What else the user can do, for the message.

    Raises:
        UserError: Another process holds it, or nothing can be written there.
    """
    from filelock import FileLock, Timeout

    if (resolved := folder.resolve()) in _held:
        yield
        return
    # The operating system frees the lock of a process that dies.
    lock = FileLock(RunFolder(resolved).path(RunFile.LOCK), timeout=0)
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
    _held.add(resolved)
    try:
        yield
    finally:
        _held.discard(resolved)
        lock.release()
