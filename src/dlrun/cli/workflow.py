"""`dlrun workflow`: the steps of the book's workflow; `dlrun final RUN`: its test-set
evaluation.
"""

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
    """Run steps 1 to 7 in a new folder.

    Args:
        words: Overrides as for a single run, workflow=NAME and workflow.KEY=VALUE.
        allow: Raises UserError for a config with which nothing may begin.

    Returns:
        The exit code.
    """
    folders, overrides = split_config_folders(words)
    if "-m" in overrides or "--multirun" in overrides:
        raise UserError(
            "dlrun workflow has a search of its own (workflow.search, workflow.space) and takes "
            "no -m"
        )
    # --cfg prints the config that these would run.
    kept = [word for word in overrides if word not in ("--cfg", "--cfg=job", "job")]
    plugins = load_plugin_packages(kept)
    config = build_workflow_config(kept, folders, plugins)
    if kept != overrides:
        print(yaml.safe_dump(config, sort_keys=False), end="")
        return 0
    if config["test"]:
        raise UserError(
            "a workflow does not open its test rows (test=true): once it has ended, dlrun final "
            "RUN does"
        )
    allow(config)
    # After all checks: a refused workflow leaves no folder behind.
    from dlrun.core.files import create_run_folder

    folder = create_run_folder(Path(config["output"]), config["task"]["name"], "workflow")
    return start_run(config, ["workflow", *overrides], folder, plugins)


def build_workflow_config(
    words: list[str], folders: list[Path], plugins: tuple[str, ...]
) -> dict[str, Any]:
    """Compose the config with the workflow's own part; a protocol named on the command line
    stays.
    """
    workflow_word = next(
        (word for word in words if word.startswith("workflow=")), "workflow=default"
    )
    overrides = [word for word in words if not word.startswith("workflow=")]
    # What the user names is not chosen from the data.
    if any(word.startswith(("protocol=", "protocol.")) for word in overrides):
        overrides.append("workflow.protocol=task")
    # With +, since conf/config.yaml chooses no option of this group.
    return configure([f"+{workflow_word}", *overrides], folders, plugins)


def final_command(words: list[str]) -> int:
    """Train the winner of a workflow on training and validation rows, and evaluate its test rows.

    Args:
        words: The run folder, and a reason.

    Returns:
        The exit code.

    Raises:
        UserError: Where the run is not a finished workflow.
    """
    folder, config, overrides = parse_run_argument(words, "final")
    if "workflow" not in config:
        raise UserError(
            f"{folder} is no workflow; for a single run: dlrun evaluate {words[0]} test=true"
        )
    plugins = load_plugin_packages(overrides)
    check_allowed_keys(
        overrides,
        FINAL_COMMAND_KEYS,
        "dlrun final tests what the workflow has found, as it was found",
    )
    # A reason is given for each evaluation anew.
    config["reason"] = ""
    set_config_keys(config, [word for word in overrides if not word.startswith("plugins=")])
    validate_config(config, plugins)
    return execute_run({**config, "test": True}, folder, plugins)[0]
