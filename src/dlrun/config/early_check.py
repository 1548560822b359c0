"""What words on the command line say, looked at before Hydra composes them.

Hydra alone decides what runs. What is said here is either the same (tests/config/test_early_check.py holds the two together) or
nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from dlrun.config.groups import find_option_file, get_conf_folders

KEY_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
GROUP_AT_PATTERN = re.compile(
    r"([a-z]\w*)@([a-z]\w*(\.[a-z]\w*)*)", re.ASCII
)  # an option of a group, at another place than its own
INTEGER_PATTERN = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
NUMBER_PATTERN = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
TEXT_PATTERN = re.compile(r"(\.{0,2}/)?[A-Za-z_][\w/.-]*", re.ASCII)
NAMED_VALUES = {"true": True, "false": False, "null": None}


class NeedsHydra(Exception):
    """Only Hydra can tell what is meant here."""


def get_option_group(key: str) -> str:
    """The group of a choice, 'reader' for 'reader@model.reader'; any other key as it is."""
    return key.partition("@")[0] if GROUP_AT_PATTERN.fullmatch(key) else key


def parse_simple_override(word: str) -> tuple[str, Any]:
    """The key and the value of a word. Raises Beyond."""
    key, equals, text = word.partition("=")
    known = KEY_PATTERN.fullmatch(key) or GROUP_AT_PATTERN.fullmatch(key)
    if not equals or not known or key.partition(".")[0] == "hydra":
        raise NeedsHydra
    if text[:1] + text[-1:] == "[]":
        inside = text[1:-1].strip(" ")
        return key, [
            parse_yaml_scalar(item.strip(" ")) for item in inside.split(",")
        ] if inside else []
    return key, parse_yaml_scalar(text) if text else ""


def parse_yaml_scalar(text: str) -> Any:
    """What Hydra's grammar makes of one plain value. Raises Beyond where that is not plain to see."""
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


ConfigLayer = tuple[
    str, dict[str, Any]
]  # a group, or "" for the root of the config, and values that belong there

REFERENCE_PATTERN = re.compile(r"\$\{(\w+)\}", re.ASCII)
SCIENTIFIC_PATTERN = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")


class StrictYamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Hydra reads it: 1e-3 is a number, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise NeedsHydra
        return found


StrictYamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", SCIENTIFIC_PATTERN, list("-+0123456789")
)


