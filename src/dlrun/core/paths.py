"""Where data, caches and the test ledger of the user are stored, and where a new run goes."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import dlrun
from dlrun.core.errors import UserError
from dlrun.core.files import is_safe_name

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
