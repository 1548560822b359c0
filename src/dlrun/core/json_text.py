"""The one place that writes JSON: nan and infinity become null. Needs nothing."""

from __future__ import annotations

import json
import math
from typing import Any


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
