"""Settings of parts of one's own: those that only their Python signature knows, and those that are not theirs."""

from __future__ import annotations

import re
from typing import Any

from dlrun.config.custom_contract import own
from dlrun.config.root_validation import LISTS, PARTS
from dlrun.config.signatures import settable
from dlrun.config.validation import CONTEXT, kind_of


def takes(config: dict[str, Any], key: str) -> bool:
    """Whether a key that no YAML file has is a setting of a part of the user's own."""
    place, _, name = key.rpartition(".")
    node: Any = config
    for step in place.split("."):
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not own(node.get("_target_")):
        return False
    found = settable(node["_target_"], kind_of(place), CONTEXT.get(place, 0))
    return found is None or found.open or name in found.arguments


def further_keys(config: dict[str, Any]) -> list[str]:
    """The settings of parts of the user's own that no YAML file has."""
    nodes = [(group, config.get(group)) for group in PARTS]
    for group in LISTS:
        nodes += [(f"{group}.{name}", node) for name, node in (config.get(group) or {}).items()]
    found = []
    for place, node in nodes:
        if isinstance(node, dict) and own(node.get("_target_")):
            there = settable(node["_target_"], kind_of(place), CONTEXT.get(place, 0))
            found += [f"{place}.{name}" for name in (there.arguments if there else ()) if name not in node]
    return found


def settle(config: dict[str, Any], words: list[str]) -> None:
    """Take from a config what belongs to options whose place something of the user's own has taken."""
    _named_after_data(config, words)
    _only_said(config, words)


def _named_after_data(config: dict[str, Any], words: list[str]) -> None:
    """Have a run on other data than the default task's not say that it is about that task."""
    said = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)}
    chosen = said.get("data._target_", said.get("data", ""))
    if chosen and not said.keys() & {"task", "experiment"} and isinstance(config.get("task"), dict):
        name = re.sub(r"\W", "", chosen.rpartition(".")[2]) or "data"
        config["task"] = {"name": name, "question": f"What data={name} asks", "inputs": None, "targets": None}


def _only_said(config: dict[str, Any], words: list[str]) -> None:
    """Leave to a part that the command line names by `_target_` what the command line says of it, and no more.

    What else is there belongs to the option that it takes the place of.
    """
    said = {word.partition("=")[0].lstrip("+") for word in words}
    for group in PARTS:
        node = config.get(group)
        if isinstance(node, dict) and f"{group}._target_" in said and own(node.get("_target_")):
            config[group] = {key: value for key, value in node.items() if f"{group}.{key}" in said}
