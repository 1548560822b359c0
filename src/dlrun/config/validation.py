"""Checks a whole config before anything heavy is imported, and reports all faults at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlrun.config import compatibility, parts
from dlrun.config.annotations import describe_type_mismatch
from dlrun.config.compatibility import (
    add_target_hint,
    get_input_error,
    get_loss_error,
    get_metric_error,
    get_target_names_error,
)
from dlrun.config.instantiate import apply_patch, to_dotted_keys
from dlrun.config.parts import truncate_value
from dlrun.config.settings import (
    PART_LISTS,
    SINGLE_PARTS,
    find_root_errors,
    find_structure_errors,
    remove_common_settings,
)
from dlrun.config.signatures import Argument, Signature, get_configurable_arguments
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFile, RunFolder

# Leading arguments that dlrun passes to its own parts.
NUM_CONTEXT_ARGUMENTS = {"model": 1, "objective": 1, "optimizer": 1, "loss": 1, "metric": 1}
CONTEXT_HINTS = {
    "model": "to be given the Spec of the data, call the argument spec",
    "callback": "to be called after each epoch: (trainer, …)",
    "loss": "a plain function is (prediction, target, …)",
    "metric": "a plain function is (prediction, target, …)",
}


def find_member_errors(members: Any) -> Iterator[str]:
    """Faults of model.members: none are named, or a folder in which no fit has finished."""
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        return  # reported by the check of types
    if not members:
        yield (
            "model.members is empty: "
            "say which finished runs predict together: model.members=[RUN,RUN]"
        )
    yield from filter(None, map(_get_member_error, members))


def _get_member_error(name: str) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return f"model.members: there is no folder {name} (looked at {folder.absolute()})"
    run = RunFolder(folder)
    if not run.exists(RunFile.CONFIG):
        return f"model.members: {name} is no run folder: it has no config.yaml"
    if not run.exists(RunFile.RESULTS):
        return f"model.members: no fit has finished in {name}; dlrun resume goes on with it"
    return ""


def validate_config(config: dict[str, Any], plugins: tuple[str, ...]) -> None:
    """Refuse a config with faults.

    Args:
        config: Resolved.
        plugins: The user's packages.

    Raises:
        UserError: Wrong keys, types, ranges, targets and combinations, a line each.
    """
    # Everything after this relies on the shape.
    if faults := list(find_structure_errors(config)):
        raise UserError("\n".join(faults))
    faults = [*find_root_errors(config), *parts.find_part_errors(config, plugins)]
    for group, node in config.items():
        faults += find_group_errors(config, group, node, plugins)
    # Combinations can be judged only where every group is a mapping.
    if faults and not all(isinstance(config.get(name, {}), dict) for name in SINGLE_PARTS):
        raise UserError("\n".join(dict.fromkeys(faults)))
    faults += [*find_combination_errors(config), *find_stage_errors(config, plugins)]
    if split_builtin_target(config, "model")[2] == "ensemble":
        faults += find_member_errors(config["model"].get("members"))
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def find_group_errors(
    config: dict[str, Any], group: str, node: Any, plugins: tuple[str, ...]
) -> Iterator[str]:
    """Faults in the values of the parts of one group."""
    if group in PART_LISTS:
        for name, part_node in node.items():
            yield from find_node_errors(part_node, f"{group}.{name}", group, plugins)
    elif group in parts.PER_TARGET_KINDS:
        yield from find_inner_part_errors(node, group, parts.PER_TARGET_KINDS[group], plugins)
    elif group in SINGLE_PARTS or (
        isinstance(node, dict) and "_target_" in node and group in parts.PART_KINDS
    ):
        node = split_text_part(node, config.get("text")) if group == "data" else node
        node = (
            remove_common_settings(node) if group == "protocol" and isinstance(node, dict) else node
        )
        yield from find_node_errors(node, group, group, plugins)


def split_text_part(data: Any, text: Any) -> Any:
    """A data node without the part of group `text` in it, which is checked by itself."""
    if not isinstance(data, dict) or not isinstance(text, dict):
        return data
    return {key: None if value == text else value for key, value in data.items()}


def find_unused_text_errors(config: dict[str, Any], words: list[str]) -> Iterator[str]:
    """Overrides of `text` where the data have no raw texts."""
    data, text = config.get("data"), config.get("text")
    if isinstance(data, dict) and isinstance(text, dict) and text not in list(data.values()):
        for word in words:
            if word.startswith(("text=", "text.")):
                hint = "; data.length=500 reads their words in turn" if "length" in data else ""
                yield (
                    f"{word}: these data have no texts as they were written "
                    f"(task=imdb_text and texts have){hint}"
                )


def find_node_errors(
    node: Any, location: str, kind: str, plugins: tuple[str, ...]
) -> Iterator[str]:
    """Faults in one part's values: its keys, and their types and ranges.

    Args:
        node: The part.
        location: Its dotted key.
        kind: The kind that belongs there.
        plugins: The user's packages.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        yield not_a_part_message(node, location)
        return
    target = parts.resolve_target(node["_target_"])
    # Reported by find_part_errors.
    if not parts.is_part(target, kind, plugins):
        return
    signature = get_configurable_arguments(
        target, kind, NUM_CONTEXT_ARGUMENTS.get(kind, 0)
    ) or Signature({}, open=True)
    for key, value in node.items():
        if key in signature.arguments:
            inner_kind = parts.get_argument_kind(target, kind, plugins, key)
            yield from find_argument_errors(
                signature.arguments[key], value, f"{location}.{key}", inner_kind, plugins
            )
        elif key != "_target_" and not signature.open:
            yield unknown_argument_message(
                location, key, target.rpartition(".")[2], list(signature.arguments)
            )
    for key, argument in signature.arguments.items():
        if argument.required and key not in node:
            name, hint = target.rpartition(".")[2], format_required_hint(location, key)
            yield f"{location}: {name} needs a value for '{key}'{hint}"


