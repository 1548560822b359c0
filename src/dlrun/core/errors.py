"""The exceptions that a user is meant to read, and how their messages name things."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable


class TrainingDiverged(Exception):
    """The loss is no longer a number. Its text says where."""


class NotStackable(Exception):
    """These models cannot be one. Its text says why."""


class UserError(Exception):
    """Something that was asked for makes no sense or is not there. Its text says what, and what there is instead.

    The command line prints the text alone, without a traceback, and exits with code 2.
    """


class CorruptedFileError(UserError):
    """A file that dlrun has written is not as it was written. Its text names the file."""


class FileWriteError(OSError):
    """Something could not be written: a full disk, a quota, a folder that is gone. Its text says what, where and why.

    The command line prints the text alone and exits with code 1: what had been written before is whole.
    """


LETTERS, NAMED, LONGEST = (
    700,
    5,
    60,
)  # of a list in a message: all of it up to so many letters, else so many names


def format_names(names: Iterable[object], near: str = "") -> str:
    """Names for a message: all of them where that is short, else the nearest to a word and how many there are."""
    import difflib

    there = [truncate_text(str(name), LONGEST) for name in names]
    whole = ", ".join(there)
    if len(whole) <= LETTERS:
        return whole
    close = difflib.get_close_matches(near, there, NAMED, 0.5) if near else []
    first = [*close, *(name for name in there if name not in close)][:NAMED]
    return f"{', '.join(first)}, … ({len(there):,} in all)"


def truncate_text(text: str, most: int = 300) -> str:
    """A text, shortened where it is longer than that."""
    return text if len(text) <= most else f"{text[: most // 2]}… ({len(text):,} letters)"


def describe_system_error(error: BaseException) -> str | None:
    """What an error of the machine means to whoever asked for too much; None for any other error."""
    text = str(error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"no file can have so long a name: {truncate_text(str(error.filename), LONGEST)}"
    if isinstance(error, RecursionError):
        return "what was asked for is nested too deep"
    amount = re.search(r"allocate ([\d,.]+ ?\w+)", text)
    if (
        isinstance(error, MemoryError)
        or "out of memory" in text.lower()
        or "can't allocate memory" in text
    ):
        asked = f": {_format_size(amount[1])} were asked for at once" if amount else ""
        return f"not enough memory{asked}{_format_free_memory()}; ask for less: a smaller model or engine.batch_size"
    if (
        "Storage size calculation overflowed" in text
        or "overflow when unpacking long" in text.lower()
    ):
        return "a number is larger than any that can be counted with; ask for less"
    return None


def _format_size(text: str) -> str:
    """'40000000 bytes' as '0.04 GB'; anything else as it is."""
    number, _, unit = text.partition(" ")
    return f"{int(number) / 1e9:,.4g} GB" if unit == "bytes" and number.isdigit() else text


def _format_free_memory() -> str:
    """How much memory this machine has, where the system tells."""
    try:
        return f", this machine has {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:,.4g} GB"
    except (AttributeError, ValueError, OSError):
        return ""


class TrainingInterrupted(Exception):
    """A signal asked the run to stop; everything up to now is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
