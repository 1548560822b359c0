"""What a stage changes in the config: relative changes of network and training, or plain keys."""

from __future__ import annotations

from typing import Any

from dlrun.config.groups import load_builtin_option
from dlrun.core.errors import UserError

Changes = dict[str, Any]
LAYER_SIZE_KEYS = ("filters", "units", "dense")  # of a model: lists with one number a hidden layer
MAX_FACTOR = 1_000_000
RELATIVE_CHANGES = ("scale", "layers", "epochs", "rate")
OPTION_CHANGES = ("augment",)  # an option by name, where there is something to change
CHANGEABLE_GROUPS = (
    "model",
    "optimizer",
    "engine",
    "loss",
    "scheduler",
)  # whose keys make another candidate on the same rows


def combine_changes(first: Changes, second: Changes) -> Changes:
    """One change on top of another: factors multiply, layers add up, plain keys are set anew."""
    found = dict(first)
    for key, value in second.items():
        if key == "layers":
            found[key] = found.get(key, 0) + value
        elif key in RELATIVE_CHANGES:
            found[key] = found.get(key, 1) * value
        else:
            found[key] = value
    return found


def build_patch(config: dict[str, Any], changes: Changes) -> dict[str, Any] | None:
    """Dotted keys and values that make these changes; None where this model has nothing of the kind to change."""
    found: dict[str, Any] = {}
    for key in sorted(
        changes, key=lambda name: name == "layers"
    ):  # layers are added to what is scaled
        changed = _resolve_change(config, found, key, changes[key])
        if not changed:
            return None
        found |= changed
    return {key: value for key, value in found.items() if value != _get_value(config, key)}


def _resolve_change(
    config: dict[str, Any], before: dict[str, Any], key: str, value: Any
) -> dict[str, Any]:
    """What one change sets; nothing where there is nothing to change."""
    if key == "epochs":
        return {"engine.epochs": max(1, round(config["engine"]["epochs"] * value))}
    if key == "augment":
        inputs = (config.get("task") or {}).get("inputs") or {}
        return (
            {"augment": load_builtin_option("augment", value)} if "image" in inputs.values() else {}
        )
    if key == "rate":
        return {"optimizer.lr": float(f"{config['optimizer']['lr'] * value:.4g}")}
    if key in RELATIVE_CHANGES:
        return _resize_layers(config["model"], before, key, value)
    return {key: value} if _has_key(config, key) else {}


def _resize_layers(
    model: dict[str, Any], before: dict[str, Any], key: str, value: Any
) -> dict[str, Any]:
    sizes = [name for name in LAYER_SIZE_KEYS if isinstance(model.get(name), list) and model[name]]
    lists = {f"model.{name}": before.get(f"model.{name}", model[name]) for name in sizes}
    if key == "scale":
        return {
            name: [max(1, round(size * value)) for size in widths] for name, widths in lists.items()
        }
    return {name: [*widths, *widths[-1:] * value] for name, widths in list(lists.items())[-1:]}


def validate_changes(place: str, changes: Any) -> None:
    """Refuse what is no change: not a mapping, a key that is neither relative nor of a group, a factor below 0."""
    if not isinstance(changes, dict):
        raise UserError(f"{place}={changes!r}: it must be a mapping such as {{model.dropout: 0.5}}")
    for key, value in changes.items():
        if (
            key not in (*RELATIVE_CHANGES, *OPTION_CHANGES)
            and key.partition(".")[0] not in CHANGEABLE_GROUPS
        ):
            there = f"{', '.join((*RELATIVE_CHANGES, *OPTION_CHANGES))}, and keys of {', '.join(CHANGEABLE_GROUPS)}, such as model.l2"
            raise UserError(f"{place}: nothing is called '{key}'. There are: {there}")
        kinds = int if key == "layers" else int | float
        if key in RELATIVE_CHANGES and (
            not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value <= MAX_FACTOR
        ):
            raise UserError(
                f"{place}.{key}={value!r}: it must be a {'whole ' * (key == 'layers')}number above 0, {MAX_FACTOR:,} at most"
            )


def _has_key(config: dict[str, Any], key: str) -> bool:
    group, _, name = key.partition(".")
    node = config.get(group)
    return isinstance(node, dict) and name in node


def _get_value(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
