"""Command-line words as keyword arguments of a function, converted by its annotations."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from dlrun.config.annotations import Range
from dlrun.core.errors import UserError, format_names

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false"}
MAX_COUNT = 100_000  # images or texts generated in one go: all of them are held in memory


def parse_arguments(
    texts: dict[str, str], function: Callable[..., Any], extra: tuple[str, ...] = (), kind: str = ""
) -> dict[str, Any]:
    """The arguments of a function by name.

    Args:
        texts: Argument → its text on the command line.
        function: Annotated; arguments without a default must be given.
        extra: Words that the command takes besides, for the message.
        kind: What the command calls the function.

    Raises:
        UserError: With all faults: unknown names, unsuitable values, missing arguments.
    """
    parameters = inspect.signature(function).parameters
    # The ranges are extras of Annotated.
    annotations = typing.get_type_hints(function, include_extras=True)
    arguments: dict[str, Any] = {}
    faults = [
        f"kind={kind} needs {name}=…"
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in texts
    ]
    for name, text in texts.items():
        if name not in parameters:
            available = format_names((*extra, *parameters), name)
            faults.append(f"no setting '{name}' for kind={kind}; there are: {available}")
            continue
        try:
            arguments[name] = parse_value(text, annotations[name])
        except ValueError as error:
            faults.append(f"{name}={text}: it must be {error}")
    if faults:
        raise UserError("\n".join(faults))
    return arguments


def parse_value(text: str, annotation: Any) -> Any:
    """The value of a text under an annotation.

    Raises:
        ValueError: It has none; the message says what is expected.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        # Both are typed: null is YAML's word.
        if text in ("null", "none") and type(None) in arguments:
            return None
        return parse_value(text, next(member for member in arguments if member is not type(None)))
    if origin is list:
        return [
            parse_value(item.strip(), arguments[0])
            for item in text.strip("[]").split(",")
            if item.strip()
        ]
    if origin is typing.Literal:
        if text not in arguments:
            raise ValueError(" or ".join(map(str, arguments)))
        return text
    if origin is typing.Annotated:
        return parse_in_range(text, arguments[1])
    return parse_scalar(text, annotation)


def parse_in_range(text: str, interval: Range) -> Any:
    """A number of this text. Raises ValueError where it is not in the range."""
    try:
        number = interval.type(text)
    except ValueError:
        number = None
    if not interval.contains(number):
        raise ValueError(interval.text)
    if interval.type is int and number > MAX_COUNT:
        raise ValueError(f"{interval.text}, {MAX_COUNT:,} at most at a time")
    return number


def parse_scalar(text: str, scalar_type: type) -> Any:
    """A number, true or false, or the text itself. Raises ValueError."""
    if scalar_type is bool and text in ("true", "false"):
        return text == "true"
    if scalar_type in (int, float):
        try:
            return scalar_type(text)
        except ValueError:
            raise ValueError(TYPE_NAMES[scalar_type]) from None
    if scalar_type is bool:
        raise ValueError(TYPE_NAMES[scalar_type])
    return text