def not_a_part_message(node: Any, location: str) -> str:
    """The message for a value in the place of a part."""
    group, _, name = location.partition(".")
    if name == "_target_" or (
        isinstance(node, dict) and "_target_" not in node and group in (*SINGLE_PARTS, *PART_LISTS)
    ):
        example = (
            "NAME: {_target_: my_package.NAME}"
            if group in PART_LISTS
            else "_target_: my_package.NAME"
        )
        return (
            f"{location}={truncate_value(node)}: it is not a part; "
            f"expected in conf/{group}/NAME.yaml: {example}"
        )
    return f"{location}={truncate_value(node)}: it is not a part; choose one by name: {group}=NAME"


def get_part_kind(location: str) -> str:
    """The kind of the part at a dotted key; "" where it is inside another part."""
    group, *inner = location.split(".")
    kind = {"losses": "loss", "metrics": "metric"}.get(group, group)
    depth = {"metrics": 2, "losses": 1, **dict.fromkeys(PART_LISTS, 1)}.get(group, 0)
    return kind if len(inner) == depth else ""


def find_argument_errors(
    argument: Argument, value: Any, location: str, inner_kind: str | None, plugins: tuple[str, ...]
) -> Iterator[str]:
    """Faults in one value of a part.

    Args:
        argument: What it sets.
        value: The value.
        location: Its dotted key.
        inner_kind: The kind of part that belongs there, if any.
        plugins: The user's packages.
    """
    if expected := describe_type_mismatch(value, argument):
        yield f"{location}={truncate_value(value)}: it must be {expected}"
    elif inner_kind is not None:
        yield from find_inner_part_errors(value, location, inner_kind, plugins)


def find_inner_part_errors(
    value: Any, location: str, kind: str, plugins: tuple[str, ...]
) -> Iterator[str]:
    """Faults of the parts in a value: one part, or mappings or lists of parts, of any depth."""
    if isinstance(value, dict) and "_target_" in value:
        yield from find_node_errors(value, location, kind, plugins)
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_inner_part_errors(inner, f"{location}.{name}", kind, plugins)


def format_required_hint(location: str, key: str) -> str:
    """How to set an argument; of some parts also how to be passed what dlrun knows."""
    hint = CONTEXT_HINTS.get(get_part_kind(location), "")
    return f": {location}.{key}=…{hint and f' ({hint})'}"


