"""Composes a config without Hydra, in a third of the time, to report faults early.

Hydra alone decides what runs: the result here is either the same
(tests/config/test_early_check.py compares the two) or None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dlrun.config.groups import find_option_file, get_conf_folders

KEY_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
# GROUP@KEY: an option of a group at another key than its own.
GROUP_AT_PATTERN = re.compile(r"([a-z]\w*)@([a-z]\w*(\.[a-z]\w*)*)", re.ASCII)
INTEGER_PATTERN = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
NUMBER_PATTERN = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
TEXT_PATTERN = re.compile(r"(\.{0,2}/)?[A-Za-z_][\w/.-]*", re.ASCII)
NAMED_VALUES = {"true": True, "false": False, "null": None}


class NeedsHydra(Exception):
    """Only Hydra can tell what is meant."""


def get_option_group(key: str) -> str:
    """The group of a choice: 'reader' of 'reader@model.reader'."""
    return key.partition("@")[0] if GROUP_AT_PATTERN.fullmatch(key) else key


def parse_simple_override(word: str) -> tuple[str, Any]:
    """The key and the value of an override.

    Raises:
        NeedsHydra: It is more than KEY=VALUE with a plain value or a plain list.
    """
    key, equals, text = word.partition("=")
    match = KEY_PATTERN.fullmatch(key) or GROUP_AT_PATTERN.fullmatch(key)
    if not equals or not match or key.partition(".")[0] == "hydra":
        raise NeedsHydra
    if text[:1] + text[-1:] == "[]":
        items = text[1:-1].strip(" ")
        values = [parse_yaml_scalar(item.strip(" ")) for item in items.split(",") if items]
        return key, values
    return key, parse_yaml_scalar(text) if text else ""


def parse_yaml_scalar(text: str) -> Any:
    """The value that Hydra's grammar makes of a plain text.

    Raises:
        NeedsHydra: The text is not plain.
    """
    low = text.lower()
    if low in NAMED_VALUES:
        return NAMED_VALUES[low]
    if INTEGER_PATTERN.fullmatch(text):
        return int(text)
    if NUMBER_PATTERN.fullmatch(text) or low in ("inf", "nan"):
        return float(text)
    if not TEXT_PATTERN.fullmatch(text):
        raise NeedsHydra
    return text


# Where values belong, "" for the root of the config, and the values.
ConfigLayer = tuple[str, dict[str, Any]]

REFERENCE_PATTERN = re.compile(r"\$\{(\w+)\}", re.ASCII)
SCIENTIFIC_PATTERN = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")


class StrictYamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Hydra reads it: 1e-3 is a number, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):  # a duplicate key, which Hydra reports
            raise NeedsHydra
        return mapping


StrictYamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", SCIENTIFIC_PATTERN, list("-+0123456789")
)


def compose_without_hydra(
    words: list[str], folders: list[Path]
) -> tuple[dict[str, Any], list[str]] | None:
    """The config that Hydra would compose, and the keys in these overrides that it would not know.

    Args:
        words: Overrides.
        folders: The user's conf folders.

    Returns:
        None where only Hydra can tell: overrides with +, ~, quotes, braces or interpolations, files
        with packages of their own, and whatever else is not understood here.
    """
    conf_folders = get_conf_folders(folders)
    try:
        chosen, settings = split_option_overrides(words, conf_folders)
        config = compose_defaults(chosen, conf_folders)
        unknown = [key for key, value in settings if not set_existing_key(config, key, value)]
        return resolve_references(config, config), unknown
    except (NeedsHydra, OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def split_option_overrides(
    words: list[str], conf_folders: list[Path]
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Overrides that choose options, group → option, and those that set keys, in order.

    Raises:
        NeedsHydra: A group is chosen twice, or not at all.
    """
    pairs = [parse_simple_override(word) for word in words]
    choices = [
        (key, value)
        for key, value in pairs
        if any((folder / get_option_group(key)).is_dir() for folder in conf_folders)
    ]
    chosen = dict(choices)
    if len(chosen) < len(choices) or None in chosen.values():
        raise NeedsHydra
    return chosen, [(key, value) for key, value in pairs if key not in chosen]


def compose_defaults(chosen: dict[str, Any], conf_folders: list[Path]) -> dict[str, Any]:
    """The config before single keys are set: config.yaml's defaults, with the options chosen.

    They are read from the last to the first, since later ones decide the options of earlier ones.
    """
    _, defaults, root = read_option("", "config", conf_folders)
    layers: list[ConfigLayer] = []
    for entry in reversed(defaults):
        if entry == "_self_":
            # Defaults before _self_ are weaker than config.yaml's own values, those after it
            # stronger.
            layers.append(("", root))
            continue
        group, default = parse_default_entry(entry)
        option = chosen.pop(group, default)
        for name in reversed(parse_option_names(option, isinstance(default, list))):
            layers += expand_option(group, name, chosen, conf_folders)
    # A choice that no default takes up: Hydra has a message for it.
    if chosen or "_self_" not in defaults:
        raise NeedsHydra
    config: dict[str, Any] = {}
    for key, values in reversed(layers):
        config = merge_values(config, _nest_values(key, values))
    if "hydra" in config:
        raise NeedsHydra
    return config


def _nest_values(key: str, values: dict[str, Any]) -> dict[str, Any]:
    """{'model': {'reader': values}} for the key 'model.reader'; the values for ""."""
    for name in reversed(key.split(".") if key else []):
        values = {name: values}
    return values


