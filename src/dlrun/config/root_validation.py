"""Checks the root of a config: missing groups, wrong shapes, settings that belong to no part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from dlrun.config import parts
from dlrun.config.compatibility import PER_TARGET_OVERRIDES
from dlrun.config.constraints import MAX_INTEGER
from dlrun.config.parts import truncate_value
from dlrun.config.settings import parallel_fits_mode
from dlrun.core.files import is_safe_name

# Groups with one part each.
SINGLE_PARTS = (
    "data",
    "model",
    "objective",
    "loss",
    "optimizer",
    "scheduler",
    "protocol",
    "engine",
    "stages",
)
PART_LISTS = ("metric", "callback", "augment")  # any number of each
ADDED_LATER = ("objective",)  # runs of earlier versions have none
REQUIRED_KEYS = (
    *(group for group in SINGLE_PARTS if group not in ADDED_LATER),
    *PART_LISTS,
    "task",
    "source",
    "loss_weights",
)
# Key of the root → its type, and the type in words.
TYPES: dict[str, tuple[Any, str]] = {
    "seed": (int, "a whole number of at most 63 bits"),
    "repeat": (int, "a whole number from 1 up"),
    "reason": (str, "text"),
    "test": (bool, "true or false"),
    "output": (str, "a folder"),
    "plugins": (list, "a list of package names"),
}
NUMBER = (int, float)
# What an experiment says of the book's result, in conf/experiment.
BOOK: dict[str, Any] = {
    "section": str,
    "measure": str,
    "figure": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
}


def find_structure_errors(config: dict[str, Any]) -> Iterator[str]:
    """What a config lacks, and values in the place of mappings or the reverse.

    With such faults nothing else can be judged.
    """
    for key in (*REQUIRED_KEYS, *TYPES):
        if key not in config:
            yield f"the config has no '{key}'"
    for key in (*PART_LISTS, "task"):
        if not isinstance(config.get(key, {}), dict):
            value = truncate_value(config[key])
            yield f"{key}={value}: it must be a mapping; choose one by name: {key}=NAME"
    for group in parts.PER_TARGET_KINDS:
        for target, node in get_parts_by_target(config, group):
            if not is_part_node(node, group):
                choose = PER_TARGET_OVERRIDES[group].format(target)
                value = truncate_value(node)
                yield f"{group}.{target}={value}: it must be of parts; choose by name: {choose}"
    yield from find_task_errors(config.get("task"))
    yield from find_inner_structure_errors(config)


def find_task_errors(task: Any) -> Iterator[str]:
    """Faults of a task's description."""
    if not isinstance(task, dict):
        return
    if not isinstance(name := task.get("name"), str) or not is_safe_name(name):
        yield f"task.name={truncate_value(name)}: it must be text, and the name of a folder"
    for key in ("inputs", "targets"):
        columns = task.get(key)
        # Without kinds no model can be checked against the columns.
        named = isinstance(columns, dict) and all(
            isinstance(kind, str) for kind in columns.values()
        )
        if columns is not None and not named:
            yield (
                f"task.{key}={truncate_value(columns)}: "
                "it must be a mapping of columns to kinds, such as {age: number}"
            )


def find_inner_structure_errors(config: dict[str, Any]) -> Iterator[str]:
    """Faults of mappings that no part's signature describes."""
    stages: Any = config.get("stages")
    for name in ("first", "then") if isinstance(stages, dict) else ():
        if not isinstance(stages.get(name) or {}, dict):
            yield (
                f"stages.{name}={truncate_value(stages[name])}: "
                "it must be a mapping, such as {model: {dropout: 0.5}}"
            )
    book = config.get("book")
    if book is not None and not (
        isinstance(book, dict) and all(isinstance(book.get(k), BOOK[k]) for k in BOOK)
    ):
        yield (
            f"book={truncate_value(book)}: it must be null, or have {', '.join(BOOK)}, "
            "as experiments set it"
        )
    weights = config.get("loss_weights")
    if weights is not None and not (
        isinstance(weights, dict) and all(map(is_weight, weights.values()))
    ):
        yield (
            f"loss_weights={truncate_value(weights)}: "
            "it must give each target a number from 0 up, such as {price: 1, rooms: 0.1}"
        )


def is_weight(value: Any) -> bool:
    """Whether a value is a finite number from 0 up."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value >= 0
        and math.isfinite(value)
    )


def find_root_errors(config: dict[str, Any]) -> Iterator[str]:
    """Faults of the settings at the root."""
    for key, (expected_type, text) in TYPES.items():
        value = config[key]
        # bool is a subclass of int in Python.
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        is_outside = is_integer and (key == "repeat" and value < 1 or abs(value) > MAX_INTEGER)
        if (
            not isinstance(value, expected_type)
            or (expected_type is int and not is_integer)
            or is_outside
        ):
            yield f"{key}={truncate_value(value)}: it must be {text}"
    if config["source"] not in ("official", "sample"):
        yield f"source={truncate_value(config['source'])}: it must be official or sample"
    if isinstance(config["protocol"], dict):
        yield from _find_protocol_errors(config)


def _find_protocol_errors(config: dict[str, Any]) -> Iterator[str]:
    """Faults of the settings that every protocol has, which are in no protocol's signature."""
    stacked = parallel_fits_mode(config)
    if stacked not in (True, False, "auto"):
        yield f"protocol.stacked={truncate_value(stacked)}: it must be true, false or auto"
    seed = config["protocol"].get("seed")
    if seed is not None and (
        not isinstance(seed, int) or isinstance(seed, bool) or abs(seed) > MAX_INTEGER
    ):
        yield (
            f"protocol.seed={truncate_value(seed)}: "
            "it must be a whole number, or null for that of seed"
        )


def get_parts_by_target(config: dict[str, Any], group: str) -> list[tuple[str, Any]]:
    """Target → its own loss or metrics; one entry TARGET where that is no mapping."""
    node = config.get(group) or {}
    return list(node.items()) if isinstance(node, dict) else [("TARGET", node)]


def is_part_node(node: Any, group: str) -> bool:
    """Whether this is a part, or for metrics a mapping of parts."""
    nodes = list(node.values()) if group == "metrics" and isinstance(node, dict) else [node]
    return bool(nodes) and all(
        isinstance(part_node, dict) and "_target_" in part_node for part_node in nodes
    )
