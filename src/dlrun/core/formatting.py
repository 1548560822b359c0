"""How numbers, times and texts are written for people. Needs nothing."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap

# From here on numbers are written with an exponent: prices in full, and their intervals alike.
LONG = 1e9
MAX_LISTED_FILES = 5  # in a message


def counted(count: int, noun: str) -> str:
    """A count with its noun: '0 rows', '1 row', '1,234 rows'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_number(value: float | None) -> str:
    """At least four significant digits, and no needless exponent: 0.8891, 12.35, 109123, 5.2e-05.

    Returns:
        'undefined' for nan; "" for None.
    """
    if value is None:
        return ""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return str(value)
    size = abs(value)
    if size >= LONG or 0 < size < 0.0001:
        return f"{value:.3e}" if size >= LONG else f"{value:.3g}"
    return f"{value:.4f}" if size < 10 else f"{value:.{max(0, 6 - len(str(int(size))) - 1)}f}"


def format_duration(seconds: float) -> str:
    """A time in words: '8 s', '3:07 min', '2:05 h'."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60}:{rounded % 60:02} min"
    return f"{rounded // 3600}:{rounded // 60 % 60:02} h"


def format_file_list(names: list[str]) -> str:
    """Join the first names, and say how many more there are."""
    more = f" and {len(names) - MAX_LISTED_FILES:,} more" if len(names) > MAX_LISTED_FILES else ""
    return ", ".join(names[:MAX_LISTED_FILES]) + more


def wrap_text(head: str, text: str) -> list[str]:
    """A heading with a hanging text, as wide as the terminal; one line in a pipe."""
    if not sys.stdout.isatty():
        return [f"{head}{text}"]
    # 20 columns at least, however long the heading is.
    columns = max(shutil.get_terminal_size().columns, len(head) + 20)
    return textwrap.wrap(
        text,
        columns,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
