"""Checks the root of a config: what it lacks, what has the wrong shape, and the settings that belong to no part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from dlrun.config import parts
from dlrun.config.compatibility import CHOOSE
from dlrun.config.constraints import FARTHEST
from dlrun.config.parallel_fits import asked
from dlrun.config.parts import shortened
from dlrun.core.files import is_name

PARTS = ("data", "model", "objective", "loss", "optimizer", "scheduler", "protocol", "engine", "stages")  # one each
LISTS = ("metric", "callback", "augment")  # any number of each
LATER = ("objective",)  # of which older runs say nothing
NEEDED = (*(part for part in PARTS if part not in LATER), *LISTS, "task", "source", "loss_weights")
TYPES: dict[str, tuple[Any, str]] = {
    "seed": (int, "a whole number of at most 63 bits"),
    "repeat": (int, "a whole number from 1 up"),
    "reason": (str, "text"),
    "test": (bool, "true or false"),
    "output": (str, "a folder"),
    "plugins": (list, "a list of package names"),
}
NUMBER = (int, float)
BOOK: dict[str, Any] = {"section": str, "measure": str, "figure": NUMBER, "low": NUMBER, "high": NUMBER}


def shape_faults(config: dict[str, Any]) -> Iterator[str]:
    """What a config lacks altogether, and values where a mapping stands, or the reverse: nothing else can be judged."""
    for key in (*NEEDED, *TYPES):
        if key not in config:
            yield f"the config has no '{key}'"
    for key in (*LISTS, "task"):
        if not isinstance(config.get(key, {}), dict):
            yield f"{key}={shortened(config[key])}: it must be a mapping; choose one by name: {key}=NAME"
    for group in parts.BY_TARGET:
        for target, node in by_target(config, group):
            if not is_parts(node, group):
                choose = CHOOSE[group].format(target)
                yield f"{group}.{target}={shortened(node)}: it must be of parts; choose by name: {choose}"
    yield from task_faults(config.get("task"))
    yield from inner_shapes(config)


def task_faults(task: Any) -> Iterator[str]:
    """Faults of what a task says of itself."""
    if not isinstance(task, dict):
        return
    if not isinstance(name := task.get("name"), str) or not is_name(name):
        yield f"task.name={shortened(name)}: it must be text, and the name of a folder"
    for key in ("inputs", "targets"):
        columns = task.get(key)
        named = isinstance(columns, dict) and all(isinstance(kind, str) for kind in columns.values())
        if columns is not None and not named:
            yield f"task.{key}={shortened(columns)}: it must be a mapping of columns to kinds, such as {{age: number}}"


def inner_shapes(config: dict[str, Any]) -> Iterator[str]:
    """Values where a mapping belongs, among those that no part's signature tells of."""
    stages: Any = config.get("stages")
    for name in ("first", "then") if isinstance(stages, dict) else ():
        if not isinstance(stages.get(name) or {}, dict):
            yield f"stages.{name}={shortened(stages[name])}: it must be a mapping, such as {{model: {{dropout: 0.5}}}}"
    book = config.get("book")
    if book is not None and not (isinstance(book, dict) and all(isinstance(book.get(k), BOOK[k]) for k in BOOK)):
        yield f"book={shortened(book)}: it must be null, or have {', '.join(BOOK)}, as experiments set it"
    weights = config.get("loss_weights")
    if weights is not None and not (isinstance(weights, dict) and all(map(is_weight, weights.values()))):
        yield (f"loss_weights={shortened(weights)}: it must give each target a number from 0 up, such as "
               "{price: 1, rooms: 0.1}")  # fmt: skip


def is_weight(value: Any) -> bool:
    """Whether this is a number from 0 up that ends."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)


def top_faults(config: dict[str, Any]) -> Iterator[str]:
    """Faults of the settings at the root."""
    for key, (wanted, text) in TYPES.items():
        value = config[key]
        number = isinstance(value, int) and not isinstance(value, bool)
        outside = number and (key == "repeat" and value < 1 or abs(value) > FARTHEST)
        if not isinstance(value, wanted) or (wanted is int and not number) or outside:
            yield f"{key}={shortened(value)}: it must be {text}"
    if isinstance(config["protocol"], dict) and (stacked := asked(config)) not in (True, False, "auto"):
        yield f"protocol.stacked={shortened(stacked)}: it must be true, false or auto"
    seed = config["protocol"].get("seed") if isinstance(config["protocol"], dict) else None
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or abs(seed) > FARTHEST):
        yield f"protocol.seed={shortened(seed)}: it must be a whole number, or null for that of seed"
    if config["source"] not in ("official", "sample"):
        yield f"source={shortened(config['source'])}: it must be official or sample"


def by_target(config: dict[str, Any], group: str) -> list[tuple[str, Any]]:
    """Target → what it has of its own; one nameless entry where that is no mapping."""
    node = config.get(group) or {}
    return list(node.items()) if isinstance(node, dict) else [("TARGET", node)]


def is_parts(node: Any, group: str) -> bool:
    """Whether this is a part, or for measures a mapping of parts."""
    each = list(node.values()) if group == "metrics" and isinstance(node, dict) else [node]
    return bool(each) and all(isinstance(part, dict) and "_target_" in part for part in each)