def unknown_argument_message(location: str, key: str, name: str, names: list[str]) -> str:
    """The message for a key that a part does not have."""
    close = difflib.get_close_matches(key, names, 1)
    guess = f": did you mean '{close[0]}'?" if close else "."
    available = format_names(names, key) or "none"
    return f"no setting '{location}.{key}' for {name}{guess} There are: {available}"


def find_stage_errors(config: dict[str, Any], plugins: tuple[str, ...]) -> Iterator[str]:
    """Settings of a stage that do not exist, or that their part refuses."""
    for name in ("first", "then"):
        for key, value in to_dotted_keys(config["stages"].get(name) or {}).items():
            node, groups = config, key.split(".")
            for group in groups[:-1]:
                node = node[group] if isinstance(node.get(group), dict) else {}
            if groups[-1] not in node:
                yield f"stages.{name}.{key}={value!r}: there is no setting {key}{_has_parts(node)}"
            elif groups[0] in SINGLE_PARTS:
                # Judged inside its part: a value alone has no signature.
                changed = apply_patch(config, {key: value})[groups[0]]
                yield from parts.find_nested_part_errors(
                    changed, f"stages.{name}.{groups[0]}", groups[0], plugins
                )
                yield from find_node_errors(
                    changed, f"stages.{name}.{groups[0]}", groups[0], plugins
                )


def _has_parts(node: dict[str, Any]) -> str:
    names = format_names(name for name in node if name != "_target_")
    return f"; there are: {names}" if names else ""


def find_combination_errors(config: dict[str, Any]) -> Iterator[str]:
    """Parts that do not go together, as far as the task says what its columns are."""
    if fault := compatibility.get_objective_error(
        split_builtin_target(config, "objective")[2], split_builtin_target(config, "model")[2]
    ):
        yield fault
    task = config.get("task") or {}
    if task.get("inputs") and (fault := get_input_error(config["model"], get_input_types(config))):
        yield fault.replace("the data give", f"task={task['name']} gives")
    targets = task.get("targets") or {}
    if targets and (fault := get_target_names_error(config, targets)):
        yield fault
    for target, kind in targets.items():
        yield from find_target_errors(config, target, kind)


def get_input_types(config: dict[str, Any]) -> dict[str, str]:
    """The task's inputs with their kinds.

    Whether texts are bags of words or sequences is a setting of the data, not of the task.
    """
    kinds, data = dict(config["task"]["inputs"]), config["data"]
    text = data.get("text") if isinstance(data, dict) else None
    if isinstance(text, dict):
        # Of the parts of group `text` only `sequence` keeps the order of words.
        as_read = "tokens" if str(text.get("_target_")).endswith(".sequence") else "bag"
    elif isinstance(data, dict) and "length" in data:
        as_read = "bag" if data["length"] is None else "tokens"
    else:
        return kinds
    return {name: as_read if kind in ("bag", "tokens") else kind for name, kind in kinds.items()}


def find_target_errors(config: dict[str, Any], target: str, kind: str) -> Iterator[str]:
    """A loss or metrics that make no sense for a target, its own or those of all targets."""
    several = len((config.get("task") or {}).get("targets") or ()) > 1
    with_hint = lambda fault, group: (  # noqa: E731
        add_target_hint(fault, group, target) if several else fault
    )
    losses, metrics = ((config.get(group) or {}).get(target) for group in parts.PER_TARGET_KINDS)
    module, _, loss = split_builtin_target({"loss": losses or config["loss"]}, "loss")
    if module and (fault := get_loss_error(loss, kind)):
        if losses:
            yield fault.replace("loss=", f"losses.{target}=", 1)
        else:
            yield with_hint(fault, "loss")
    chosen = metrics or config["metric"]
    for metric in chosen:
        mine = split_builtin_target(chosen, metric)[2] == metric
        if mine and (fault := get_metric_error(metric, kind)):
            if metrics:
                yield fault.replace("metric=", f"metrics.{target}=", 1)
            else:
                yield with_hint(fault, "metric")


def split_builtin_target(nodes: dict[str, Any], name: str) -> tuple[str, str, str]:
    """The target of a part split at its last dot; empty texts where it is not dlrun's own."""
    target = nodes[name].get("_target_") if isinstance(nodes.get(name), dict) else None
    if isinstance(target, str) and target.startswith("dlrun."):
        return target.rpartition(".")
    return "", "", ""
