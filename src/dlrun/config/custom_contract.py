"""What dlrun gives to a part of the user's own: decided by names and annotations. Needs no torch."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dlrun.core.paths import PACKAGE

Named = Sequence[tuple[str, str]]  # arguments in order: name, annotation as text ('' where there is none)
GIVES = {  # kind of part → the argument that receives what dlrun knows, by its name or its annotation
    "model": ("spec", "Spec"),
    "loss": ("field", "Field"),
    "metric": ("field", "Field"),
    "callback": ("trainer", "Trainer"),
}
CALLED_WITH = {"loss": 2, "metric": 2, "callback": 1}  # arguments of a plain function


def own(target: Any) -> bool:
    """Whether a dotted name is not dlrun's: the user's, or another library's."""
    return isinstance(target, str) and not target.startswith("dlrun.")


def is_given(kind: str, name: str, annotation: str) -> bool:
    """Whether this argument is what dlrun gives to a part of this kind."""
    word, noun = GIVES[kind]
    return name == word or annotation.strip("'\"").rpartition(".")[2] == noun


def is_plain(kind: str, positional: Named) -> bool:
    """Whether a function of these arguments is the part itself, and not one that makes it.

    A loss or a metric is `(prediction, target)`, a callback is `(trainer)`.
    """
    if kind not in CALLED_WITH:
        return False
    if kind == "callback":
        return bool(positional) and is_given(kind, *positional[0])
    return not any(is_given(kind, *each) for each in positional) and len(positional) >= CALLED_WITH[kind]


def positional_of(function: Callable[..., Any]) -> Named:
    """The arguments of a function or class that can be given in order."""
    ordered = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [(each.name, _text(each)) for each in parameters(function) if each.kind in ordered]


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of anything callable; none where it does not tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def call(kind: str, target: Callable[..., Any], context: Sequence[Any], arguments: Mapping[str, Any]) -> Any:
    """The part of the user's own that a target, its settings and what dlrun gives (`context`) come to.

    A plain function is the part itself, with its settings filled in.
    """
    positional = positional_of(target)
    if inspect.isroutine(target) and is_plain(kind, positional):
        return partial(target, **arguments)
    if kind not in GIVES or (kind == "loss" and inspect.isroutine(target) and len(positional) == 1):
        return target(*context, **arguments)
    asks = [p.name for p in parameters(target) if is_given(kind, p.name, _text(p))]
    return target(**arguments, **dict(zip(asks, context, strict=False)))


def failed(name: str, error: Exception) -> str:
    """What failed in code of the user's own, and in which line of it, in one line."""
    said = str(error).strip() or "(no message)"
    return f"{name}{place_of(error)}: {type(error).__name__}: {said.splitlines()[0]}"


def place_of(error: Exception) -> str:
    """The innermost line outside dlrun and installed packages: ' (net.py, line 12: x = self.fc(x))'."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()})"
    ours, found, traceback = PACKAGE, "", error.__traceback__
    while traceback is not None:
        file, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        if "site-packages" not in file and not Path(file).is_relative_to(ours) and Path(file).is_file():
            found = f" ({Path(file).name}, line {line}: {linecache.getline(file, line).strip()})"
        traceback = traceback.tb_next
    return found


def _text(parameter: inspect.Parameter) -> str:
    note = parameter.annotation
    if note is inspect.Parameter.empty:
        return ""
    return note if isinstance(note, str) else getattr(note, "__name__", str(note))


Plugins = tuple[str, ...]
