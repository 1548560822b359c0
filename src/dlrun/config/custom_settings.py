"""Settings of parts of one's own: those that only their Python signature knows, and those that are not theirs."""

from __future__ import annotations

import re
from typing import Any

from dlrun.config.custom_contract import is_custom
from dlrun.config.root_validation import PART_LISTS, SINGLE_PARTS
from dlrun.config.signatures import get_configurable_arguments
from dlrun.config.validation import NUM_CONTEXT_ARGUMENTS, get_part_kind


def is_custom_setting(config: dict[str, Any], key: str) -> bool:
    """Whether a key that no YAML file has is a setting of a part of the user's own."""
    place, _, name = key.rpartition(".")
    node: Any = config
    for step in place.split("."):
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not is_custom(node.get("_target_")):
        return False
    found = get_configurable_arguments(
        node["_target_"], get_part_kind(place), NUM_CONTEXT_ARGUMENTS.get(place, 0)
    )
    return found is None or found.open or name in found.arguments


def list_custom_keys(config: dict[str, Any]) -> list[str]:
    """The settings of parts of the user's own that no YAML file has."""
    nodes = [(group, config.get(group)) for group in SINGLE_PARTS]
    for group in PART_LISTS:
        nodes += [(f"{group}.{name}", node) for name, node in (config.get(group) or {}).items()]
    found = []
    for place, node in nodes:
        if isinstance(node, dict) and is_custom(node.get("_target_")):
            there = get_configurable_arguments(
                node["_target_"], get_part_kind(place), NUM_CONTEXT_ARGUMENTS.get(place, 0)
            )
            found += [
                f"{place}.{name}" for name in (there.arguments if there else ()) if name not in node
            ]
    return found


def remove_replaced_settings(config: dict[str, Any], words: list[str]) -> None:
    """Take from a config what belongs to options whose place something of the user's own has taken."""
    _rename_task(config, words)
    _keep_command_line_values(config, words)


def _rename_task(config: dict[str, Any], words: list[str]) -> None:
    """Have a run on other data than the default task's not say that it is about that task."""
    said = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)}
    chosen = said.get("data._target_", said.get("data", ""))
    if chosen and not said.keys() & {"task", "experiment"} and isinstance(config.get("task"), dict):
        name = re.sub(r"\W", "", chosen.rpartition(".")[2]) or "data"
        config["task"] = {
            "name": name,
            "question": f"What data={name} asks",
            "inputs": None,
            "targets": None,
        }


def _keep_command_line_values(config: dict[str, Any], words: list[str]) -> None:
    """Leave to a part that the command line names by `_target_` what the command line says of it, and no more.

    What else is there belongs to the option that it takes the place of.
    """
    said = {word.partition("=")[0].lstrip("+") for word in words}
    for group in SINGLE_PARTS:
        node = config.get(group)
        if (
            isinstance(node, dict)
            and f"{group}._target_" in said
            and is_custom(node.get("_target_"))
        ):
            config[group] = {key: value for key, value in node.items() if f"{group}.{key}" in said}
