"""The run that a command is given: opened, changed by words, narrowed to one fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrun.config.compose import parse_override_value
from dlrun.config.literal_overrides import restore_literal_text
from dlrun.config.override_errors import list_dotted_keys, unknown_key_message
from dlrun.config.parts import find_part_errors
from dlrun.config.settings import DEFAULTS_OF_OLD_RUNS
from dlrun.core import stored_files
from dlrun.core.errors import UserError
from dlrun.core.files import check_links_inside
from dlrun.launch.run_config import load_plugin_packages


def parse_run_argument(words: list[str], command: str) -> tuple[Path, dict[str, Any], list[str]]:
    """The run folder that the first word names, its config, and the other words. Raises UserError where there is none."""
    if not words or "=" in words[0]:
        raise UserError(f"dlrun {command} needs a run folder: dlrun {command} outputs/…")
    folder = Path(words[0]).absolute()
    if (folder / "sweep.jsonl").is_file():
        raise UserError(f"{folder} is a sweep: the same dlrun -m … goes on with it; its jobs are run folders, such as "
                      f"{words[0]}/000")  # fmt: skip
    config = stored_files.load_run_config(folder)
    check_links_inside(folder)
    if "engine" not in config:
        raise UserError(f"{folder / 'config.yaml'} is not the config of a run")
    if strange := list(find_part_errors(config, load_plugin_packages(words[1:]))):
        raise UserError("\n".join(strange))
    config["engine"] = {**DEFAULTS_OF_OLD_RUNS, **config["engine"]}
    return folder, config, words[1:]


def set_config_keys(config: dict[str, Any], words: list[str]) -> None:
    """Set single keys of a saved config. Raises UserError for a key that is not there."""
    for word in words:
        key, equals, _ = word.partition("=")
        node, parts = config, key.split(".")
        for part in parts[:-1]:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        if not equals or not isinstance(node, dict) or parts[-1] not in node:
            raise UserError(unknown_key_message(key, list_dotted_keys(config)))
        if isinstance(node[parts[-1]], dict):
            raise UserError(
                f"{word}: a part cannot be exchanged in a run that is there; use dlrun rerun"
            )
        node[parts[-1]] = parse_override_value(word)
    restore_literal_text(config, words)


def check_allowed_keys(words: list[str], keys: tuple[str, ...], why: str) -> None:
    """Refuse settings other than these."""
    for word in words:
        if word.partition("=")[0] not in keys:
            raise UserError(f"{word}: {why}. What can be set: {', '.join(keys)}")
