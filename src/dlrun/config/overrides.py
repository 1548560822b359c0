"""The words of a command line, as typed, checked before anything heavy is imported."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dlrun.config.annotations import describe_type_mismatch
from dlrun.config.parts import get_conf_folders, list_all_groups, resolve_target
from dlrun.config.signatures import Argument, get_configurable_arguments
from dlrun.config.validation import NUM_CONTEXT_ARGUMENTS, get_part_kind
from dlrun.core.errors import UserError, format_names
from dlrun.core.renamed_parts import has_old_names

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


def parse_overrides(words: Sequence[str]) -> list[Any]:
    """Parse overrides with Hydra's grammar.

    Raises:
        UserError: The grammar does not take one.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, overrides = OverridesParser.create(), []
    for word in words:
        try:
            overrides.append(parser.parse_override(quote_override(word)))
        except HydraException as error:
            raise UserError(f"cannot read '{word}': {describe_quoting(word)}") from error
    return overrides


MAX_SHOWN_LENGTH = 200  # letters of a key: file systems allow 255, and Hydra looks for its file
FOREIGN_COMMANDS = {  # what commands are called in other programs
    **dict.fromkeys(("fit", "run"), "task=NAME model=NAME"),
    **dict.fromkeys(("eval", "test", "score"), "evaluate RUN"),
    **dict.fromkeys(("infer", "inference"), "predict RUN FILE"),
    **dict.fromkeys(("list", "options"), "ls"),
    **dict.fromkeys(("plot", "html"), "report RUN"),
    **dict.fromkeys(("diff", "runs"), "compare RUN RUN"),
    **dict.fromkeys(("continue", "restart"), "resume RUN"),
    **dict.fromkeys(("tune", "search", "automl"), "workflow"),
    **dict.fromkeys(("summary", "layers"), "explain"),
    **dict.fromkeys(("sweep", "multirun"), "-m KEY=VALUE,VALUE"),
}


def split_config_folders(words: list[str], quiet: bool = False) -> tuple[list[Path], list[str]]:
    """Split the user's conf folders from the other words, which are put into today's words.

    They are those of --config-dir (any number), then of DLRUN_CONFIG_PATH, then ./conf unless that
    is the whole config tree of another project.

    Args:
        words: As typed.
        quiet: Give no advice about words of earlier versions.

    Returns:
        Absolute folders, strongest first, and the words without `--config-dir`.

    Raises:
        UserError: A folder does not exist.
    """
    folders, remaining_words = _take_folder_flags(words)
    folders += [
        Path(name) for name in os.environ.get("DLRUN_CONFIG_PATH", "").split(os.pathsep) if name
    ]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no config folder {folder.absolute()}")
    local = Path("conf")
    # A config.yaml is the root of a Hydra program of the user's own.
    if local.is_dir() and not (local / "config.yaml").exists():
        folders.append(local)
    folders = [folder.absolute() for folder in folders]
    if has_old_names(" ".join(remaining_words)):
        from dlrun.config.old_words import to_current_overrides

        remaining_words = to_current_overrides(remaining_words, folders, quiet)
    return folders, remaining_words


def list_folder_flags(words: Sequence[str]) -> list[str]:
    """The words that name the user's conf folders: --config-dir, and what belongs to it."""
    return [
        word
        for word, before in zip(words, ["", *words], strict=False)
        if word.startswith("--config-dir") or before == "--config-dir"
    ]


def _take_folder_flags(words: list[str]) -> tuple[list[Path], list[str]]:
    """The folders of --config-dir, and the other words."""
    folders: list[Path] = []
    remaining_words: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--config-dir":
            if not queue:
                raise UserError("--config-dir needs a folder after it")
            folders.append(Path(queue.pop(0)))
        elif word.startswith("--config-dir="):
            folders.append(Path(word.partition("=")[2]))
        else:
            remaining_words.append(word)
    return folders, remaining_words


def find_override_errors(words: list[str], folders: list[Path]) -> dict[str, str]:
    """Faults of words that are no overrides, or name options that do not exist.

    Imports nothing heavy.

    Returns:
        Word → what is wrong with it.
    """
    options = list_all_groups(get_conf_folders(folders))
    return {word: fault for word in words if (fault := _get_override_error(word, options))}


