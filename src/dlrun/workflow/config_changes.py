"""Turns the changes of a stage into keys of the config: relative changes, or plain keys."""

from __future__ import annotations

from typing import Any

from dlrun.config.parts import load_builtin_option
from dlrun.core.errors import UserError

Changes = dict[str, Any]
LAYER_SIZE_KEYS = ("filters", "units", "dense")  # of a model: lists with one number a hidden layer
MAX_FACTOR = 1_000_000
RELATIVE_CHANGES = ("scale", "layers", "epochs", "rate")
OPTION_CHANGES = ("augment",)  # an option by name, where there is something to change
# Groups whose keys make another candidate on the same rows.
CHANGEABLE_GROUPS = ("model", "optimizer", "engine", "loss", "scheduler")


def combine_changes(first: Changes, second: Changes) -> Changes:
    """Apply changes on top of others: factors multiply, layers add up, plain keys are replaced."""
    combined = dict(first)
    for key, value in second.items():
        if key == "layers":
            combined[key] = combined.get(key, 0) + value
        elif key in RELATIVE_CHANGES:
            combined[key] = combined.get(key, 1) * value
        else:
            combined[key] = value
    return combined


def build_patch(config: dict[str, Any], changes: Changes) -> dict[str, Any] | None:
    """Turn changes into a patch of the config.

    Args:
        config: The config that is changed.
        changes: Relative changes (`RELATIVE_CHANGES`), options, or dotted keys.

    Returns:
        Dotted keys and values that differ from the config; None where this model has nothing of the
        kind to change.
    """
    patch: dict[str, Any] = {}
    # Scaling goes first: added layers are as wide as the scaled ones.
    for key in sorted(changes, key=lambda name: name == "layers"):
        changed = _resolve_change(config, patch, key, changes[key])
        if not changed:
            return None
        patch |= changed
    return {key: value for key, value in patch.items() if value != _get_value(config, key)}


def _resolve_change(
    config: dict[str, Any], patch: dict[str, Any], key: str, value: Any
) -> dict[str, Any]:
    """Return what one change sets; nothing where there is nothing to change."""
    if key == "epochs":
        return {"engine.epochs": max(1, round(config["engine"]["epochs"] * value))}
    if key == "augment":
        inputs = (config.get("task") or {}).get("inputs") or {}
        if "image" not in inputs.values():
            return {}
        return {"augment": load_builtin_option("augment", value)}
    if key == "rate":
        # Rounded, so that a rate reads as 0.003 and not as 0.0030000000000000005.
        return {"optimizer.lr": float(f"{config['optimizer']['lr'] * value:.4g}")}
    if key in RELATIVE_CHANGES:
        return _resize_layers(config["model"], patch, key, value)
    return {key: value} if _has_key(config, key) else {}


def _resize_layers(
    model: dict[str, Any], patch: dict[str, Any], key: str, value: Any
) -> dict[str, Any]:
    sizes = [name for name in LAYER_SIZE_KEYS if isinstance(model.get(name), list) and model[name]]
    lists = {f"model.{name}": patch.get(f"model.{name}", model[name]) for name in sizes}
    if key == "scale":
        return {
            name: [max(1, round(size * value)) for size in widths] for name, widths in lists.items()
        }
    # New layers follow the last hidden one, and have its width.
    return {name: [*widths, *widths[-1:] * value] for name, widths in list(lists.items())[-1:]}


def validate_changes(path: str, changes: Any) -> None:
    """Refuse what is not a mapping of changes.

    Args:
        path: The dotted key of the mapping, for messages.
        changes: The mapping.

    Raises:
        UserError: For an unknown key, or a factor that is not above 0.
    """
    if not isinstance(changes, dict):
        raise UserError(f"{path}={changes!r}: it must be a mapping such as {{model.dropout: 0.5}}")
    for key, value in changes.items():
        if (
            key not in (*RELATIVE_CHANGES, *OPTION_CHANGES)
            and key.partition(".")[0] not in CHANGEABLE_GROUPS
        ):
            names = ", ".join((*RELATIVE_CHANGES, *OPTION_CHANGES))
            groups = ", ".join(CHANGEABLE_GROUPS)
            raise UserError(
                f"{path}: nothing is called '{key}'. There are: {names}, and keys of {groups}, "
                "such as model.l2"
            )
        types = int if key == "layers" else int | float
        if key in RELATIVE_CHANGES and (
            not isinstance(value, types) or isinstance(value, bool) or not 0 < value <= MAX_FACTOR
        ):
            number = "whole number" if key == "layers" else "number"
            raise UserError(
                f"{path}.{key}={value!r}: it must be a {number} above 0, {MAX_FACTOR:,} at most"
            )


def _has_key(config: dict[str, Any], key: str) -> bool:
    group, _, name = key.partition(".")
    node = config.get(group)
    return isinstance(node, dict) and name in node


def _get_value(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node
