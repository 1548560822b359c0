"""`dlrun ls GROUP OPTION`: the settings of one option, their values, and what they accept. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from dlrun.config.annotations import describe_annotation
from dlrun.config.early_check import NeedsHydra, StrictYamlLoader, expand_option, merge_values
from dlrun.config.groups import find_option_file, read_first_comment
from dlrun.config.signatures import get_configurable_arguments
from dlrun.config.validation import NUM_CONTEXT_ARGUMENTS, get_part_kind
from dlrun.core.formatting import wrap_text

WIDTH = 34  # of a value


def format_option_settings(group: str, option: str, places: list[Path]) -> str:
    """The text: a line for each setting."""
    file = find_option_file(places, group, option)
    assert file is not None
    chosen: dict[str, Any] = {}
    config = _compose_option(group, option, chosen, places, file)
    comments = _read_comments(file)
    rows = [(key, shown, " ".join(filter(None, (accepts, comments.get(key.rpartition(".")[2])))))
            for key, shown, accepts in _iter_rows(config, "")]  # fmt: skip
    rows = [(f"{name}={value}", "", "") for name, value in chosen.items()] + rows
    key_width = max((len(key) for key, _, _ in rows), default=0) + 2
    value_width = max((len(value) for _, value, _ in rows), default=0) + 2
    lines = []
    for key, value, text in rows:
        head = f"  {key:<{key_width}}{value:<{value_width}}"
        lines += wrap_text(head, text) if text else [head.rstrip()]
    return "\n".join(
        [f"{group}={option}  {read_first_comment(file)}".rstrip(), *(lines or ["  no settings"])]
    )


def _compose_option(
    group: str, option: str, chosen: dict[str, Any], places: list[Path], file: Path
) -> dict[str, Any]:
    """The part of a config that an option brings. chosen: gets the options of other groups that it asks for."""
    import yaml

    try:
        layers = list(expand_option(group, option, chosen, places))
        whole = [reduce(lambda inner, part: {part: inner}, reversed(home.split(".") if home else []), values)
                 for home, values in reversed(layers)]  # fmt: skip
        return reduce(merge_values, whole, {})
    except NeedsHydra:  # a file that only Hydra reads as it is meant: what stands in it
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictYamlLoader)
        return {group: {key: value for key, value in (values or {}).items() if key != "defaults"}}


def _iter_rows(node: dict[str, Any], place: str) -> Iterator[tuple[str, str, str]]:
    """Key, value and what is accepted, for each value in a config."""
    target = node.get("_target_")
    found = (
        get_configurable_arguments(
            target, get_part_kind(place), NUM_CONTEXT_ARGUMENTS.get(place, 0)
        )
        if isinstance(target, str)
        else None
    )
    for name, value in node.items():
        if name == "_target_":
            continue
        key = f"{place}.{name}" if place else name
        if isinstance(value, dict) and value:
            yield from _iter_rows(value, key)
            continue
        argument = found.arguments.get(name) if found else None
        note = argument.annotation if argument else None
        yield (
            key,
            _format_value(value),
            describe_annotation(note, argument.module) if argument and note else "",
        )


def _format_value(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f"[{','.join(map(_format_value, value))}]" if isinstance(value, list) else str(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _read_comments(file: Path) -> dict[str, str]:
    """What the file says beside its settings: key → comment."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        key, _, text = line.partition("#")
        name = key.partition(":")[0].strip()
        if text.strip() and name:
            found[name] = f"({text.strip()})"
    return found
