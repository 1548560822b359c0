"""Files that are there whole or not at all: a reader finds the old content or the new, never half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Inside, a place to write to; it becomes `path` when the block ends well, and is taken away otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield fresh
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once."""
    with whole(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
