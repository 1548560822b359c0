"""The one place that writes JSON: a number that is none (nan, infinite) is null, whatever is written. Needs nothing."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON that any reader takes, which bare NaN is not."""
    return json.dumps(replace_nan(value), indent=indent, ensure_ascii=False, allow_nan=False)


def to_json_line(value: Any) -> str:
    """The same as one line of a file, in letters that a line cannot end in."""
    return json.dumps(replace_nan(value), allow_nan=False) + "\n"


def to_message(value: Any) -> str:
    """A value for another process of this dlrun, which reads it as it is, settings such as inf among it."""
    return json.dumps(value)


def to_canonical_json(value: Any, **how: Any) -> str:
    """A value as the text that it is known by (hashed, or compared): equal values have equal texts."""
    return json.dumps(value, sort_keys=True, default=str, **how)


def replace_nan(value: Any) -> Any:
    """The same value with None in the place of every number that is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: replace_nan(part) for key, part in value.items()}
    return [replace_nan(part) for part in value] if isinstance(value, list | tuple) else value


def number_from_json(value: Any) -> float:
    """A number as it was written, also by dlrun before 0.1.1, which wrote NaN: what stands for none of them is nan."""
    return math.nan if value is None else float(value)
