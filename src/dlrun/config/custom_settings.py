"""Settings of the user's own parts that only their signature knows, or that are not theirs."""

from __future__ import annotations

import re
from typing import Any

from dlrun.config.settings import PART_LISTS, SINGLE_PARTS
from dlrun.config.signatures import get_configurable_arguments, is_custom
from dlrun.config.validation import NUM_CONTEXT_ARGUMENTS, get_part_kind


def is_custom_setting(config: dict[str, Any], key: str) -> bool:
    """Whether a key that no YAML file has is a setting of a part of the user's own.

    Args:
        config: The config.
        key: Dotted.
    """
    parent, _, name = key.rpartition(".")
    node: Any = config
    for step in parent.split("."):
        node = node.get(step) if isinstance(node, dict) else None
    # Of dlrun's own parts the YAML file names every setting.
    if not isinstance(node, dict) or not is_custom(node.get("_target_")):
        return False
    signature = get_configurable_arguments(
        node["_target_"], get_part_kind(parent), NUM_CONTEXT_ARGUMENTS.get(parent, 0)
    )
    return signature is None or signature.open or name in signature.arguments


def list_custom_keys(config: dict[str, Any]) -> list[str]:
    """The settings of the user's own parts that no YAML file has, as dotted keys."""
    nodes = [(group, config.get(group)) for group in SINGLE_PARTS]
    for group in PART_LISTS:
        nodes += [(f"{group}.{name}", node) for name, node in (config.get(group) or {}).items()]
    keys = []
    for location, node in nodes:
        if isinstance(node, dict) and is_custom(node.get("_target_")):
            signature = get_configurable_arguments(
                node["_target_"], get_part_kind(location), NUM_CONTEXT_ARGUMENTS.get(location, 0)
            )
            keys += [
                f"{location}.{name}"
                for name in (signature.arguments if signature else ())
                if name not in node
            ]
    return keys


def remove_replaced_settings(config: dict[str, Any], words: list[str]) -> None:
    """Remove the settings of options that a part of the user's own has replaced.

    Args:
        config: Changed in place.
        words: Overrides.
    """
    _rename_task(config, words)
    _keep_command_line_values(config, words)


def _rename_task(config: dict[str, Any], words: list[str]) -> None:
    """Give a run on other data than the default task's a task name of its own."""
    values_by_key = {
        key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)
    }
    chosen = values_by_key.get("data._target_", values_by_key.get("data", ""))
    if (
        chosen
        and not values_by_key.keys() & {"task", "experiment"}
        and isinstance(config.get("task"), dict)
    ):
        # It becomes the name of a folder.
        name = re.sub(r"\W", "", chosen.rpartition(".")[2]) or "data"
        config["task"] = {
            "name": name,
            "question": f"What data={name} asks",
            "inputs": None,
            "targets": None,
        }


def _keep_command_line_values(config: dict[str, Any], words: list[str]) -> None:
    """Leave to a part that is chosen by `_target_` only the settings of the command line.

    All others belong to the option that it replaces.
    """
    keys = {word.partition("=")[0].lstrip("+") for word in words}
    for group in SINGLE_PARTS:
        node = config.get(group)
        if (
            isinstance(node, dict)
            and f"{group}._target_" in keys
            and is_custom(node.get("_target_"))
        ):
            config[group] = {key: value for key, value in node.items() if f"{group}.{key}" in keys}
