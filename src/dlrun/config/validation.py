"""Checks a whole config before anything heavy is imported, and names all its faults at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config import compatibility, parts
from dlrun.config.compatibility import (
    add_target_hint,
    get_input_error,
    get_loss_error,
    get_metric_error,
    get_target_names_error,
)
from dlrun.config.instantiate import apply_patch, to_dotted_keys
from dlrun.config.parallel_fits import remove_common_settings
from dlrun.config.parts import truncate_value
from dlrun.config.root_validation import (
    PART_LISTS,
    SINGLE_PARTS,
    find_root_errors,
    find_structure_errors,
)
from dlrun.config.signatures import (
    Argument,
    Signature,
    describe_type_mismatch,
    get_configurable_arguments,
)
from dlrun.core.errors import UserError, format_names

if TYPE_CHECKING:
    pass


def find_member_errors(members: Any) -> Iterator[str]:
    """What is wrong with model.members as a setting: none named, or a folder in which no fit has finished."""
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        return  # the check of types says so
    if not members:
        yield "model.members is empty: say which finished runs answer together: model.members=[RUN,RUN]"
    yield from filter(None, map(_get_member_error, members))


def _get_member_error(name: str) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return f"model.members: there is no folder {name} (looked at {folder.absolute()})"
    if not (folder / "config.yaml").is_file():
        return f"model.members: {name} is no run folder: it has no config.yaml"
    finished = (folder / "results.jsonl").is_file()
    return (
        ""
        if finished
        else f"model.members: no fit has finished in {name}; dlrun resume goes on with it"
    )


NUM_CONTEXT_ARGUMENTS = {
    "model": 1,
    "objective": 1,
    "optimizer": 1,
    "loss": 1,
    "metric": 1,
}  # arguments that the runner gives, in order
CONTEXT_HINTS = {
    "model": "to be given the Spec of the data, call the argument spec",
    "callback": "to be called after each epoch: (trainer, …)",
    "loss": "a plain function is (prediction, target, …)",
    "metric": "a plain function is (prediction, target, …)",
}


def validate_config(config: dict[str, Any], plugins: tuple[str, ...]) -> None:
    """Refuse a config with wrong keys, types, ranges, targets or combinations; one line a fault."""
    if faults := list(find_structure_errors(config)):
        raise UserError("\n".join(faults))
    faults = [*find_root_errors(config), *parts.find_part_errors(config, plugins)]
    for group, node in config.items():
        faults += find_group_errors(config, group, node, plugins)
    if faults and not all(isinstance(config.get(part, {}), dict) for part in SINGLE_PARTS):
        raise UserError("\n".join(dict.fromkeys(faults)))
    faults += [*find_combination_errors(config), *find_stage_errors(config, plugins)]
    if split_builtin_target(config, "model")[2] == "ensemble":
        faults += find_member_errors(config["model"].get("members"))
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def find_group_errors(
    config: dict[str, Any], group: str, node: Any, plugins: tuple[str, ...]
) -> Iterator[str]:
    """What is wrong in the values of the parts of one group."""
    if group in PART_LISTS:
        for name, part in node.items():
            yield from find_node_errors(part, f"{group}.{name}", group, plugins)
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
    """A data part without the part of group `text` in it, which is checked by itself."""
    if not isinstance(data, dict) or not isinstance(text, dict):
        return data
    return {key: None if value == text else value for key, value in data.items()}


def find_unused_text_errors(config: dict[str, Any], words: list[str]) -> Iterator[str]:
    """Words about how texts become numbers, where the data have no texts as they were written."""
    data, text = config.get("data"), config.get("text")
    if isinstance(data, dict) and isinstance(text, dict) and text not in list(data.values()):
        for word in words:
            if word.startswith(("text=", "text.")):
                hint = "; data.length=500 reads their words in turn" if "length" in data else ""
                yield f"{word}: these data have no texts as they were written (task=imdb_text and texts have){hint}"


def find_node_errors(node: Any, place: str, kind: str, plugins: tuple[str, ...]) -> Iterator[str]:
    """Faults of one part's values: its keys, and their types and ranges."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        yield not_a_part_message(node, place)
        return
    target = parts.resolve_target(node["_target_"])
    if not parts.is_part(target, kind, plugins):
        return
    found = get_configurable_arguments(
        target, kind, NUM_CONTEXT_ARGUMENTS.get(kind, 0)
    ) or Signature({}, open=True)
    for key, value in node.items():
        if key in found.arguments:
            inside = parts.get_argument_kind(target, kind, plugins, key)
            yield from find_argument_errors(
                found.arguments[key], value, f"{place}.{key}", inside, plugins
            )
        elif key != "_target_" and not found.open:
            yield unknown_argument_message(
                place, key, target.rpartition(".")[2], list(found.arguments)
            )
    for key, argument in found.arguments.items():
        if argument.required and key not in node:
            yield f"{place}: {target.rpartition('.')[2]} needs a value for '{key}'{format_required_hint(place, key)}"


