"""What dlrun gives to a part of the user's own: decided by names and annotations. Needs no torch."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dlrun.core.paths import PACKAGE

NamedArguments = Sequence[
    tuple[str, str]
]  # arguments in order: name, annotation as text ('' where there is none)
CONTEXT_ARGUMENTS = {  # kind of part → the argument that receives what dlrun knows, by its name or its annotation
    "model": ("spec", "Spec"),
    "loss": ("field", "Field"),
    "metric": ("field", "Field"),
    "callback": ("trainer", "Trainer"),
}
NUM_CALL_ARGUMENTS = {"loss": 2, "metric": 2, "callback": 1}  # arguments of a plain function


def is_custom(target: Any) -> bool:
    """Whether a dotted name is not dlrun's: the user's, or another library's."""
    return isinstance(target, str) and not target.startswith("dlrun.")


def is_context_argument(kind: str, name: str, annotation: str) -> bool:
    """Whether this argument is what dlrun gives to a part of this kind."""
    word, noun = CONTEXT_ARGUMENTS[kind]
    return name == word or annotation.strip("'\"").rpartition(".")[2] == noun


def is_direct_function(kind: str, positional: NamedArguments) -> bool:
    """Whether a function of these arguments is the part itself, and not one that makes it.

    A loss or a metric is `(prediction, target)`, a callback is `(trainer)`.
    """
    if kind not in NUM_CALL_ARGUMENTS:
        return False
    if kind == "callback":
        return bool(positional) and is_context_argument(kind, *positional[0])
    return (
        not any(is_context_argument(kind, *each) for each in positional)
        and len(positional) >= NUM_CALL_ARGUMENTS[kind]
    )


def get_positional_arguments(function: Callable[..., Any]) -> NamedArguments:
    """The arguments of a function or class that can be given in order."""
    ordered = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        (each.name, _format_parameter(each))
        for each in get_callable_parameters(function)
        if each.kind in ordered
    ]


def get_callable_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of anything callable; none where it does not tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def call_custom_part(
    kind: str, target: Callable[..., Any], context: Sequence[Any], arguments: Mapping[str, Any]
) -> Any:
    """The part of the user's own that a target, its settings and what dlrun gives (`context`) come to.

    A plain function is the part itself, with its settings filled in.
    """
    positional = get_positional_arguments(target)
    if inspect.isroutine(target) and is_direct_function(kind, positional):
        return partial(target, **arguments)
    if kind not in CONTEXT_ARGUMENTS or (
        kind == "loss" and inspect.isroutine(target) and len(positional) == 1
    ):
        return target(*context, **arguments)
    asks = [
        p.name
        for p in get_callable_parameters(target)
        if is_context_argument(kind, p.name, _format_parameter(p))
    ]
    return target(**arguments, **dict(zip(asks, context, strict=False)))


def describe_custom_error(name: str, error: Exception) -> str:
    """What failed in code of the user's own, and in which line of it, in one line."""
    said = str(error).strip() or "(no message)"
    return f"{name}{get_error_location(error)}: {type(error).__name__}: {said.splitlines()[0]}"


def get_error_location(error: Exception) -> str:
    """The innermost line outside dlrun and installed packages: ' (net.py, line 12: x = self.fc(x))'."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()})"
    ours, found, traceback = PACKAGE, "", error.__traceback__
    while traceback is not None:
        file, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        if (
            "site-packages" not in file
            and not Path(file).is_relative_to(ours)
            and Path(file).is_file()
        ):
            found = f" ({Path(file).name}, line {line}: {linecache.getline(file, line).strip()})"
        traceback = traceback.tb_next
    return found


def _format_parameter(parameter: inspect.Parameter) -> str:
    note = parameter.annotation
    if note is inspect.Parameter.empty:
        return ""
    return note if isinstance(note, str) else getattr(note, "__name__", str(note))


Plugins = tuple[str, ...]
