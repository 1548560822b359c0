"""Words as the keyword arguments of a function, read by its annotations."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from dlrun.config.constraints import Range
from dlrun.core.errors import Refused, in_short

IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}
MOST = 100_000  # of whatever is made in one go: all of it is held in memory


def arguments(
    said: dict[str, str], function: Callable[..., Any], own: tuple[str, ...] = (), kind: str = ""
) -> dict[str, Any]:
    """The function's arguments by name. own: words that are taken besides; kind: how the function is called.

    Raises Refused with all that is wrong: a name that is not there, a value that does not fit, one that is missing.
    """
    there = inspect.signature(function).parameters
    notes = typing.get_type_hints(function, include_extras=True)
    found: dict[str, Any] = {}
    faults = [
        f"kind={kind} needs {name}=…" for name, each in there.items() if each.default is each.empty and name not in said
    ]
    for name, text in said.items():
        if name not in there:
            faults.append(f"no setting '{name}' for kind={kind}; there are: {in_short((*own, *there), name)}")
            continue
        try:
            found[name] = value(text, notes[name])
        except ValueError as error:
            faults.append(f"{name}={text}: it must be {error}")
    if faults:
        raise Refused("\n".join(faults))
    return found


def value(text: str, note: Any) -> Any:
    """The value that this text stands for under an annotation. Raises ValueError, saying what it must be."""
    origin, inside = typing.get_origin(note), typing.get_args(note)
    if origin in (types.UnionType, typing.Union):
        if text in ("null", "none") and type(None) in inside:
            return None
        return value(text, next(each for each in inside if each is not type(None)))
    if origin is list:
        return [value(part.strip(), inside[0]) for part in text.strip("[]").split(",") if part.strip()]
    if origin is typing.Literal:
        if text not in inside:
            raise ValueError(" or ".join(map(str, inside)))
        return text
    if origin is typing.Annotated:
        return ranged(text, inside[1])
    return plain(text, note)


def ranged(text: str, wanted: Range) -> Any:
    """A number inside a range."""
    try:
        number = wanted.type(text)
    except ValueError:
        number = None
    if not wanted.holds(number):
        raise ValueError(wanted.text)
    if wanted.type is int and number > MOST:
        raise ValueError(f"{wanted.text}, {MOST:,} at most at a time")
    return number


def plain(text: str, kind: type) -> Any:
    """A number, a yes or no, or the text as it is."""
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(IN_WORDS[kind]) from None
    if kind is bool:
        raise ValueError(IN_WORDS[kind])
    return text
