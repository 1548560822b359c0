"""Where data, caches and the test ledger of the user are stored."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dlrun

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
