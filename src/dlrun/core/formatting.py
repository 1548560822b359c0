"""How a measure is written for people, and which way it is better. Needs nothing."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


LONG = 1e9  # from here on a number is written with an exponent: prices in full, and their intervals alike


def counted(count: int, thing: str) -> str:
    """'0 rows', '1 row', '1,234 rows'."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def format_number(value: float | None) -> str:
    """Four significant figures at least, and no needless exponent: 0.8891, 12.35, 109123, 5.2e-05; none: undefined."""
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
    """'8 s', '3:07 min', '2:05 h'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60}:{whole % 60:02} min"
        if whole < 3600
        else f"{whole // 3600}:{whole // 60 % 60:02} h"
    )


def wrap_text(head: str, text: str) -> list[str]:
    """A line with a hanging text, between words, as wide as the terminal; one line where nobody looks."""
    if not sys.stdout.isatty():
        return [f"{head}{text}"]
    columns = max(shutil.get_terminal_size().columns, len(head) + 20)
    return textwrap.wrap(
        text, columns, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