def select_checkable_overrides(words: list[str], wrong: Iterable[str]) -> list[str]:
    """The words that can be checked further: not those about an unknown part."""
    groups = {word.partition("=")[0].lstrip("+") for word in wrong if "=" in word}
    # These decide which parts there are, so nothing else can be judged.
    if groups & {"task", "experiment", "preset"}:
        return []
    return [
        word
        for word in words
        if word not in wrong and word.partition(".")[0].lstrip("+~") not in groups
    ]


def _get_override_error(word: str, options: dict[str, list[str]]) -> str | None:
    key, equals, value = word.partition("=")
    if word.startswith("-"):
        return f"no flag {word}: see dlrun --help"
    if (equals or word.startswith("~")) and len(key) > MAX_SHOWN_LENGTH:
        return f"no setting '{key}': none has so long a name"
    if not equals:
        if key.startswith("~"):
            return _get_removal_error(key[1:].partition("@")[0], options)
        return (
            f"'{word}' is neither a command nor a setting (key=value, such as task=imdb)"
            f"{_suggest_names(word, options)}"
        )
    if key.partition(".")[0] in ("sweep", "space"):
        return f"{word}: it is about a sweep: add -m"
    if key.lstrip("+~").startswith(("hydra.", "hydra/")):
        return (
            f"{word}: one run takes no settings of Hydra's own; "
            "output=FOLDER says where runs are kept"
        )
    return _get_choice_error(word, options)


def _get_choice_error(word: str, options: dict[str, list[str]]) -> str | None:
    """What is wrong with an override that chooses options of a group; None for any other."""
    key, _, value = word.partition("=")
    group = key.lstrip("+").partition("@")[0]  # encoder@model.encoders.text=lstm
    if group not in options or (value == "null" and group in ("experiment", "preset")):
        return None
    names = value.strip("[] ").split(",")
    # A group is chosen by name alone; {…} would be a part written on the command line.
    if value in ("null", "") or "{" in value:
        article = "an" if group[0] in "aeio" else "a"
        return (
            f"{word}: choose {article} {group} by name. There are: {format_names(options[group])}"
        )
    if len(names) > 1 and "[" not in value:
        return f"{word}: several values make a sweep: add -m"
    unknown = [
        name.strip() for name in names if name.strip() not in options[group] and "[" not in name
    ]
    return "\n".join(missing_option_message(group, name, options) for name in unknown) or None


def _get_removal_error(group: str, options: dict[str, list[str]]) -> str | None:
    """What is wrong with ~engine: every run has such a part, and another one is chosen by name."""
    from dlrun.config.settings import PART_LISTS, SINGLE_PARTS

    if group not in options or group not in (*SINGLE_PARTS, *PART_LISTS, "task"):
        return None
    option = next((name for name in ("none", "auto") if name in options[group]), "NAME")
    return (
        f"~{group}: every run has a {group}: choose it by name, {group}={option}. "
        f"There are: {format_names(options[group])}"
    )


def missing_option_message(group: str, name: str, options: dict[str, list[str]]) -> str:
    """The message for an option that a group does not have.

    Args:
        group: The group.
        name: The unknown option.
        options: Group → its options.
    """
    close = difflib.get_close_matches(name, options[group], 1)
    guess = f": did you mean '{close[0]}'?" if close else "."
    return f"no {group} '{name}'{guess} There are: {format_names(options[group], name)}"


def _suggest_names(word: str, options: dict[str, list[str]]) -> str:
    owners = sorted(
        (group for group, names in options.items() if word in names),
        key=lambda group: group != "task",
    )
    # 'dlrun imdb' most likely means task=imdb.
    guess = f"{owners[0]}={word}" if owners else suggest_command(word)
    return f"; did you mean {guess}?" if guess else "; the commands: dlrun --help"


def suggest_command(word: str) -> str:
    """The command that a word means in other programs, or is a misspelling of.

    Returns:
        "" where there is none. A misspelling begins with the right letter and has most others:
        'export' is not 'report'.
    """
    # Users come from other tools, whose words for this are known.
    if word in FOREIGN_COMMANDS:
        return f"dlrun {FOREIGN_COMMANDS[word]}"
    from dlrun.config.command_names import COMMANDS

    close = difflib.get_close_matches(
        word, [name for name in COMMANDS if name[0] == word[:1]], 1, 0.75
    )
    return f"dlrun {close[0]}" if close else ""
