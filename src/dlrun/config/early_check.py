"""What words on the command line say, looked at before Hydra composes them.

Hydra alone decides what runs. What is said here is either the same (tests/test_preview.py holds the two together) or
nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from dlrun.config.groups import all_folders, option_file

KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
PLACED = re.compile(
    r"([a-z]\w*)@([a-z]\w*(\.[a-z]\w*)*)", re.ASCII
)  # an option of a group, at another place than its own
WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
TEXT = re.compile(r"(\.{0,2}/)?[A-Za-z_][\w/.-]*", re.ASCII)
NAMED = {"true": True, "false": False, "null": None}


class Beyond(Exception):
    """Only Hydra can tell what is meant here."""


def group_of(key: str) -> str:
    """The group of a choice, 'reader' for 'reader@model.reader'; any other key as it is."""
    return key.partition("@")[0] if PLACED.fullmatch(key) else key


def setting(word: str) -> tuple[str, Any]:
    """The key and the value of a word. Raises Beyond."""
    key, equals, text = word.partition("=")
    known = KEY.fullmatch(key) or PLACED.fullmatch(key)
    if not equals or not known or key.partition(".")[0] == "hydra":
        raise Beyond
    if text[:1] + text[-1:] == "[]":
        inside = text[1:-1].strip(" ")
        return key, [scalar(item.strip(" ")) for item in inside.split(",")] if inside else []
    return key, scalar(text) if text else ""


def scalar(text: str) -> Any:
    """What Hydra's grammar makes of one plain value. Raises Beyond where that is not plain to see."""
    low = text.lower()
    if low in NAMED:
        return NAMED[low]
    if WHOLE.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text) or low in ("inf", "nan"):
        return float(text)
    if not TEXT.fullmatch(text):
        raise Beyond
    return text


Layer = tuple[str, dict[str, Any]]  # a group, or "" for the root of the config, and values that belong there

REFERENCE = re.compile(r"\$\{(\w+)\}", re.ASCII)
SCIENTIFIC = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Hydra reads it: 1e-3 is a number, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise Beyond
        return found


Loader.add_implicit_resolver("tag:yaml.org,2002:float", SCIENTIFIC, list("-+0123456789"))


