"""Turns a config node into an object: the only place that imports what a `_target_` names.

A node is a mapping whose `_target_` names a Python class or function.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from dlrun.config import parts
from dlrun.config.annotations import convert_integers
from dlrun.config.signatures import get_configurable_arguments, is_custom
from dlrun.core.errors import UserError

# The plugins of the part that is being built: parts inside it may come from them, too.
_current_plugins: ContextVar[tuple[str, ...]] = ContextVar("plugins", default=())

# What constructors raise for arguments that make no sense.
_ARGUMENT_ERRORS = (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError)


def build_part(
    node: Mapping[str, Any],
    *context: Any,
    kind: str = parts.ANY_KIND,
    plugins: Iterable[str] | None = None,
) -> Any:
    """Build the object that a node describes; nodes inside it are built first.

    Args:
        node: A mapping with `_target_`; its other keys are keyword arguments.
        context: What the caller passes to the target, in order.
        kind: The kind of part that belongs here; see parts.py.
        plugins: The user's own packages; None: those of the part around this one.

    Raises:
        UserError: The target is no part of this kind, or refuses its arguments.
    """
    chosen = _current_plugins.get() if plugins is None else tuple(plugins)
    name = parts.resolve_target(node["_target_"])
    target = import_target(name, kind, chosen)
    settings = {key: value for key, value in node.items() if key != "_target_"}
    # For messages: 'dense.units' where the kind says nothing.
    label = _get_last_name(name) if kind == parts.ANY_KIND else kind
    arguments = {
        key: _build_inner(
            value, f"{label}.{key}", parts.get_argument_kind(name, kind, chosen, key), chosen
        )
        for key, value in settings.items()
    }
    # YAML reads [1, 2] as integers, of which torch would make integer tensors.
    arguments |= _convert_integers(name, kind, arguments, len(context))
    token = _current_plugins.set(chosen)
    try:
        return _call_target(name, kind, target, context, arguments)
    finally:
        _current_plugins.reset(token)


def _call_target(
    name: str, kind: str, target: Any, context: tuple[Any, ...], arguments: dict[str, Any]
) -> Any:
    """Call a class or function, and say in one line what it refuses."""
    if not is_custom(name):
        try:
            return target(*context, **arguments)
        except _ARGUMENT_ERRORS as error:
            raise UserError(_describe_argument_error(name, error)) from error
    from dlrun.config.custom_contract import call_custom_part, describe_custom_error

    try:
        return call_custom_part(kind, target, context, arguments)
    except UserError:
        raise
    except _ARGUMENT_ERRORS as error:
        raise UserError(_describe_argument_error(name, error)) from error
    except Exception as error:  # the user's own code may raise anything
        raise UserError(describe_custom_error(name, error)) from error


def _describe_argument_error(name: str, error: Exception) -> str:
    from dlrun.config.custom_contract import get_error_location

    return f"{_get_last_name(name)}{get_error_location(error)}: {error}"


def import_target(target: str, kind: str, plugins: Iterable[str]) -> Any:
    """Import the class or function of a full name.

    It is checked before anything is imported, and again by where it really lives.

    Raises:
        UserError: It is not allowed or does not exist.
    """
    # Before the import: importing a module already runs its code.
    parts.check_target(target, kind, plugins)
    module_name, _, name = target.rpartition(".")
    try:
        imported = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"_target_ '{target}' cannot be found: {error}") from error
    except Exception as error:  # a package of the user's own may raise anything on import
        from dlrun.config.custom_contract import describe_custom_error

        raise UserError(describe_custom_error(module_name, error)) from error
    # A module may have re-exported something else under an allowed name.
    home = f"{getattr(imported, '__module__', None)}.{name}"
    if not callable(imported) or not (
        _has_expected_class(imported, target) or parts.is_plugin(home, plugins)
    ):
        raise UserError(f"_target_ '{target}' is not allowed: it is {home}, and no part")
    return imported


def _has_expected_class(imported: Any, target: str) -> bool:
    """Whether it is what the table of parts promises: dlrun's own, or of its library's class."""
    module_name, _, name = target.rpartition(".")
    if target.startswith("dlrun."):
        return True
    # Its registry: the module exports weights and helpers under its name, too.
    if module_name == "torchvision.models":
        return name in importlib.import_module(module_name).list_models()
    home, _, base = parts.LIBRARY_CLASSES.get(module_name, "").rpartition(".")
    return (
        bool(home)
        and isinstance(imported, type)
        and issubclass(imported, getattr(importlib.import_module(home), base))
    )


def _build_inner(value: Any, location: str, kind: str | None, plugins: tuple[str, ...]) -> Any:
    """A value with the parts in it built. Raises UserError for a part where none belongs."""
    if kind is None:
        if fault := next(parts.find_nested_part_errors(value, location, None), None):
            raise UserError(fault)
        return value
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build_part(value, kind=kind, plugins=plugins)
        return {
            key: _build_inner(item, f"{location}.{key}", kind, plugins)
            for key, item in value.items()
        }
    if not isinstance(value, list | tuple):
        return value
    return [
        _build_inner(item, f"{location}.{number}", kind, plugins)
        for number, item in enumerate(value)
    ]


def _get_last_name(target: str) -> str:
    return target.rpartition(".")[2]


def _convert_integers(
    target: str, kind: str, arguments: dict[str, Any], context: int
) -> dict[str, Any]:
    """The integer arguments that are meant as floats, converted."""
    integers = {key: value for key, value in arguments.items() if isinstance(value, int | list)}
    signature = get_configurable_arguments(target, kind, context) if integers else None
    if signature is None:
        return {}
    return {
        key: convert_integers(value, signature.arguments[key])
        for key, value in integers.items()
        if key in signature.arguments
    }


def apply_patch(config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with some values or nodes set: dotted key → value."""
    # The config of the run is shared by all of its fits.
    changed = copy.deepcopy(dict(config))
    for key, value in patch.items():
        *parents, name = key.split(".")
        node = changed
        for parent in parents:
            node = node[parent]
        node[name] = copy.deepcopy(value)
    return changed


def to_dotted_keys(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys: {optimizer: {lr: 1}} → {optimizer.lr: 1}."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        is_nested = isinstance(value, Mapping) and "_target_" not in value
        if is_nested:
            flat |= to_dotted_keys(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
