"""The exceptions that a user is meant to read, and how their messages name things."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable


class TrainingDiverged(Exception):
    """The loss became nan or infinite. The text says where."""


class NotStackable(Exception):
    """These models cannot be trained as one. The text says why."""


class UserError(Exception):
    """A request that makes no sense, or names something that does not exist.

    The text says what is wrong and what exists instead. The command line prints it without a
    traceback and exits with code 2.
    """


class CorruptedFileError(UserError):
    """A file that dlrun wrote has changed since. The text names the file."""


class FileWriteError(OSError):
    """A file could not be written: a full disk, a quota, a missing folder.

    The text says what, where and why. The command line prints it without a traceback and exits
    with code 1; what was written before is whole.
    """


# A list of names in a message: up to 700 letters it is given in full, else 5 names of it; each
# name is cut at 60 letters.
MAX_LIST_LENGTH, NUM_NAMES, MAX_NAME_LENGTH = 700, 5, 60


def format_names(names: Iterable[object], near: str = "") -> str:
    """Names for a message: all of them where that is short.

    Args:
        names: What exists.
        near: A word, most likely misspelled; of a long list the names nearest to it are given.
    """
    import difflib

    texts = [truncate_text(str(name), MAX_NAME_LENGTH) for name in names]
    joined = ", ".join(texts)
    if len(joined) <= MAX_LIST_LENGTH:
        return joined
    # First what was probably meant, then the others in their order.
    close = difflib.get_close_matches(near, texts, NUM_NAMES, 0.5) if near else []
    first = [*close, *(name for name in texts if name not in close)][:NUM_NAMES]
    return f"{', '.join(first)}, … ({len(texts):,} in all)"


def truncate_text(text: str, most: int = 300) -> str:
    """A text, its middle cut out where it is longer than `most` letters."""
    return text if len(text) <= most else f"{text[: most // 2]}… ({len(text):,} letters)"


def describe_system_error(error: BaseException) -> str | None:
    """An error of the machine in one line, for whoever asked for too much.

    Returns:
        None for any other error.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = truncate_text(str(error.filename), MAX_NAME_LENGTH)
        return f"no file can have so long a name: {name}"
    if isinstance(error, RecursionError):
        return "what was asked for is nested too deep"
    # torch raises RuntimeError for CPU memory, and its wording differs between allocators.
    amount = re.search(r"allocate ([\d,.]+ ?\w+)", text)
    if (
        isinstance(error, MemoryError)
        or "out of memory" in text.lower()
        or "can't allocate memory" in text
    ):
        request = f": {_format_size(amount[1])} were asked for at once" if amount else ""
        return (
            f"not enough memory{request}{_format_total_memory()}; ask for less: "
            "a smaller model or engine.batch_size"
        )
    if (
        # What torch says of sizes beyond 64 bits.
        "Storage size calculation overflowed" in text
        or "overflow when unpacking long" in text.lower()
    ):
        return "a number is larger than any that can be counted with; ask for less"
    return None


def _format_size(text: str) -> str:
    """'40000000 bytes' as '0.04 GB'; anything else as it is."""
    number, _, unit = text.partition(" ")
    return f"{int(number) / 1e9:,.4g} GB" if unit == "bytes" and number.isdigit() else text


def _format_total_memory() -> str:
    """How much memory this machine has, where the system tells."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return ""
    return f", this machine has {size / 1e9:,.4g} GB"


class TrainingInterrupted(Exception):
    """A signal asked the run to stop; everything so far is saved.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
