"""Files that are whole or absent, JSON, and the folders where data, caches and runs lie."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import dlrun
from dlrun.core.errors import FileWriteError, UserError

log = logging.getLogger("dlrun")
UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "KB"), (1, "bytes"))
_reported_failures: set[tuple[str, Path]] = set()
# Of a name from data: file systems allow 255 bytes, and other parts of the name stand beside it.
MAX_NAME_BYTES = 60
# Names of devices on Windows, with any suffix: a run folder may be copied there.
RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}


@contextmanager
def convert_write_errors(path: Path) -> Iterator[None]:
    """Inside, `path` is written.

    Raises:
        FileWriteError: It failed: what, where, why, and how much space is free.
    """
    try:
        yield
    except FileWriteError:
        raise
    except OSError as error:
        raise FileWriteError(
            f"cannot write {path}: {error.strerror or error}{format_free_space(path)}"
        ) from error


def format_free_space(path: Path) -> str:
    """' (3.1 MB free)', or that the folder is gone; "" where the system does not say."""
    if not path.parent.exists():
        return " (its folder is no longer there)"
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return ""
    unit, name = next(((size, name) for size, name in UNITS if free >= size), UNITS[-1])
    return f" ({free / unit:.3g} {name} free)"


@contextmanager
def optional_write(name: str, path: Path) -> Iterator[None]:
    """Inside, something is written that a run can do without: a failure is reported once.

    Args:
        name: What it is, for the message.
        path: The file.
    """
    try:
        with convert_write_errors(path):
            yield
    except FileWriteError as error:
        # Once: a plot, for one, is written after every epoch.
        if (mark := (name, path)) not in _reported_failures:
            _reported_failures.add(mark)
            log.warning("%s left out: %s", name, error)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Inside, a temporary path: it becomes `path` where the block ends well, else is removed.

    Raises:
        FileWriteError: It cannot be written.
    """
    # In the same folder, so that os.replace stays within one file system and is atomic.
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
    """Whether a text names something in a folder, and leads nowhere else."""
    return text not in ("", ".", "..") and not set(text) & {"/", "\\", "\0"}


def make_file_names(names: Iterable[str]) -> dict[str, str]:
    """File names for names from data: short, in one folder, distinct in any case.

    Args:
        names: Column names, categories and the like.

    Returns:
        Name → file name: the name itself where it may stand, else its letters and a digest.
    """
    file_names: dict[str, str] = {}
    for name in names:
        bare = re.sub(r"[^\w.+=-]+", "-", unicodedata.normalize("NFC", name)).strip("-.")
        # Cut in bytes, since file systems count bytes; half a letter at the end is dropped.
        short = bare.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
        if short.partition(".")[0].casefold() in RESERVED:
            short = "-" + short.replace(".", "-")
        # File systems of macOS and Windows do not tell A from a.
        taken = {file_name.casefold() for file_name in file_names.values()}
        if short != name or short.casefold() in taken:
            digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
            short = f"{short}-{digest}".lstrip("-")
        file_names[name] = short
    return file_names


def check_links_inside(folder: Path) -> None:
    """Refuse a run folder with a link out of it: what is written there would land elsewhere.

    Raises:
        UserError: There is one.
    """
    # A run folder may be sent by somebody else, with links in it.
    home = folder.resolve()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise UserError(
                    f"{path} is a link out of the run folder, to {os.readlink(path)}: "
                    "dlrun writes nowhere else; put the file or folder itself there"
                )


PACKAGE = Path(dlrun.__file__).resolve().parent


def data_root() -> Path:
    """The folder of official data files: $DLRUN_DATA, else the user's cache folder."""
    chosen = os.environ.get("DLRUN_DATA")
    return Path(chosen).expanduser() if chosen else user_cache()


def user_cache() -> Path:
    """The folder for files that can be made or downloaded again, by this system's custom."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dlrun"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dlrun"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlrun"


def create_run_folder(root: Path, *names: str) -> Path:
    """Make a new folder root/<names>/<date>_<time>[-n] that no other process has.

    Args:
        root: Where runs are kept.
        names: Folders in it, such as task and model.

    Raises:
        UserError: A name cannot be a folder's, or the folder cannot be made.
    """
    for name in names:
        if not is_safe_name(name):
            raise UserError(
                f"'{name}' cannot be the name of a folder, and one is made for each task and model"
            )
    parent = root.absolute().joinpath(*names)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 10_000):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        # mkdir itself decides who gets the name: asking first would race with other processes.
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise UserError(
                    f"cannot make the run folder {folder}: there is a file of that name"
                ) from None
            continue
        except OSError as error:
            raise UserError(
                f"cannot make the run folder {folder}: {error.strerror}; choose another: output=…"
            ) from error
        return folder
    raise UserError(f"no free name left in {parent}")


def remove_run_folder(folder: Path) -> None:
    """Remove the folder of a run that never trained, and its empty parents of model and task."""
    shutil.rmtree(folder)
    with suppress(OSError):
        for parent in list(folder.parents)[:2]:
            parent.rmdir()


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON that any parser takes, which bare NaN is not."""
    # allow_nan=False: whatever replace_nan does not know is an error here, not in some reader.
    return json.dumps(replace_nan(value), indent=indent, ensure_ascii=False, allow_nan=False)


def to_json_line(value: Any) -> str:
    """A value as one line of a file, in ASCII: no letter of it can end the line."""
    return json.dumps(replace_nan(value), allow_nan=False) + "\n"


def to_message(value: Any) -> str:
    """A value for another process of this dlrun, which reads nan and infinity as they are."""
    return json.dumps(value)


def to_canonical_json(value: Any, **options: Any) -> str:
    """A value as text for a hash or a comparison: equal values have equal texts."""
    return json.dumps(value, sort_keys=True, default=str, **options)


def replace_nan(value: Any) -> Any:
    """The same value with None for nan and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: replace_nan(item) for key, item in value.items()}
    return [replace_nan(item) for item in value] if isinstance(value, list | tuple) else value


def number_from_json(value: Any) -> float:
    """A number as it was written: null, and NaN from before 0.1.1, are nan."""
    return math.nan if value is None else float(value)
