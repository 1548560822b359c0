"""Full names of parts in earlier versions, and what they are called today: run folders keep working. Needs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED: dict[str, str] = {
    "dlrun.settings.Settings": "dlrun.config.settings.Settings",
    "dlrun.settings.Sweep": "dlrun.config.settings.Sweep",
    "dlrun.settings.Workflow": "dlrun.config.settings.Workflow",
}


def renamed(value: Any) -> Any:
    """A saved value with every `_target_` in it under today's name. Which part a name may be is decided elsewhere."""
    return _replaced(value, RENAMED)


def as_first_named(value: Any) -> Any:
    """The same with the names that parts had at first, so that a hash of it stays what earlier versions wrote down."""
    return _replaced(value, {name: first for first, name in reversed(RENAMED.items())})


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, names) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: names.get(item, item) if key == "_target_" and isinstance(item, str) else _replaced(item, names)
        for key, item in value.items()
    }
