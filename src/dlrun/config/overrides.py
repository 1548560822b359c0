"""The words of a command line, checked before anything heavy is imported."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dlrun.config.groups import get_conf_folders, list_all_groups
from dlrun.config.literal_overrides import describe_quoting, quote_override
from dlrun.core.errors import UserError, format_names
from dlrun.core.renamed_parts import has_old_names


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
    from dlrun.config.root_validation import PART_LISTS, SINGLE_PARTS

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
