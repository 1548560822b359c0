"""Checks a whole config before anything heavy is imported, and names all its faults at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config import compatibility, parts
from dlrun.config.compatibility import for_one, input_fault, loss_fault, metric_fault, targets_fault
from dlrun.config.instantiate import dotted, patched
from dlrun.config.parallel_fits import without_common
from dlrun.config.parts import shortened
from dlrun.config.root_validation import LISTS, PARTS, shape_faults, top_faults
from dlrun.config.signatures import Argument, Signature, misfit, settable
from dlrun.core.errors import Refused, in_short

if TYPE_CHECKING:
    pass


def member_faults(members: Any) -> Iterator[str]:
    """What is wrong with model.members as a setting: none named, or a folder in which no fit has finished."""
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        return  # the check of types says so
    if not members:
        yield "model.members is empty: say which finished runs answer together: model.members=[RUN,RUN]"
    yield from filter(None, map(_fault, members))


def _fault(name: str) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return f"model.members: there is no folder {name} (looked at {folder.absolute()})"
    if not (folder / "config.yaml").is_file():
        return f"model.members: {name} is no run folder: it has no config.yaml"
    finished = (folder / "results.jsonl").is_file()
    return "" if finished else f"model.members: no fit has finished in {name}; dlrun resume goes on with it"


CONTEXT = {
    "model": 1,
    "objective": 1,
    "optimizer": 1,
    "loss": 1,
    "metric": 1,
}  # arguments that the runner gives, in order
HINTS = {
    "model": "to be given the Spec of the data, call the argument spec",
    "callback": "to be called after each epoch: (trainer, …)",
    "loss": "a plain function is (prediction, target, …)",
    "metric": "a plain function is (prediction, target, …)",
}


def check(config: dict[str, Any], plugins: tuple[str, ...]) -> None:
    """Refuse a config with wrong keys, types, ranges, targets or combinations; one line a fault."""
    if faults := list(shape_faults(config)):
        raise Refused("\n".join(faults))
    faults = [*top_faults(config), *parts.faults(config, plugins)]
    for group, node in config.items():
        faults += group_faults(config, group, node, plugins)
    if faults and not all(isinstance(config.get(part, {}), dict) for part in PARTS):
        raise Refused("\n".join(dict.fromkeys(faults)))
    faults += [*pair_faults(config), *stage_faults(config, plugins)]
    if own(config, "model")[2] == "ensemble":
        faults += member_faults(config["model"].get("members"))
    if faults:
        raise Refused("\n".join(dict.fromkeys(faults)))


def group_faults(config: dict[str, Any], group: str, node: Any, plugins: tuple[str, ...]) -> Iterator[str]:
    """What is wrong in the values of the parts of one group."""
    if group in LISTS:
        for name, part in node.items():
            yield from node_faults(part, f"{group}.{name}", group, plugins)
    elif group in parts.BY_TARGET:
        yield from inner_faults(node, group, parts.BY_TARGET[group], plugins)
    elif group in PARTS or (isinstance(node, dict) and "_target_" in node and group in parts.KINDS):
        node = apart(node, config.get("text")) if group == "data" else node
        node = without_common(node) if group == "protocol" and isinstance(node, dict) else node
        yield from node_faults(node, group, group, plugins)


def apart(data: Any, text: Any) -> Any:
    """A data part without the part of group `text` in it, which is checked by itself."""
    if not isinstance(data, dict) or not isinstance(text, dict):
        return data
    return {key: None if value == text else value for key, value in data.items()}


def idle_faults(config: dict[str, Any], words: list[str]) -> Iterator[str]:
    """Words about how texts become numbers, where the data have no texts as they were written."""
    data, text = config.get("data"), config.get("text")
    if isinstance(data, dict) and isinstance(text, dict) and text not in list(data.values()):
        for word in words:
            if word.startswith(("text=", "text.")):
                hint = "; data.length=500 reads their words in turn" if "length" in data else ""
                yield f"{word}: these data have no texts as they were written (task=imdb_text and texts have){hint}"


def node_faults(node: Any, place: str, kind: str, plugins: tuple[str, ...]) -> Iterator[str]:
    """Faults of one part's values: its keys, and their types and ranges."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        yield no_part(node, place)
        return
    target = parts.resolved(node["_target_"])
    if not parts.is_part(target, kind, plugins):
        return
    found = settable(target, kind, CONTEXT.get(kind, 0)) or Signature({}, open=True)
    for key, value in node.items():
        if key in found.arguments:
            inside = parts.takes(target, kind, plugins, key)
            yield from argument_faults(found.arguments[key], value, f"{place}.{key}", inside, plugins)
        elif key != "_target_" and not found.open:
            yield unknown_argument(place, key, target.rpartition(".")[2], list(found.arguments))
    for key, argument in found.arguments.items():
        if argument.required and key not in node:
            yield f"{place}: {target.rpartition('.')[2]} needs a value for '{key}'{needed_hint(place, key)}"


