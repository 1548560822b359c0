"""Turns a config node into an object. A node is a mapping whose `_target_` names a Python class or function."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from dlrun.config import parts
from dlrun.config.custom_contract import call, failed, own, place_of
from dlrun.config.signatures import as_meant, settable
from dlrun.core.errors import Refused

_named: ContextVar[tuple[str, ...]] = ContextVar("plugins", default=())  # of the part that is being built


def build(node: Mapping[str, Any], *context: Any, kind: str = parts.ANY, plugins: Iterable[str] | None = None) -> Any:
    """The object that a node describes: its target called with `context` and the node's other keys.

    Nodes inside are built first.

    Args:
        node: A mapping with `_target_`.
        context: What the caller gives the target, in order.
        kind: The kind of part that belongs here; see `parts`.
        plugins: The user's own packages; None: those with which the part around this one is built, so that a member of
            an ensemble may come from them, too.

    Raises:
        Refused: The target is no part of this kind, or refuses its arguments.
    """
    chosen = _named.get() if plugins is None else tuple(plugins)
    name = parts.resolved(node["_target_"])
    target = located(name, kind, chosen)
    said = {key: value for key, value in node.items() if key != "_target_"}
    place = _last(name) if kind == parts.ANY else kind
    arguments = {
        key: _inner(value, f"{place}.{key}", parts.takes(name, kind, chosen, key), chosen)
        for key, value in said.items()
    }
    arguments |= _as_meant(name, kind, arguments, len(context))
    token = _named.set(chosen)
    try:
        return call(kind, target, context, arguments) if own(name) else target(*context, **arguments)
    except Refused:
        raise
    except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise Refused(f"{_last(name)}{place_of(error)}: {error}") from error
    except Exception as error:
        if own(name):
            raise Refused(failed(name, error)) from error
        raise
    finally:
        _named.reset(token)


def located(target: str, kind: str, plugins: Iterable[str]) -> Any:
    """The class or function of this full name, checked before anything is imported, and where it really lives."""
    parts.admit(target, kind, plugins)
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise Refused(f"_target_ '{target}' cannot be found: {error}") from error
    except Exception as error:  # whatever a package of the user's own does when it is imported
        raise Refused(failed(module_name, error)) from error
    home = f"{getattr(found, '__module__', None)}.{name}"
    if not callable(found) or not (_of_its_class(found, target) or parts.is_plugin(home, plugins)):
        raise Refused(f"_target_ '{target}' is not allowed: it is {home}, and no part")
    return found


def _of_its_class(found: Any, target: str) -> bool:
    """Whether what was found is what the table promises: dlrun's own, or of the class of its library."""
    module_name, _, name = target.rpartition(".")
    if target.startswith("dlrun."):
        return True
    if module_name == "torchvision.models":
        return name in importlib.import_module(module_name).list_models()
    home, _, base = parts.CLASSES.get(module_name, "").rpartition(".")
    return bool(home) and isinstance(found, type) and issubclass(found, getattr(importlib.import_module(home), base))


def _inner(value: Any, place: str, kind: str | None, plugins: tuple[str, ...]) -> Any:
    """A value with the parts in it built. Raises Refused for a part where none belongs."""
    if kind is None:
        if fault := next(parts.part_faults(value, place, None), None):
            raise Refused(fault)
        return value
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, kind=kind, plugins=plugins)
        return {key: _inner(item, f"{place}.{key}", kind, plugins) for key, item in value.items()}
    many = isinstance(value, list | tuple)
    return [_inner(item, f"{place}.{at}", kind, plugins) for at, item in enumerate(value)] if many else value


def _last(target: str) -> str:
    return target.rpartition(".")[2]


def _as_meant(target: str, kind: str, arguments: dict[str, Any], context: int) -> dict[str, Any]:
    """The arguments with whole numbers that are to be read as floats."""
    whole = {key: value for key, value in arguments.items() if isinstance(value, int | list)}
    known = settable(target, kind, context) if whole else None
    if known is None:
        return {}
    return {key: as_meant(value, known.arguments[key]) for key, value in whole.items() if key in known.arguments}


def patched(config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with some values, or whole nodes, set: dotted key → value."""
    changed = copy.deepcopy(dict(config))
    for key, value in patch.items():
        node, *inner = key.split(".")
        place = changed
        for name in inner:
            place, node = place[node], name
        place[node] = copy.deepcopy(value)
    return changed


def dotted(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys: {optimizer: {lr: 1}} → {optimizer.lr: 1}."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        inside = isinstance(value, Mapping) and "_target_" not in value
        found |= dotted(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found