def not_a_part_message(node: Any, place: str) -> str:
    """The message for what stands where a part belongs."""
    group, _, name = place.partition(".")
    if name == "_target_" or (
        isinstance(node, dict) and "_target_" not in node and group in (*SINGLE_PARTS, *PART_LISTS)
    ):
        form = (
            "NAME: {_target_: my_package.NAME}"
            if group in PART_LISTS
            else "_target_: my_package.NAME"
        )
        return f"{place}={truncate_value(node)}: it is not a part; expected in conf/{group}/NAME.yaml: {form}"
    return f"{place}={truncate_value(node)}: it is not a part; choose one by name: {group}=NAME"


def get_part_kind(place: str) -> str:
    """The kind of the part at this place of a config; '' inside another part."""
    group, *inner = place.split(".")
    whole = {"losses": "loss", "metrics": "metric"}.get(group, group)
    depth = {"metrics": 2, "losses": 1, **dict.fromkeys(PART_LISTS, 1)}.get(group, 0)
    return whole if len(inner) == depth else ""


def find_argument_errors(
    argument: Argument, value: Any, place: str, inside: str | None, plugins: tuple[str, ...]
) -> Iterator[str]:
    """Faults of one value of a part. inside: the kind of part that belongs there, if any."""
    if wanted := describe_type_mismatch(value, argument):
        yield f"{place}={truncate_value(value)}: it must be {wanted}"
    elif inside is not None:
        yield from find_inner_part_errors(value, place, inside, plugins)


def find_inner_part_errors(
    value: Any, place: str, kind: str, plugins: tuple[str, ...]
) -> Iterator[str]:
    """Faults of the parts inside a value: one part, or a mapping or list of parts, or of mappings of them."""
    if isinstance(value, dict) and "_target_" in value:
        yield from find_node_errors(value, place, kind, plugins)
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_inner_part_errors(inner, f"{place}.{name}", kind, plugins)


def format_required_hint(place: str, key: str) -> str:
    """How to say a setting; for some parts, also how to be given what dlrun knows."""
    hint = CONTEXT_HINTS.get(get_part_kind(place), "")
    return f": {place}.{key}=…{hint and f' ({hint})'}"


def unknown_argument_message(place: str, key: str, name: str, there: list[str]) -> str:
    """The message for a key that a part does not have."""
    close = difflib.get_close_matches(key, there, 1)
    guess = f": did you mean '{close[0]}'?" if close else "."
    return f"no setting '{place}.{key}' for {name}{guess} There are: {format_names(there, key) or 'none'}"


def find_stage_errors(config: dict[str, Any], plugins: tuple[str, ...]) -> Iterator[str]:
    """Settings of a stage that are not there, or that their part would refuse."""
    for name in ("first", "then"):
        for key, value in to_dotted_keys(config["stages"].get(name) or {}).items():
            node, groups = config, key.split(".")
            for group in groups[:-1]:
                node = node[group] if isinstance(node.get(group), dict) else {}
            if groups[-1] not in node:
                yield f"stages.{name}.{key}={value!r}: there is no setting {key}{_has_parts(node)}"
            elif groups[0] in SINGLE_PARTS:
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
    """Parts that make no sense together, as far as the task says what its columns are."""
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
    """The task's inputs with their kinds: whether texts are sets of words or words in turn is said with the data."""
    kinds, data = dict(config["task"]["inputs"]), config["data"]
    text = data.get("text") if isinstance(data, dict) else None
    if isinstance(text, dict):
        as_read = "tokens" if str(text.get("_target_")).endswith(".sequence") else "bag"
    elif isinstance(data, dict) and "length" in data:
        as_read = "bag" if data["length"] is None else "tokens"
    else:
        return kinds
    return {name: as_read if kind in ("bag", "tokens") else kind for name, kind in kinds.items()}


def find_target_errors(config: dict[str, Any], target: str, kind: str) -> Iterator[str]:
    """A loss or measures that make no sense for a target of this kind: its own, or those that all have."""
    several = len((config.get("task") or {}).get("targets") or ()) > 1
    whole = lambda fault, group: add_target_hint(fault, group, target) if several else fault  # noqa: E731
    losses, metrics = ((config.get(group) or {}).get(target) for group in parts.PER_TARGET_KINDS)
    module, _, loss = split_builtin_target({"loss": losses or config["loss"]}, "loss")
    if module and (fault := get_loss_error(loss, kind)):
        yield fault.replace("loss=", f"losses.{target}=", 1) if losses else whole(fault, "loss")
    chosen = metrics or config["metric"]
    for metric in chosen:
        mine = split_builtin_target(chosen, metric)[2] == metric
        if mine and (fault := get_metric_error(metric, kind)):
            yield (
                fault.replace("metric=", f"metrics.{target}=", 1)
                if metrics
                else whole(fault, "metric")
            )


def split_builtin_target(parts: dict[str, Any], name: str) -> tuple[str, str, str]:
    """The target of one of these parts split at its last dot; empty where it is not dlrun's own."""
    target = parts[name].get("_target_") if isinstance(parts.get(name), dict) else None
    return (
        target.rpartition(".")
        if isinstance(target, str) and target.startswith("dlrun.")
        else ("", "", "")
    )