def compose_without_hydra(
    words: list[str], folders: list[Path]
) -> tuple[dict[str, Any], list[str]] | None:
    """The config that Hydra would compose from these words, and the keys in them that it would not know.

    None where only Hydra can tell: words with +, ~, @, quotes, braces or interpolations, files with packages of their
    own, and whatever else is not understood here.
    """
    places = get_conf_folders(folders)
    try:
        chosen, settings = split_option_overrides(words, places)
        config = compose_defaults(chosen, places)
        unknown = [key for key, value in settings if not set_existing_key(config, key, value)]
        return resolve_references(config, config), unknown
    except (NeedsHydra, OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def split_option_overrides(
    words: list[str], places: list[Path]
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The words that choose options, group → option, and those that set keys, in their order. Raises Beyond."""
    read_words = [parse_simple_override(word) for word in words]
    choices = [
        (key, value)
        for key, value in read_words
        if any((place / get_option_group(key)).is_dir() for place in places)
    ]
    chosen = dict(choices)
    if len(chosen) < len(choices) or None in chosen.values():
        raise NeedsHydra
    return chosen, [(key, value) for key, value in read_words if key not in chosen]


def compose_defaults(chosen: dict[str, Any], places: list[Path]) -> dict[str, Any]:
    """The config before single keys are set: config.yaml's defaults in their order, with the options chosen.

    The defaults are read from the last to the first, since the later ones say which options the earlier ones take.
    """
    _, defaults, root = read_option("", "config", places)
    layers: list[ConfigLayer] = []
    for entry in reversed(defaults):
        if entry == "_self_":
            layers.append(("", root))
            continue
        group, usual = parse_default_entry(entry)
        option = chosen.pop(group, usual)
        for name in reversed(parse_option_names(option, isinstance(usual, list))):
            layers += expand_option(group, name, chosen, places)
    if chosen or "_self_" not in defaults:
        raise NeedsHydra
    whole = [reduce(lambda inner, part: {part: inner}, reversed(place.split(".") if place else []), values)
             for place, values in reversed(layers)]  # fmt: skip
    config: dict[str, Any] = reduce(merge_values, whole, {})
    if "hydra" in config:
        raise NeedsHydra
    return config


def expand_option(
    group: str, name: str, chosen: dict[str, Any], places: list[Path], home: str = ""
) -> Iterator[ConfigLayer]:
    """What an option brings, the strongest first. Adds to `chosen` what it overrides and nobody stronger has.

    home: the place of its values, where that is not the group's own.
    """
    own, defaults, values = read_option(group, name, places)
    if home and own != group:
        raise NeedsHydra
    home = home or own
    below: list[Any] = []
    for entry in defaults:
        key, option = parse_default_entry(entry) if isinstance(entry, dict) else ("", "")
        word, _, other = key.partition(" /")
        if word == "override":
            chosen.setdefault(resolve_group_path(other, home), option)
        else:
            below.append(entry)
    yield home, values
    if below and (below.pop() != "_self_" or own != group):
        raise NeedsHydra
    for entry in reversed(below):
        yield from expand_default(group, entry, chosen, places, home)


def expand_default(
    group: str, entry: Any, chosen: dict[str, Any], places: list[Path], home: str
) -> Iterator[ConfigLayer]:
    """What one line of an option's defaults brings: another option of its group, or `/group@place: option`."""
    if isinstance(entry, str):
        yield from expand_option(group, entry, chosen, places, home)
        return
    key, usual = parse_default_entry(entry)
    if not key.startswith("/") or "@" not in key:
        raise NeedsHydra
    place = resolve_group_path(key[1:], home)
    option = chosen.pop(place, usual)
    for part in parse_option_names(option, False):
        yield from expand_option(
            get_option_group(place), part, chosen, places, place.partition("@")[2]
        )


def resolve_group_path(key: str, home: str) -> str:
    """'reader@model.reader' for what an option of `model` calls 'reader@reader'; a group without a place as it is."""
    group, at, place = key.partition("@")
    return f"{group}@{home}.{place}" if at and home else key


def read_option(group: str, name: str, places: list[Path]) -> tuple[str, list[Any], dict[str, Any]]:
    """An option's file: the group where its values belong ("" for the root), its defaults, and these values."""
    file = find_option_file(places, group, name)
    if file is None:
        raise NeedsHydra
    text = file.read_text(encoding="utf-8")
    first, _, rest = text.partition("\n")
    everywhere = first == "# @package _global_"
    values = yaml.load(text, Loader=StrictYamlLoader)
    if (
        not isinstance(values, dict)
        or not is_plain_value(values)
        or "@package" in (rest if everywhere else text)
    ):
        raise NeedsHydra
    defaults = values.pop("defaults", [])
    if not isinstance(defaults, list):
        raise NeedsHydra
    return "" if everywhere else group, defaults, values


def is_plain_value(value: Any) -> bool:
    """Whether these are values that need no more than a look: no dates, nothing missing, no resolvers."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain_value(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(is_plain_value, value))
    if isinstance(value, str):
        return value != "???" and (
            "${" not in value or REFERENCE_PATTERN.fullmatch(value) is not None
        )
    return value is None or isinstance(value, bool | int | float)


def parse_default_entry(entry: Any) -> tuple[str, Any]:
    """The one key of a line of defaults, and its value. Raises Beyond."""
    if not isinstance(entry, dict) or len(entry) != 1:
        raise NeedsHydra
    return next(iter(entry.items()))


def parse_option_names(option: Any, several: bool) -> list[str]:
    """The options that a group's choice names: none, one, or a list where the group takes several. Raises Beyond."""
    found = option if several and isinstance(option, list) else [] if option is None else [option]
    if not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in found):
        raise NeedsHydra
    return found


def merge_values(old: Any, new: Any) -> Any:
    """A mapping laid over another, key by key; any other value takes the old one's place. Raises Beyond."""
    if isinstance(new, dict) and (old is None or isinstance(old, dict)):
        old = old or {}
        return {**old, **{key: merge_values(old.get(key), value) for key, value in new.items()}}
    if isinstance(new, dict) or isinstance(old, dict):
        raise NeedsHydra
    return new


def set_existing_key(config: dict[str, Any], key: str, value: Any) -> bool:
    """Set a key if it is there, and answer whether it is. Raises Beyond for a whole part, and inside what is none."""
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
    """The value with each ${key} replaced by what stands there at the root. Raises Beyond."""
    if isinstance(value, dict):
        return {key: resolve_references(inner, config) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolve_references(inner, config) for inner in value]
    if isinstance(value, str) and (match := REFERENCE_PATTERN.fullmatch(value)):
        found = config.get(match[1])
        if isinstance(found, dict):
            return resolve_references(found, config)
        if match[1] not in config or "${" in str(found):
            raise NeedsHydra
        return found
    return value
