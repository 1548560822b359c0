"""What is wrong with an override, in words: errors of Hydra, and keys that do not exist."""

from __future__ import annotations

import difflib
import re
from typing import Any

from dlrun.config.compatibility import PER_TARGET_OVERRIDES
from dlrun.config.settings import PART_LISTS
from dlrun.core.errors import format_names

# Mappings to which targets may be added by name, and how that is typed.
OPEN_MAPPINGS = {"loss_weights": "+loss_weights.{}=NUMBER", **PER_TARGET_OVERRIDES}


class InvalidOverride(Exception):
    """An override that Hydra refuses.

    Attributes:
        word: The override; "" where it is unknown.
        text: What is wrong.
        key: Its key where that does not exist, else "".
    """

    def __init__(self, word: str, text: str, key: str = "") -> None:
        super().__init__(word, text, key)
        self.word, self.text, self.key = word, text, key


def parse_hydra_error(error: Exception, words: list[str]) -> InvalidOverride:
    """What an error of Hydra means, and which override it is about.

    Args:
        error: Raised while overrides were applied or files were read.
        words: The overrides that it may be about.
    """
    from yaml import YAMLError

    text = str(error)
    if isinstance(error, YAMLError):
        return InvalidOverride("", f"a config file is no YAML: {' '.join(text.split())}")
    first = text.strip().splitlines()[0]
    if isinstance(error, RecursionError):
        return InvalidOverride("", "a config file names itself in its defaults")
    # Hydra's messages name keys, and users know what they typed.
    by_key = {word.partition("=")[0].lstrip("+~").partition("@")[0]: word for word in words}
    # Hydra's exceptions hold no fields: their texts are all there is to read.
    if match := re.search(
        r"Could not override '([^'@]+)|Could not delete from config. '([^']+)'"
        r"|Key '([^']+)' is not in struct",
        text,
    ):
        key = next(filter(None, match.groups()))
        if key not in by_key:  # of a nested key Hydra names the last part alone
            key = next((typed_key for typed_key in by_key if typed_key.endswith(f".{key}")), key)
        return InvalidOverride(by_key.get(key, ""), f"no setting '{key}'", key)
    if match := re.search(r"Error merging override (\S+)", text):
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        return InvalidOverride(match[1], f"{match[1]}: {reason}")
    # Of Hydra's error for a missing config file.
    if getattr(error, "options", None) is not None:
        name = getattr(error, "missing_cfg_file", "")
        return InvalidOverride("", f"no config '{name}' in the conf folders")
    return InvalidOverride("", first)


def unknown_key_message(key: str, keys: list[str]) -> str:
    """The message for a key that a config does not have, with the nearest that it has.

    Args:
        key: The key; one of `keys` where it is a mapping that was given an unknown name.
        keys: All dotted keys of the config.
    """
    if key in keys:  # a mapping was given a name that it does not have
        return _describe_mapping(key, keys)
    parent, _, name = key.rpartition(".")
    group, _, inner_key = key.partition(".")
    option = inner_key.partition(".")[0]
    if group in PART_LISTS and option and f"{group}.{option}" not in keys:
        chosen = ", ".join(
            candidate.partition(".")[2]
            for candidate in keys
            if candidate.count(".") == 1 and candidate.startswith(f"{group}.")
        )
        has = f"{group} has {chosen or 'nothing'}"
        return f"no setting '{key}': {has}; to add one: +{group}={option}"
    if parent in keys and parent in OPEN_MAPPINGS:
        return f"'{parent}' has no '{name}' yet: to add one, {OPEN_MAPPINGS[parent].format(name)}"
    siblings = [candidate for candidate in keys if candidate.rpartition(".")[0] == parent]
    siblings = siblings or [candidate for candidate in keys if "." not in candidate]
    close = _find_close_key(key, keys, siblings)
    guess = f": did you mean '{close}'?" if close else "."
    available = format_names((candidate.rpartition(".")[2] for candidate in siblings), name)
    return f"no setting '{key}'{guess} There are: {available}"


def _describe_mapping(key: str, keys: list[str]) -> str:
    """What a mapping holds, and how to add to it."""
    inner_keys = [name.removeprefix(f"{key}.") for name in keys if name.startswith(f"{key}.")]
    names = ", ".join(name for name in inner_keys if "." not in name)
    if inner_keys and not names:  # names with dots, such as those of layers
        return f"'{key}' has {format_names(inner_keys)}: to add to them, '++{key}={{NAME: …}}'"
    add = f"to add one, {OPEN_MAPPINGS.get(key, f'+{key}.{{}}=…').format('NAME')}"
    if names:
        return f"'{key}' has {names}: to set one, {key}.NAME=…; {add}"
    return f"'{key}' is empty: {add}"


def _find_close_key(key: str, keys: list[str], siblings: list[str]) -> str:
    """The key that was most likely meant; "" where none is near."""
    name = key.rpartition(".")[2]
    near = [
        candidate
        for candidate in siblings
        if difflib.get_close_matches(name, [candidate.rpartition(".")[2]])
    ]
    # Elsewhere in the config only a very similar key is meant.
    close = difflib.get_close_matches(key, near or keys, 1, 0.6 if near else 0.8)
    # Or the right name without its group: lr for optimizer.lr.
    close = close or [candidate for candidate in keys if candidate.endswith(f".{name}")]
    return close[0] if close else ""


def list_dotted_keys(config: dict[str, Any], prefix: str = "") -> list[str]:
    """Every key of a config in dotted form."""
    keys = []
    for key, value in config.items():
        if key == "_target_":
            continue
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += list_dotted_keys(value, f"{prefix}{key}.")
    return keys
