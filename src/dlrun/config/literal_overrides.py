"""Overrides as typed: text where a key takes text, whatever Hydra's grammar makes of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from dlrun.config.annotations import describe_type_mismatch
from dlrun.config.parts import resolve_target
from dlrun.config.signatures import Argument, get_configurable_arguments
from dlrun.config.validation import NUM_CONTEXT_ARGUMENTS, get_part_kind

OVERRIDE_PATTERN = re.compile(r"(\+{0,2}[A-Za-z_][\w.@/-]*)=(.+)", re.DOTALL)
# Text that the grammar takes without quotes.
PARSEABLE_PATTERN = re.compile(r"[A-Za-z0-9_/\-\\+.$%*@?|: \t]*", re.ASCII)
BRACKETS = set("[](){}'\"")  # of lists, mappings, calls and quotes
QUOTES = " '\""
# How a list, a mapping, a quoted text or a call begins.
EXPRESSION_PATTERN = re.compile(r"""[\[({'"]|\w+\(""")
# The functions of the grammar in a sweep → how they are typed.
SPACE_EXAMPLES = {
    "choice": "choice(1,2)",
    "range": "range(1,10)",
    "interval": "interval(0.001,0.1)",
    "shuffle": "shuffle(1,2)",
    "tag": "tag(log,interval(0.001,0.1))",
    "sort": "sort(1,2)",
    "int": "int(interval(1,10))",
    "float": "float(1)",
    "glob": "glob(*)",
}
ITEM_PATTERN = re.compile(r"[^\[\],]+")  # an item between the brackets and commas of lists


def quote_override(word: str) -> str:
    """Quote the texts in an override's value that Hydra's grammar takes only so.

    Args:
        word: As typed in a shell; ~ is the home folder.
    """
    match = OVERRIDE_PATTERN.fullmatch(word)
    # Interpolations are Hydra's to read.
    if match is None or "${" in match[2]:
        return word
    key, value = match.groups()
    # A plain list: quotes go around its items, which may hold spaces and umlauts.
    if value[0] == "[" and not set(value) & set("(){}'\""):
        return f"{key}={ITEM_PATTERN.sub(lambda text: _quote_text(text[0]), value)}"
    # An expression, or quoted by the user already.
    if set(value) & BRACKETS and (EXPRESSION_PATTERN.match(value) or _is_valid_override(word)):
        return word
    return f"{key}={','.join(map(_quote_text, value.split(',')))}"


def _is_valid_override(word: str) -> bool:
    """Whether the grammar takes an override as it is."""
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
    """How a word that the grammar refuses must be typed in a shell."""
    key, _, value = word.partition("=")
    if value[:1] + value[-1:] == "[]":
        items = ",".join(_add_quotes(text.strip(QUOTES)) for text in value[1:-1].split(","))
        typed = f"{key}=[{items}]"
    else:
        typed = f"{key}={_add_quotes(value.strip(QUOTES))}"
    example = SPACE_EXAMPLES.get(value.partition("(")[0]) if "(" in value else None
    if example is not None:
        return (
            f"in a sweep it is typed as {shlex.quote(f'{key}={example}')}, "
            f"as text in quotes: {shlex.quote(typed)}"
        )
    return f"text with other characters than A-Z, 0-9 and _-./ needs quotes: {shlex.quote(typed)}"


def get_argument(config: dict[str, Any], key: str) -> Argument | None:
    """The argument that a dotted key sets; None where it is unknown."""
    parent, _, name = key.partition("@")[0].lstrip("+").rpartition(".")
    node: Any = config
    for step in parent.split(".") if parent else ():
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        return None
    kind = get_part_kind(parent)
    signature = get_configurable_arguments(
        resolve_target(node["_target_"]), kind, NUM_CONTEXT_ARGUMENTS.get(kind, 0)
    )
    return signature.arguments.get(name) if signature else None


def restore_literal_text(config: dict[str, Any], words: list[str]) -> None:
    """Restore texts of which the grammar made numbers: data.target=2019.

    Args:
        config: Changed in place.
        words: Overrides as typed.
    """
    for word in words:
        if match := OVERRIDE_PATTERN.fullmatch(word):
            key, text = match[1].lstrip("+"), match[2]
            parent, _, name = key.rpartition(".")
            argument = get_argument(config, key)
            # Only where the signature asks for text is a number taken back.
            if argument is not None:
                _set_value(_get_node(config, parent), name, text, argument)


def _set_value(node: dict[str, Any], name: str, typed: str, argument: Argument) -> None:
    """Replace a value that does not fit its argument by the typed text, if that fits."""
    value = node.get(name)
    if describe_type_mismatch(value, argument) is None:
        return
    text: Any = typed
    if isinstance(value, list):
        text = [
            item if isinstance(item, str) else typed_item.strip()
            for item, typed_item in zip(value, typed.strip("[]").split(","), strict=False)
        ]
    is_restorable = isinstance(value, list) or not isinstance(value, str | dict | None)
    if is_restorable and describe_type_mismatch(text, argument) is None:
        node[name] = text


def _get_node(config: dict[str, Any], key: str) -> dict[str, Any]:
    node: Any = config
    for step in key.split("."):
        node = node[step]
    return node  # type: ignore[no-any-return]
