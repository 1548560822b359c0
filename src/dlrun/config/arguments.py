"""Words as the keyword arguments of a function, read by its annotations."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from dlrun.config.constraints import Range
from dlrun.core.errors import UserError, format_names

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false"}
MAX_COUNT = 100_000  # of whatever is made in one go: all of it is held in memory


def parse_arguments(
    said: dict[str, str], function: Callable[..., Any], own: tuple[str, ...] = (), kind: str = ""
) -> dict[str, Any]:
    """The function's arguments by name. own: words that are taken besides; kind: how the function is called.

    Raises UserError with all that is wrong: a name that is not there, a value that does not fit, one that is missing.
    """
    there = inspect.signature(function).parameters
    notes = typing.get_type_hints(function, include_extras=True)
    found: dict[str, Any] = {}
    faults = [
        f"kind={kind} needs {name}=…"
        for name, each in there.items()
        if each.default is each.empty and name not in said
    ]
    for name, text in said.items():
        if name not in there:
            faults.append(
                f"no setting '{name}' for kind={kind}; there are: {format_names((*own, *there), name)}"
            )
            continue
        try:
            found[name] = parse_value(text, notes[name])
        except ValueError as error:
            faults.append(f"{name}={text}: it must be {error}")
    if faults:
        raise UserError("\n".join(faults))
    return found


def parse_value(text: str, note: Any) -> Any:
    """The value that this text stands for under an annotation. Raises ValueError, saying what it must be."""
    origin, inside = typing.get_origin(note), typing.get_args(note)
    if origin in (types.UnionType, typing.Union):
        if text in ("null", "none") and type(None) in inside:
            return None
        return parse_value(text, next(each for each in inside if each is not type(None)))
    if origin is list:
        return [
            parse_value(part.strip(), inside[0])
            for part in text.strip("[]").split(",")
            if part.strip()
        ]
    if origin is typing.Literal:
        if text not in inside:
            raise ValueError(" or ".join(map(str, inside)))
        return text
    if origin is typing.Annotated:
        return parse_in_range(text, inside[1])
    return parse_scalar(text, note)


def parse_in_range(text: str, wanted: Range) -> Any:
    """A number inside a range."""
    try:
        number = wanted.type(text)
    except ValueError:
        number = None
    if not wanted.contains(number):
        raise ValueError(wanted.text)
    if wanted.type is int and number > MAX_COUNT:
        raise ValueError(f"{wanted.text}, {MAX_COUNT:,} at most at a time")
    return number


def parse_scalar(text: str, kind: type) -> Any:
    """A number, a yes or no, or the text as it is."""
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(TYPE_NAMES[kind]) from None
    if kind is bool:
        raise ValueError(TYPE_NAMES[kind])
    return text
