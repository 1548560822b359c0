"""Turns a config node into an object. A node is a mapping whose `_target_` names a Python class or function."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from dlrun.contracts import call, failed, own
from dlrun.errors import Refused
from dlrun.signatures import as_meant, signature

PARTS = ("augment", "callbacks", "data", "losses", "metrics", "models", "objectives", "optim", "protocols", "settings")
ALLOWED = (
    *(f"dlrun.{part}" for part in PARTS), "torch.nn", "torch.optim", "torchvision.models", "torchvision.transforms",
)  # fmt: skip
EXCEPT = ("dlrun.data.archives", "dlrun.data.files", "dlrun.models.weights")  # they write wherever they are told to


def allow(target: str, plugins: Iterable[str] = ()) -> None:
    """Refuse a target outside dlrun's parts, torch.nn, torch.optim, torchvision and the packages the user has named.

    dlrun's commands are no parts: one of them, called from a config, could name any package.
    """
    known = (*ALLOWED, *plugins)
    inside = lambda prefixes: any(target.startswith(prefix + ".") for prefix in prefixes)  # noqa: E731
    if inside(EXCEPT) or not inside(known):
        raise Refused(
            f"_target_ '{target}' is not allowed: it must be in {', '.join(known)}; "
            f"to use a package of your own, name it on the command line: plugins=[{target.split('.')[0]}]"
        )


def locate(target: str, plugins: Iterable[str] = ()) -> Any:
    """The class or function of this dotted name, checked where it is named and where it really lives."""
    allow(target, plugins)
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise Refused(f"_target_ '{target}' cannot be found: {error}") from error
    home = getattr(found, "__module__", None)
    if not callable(found) or home is None:
        raise Refused(f"_target_ '{target}' is not a class or function")
    allow(f"{home}.{name}", plugins)
    return found


def build(node: Mapping[str, Any], *context: Any, kind: str = "", plugins: Iterable[str] = ()) -> Any:
    """The object that a node describes: its target called with `context` and the node's other keys.

    Nodes inside are built first. Raises Refused, naming the target, when the target refuses its arguments.
    """
    arguments = {key: _inner(value, plugins) for key, value in node.items() if key != "_target_"}
    target = locate(node["_target_"], plugins)
    arguments |= _as_meant(node["_target_"], arguments, len(context))
    try:
        return call(kind, target, context, arguments) if own(node["_target_"]) else target(*context, **arguments)
    except (AttributeError, KeyError, RuntimeError) as error:
        if own(node["_target_"]) and not isinstance(error, Refused):
            raise Refused(failed(node["_target_"], error)) from error
        raise
    except (TypeError, ValueError, IndexError) as error:
        raise Refused(f"{node['_target_'].rpartition('.')[2]}: {error}") from error


def _as_meant(target: str, arguments: dict[str, Any], context: int) -> dict[str, Any]:
    """The arguments with whole numbers that are to be read as floats."""
    whole = {key: value for key, value in arguments.items() if isinstance(value, int | list)}
    known = signature(target, context) if whole else None
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


def _inner(value: Any, plugins: Iterable[str]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, plugins=plugins)
        return {key: _inner(item, plugins) for key, item in value.items()}
    return [_inner(item, plugins) for item in value] if isinstance(value, list | tuple) else value
