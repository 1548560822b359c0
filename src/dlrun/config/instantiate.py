"""Turns a config node into an object. A node is a mapping whose `_target_` names a Python class or function."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from dlrun.config import parts
from dlrun.config.custom_contract import (
    call_custom_part,
    describe_custom_error,
    get_error_location,
    is_custom,
)
from dlrun.config.signatures import convert_integers, get_configurable_arguments
from dlrun.core.errors import UserError

_named: ContextVar[tuple[str, ...]] = ContextVar(
    "plugins", default=()
)  # of the part that is being built


def build_part(
    node: Mapping[str, Any],
    *context: Any,
    kind: str = parts.ANY_KIND,
    plugins: Iterable[str] | None = None,
) -> Any:
    """The object that a node describes: its target called with `context` and the node's other keys.

    Nodes inside are built first.

    Args:
        node: A mapping with `_target_`.
        context: What the caller gives the target, in order.
        kind: The kind of part that belongs here; see `parts`.
        plugins: The user's own packages; None: those with which the part around this one is built, so that a member of
            an ensemble may come from them, too.

    Raises:
        UserError: The target is no part of this kind, or refuses its arguments.
    """
    chosen = _named.get() if plugins is None else tuple(plugins)
    name = parts.resolve_target(node["_target_"])
    target = import_target(name, kind, chosen)
    said = {key: value for key, value in node.items() if key != "_target_"}
    place = _get_last_name(name) if kind == parts.ANY_KIND else kind
    arguments = {
        key: _build_inner(
            value, f"{place}.{key}", parts.get_argument_kind(name, kind, chosen, key), chosen
        )
        for key, value in said.items()
    }
    arguments |= _convert_integers(name, kind, arguments, len(context))
    token = _named.set(chosen)
    try:
        return (
            call_custom_part(kind, target, context, arguments)
            if is_custom(name)
            else target(*context, **arguments)
        )
    except UserError:
        raise
    except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise UserError(f"{_get_last_name(name)}{get_error_location(error)}: {error}") from error
    except Exception as error:
        if is_custom(name):
            raise UserError(describe_custom_error(name, error)) from error
        raise
    finally:
        _named.reset(token)


def import_target(target: str, kind: str, plugins: Iterable[str]) -> Any:
    """The class or function of this full name, checked before anything is imported, and where it really lives."""
    parts.check_target(target, kind, plugins)
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"_target_ '{target}' cannot be found: {error}") from error
    except Exception as error:  # whatever a package of the user's own does when it is imported
        raise UserError(describe_custom_error(module_name, error)) from error
    home = f"{getattr(found, '__module__', None)}.{name}"
    if not callable(found) or not (
        _has_expected_class(found, target) or parts.is_plugin(home, plugins)
    ):
        raise UserError(f"_target_ '{target}' is not allowed: it is {home}, and no part")
    return found


def _has_expected_class(found: Any, target: str) -> bool:
    """Whether what was found is what the table promises: dlrun's own, or of the class of its library."""
    module_name, _, name = target.rpartition(".")
    if target.startswith("dlrun."):
        return True
    if module_name == "torchvision.models":
        return name in importlib.import_module(module_name).list_models()
    home, _, base = parts.LIBRARY_CLASSES.get(module_name, "").rpartition(".")
    return (
        bool(home)
        and isinstance(found, type)
        and issubclass(found, getattr(importlib.import_module(home), base))
    )


def _build_inner(value: Any, place: str, kind: str | None, plugins: tuple[str, ...]) -> Any:
    """A value with the parts in it built. Raises UserError for a part where none belongs."""
    if kind is None:
        if fault := next(parts.find_nested_part_errors(value, place, None), None):
            raise UserError(fault)
        return value
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build_part(value, kind=kind, plugins=plugins)
        return {
            key: _build_inner(item, f"{place}.{key}", kind, plugins) for key, item in value.items()
        }
    many = isinstance(value, list | tuple)
    return (
        [_build_inner(item, f"{place}.{at}", kind, plugins) for at, item in enumerate(value)]
        if many
        else value
    )


def _get_last_name(target: str) -> str:
    return target.rpartition(".")[2]


def _convert_integers(
    target: str, kind: str, arguments: dict[str, Any], context: int
) -> dict[str, Any]:
    """The arguments with whole numbers that are to be read as floats."""
    whole = {key: value for key, value in arguments.items() if isinstance(value, int | list)}
    known = get_configurable_arguments(target, kind, context) if whole else None
    if known is None:
        return {}
    return {
        key: convert_integers(value, known.arguments[key])
        for key, value in whole.items()
        if key in known.arguments
    }


def apply_patch(config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with some values, or whole nodes, set: dotted key → value."""
    changed = copy.deepcopy(dict(config))
    for key, value in patch.items():
        node, *inner = key.split(".")
        place = changed
        for name in inner:
            place, node = place[node], name
        place[node] = copy.deepcopy(value)
    return changed


def to_dotted_keys(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys: {optimizer: {lr: 1}} → {optimizer.lr: 1}."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        inside = isinstance(value, Mapping) and "_target_" not in value
        found |= to_dotted_keys(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found
