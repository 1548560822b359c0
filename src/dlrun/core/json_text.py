"""The one place that writes JSON: a number that is none (nan, infinite) is null, whatever is written. Needs nothing."""

from __future__ import annotations

import json
import math
from typing import Any


def text(value: Any, indent: int | None = None) -> str:
    """A value as JSON that any reader takes, which bare NaN is not."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def line(value: Any) -> str:
    """The same as one line of a file, in letters that a line cannot end in."""
    return json.dumps(plain(value), allow_nan=False) + "\n"


def message(value: Any) -> str:
    """A value for another process of this dlrun, which reads it as it is, settings such as inf among it."""
    return json.dumps(value)


def canonical(value: Any, **how: Any) -> str:
    """A value as the text that it is known by (hashed, or compared): equal values have equal texts."""
    return json.dumps(value, sort_keys=True, default=str, **how)


def plain(value: Any) -> Any:
    """The same value with None in the place of every number that is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def number(value: Any) -> float:
    """A number as it was written, also by dlrun before 0.1.1, which wrote NaN: what stands for none of them is nan."""
    return math.nan if value is None else float(value)