def preview(words: list[str], folders: list[Path]) -> tuple[dict[str, Any], list[str]] | None:
    """The config that Hydra would compose from these words, and the keys in them that it would not know.

    None where only Hydra can tell: words with +, ~, @, quotes, braces or interpolations, files with packages of their
    own, and whatever else is not understood here.
    """
    places = all_folders(folders)
    try:
        chosen, settings = sorted_out(words, places)
        config = composed(chosen, places)
        unknown = [key for key, value in settings if not put(config, key, value)]
        return resolved(config, config), unknown
    except (Beyond, OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def sorted_out(words: list[str], places: list[Path]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The words that choose options, group → option, and those that set keys, in their order. Raises Beyond."""
    read_words = [setting(word) for word in words]
    choices = [(key, value) for key, value in read_words if any((place / group_of(key)).is_dir() for place in places)]
    chosen = dict(choices)
    if len(chosen) < len(choices) or None in chosen.values():
        raise Beyond
    return chosen, [(key, value) for key, value in read_words if key not in chosen]


def composed(chosen: dict[str, Any], places: list[Path]) -> dict[str, Any]:
    """The config before single keys are set: config.yaml's defaults in their order, with the options chosen.

    The defaults are read from the last to the first, since the later ones say which options the earlier ones take.
    """
    _, defaults, root = read("", "config", places)
    layers: list[Layer] = []
    for entry in reversed(defaults):
        if entry == "_self_":
            layers.append(("", root))
            continue
        group, usual = pair(entry)
        option = chosen.pop(group, usual)
        for name in reversed(names(option, isinstance(usual, list))):
            layers += brought(group, name, chosen, places)
    if chosen or "_self_" not in defaults:
        raise Beyond
    whole = [reduce(lambda inner, part: {part: inner}, reversed(place.split(".") if place else []), values)
             for place, values in reversed(layers)]  # fmt: skip
    config: dict[str, Any] = reduce(merged, whole, {})
    if "hydra" in config:
        raise Beyond
    return config


def brought(group: str, name: str, chosen: dict[str, Any], places: list[Path], home: str = "") -> Iterator[Layer]:
    """What an option brings, the strongest first. Adds to `chosen` what it overrides and nobody stronger has.

    home: the place of its values, where that is not the group's own.
    """
    own, defaults, values = read(group, name, places)
    if home and own != group:
        raise Beyond
    home = home or own
    below: list[Any] = []
    for entry in defaults:
        key, option = pair(entry) if isinstance(entry, dict) else ("", "")
        word, _, other = key.partition(" /")
        if word == "override":
            chosen.setdefault(placed(other, home), option)
        else:
            below.append(entry)
    yield home, values
    if below and (below.pop() != "_self_" or own != group):
        raise Beyond
    for entry in reversed(below):
        yield from inherited(group, entry, chosen, places, home)


def inherited(group: str, entry: Any, chosen: dict[str, Any], places: list[Path], home: str) -> Iterator[Layer]:
    """What one line of an option's defaults brings: another option of its group, or `/group@place: option`."""
    if isinstance(entry, str):
        yield from brought(group, entry, chosen, places, home)
        return
    key, usual = pair(entry)
    if not key.startswith("/") or "@" not in key:
        raise Beyond
    place = placed(key[1:], home)
    option = chosen.pop(place, usual)
    for part in names(option, False):
        yield from brought(group_of(place), part, chosen, places, place.partition("@")[2])


def placed(key: str, home: str) -> str:
    """'reader@model.reader' for what an option of `model` calls 'reader@reader'; a group without a place as it is."""
    group, at, place = key.partition("@")
    return f"{group}@{home}.{place}" if at and home else key


def read(group: str, name: str, places: list[Path]) -> tuple[str, list[Any], dict[str, Any]]:
    """An option's file: the group where its values belong ("" for the root), its defaults, and these values."""
    file = option_file(places, group, name)
    if file is None:
        raise Beyond
    text = file.read_text(encoding="utf-8")
    first, _, rest = text.partition("\n")
    everywhere = first == "# @package _global_"
    values = yaml.load(text, Loader=Loader)
    if not isinstance(values, dict) or not plain(values) or "@package" in (rest if everywhere else text):
        raise Beyond
    defaults = values.pop("defaults", [])
    if not isinstance(defaults, list):
        raise Beyond
    return "" if everywhere else group, defaults, values


def plain(value: Any) -> bool:
    """Whether these are values that need no more than a look: no dates, nothing missing, no resolvers."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, str):
        return value != "???" and ("${" not in value or REFERENCE.fullmatch(value) is not None)
    return value is None or isinstance(value, bool | int | float)


def pair(entry: Any) -> tuple[str, Any]:
    """The one key of a line of defaults, and its value. Raises Beyond."""
    if not isinstance(entry, dict) or len(entry) != 1:
        raise Beyond
    return next(iter(entry.items()))


def names(option: Any, several: bool) -> list[str]:
    """The options that a group's choice names: none, one, or a list where the group takes several. Raises Beyond."""
    found = option if several and isinstance(option, list) else [] if option is None else [option]
    if not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in found):
        raise Beyond
    return found


def merged(old: Any, new: Any) -> Any:
    """A mapping laid over another, key by key; any other value takes the old one's place. Raises Beyond."""
    if isinstance(new, dict) and (old is None or isinstance(old, dict)):
        old = old or {}
        return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
    if isinstance(new, dict) or isinstance(old, dict):
        raise Beyond
    return new


def put(config: dict[str, Any], key: str, value: Any) -> bool:
    """Set a key if it is there, and answer whether it is. Raises Beyond for a whole part, and inside what is none."""
    *parents, last = key.split(".")
    node = config
    for name in parents:
        if name not in node:
            return False
        node = node[name]
        if not isinstance(node, dict):
            raise Beyond
    if last in node:
        if isinstance(node[last], dict):
            raise Beyond
        node[last] = value
    return last in node


def resolved(value: Any, config: dict[str, Any]) -> Any:
    """The value with each ${key} replaced by what stands there at the root. Raises Beyond."""
    if isinstance(value, dict):
        return {key: resolved(inner, config) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolved(inner, config) for inner in value]
    if isinstance(value, str) and (match := REFERENCE.fullmatch(value)):
        found = config.get(match[1])
        if isinstance(found, dict):
            return resolved(found, config)
        if match[1] not in config or "${" in str(found):
            raise Beyond
        return found
    return value
