"""Checks a whole config before anything heavy is imported, and names all its faults at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from dlrun.build import allow, dotted, patched
from dlrun.errors import Refused
from dlrun.models import members, model_fault
from dlrun.problems import loss_fault, metric_fault
from dlrun.signatures import misfit, signature

CONTEXT = {"model": 1, "optimizer": 1, "loss": 1, "metric": 1}  # arguments that the runner gives, in order
PARTS = ("data", "model", "loss", "optimizer", "scheduler", "protocol", "engine", "stages")  # one each
LISTS = ("metric", "callback", "augment")  # any number of each
NEEDED = (*PARTS, *LISTS, "task", "source", "loss_weights")
TYPES: dict[str, tuple[Any, str]] = {
    "seed": (int, "a whole number"),
    "repeat": (int, "a whole number from 1 up"),
    "reason": (str, "text"),
    "test": (bool, "true or false"),
    "output": (str, "a folder"),
    "plugins": (list, "a list of package names"),
}


def check(config: dict[str, Any], plugins: tuple[str, ...]) -> None:
    """Refuse a config with wrong keys, types, ranges, targets or combinations; one line a fault."""
    if faults := list(shape_faults(config)):
        raise Refused("\n".join(faults))
    faults = list(top_faults(config))
    for group, node in config.items():
        if group in LISTS:
            for name, part in node.items():
                faults += node_faults(part, f"{group}.{name}", CONTEXT.get(group, 0), plugins)
        elif group in PARTS or (isinstance(node, dict) and "_target_" in node):
            faults += node_faults(node, group, CONTEXT.get(group, 0), plugins)
    faults += [*pair_faults(config), *stage_faults(config, plugins)]
    if own(config, "model")[2] == "ensemble":
        faults += members.faults(config["model"].get("members"))
    if faults:
        raise Refused("\n".join(dict.fromkeys(faults)))


def shape_faults(config: dict[str, Any]) -> Iterator[str]:
    """What a config lacks altogether."""
    for key in (*NEEDED, *TYPES):
        if key not in config:
            yield f"the config has no '{key}'"
    for key in (*LISTS, "task"):
        if not isinstance(config.get(key, {}), dict):
            yield f"{key}={config[key]!r}: it must be a mapping; choose one by name: {key}=NAME"
    if isinstance(task := config.get("task"), dict) and not isinstance(task.get("name"), str):
        yield f"task.name={task.get('name')!r}: it must be text"


def top_faults(config: dict[str, Any]) -> Iterator[str]:
    """Faults of the settings at the root."""
    for key, (wanted, text) in TYPES.items():
        value = config[key]
        low = key == "repeat" and isinstance(value, int) and value < 1
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)) or low:
            yield f"{key}={value!r}: it must be {text}"
    if config["source"] not in ("official", "sample"):
        yield f"source={config['source']!r}: it must be official or sample"
    weights = config["loss_weights"]
    if weights is not None and not (
        isinstance(weights, dict) and all(isinstance(v, int | float) and v >= 0 for v in weights.values())
    ):
        yield f"loss_weights={weights!r}: it must give each target a number from 0 up, such as {{price: 1, rooms: 0.1}}"


def node_faults(node: Any, place: str, context: int, plugins: tuple[str, ...]) -> Iterator[str]:
    """Faults of one part: its target, its keys, and the types and ranges of its values."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        yield f"{place}={node!r}: it is not a part; choose one by name: {place.partition('.')[0]}=NAME"
        return
    try:
        allow(node["_target_"], plugins)
    except Refused as error:
        yield f"{place}: {error}"
        return
    found = signature(node["_target_"], context)
    if found is None:
        if node["_target_"].startswith("dlrun."):
            yield f"{place}: there is no {node['_target_']}"
        return
    name = node["_target_"].rpartition(".")[2]
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in found.arguments:
            if not found.open:
                yield unknown_argument(place, key, name, list(found.arguments))
        elif wanted := misfit(value, found.arguments[key]):
            yield f"{place}.{key}={value!r}: it must be {wanted}"
        elif isinstance(value, dict) and "_target_" in value:
            yield from node_faults(value, f"{place}.{key}", 0, plugins)
    for key, argument in found.arguments.items():
        if argument.required and key not in node:
            yield f"{place}: {name} needs a value for '{key}'"


def unknown_argument(place: str, key: str, name: str, there: list[str]) -> str:
    """The message for a key that a part does not have."""
    close = difflib.get_close_matches(key, there, 1)
    guess = f": did you mean '{close[0]}'?" if close else "."
    return f"no setting '{place}.{key}' for {name}{guess} There are: {', '.join(there) or 'none'}"


def stage_faults(config: dict[str, Any], plugins: tuple[str, ...]) -> Iterator[str]:
    """Settings of a stage that are not there, or that their part would refuse."""
    for name in ("first", "then"):
        for key, value in dotted(config["stages"].get(name) or {}).items():
            node, groups = config, key.split(".")
            for group in groups[:-1]:
                node = node[group] if isinstance(node.get(group), dict) else {}
            if groups[-1] not in node:
                yield f"stages.{name}.{key}={value!r}: there is no setting {key}{_there(node)}"
            elif groups[0] in PARTS:
                changed = patched(config, {key: value})[groups[0]]
                yield from node_faults(changed, f"stages.{name}.{groups[0]}", CONTEXT.get(groups[0], 0), plugins)


def _there(node: dict[str, Any]) -> str:
    names = ", ".join(name for name in node if name != "_target_")
    return f"; there are: {names}" if names else ""


def pair_faults(config: dict[str, Any]) -> Iterator[str]:
    """Parts that make no sense together, as far as the task says what its columns are."""
    task = config.get("task") or {}
    module, _, model = own(config, "model")
    if task.get("inputs") and module and (fault := model_fault(model, task["inputs"])):
        yield fault.replace("the data give", f"task={task['name']} gives")
    for kind in (task.get("targets") or {}).values():
        module, _, loss = own(config, "loss")
        if module and (fault := loss_fault(loss, kind)):
            yield fault
        for metric in config["metric"]:
            mine = own(config["metric"], metric)[2] == metric
            if mine and (fault := metric_fault(metric, kind)):
                yield fault


def own(parts: dict[str, Any], name: str) -> tuple[str, str, str]:
    """The target of one of these parts split at its last dot; empty where it is not dlrun's own."""
    target = parts[name].get("_target_") if isinstance(parts[name], dict) else None
    return target.rpartition(".") if isinstance(target, str) and target.startswith("dlrun.") else ("", "", "")
