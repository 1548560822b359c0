"""The run that a command is given: its folder is checked, its config loaded and changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrun.config.compose import parse_override_value
from dlrun.config.override_errors import list_dotted_keys, unknown_key_message
from dlrun.config.overrides import restore_literal_text
from dlrun.config.parts import find_part_errors
from dlrun.config.settings import DEFAULTS_OF_OLD_RUNS
from dlrun.core.errors import UserError
from dlrun.core.files import check_links_inside
from dlrun.core.renamed_parts import has_old_names
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.launch.run_config import load_plugin_packages

OVERRIDE_COMMANDS = ("resume", "rerun", "evaluate", "final")  # KEY=VALUE is a setting of the run


def parse_run_argument(words: list[str], command: str) -> tuple[Path, dict[str, Any], list[str]]:
    """Load the run that the first word names.

    Args:
        words: The words after the command.
        command: The name of the command, for messages.

    Returns:
        The run folder, its config, and the other words.

    Raises:
        UserError: Where there is no run, or its config names parts that may not be instantiated.
    """
    # A word with = is an override: the folder was forgotten.
    if not words or "=" in words[0]:
        raise UserError(f"dlrun {command} needs a run folder: dlrun {command} outputs/…")
    folder = Path(words[0]).absolute()
    if (folder / "sweep.jsonl").is_file():
        raise UserError(
            f"{folder} is a sweep: the same dlrun -m … goes on with it; "
            f"its jobs are run folders, such as {words[0]}/000"
        )
    config = (run := RunFolder(folder)).read_config()
    check_links_inside(folder)
    if "engine" not in config:
        raise UserError(f"{run.path(RunFile.CONFIG)} is not the config of a run")
    # A run folder may come from elsewhere: it must not name code of its own choice.
    if errors := list(find_part_errors(config, load_plugin_packages(words[1:]))):
        raise UserError("\n".join(errors))
    # Runs of earlier versions lack settings that have been added since.
    config["engine"] = {**DEFAULTS_OF_OLD_RUNS, **config["engine"]}
    # Of other commands they name columns, layers and words, which are the user's own.
    if command in OVERRIDE_COMMANDS and has_old_names(" ".join(words)):
        from dlrun.config.old_words import to_current_overrides

        return folder, config, to_current_overrides(words[1:], [])
    return folder, config, words[1:]


def set_config_keys(config: dict[str, Any], words: list[str]) -> None:
    """Set single keys of a stored config.

    Args:
        config: The config, changed in place.
        words: key=value.

    Raises:
        UserError: For an unknown key, or a group.
    """
    for word in words:
        dotted_key, equals, _ = word.partition("=")
        node, path = config, dotted_key.split(".")
        for key in path[:-1]:
            node = node.get(key, {}) if isinstance(node, dict) else {}
        if not equals or not isinstance(node, dict) or path[-1] not in node:
            raise UserError(unknown_key_message(dotted_key, list_dotted_keys(config)))
        # Another part has other settings, which the stored config does not hold.
        if isinstance(node[path[-1]], dict):
            raise UserError(
                f"{word}: a part cannot be exchanged in a run that is there; use dlrun rerun"
            )
        node[path[-1]] = parse_override_value(word)
    # Parsing a value as YAML would turn a text such as "1e3" into a number.
    restore_literal_text(config, words)


def check_allowed_keys(words: list[str], keys: tuple[str, ...], reason: str) -> None:
    """Refuse settings other than these.

    Args:
        words: key=value.
        keys: The keys that may be set.
        reason: Why others may not, for the message.

    Raises:
        UserError: For the first other key.
    """
    for word in words:
        if word.partition("=")[0] not in keys:
            raise UserError(f"{word}: {reason}. What can be set: {', '.join(keys)}")