def expand_option(
    group: str, name: str, chosen: dict[str, Any], conf_folders: list[Path], home: str = ""
) -> Iterator[ConfigLayer]:
    """What an option brings, the strongest layer first.

    Args:
        group: Its group.
        name: The option.
        chosen: Group → option; what it overrides is added, unless something stronger has.
        conf_folders: Strongest first.
        home: The key of its values, where that is not the group's own.

    Raises:
        NeedsHydra: Its file is not plain.
    """
    own_key, defaults, values = read_option(group, name, conf_folders)
    if home and own_key != group:
        raise NeedsHydra
    home = home or own_key
    inherited: list[Any] = []
    for entry in defaults:
        key, option = parse_default_entry(entry) if isinstance(entry, dict) else ("", "")
        keyword, _, overridden = key.partition(" /")
        if keyword == "override":
            # setdefault: the command line and stronger options have been entered already.
            chosen.setdefault(resolve_group_path(overridden, home), option)
        else:
            inherited.append(entry)
    yield home, values
    if inherited and (inherited.pop() != "_self_" or own_key != group):
        raise NeedsHydra
    for entry in reversed(inherited):
        yield from expand_default(group, entry, chosen, conf_folders, home)


def expand_default(
    group: str, entry: Any, chosen: dict[str, Any], conf_folders: list[Path], home: str
) -> Iterator[ConfigLayer]:
    """What one line of an option's defaults brings."""
    if isinstance(entry, str):
        yield from expand_option(group, entry, chosen, conf_folders, home)
        return
    key, default = parse_default_entry(entry)
    if not key.startswith("/") or "@" not in key:
        raise NeedsHydra
    target = resolve_group_path(key[1:], home)
    option = chosen.pop(target, default)
    for name in parse_option_names(option, False):
        yield from expand_option(
            get_option_group(target), name, chosen, conf_folders, target.partition("@")[2]
        )


def resolve_group_path(key: str, home: str) -> str:
    """The absolute form of GROUP@KEY in an option's defaults; a plain group stays as it is."""
    group, separator, relative_key = key.partition("@")
    return f"{group}@{home}.{relative_key}" if separator and home else key


def read_option(
    group: str, name: str, conf_folders: list[Path]
) -> tuple[str, list[Any], dict[str, Any]]:
    """Read an option's file.

    Returns:
        The group where its values belong ("" for the root), its defaults, and the values.

    Raises:
        NeedsHydra: The file is missing or not plain.
    """
    file = find_option_file(conf_folders, group, name)
    if file is None:
        raise NeedsHydra
    text = file.read_text(encoding="utf-8")
    first, _, remainder = text.partition("\n")
    is_global = first == "# @package _global_"
    values = yaml.load(text, Loader=StrictYamlLoader)
    if (
        not isinstance(values, dict)
        or not is_plain_value(values)
        or "@package" in (remainder if is_global else text)
    ):
        raise NeedsHydra
    defaults = values.pop("defaults", [])
    if not isinstance(defaults, list):
        raise NeedsHydra
    return "" if is_global else group, defaults, values


def is_plain_value(value: Any) -> bool:
    """Whether a value needs no interpretation: no dates, nothing missing, no resolvers."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain_value(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(is_plain_value, value))
    if isinstance(value, str):
        # ??? is Hydra's mark of a missing value.
        return value != "???" and (
            "${" not in value or REFERENCE_PATTERN.fullmatch(value) is not None
        )
    return value is None or isinstance(value, bool | int | float)


def parse_default_entry(entry: Any) -> tuple[str, Any]:
    """The key and value of a line of defaults. Raises NeedsHydra where it has several."""
    if not isinstance(entry, dict) or len(entry) != 1:
        raise NeedsHydra
    return next(iter(entry.items()))


def parse_option_names(option: Any, allow_list: bool) -> list[str]:
    """The options that a choice names: none, one, or a list. Raises NeedsHydra."""
    names = (
        option if allow_list and isinstance(option, list) else [] if option is None else [option]
    )
    if not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in names):
        raise NeedsHydra
    return names


def merge_values(old: Any, new: Any) -> Any:
    """Merge mappings key by key; any other value replaces the old one. Raises NeedsHydra."""
    if isinstance(new, dict) and (old is None or isinstance(old, dict)):
        old = old or {}
        return {**old, **{key: merge_values(old.get(key), value) for key, value in new.items()}}
    if isinstance(new, dict) or isinstance(old, dict):
        raise NeedsHydra
    return new


def set_existing_key(config: dict[str, Any], key: str, value: Any) -> bool:
    """Set a key if it exists.

    Returns:
        Whether it exists.

    Raises:
        NeedsHydra: It is a mapping, or lies inside a value that is none.
    """
    *parents, last = key.split(".")
    node = config
    for name in parents:
        if name not in node:
            return False
        node = node[name]
        if not isinstance(node, dict):
            raise NeedsHydra
    if last in node:
        if isinstance(node[last], dict):
            raise NeedsHydra
        node[last] = value
    return last in node


def resolve_references(value: Any, config: dict[str, Any]) -> Any:
    """Replace each ${key} by the value at the root. Raises NeedsHydra where there is none."""
    if isinstance(value, dict):
        return {key: resolve_references(inner, config) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolve_references(inner, config) for inner in value]
    if isinstance(value, str) and (match := REFERENCE_PATTERN.fullmatch(value)):
        referenced = config.get(match[1])
        if isinstance(referenced, dict):
            return resolve_references(referenced, config)
        if match[1] not in config or "${" in str(referenced):
            raise NeedsHydra
        return referenced
    return value
