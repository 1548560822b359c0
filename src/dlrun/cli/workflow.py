"""`dlrun workflow`: the seven steps of the book's universal workflow; `dlrun final RUN`: its test rows, opened once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dlrun.cli.run_argument import check_allowed_keys, parse_run_argument, set_config_keys
from dlrun.config.compose import configure
from dlrun.config.overrides import split_config_folders
from dlrun.config.validation import validate_config
from dlrun.core.errors import UserError
from dlrun.launch.run_config import execute_run, load_plugin_packages, start_run

FINAL_COMMAND_KEYS = ("reason", "plugins", "engine.device", "engine.devices")


def workflow_command(
    words: list[str], allow: Callable[[dict[str, Any]], None] = lambda config: None
) -> int:
    """Run steps 1 to 7 in a new folder; words as for a single run, and workflow=NAME or workflow.KEY=VALUE.

    allow: refuses a config with which nothing is to begin.
    """
    folders, rest = split_config_folders(words)
    if "-m" in rest or "--multirun" in rest:
        raise UserError(
            "dlrun workflow has a search of its own (workflow.search, workflow.space) and takes no -m"
        )
    asked = [word for word in rest if word not in ("--cfg", "--cfg=job", "job")]
    plugins = load_plugin_packages(asked)
    config = build_workflow_config(asked, folders, plugins)
    if asked != rest:
        print(yaml.safe_dump(config, sort_keys=False), end="")
        return 0
    if config["test"]:
        raise UserError(
            "a workflow does not open its test rows (test=true): once it has ended, dlrun final RUN does"
        )
    allow(config)
    from dlrun.core.run_folder import create_run_folder

    folder = create_run_folder(Path(config["output"]), config["task"]["name"], "workflow")
    return start_run(config, ["workflow", *rest], folder, plugins)


def build_workflow_config(
    words: list[str], folders: list[Path], plugins: tuple[str, ...]
) -> dict[str, Any]:
    """The config of these words with the workflow's own part; the protocol stays as it is where the words name it."""
    chosen = next((word for word in words if word.startswith("workflow=")), "workflow=default")
    rest = [word for word in words if not word.startswith("workflow=")]
    if any(word.startswith(("protocol=", "protocol.")) for word in rest):
        rest.append("workflow.protocol=task")
    return configure([f"+{chosen}", *rest], folders, plugins)


def final_command(words: list[str]) -> int:
    """Train the winner of a workflow on all development rows, open the test rows, and enter that in the ledger."""
    folder, config, rest = parse_run_argument(words, "final")
    if "workflow" not in config:
        raise UserError(
            f"{folder} is no workflow; for a single run: dlrun evaluate {words[0]} test=true"
        )
    plugins = load_plugin_packages(rest)
    check_allowed_keys(
        rest, FINAL_COMMAND_KEYS, "dlrun final tests what the workflow has found, as it was found"
    )
    config["reason"] = ""  # a reason is given for each opening anew
    set_config_keys(config, [word for word in rest if not word.startswith("plugins=")])
    validate_config(config, plugins)
    return execute_run({**config, "test": True}, folder, plugins)[0]
