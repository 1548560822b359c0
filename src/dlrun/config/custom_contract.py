"""What dlrun passes to a part of the user's own, decided by names and annotations.

Needs no torch.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dlrun.core.files import PACKAGE

# (name, annotation as text) of arguments in order; "" without an annotation.
NamedArguments = Sequence[tuple[str, str]]
# Kind of part → name and annotation by which the argument is known that dlrun passes.
CONTEXT_ARGUMENTS = {
    "model": ("spec", "Spec"),
    "loss": ("field", "Field"),
    "metric": ("field", "Field"),
    "callback": ("trainer", "Trainer"),
}
# Arguments of a plain function that is the part itself.
NUM_CALL_ARGUMENTS = {"loss": 2, "metric": 2, "callback": 1}


def is_context_argument(kind: str, name: str, annotation: str) -> bool:
    """Whether dlrun passes this argument to a part of this kind."""
    context_name, context_type = CONTEXT_ARGUMENTS[kind]
    return name == context_name or annotation.strip("'\"").rpartition(".")[2] == context_type


def is_direct_function(kind: str, positional: NamedArguments) -> bool:
    """Whether a function of these arguments is the part itself, not a factory of it.

    A loss or a metric is `(prediction, target)`, a callback is `(trainer)`.
    """
    if kind not in NUM_CALL_ARGUMENTS:
        return False
    if kind == "callback":
        return bool(positional) and is_context_argument(kind, *positional[0])
    return (
        not any(is_context_argument(kind, *argument) for argument in positional)
        and len(positional) >= NUM_CALL_ARGUMENTS[kind]
    )


def find_passed_arguments(
    kind: str, arguments: Sequence[tuple[str, str, bool]], is_function: bool
) -> set[str]:
    """The names of the arguments that dlrun passes to a part; the others are its settings.

    Args:
        kind: The kind of part.
        arguments: (name, annotation as text, whether it can be given in order), in order.
        is_function: It is a function, not a class.
    """
    ordered = [(name, annotation) for name, annotation, in_order in arguments if in_order]
    if is_function and is_direct_function(kind, ordered):
        return {name for name, _ in ordered[: NUM_CALL_ARGUMENTS[kind]]}
    if is_function and kind == "loss" and len(ordered) == 1:
        return {ordered[0][0]}  # a factory that takes the target's Field
    return {
        name for name, annotation, _ in arguments if is_context_argument(kind, name, annotation)
    }


def get_positional_arguments(function: Callable[..., Any]) -> NamedArguments:
    """The arguments of a function or class that can be given in order."""
    ordered = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        (parameter.name, _format_parameter(parameter))
        for parameter in get_callable_parameters(function)
        if parameter.kind in ordered
    ]


def get_callable_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a callable; none where Python cannot tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions written in C have no signature
        return []


def call_custom_part(
    kind: str, target: Callable[..., Any], context: Sequence[Any], arguments: Mapping[str, Any]
) -> Any:
    """Make a part of the user's own.

    Args:
        kind: Its kind.
        target: A function or class. A plain function is the part itself, its settings filled in.
        context: What dlrun passes, in order.
        arguments: The settings.
    """
    positional = get_positional_arguments(target)
    # A class is always called; a function may be what it makes, or the part itself.
    if inspect.isroutine(target) and is_direct_function(kind, positional):
        return partial(target, **arguments)
    if kind not in CONTEXT_ARGUMENTS or (
        kind == "loss" and inspect.isroutine(target) and len(positional) == 1
    ):
        return target(*context, **arguments)
    names = [
        parameter.name
        for parameter in get_callable_parameters(target)
        if is_context_argument(kind, parameter.name, _format_parameter(parameter))
    ]
    return target(**arguments, **dict(zip(names, context, strict=False)))


def describe_custom_error(name: str, error: Exception) -> str:
    """What failed in the user's own code and where, in one line."""
    text = str(error).strip() or "(no message)"
    return f"{name}{get_error_location(error)}: {type(error).__name__}: {text.splitlines()[0]}"


def get_error_location(error: Exception) -> str:
    """The innermost line outside dlrun and installed packages.

    Returns:
        ' (net.py, line 12: x = self.fc(x))', or "".
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()})"
    location, traceback = "", error.__traceback__
    while traceback is not None:
        file, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        if (
            "site-packages" not in file
            and not Path(file).is_relative_to(PACKAGE)
            and Path(file).is_file()
        ):
            source = linecache.getline(file, line).strip()
            location = f" ({Path(file).name}, line {line}: {source})"
        traceback = traceback.tb_next
    return location


def _format_parameter(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return ""
    return (
        annotation
        if isinstance(annotation, str)
        else getattr(annotation, "__name__", str(annotation))
    )
