"""`dlrun workflow`: the seven steps of the book's universal workflow; `dlrun final RUN`: its test rows, opened once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dlrun.cli.run_argument import change, only, opened
from dlrun.config.compose import configure
from dlrun.config.overrides import user_folders
from dlrun.config.validation import check
from dlrun.core.errors import Refused
from dlrun.launch.run_config import go, named_plugins, start

FINAL = ("reason", "plugins", "engine.device", "engine.devices")


def workflow(words: list[str], allow: Callable[[dict[str, Any]], None] = lambda config: None) -> int:
    """Run steps 1 to 7 in a new folder; words as for a single run, and workflow=NAME or workflow.KEY=VALUE.

    allow: refuses a config with which nothing is to begin.
    """
    folders, rest = user_folders(words)
    if "-m" in rest or "--multirun" in rest:
        raise Refused("dlrun workflow has a search of its own (workflow.search, workflow.space) and takes no -m")
    asked = [word for word in rest if word not in ("--cfg", "--cfg=job", "job")]
    plugins = named_plugins(asked)
    config = workflow_config(asked, folders, plugins)
    if asked != rest:
        print(yaml.safe_dump(config, sort_keys=False), end="")
        return 0
    if config["test"]:
        raise Refused("a workflow does not open its test rows (test=true): once it has ended, dlrun final RUN does")
    allow(config)
    from dlrun.core.run_folder import create

    folder = create(Path(config["output"]), config["task"]["name"], "workflow")
    return start(config, ["workflow", *rest], folder, plugins)


def workflow_config(words: list[str], folders: list[Path], plugins: tuple[str, ...]) -> dict[str, Any]:
    """The config of these words with the workflow's own part; the protocol stays as it is where the words name it."""
    chosen = next((word for word in words if word.startswith("workflow=")), "workflow=default")
    rest = [word for word in words if not word.startswith("workflow=")]
    if any(word.startswith(("protocol=", "protocol.")) for word in rest):
        rest.append("workflow.protocol=task")
    return configure([f"+{chosen}", *rest], folders, plugins)


def final(words: list[str]) -> int:
    """Train the winner of a workflow on all development rows, open the test rows, and enter that in the ledger."""
    folder, config, rest = opened(words, "final")
    if "workflow" not in config:
        raise Refused(f"{folder} is no workflow; for a single run: dlrun evaluate {words[0]} test=true")
    plugins = named_plugins(rest)
    only(rest, FINAL, "dlrun final tests what the workflow has found, as it was found")
    config["reason"] = ""  # a reason is given for each opening anew
    change(config, [word for word in rest if not word.startswith("plugins=")])
    check(config, plugins)
    return go({**config, "test": True}, folder, plugins)[0]