def no_part(node: Any, place: str) -> str:
    """The message for what stands where a part belongs."""
    group, _, name = place.partition(".")
    if name == "_target_" or (isinstance(node, dict) and "_target_" not in node and group in (*PARTS, *LISTS)):
        form = "NAME: {_target_: my_package.NAME}" if group in LISTS else "_target_: my_package.NAME"
        return f"{place}={shortened(node)}: it is not a part; expected in conf/{group}/NAME.yaml: {form}"
    return f"{place}={shortened(node)}: it is not a part; choose one by name: {group}=NAME"


def kind_of(place: str) -> str:
    """The kind of the part at this place of a config; '' inside another part."""
    group, *inner = place.split(".")
    whole = {"losses": "loss", "metrics": "metric"}.get(group, group)
    depth = {"metrics": 2, "losses": 1, **dict.fromkeys(LISTS, 1)}.get(group, 0)
    return whole if len(inner) == depth else ""


def argument_faults(
    argument: Argument, value: Any, place: str, inside: str | None, plugins: tuple[str, ...]
) -> Iterator[str]:
    """Faults of one value of a part. inside: the kind of part that belongs there, if any."""
    if wanted := misfit(value, argument):
        yield f"{place}={shortened(value)}: it must be {wanted}"
    elif inside is not None:
        yield from inner_faults(value, place, inside, plugins)


def inner_faults(value: Any, place: str, kind: str, plugins: tuple[str, ...]) -> Iterator[str]:
    """Faults of the parts inside a value: one part, or a mapping or list of parts, or of mappings of them."""
    if isinstance(value, dict) and "_target_" in value:
        yield from node_faults(value, place, kind, plugins)
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from inner_faults(inner, f"{place}.{name}", kind, plugins)


def needed_hint(place: str, key: str) -> str:
    """How to say a setting; for some parts, also how to be given what dlrun knows."""
    hint = HINTS.get(kind_of(place), "")
    return f": {place}.{key}=…{hint and f' ({hint})'}"


def unknown_argument(place: str, key: str, name: str, there: list[str]) -> str:
    """The message for a key that a part does not have."""
    close = difflib.get_close_matches(key, there, 1)
    guess = f": did you mean '{close[0]}'?" if close else "."
    return f"no setting '{place}.{key}' for {name}{guess} There are: {in_short(there, key) or 'none'}"


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
                yield from parts.part_faults(changed, f"stages.{name}.{groups[0]}", groups[0], plugins)
                yield from node_faults(changed, f"stages.{name}.{groups[0]}", groups[0], plugins)


def _there(node: dict[str, Any]) -> str:
    names = in_short(name for name in node if name != "_target_")
    return f"; there are: {names}" if names else ""


def pair_faults(config: dict[str, Any]) -> Iterator[str]:
    """Parts that make no sense together, as far as the task says what its columns are."""
    if fault := compatibility.objective_fault(own(config, "objective")[2], own(config, "model")[2]):
        yield fault
    task = config.get("task") or {}
    if task.get("inputs") and (fault := input_fault(config["model"], given_kinds(config))):
        yield fault.replace("the data give", f"task={task['name']} gives")
    targets = task.get("targets") or {}
    if targets and (fault := targets_fault(config, targets)):
        yield fault
    for target, kind in targets.items():
        yield from target_faults(config, target, kind)


def given_kinds(config: dict[str, Any]) -> dict[str, str]:
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


def target_faults(config: dict[str, Any], target: str, kind: str) -> Iterator[str]:
    """A loss or measures that make no sense for a target of this kind: its own, or those that all have."""
    several = len((config.get("task") or {}).get("targets") or ()) > 1
    whole = lambda fault, group: for_one(fault, group, target) if several else fault  # noqa: E731
    losses, metrics = ((config.get(group) or {}).get(target) for group in parts.BY_TARGET)
    module, _, loss = own({"loss": losses or config["loss"]}, "loss")
    if module and (fault := loss_fault(loss, kind)):
        yield fault.replace("loss=", f"losses.{target}=", 1) if losses else whole(fault, "loss")
    chosen = metrics or config["metric"]
    for metric in chosen:
        mine = own(chosen, metric)[2] == metric
        if mine and (fault := metric_fault(metric, kind)):
            yield fault.replace("metric=", f"metrics.{target}=", 1) if metrics else whole(fault, "metric")


def own(parts: dict[str, Any], name: str) -> tuple[str, str, str]:
    """The target of one of these parts split at its last dot; empty where it is not dlrun's own."""
    target = parts[name].get("_target_") if isinstance(parts.get(name), dict) else None
    return target.rpartition(".") if isinstance(target, str) and target.startswith("dlrun.") else ("", "", "")
