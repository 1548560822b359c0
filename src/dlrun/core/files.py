"""Files that are there whole or not at all: a reader finds the old content or the new, never half."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dlrun.core.errors import FileWriteError, UserError

log = logging.getLogger("dlrun")
UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "KB"), (1, "bytes"))
_reported_failures: set[tuple[str, Path]] = set()
MAX_NAME_BYTES = 60  # of a name from data: other parts of a file's name stand beside it
RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}


@contextmanager
def convert_write_errors(path: Path) -> Iterator[None]:
    """Inside, `path` is written. Raises Unwritable where that fails: what, where, why, and how much room there is."""
    try:
        yield
    except FileWriteError:
        raise
    except OSError as error:
        raise FileWriteError(
            f"cannot write {path}: {error.strerror or error}{format_free_space(path)}"
        ) from error


def format_free_space(path: Path) -> str:
    """' (3.1 MB free)', or that the folder is gone, or nothing where the system does not say."""
    if not path.parent.exists():
        return " (its folder is no longer there)"
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return ""
    unit, name = next(((size, name) for size, name in UNITS if free >= size), UNITS[-1])
    return f" ({free / unit:.3g} {name} free)"


@contextmanager
def optional_write(what: str, path: Path) -> Iterator[None]:
    """Inside, something is written that a run can do without: where that fails, it is told once and left out."""
    try:
        with convert_write_errors(path):
            yield
    except FileWriteError as error:
        if (mark := (what, path)) not in _reported_failures:
            _reported_failures.add(mark)
            log.warning("%s left out: %s", what, error)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Inside, a place to write to; it becomes `path` when the block ends well, and is taken away otherwise.

    Raises Unwritable.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    with convert_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield fresh
            os.replace(fresh, path)
        finally:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once."""
    with atomic_write(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def is_safe_name(text: str) -> bool:
    """Whether this names something in a folder, and leads nowhere else."""
    return text not in ("", ".", "..") and not set(text) & {"/", "\\", "\0"}


def make_file_names(names: Iterable[str]) -> dict[str, str]:
    """For each name from data one that a file can have: short, in one folder, different from all others in any case.

    A name that may stand as it is does; another one is made of its letters and a digest.
    """
    found: dict[str, str] = {}
    for name in names:
        bare = re.sub(r"[^\w.+=-]+", "-", unicodedata.normalize("NFC", name)).strip("-.")
        short = bare.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
        if short.partition(".")[0].casefold() in RESERVED:
            short = "-" + short.replace(".", "-")
        taken = {other.casefold() for other in found.values()}
        if short != name or short.casefold() in taken:
            short = f"{short}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}".lstrip(
                "-"
            )
        found[name] = short
    return found


def check_links_inside(folder: Path) -> None:
    """Raise UserError for a link that leads out of a run folder: what is written there would land elsewhere."""
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise UserError(f"{path} is a link out of the run folder, to {os.readlink(path)}: dlrun writes nowhere "
                              "else; put the file or folder itself there")  # fmt: skip
