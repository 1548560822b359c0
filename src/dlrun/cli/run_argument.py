"""The run that a command is given: opened, changed by words, narrowed to one fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrun.config.compose import keys, unknown_key, value_of
from dlrun.config.literal_overrides import as_text
from dlrun.config.parts import faults
from dlrun.config.settings import LATER
from dlrun.core import stored_files
from dlrun.core.errors import Refused
from dlrun.core.files import contained
from dlrun.launch.run_config import named_plugins


def opened(words: list[str], command: str) -> tuple[Path, dict[str, Any], list[str]]:
    """The run folder that the first word names, its config, and the other words. Raises Refused where there is none."""
    if not words or "=" in words[0]:
        raise Refused(f"dlrun {command} needs a run folder: dlrun {command} outputs/…")
    folder = Path(words[0]).absolute()
    if (folder / "sweep.jsonl").is_file():
        raise Refused(f"{folder} is a sweep: the same dlrun -m … goes on with it; its jobs are run folders, such as "
                      f"{words[0]}/000")  # fmt: skip
    config = stored_files.config(folder)
    contained(folder)
    if "engine" not in config:
        raise Refused(f"{folder / 'config.yaml'} is not the config of a run")
    if strange := list(faults(config, named_plugins(words[1:]))):
        raise Refused("\n".join(strange))
    config["engine"] = {**LATER, **config["engine"]}
    return folder, config, words[1:]


def change(config: dict[str, Any], words: list[str]) -> None:
    """Set single keys of a saved config. Raises Refused for a key that is not there."""
    for word in words:
        key, equals, _ = word.partition("=")
        node, parts = config, key.split(".")
        for part in parts[:-1]:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        if not equals or not isinstance(node, dict) or parts[-1] not in node:
            raise Refused(unknown_key(key, keys(config)))
        if isinstance(node[parts[-1]], dict):
            raise Refused(f"{word}: a part cannot be exchanged in a run that is there; use dlrun rerun")
        node[parts[-1]] = value_of(word)
    as_text(config, words)


def only(words: list[str], keys: tuple[str, ...], why: str) -> None:
    """Refuse settings other than these."""
    for word in words:
        if word.partition("=")[0] not in keys:
            raise Refused(f"{word}: {why}. What can be set: {', '.join(keys)}")
