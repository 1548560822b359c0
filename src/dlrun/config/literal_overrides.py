"""Words as they were typed: text where a key takes text, whatever Hydra's grammar would make of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from dlrun.config.parts import resolve_target
from dlrun.config.signatures import Argument, describe_type_mismatch, get_configurable_arguments
from dlrun.config.validation import NUM_CONTEXT_ARGUMENTS, get_part_kind

OVERRIDE_PATTERN = re.compile(r"(\+{0,2}[A-Za-z_][\w.@/-]*)=(.+)", re.DOTALL)
PARSEABLE_PATTERN = re.compile(
    r"[A-Za-z0-9_/\-\\+.$%*@?|: \t]*", re.ASCII
)  # what the grammar takes without quotes
BRACKETS = set("[](){}'\"")  # of lists, mappings, calls and quotes
QUOTES = " '\""
EXPRESSION_PATTERN = re.compile(
    r"""[\[({'"]|\w+\("""
)  # how a list, a mapping, a quoted text or a call begins
SPACE_EXAMPLES = {  # what the grammar calls by these names in a sweep, as they are typed
    "choice": "choice(1,2)", "range": "range(1,10)", "interval": "interval(0.001,0.1)", "shuffle": "shuffle(1,2)",
    "tag": "tag(log,interval(0.001,0.1))", "sort": "sort(1,2)", "int": "int(interval(1,10))", "float": "float(1)",
    "glob": "glob(*)",
}  # fmt: skip
ITEM_PATTERN = re.compile(r"[^\[\],]+")  # what stands between the brackets and commas of lists


def quote_override(word: str) -> str:
    """The word with quotes around the texts in its value that the grammar takes only so, and ~ as the home folder."""
    match = OVERRIDE_PATTERN.fullmatch(word)
    if match is None or "${" in match[2]:
        return word
    key, value = match.groups()
    if value[0] == "[" and not set(value) & set("(){}'\""):
        return f"{key}={ITEM_PATTERN.sub(lambda text: _quote_text(text[0]), value)}"
    if set(value) & BRACKETS and (EXPRESSION_PATTERN.match(value) or _is_valid_override(word)):
        return word
    return f"{key}={','.join(map(_quote_text, value.split(',')))}"


def _is_valid_override(word: str) -> bool:
    """Whether the grammar takes the word as it is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return bool(OverridesParser.create().parse_override(word))
    except HydraException:
        return False


def _quote_text(text: str) -> str:
    text = str(Path(text).expanduser()) if text.startswith("~/") else text
    return text if PARSEABLE_PATTERN.fullmatch(text) else _add_quotes(text)


def _add_quotes(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.double).with_quotes()


def describe_quoting(word: str) -> str:
    """How a word must be typed that the grammar does not take, in a shell."""
    key, _, value = word.partition("=")
    if value[:1] + value[-1:] == "[]":
        each = ",".join(_add_quotes(text.strip(QUOTES)) for text in value[1:-1].split(","))
        typed = f"{key}=[{each}]"
    else:
        typed = f"{key}={_add_quotes(value.strip(QUOTES))}"
    example = SPACE_EXAMPLES.get(value.partition("(")[0]) if "(" in value else None
    if example is not None:
        return f"in a sweep it is typed as {shlex.quote(f'{key}={example}')}, as text in quotes: {shlex.quote(typed)}"
    return f"text with other characters than A-Z, 0-9 and _-./ needs quotes: {shlex.quote(typed)}"


def get_argument(config: dict[str, Any], key: str) -> Argument | None:
    """The argument that a dotted key sets; None where that is not known."""
    place, _, name = key.partition("@")[0].lstrip("+").rpartition(".")
    node: Any = config
    for step in place.split(".") if place else ():
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        return None
    kind = get_part_kind(place)
    found = get_configurable_arguments(
        resolve_target(node["_target_"]), kind, NUM_CONTEXT_ARGUMENTS.get(kind, 0)
    )
    return found.arguments.get(name) if found else None


def restore_literal_text(config: dict[str, Any], words: list[str]) -> None:
    """Take values of the config as they were typed, where the grammar made numbers of texts: data.target=2019."""
    for word in words:
        if match := OVERRIDE_PATTERN.fullmatch(word):
            key, said = match[1].lstrip("+"), match[2]
            place, _, name = key.rpartition(".")
            argument = get_argument(config, key)
            if argument is not None:
                _set_value(_get_node(config, place), name, said, argument)


def _set_value(node: dict[str, Any], name: str, said: str, argument: Argument) -> None:
    value = node.get(name)
    if describe_type_mismatch(value, argument) is None:
        return
    text: Any = said
    if isinstance(value, list):
        each = said.strip("[]").split(",")
        text = [
            one if isinstance(one, str) else typed.strip()
            for one, typed in zip(value, each, strict=False)
        ]
    if (
        isinstance(value, list) or not isinstance(value, str | dict | None)
    ) and describe_type_mismatch(text, argument) is None:
        node[name] = text


def _get_node(config: dict[str, Any], place: str) -> dict[str, Any]:
    node: Any = config
    for step in place.split("."):
        node = node[step]
    return node  # type: ignore[no-any-return]
