"""Files that are there whole or not at all: a reader finds the old content or the new, never half."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlrun.errors import Refused


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


def is_name(text: str) -> bool:
    """Whether this names something in a folder, and leads nowhere else."""
    return text not in ("", ".", "..") and not set(text) & {"/", "\\", "\0"}


def contained(folder: Path) -> None:
    """Raise Refused for a link that leads out of a run folder: what is written there would land elsewhere."""
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise Refused(f"{path} is a link out of the run folder, to {os.readlink(path)}: dlrun writes nowhere "
                              "else; put the file or folder itself there")  # fmt: skip
