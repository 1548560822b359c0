"""`dlrun task=… model=…`: one run from words to report."""

from __future__ import annotations

import sys
from pathlib import Path

from dlrun.config.compose import configure
from dlrun.config.overrides import split_config_folders
from dlrun.core.errors import UserError
from dlrun.launch.run_config import load_plugin_packages, make_run_folder, start_run


def train_command(words: list[str]) -> int:
    """Train what the words say; with -m, everything that they say. Answers with the exit code."""
    folders, rest = split_config_folders(words)
    if "--cfg" in rest or "--cfg=job" in rest:
        return print_config(rest, folders)
    if "-m" in rest or "--multirun" in rest:
        from dlrun.cli.sweep import sweep_command
        from dlrun.launch import rank_state

        if rank_state.distributed_state.joined:
            raise UserError(
                "a sweep starts its processes itself: say dlrun -m … engine.devices=2, not torchrun"
            )
        named = [word for word in words if word not in rest]  # --config-dir
        return sweep_command(
            [word for word in rest if word not in ("-m", "--multirun")], folders, named
        )
    plugins = load_plugin_packages(rest)
    config = configure(rest, folders, plugins)
    return start_run(config, rest, make_run_folder(config), plugins)


def print_config(words: list[str], folders: list[Path]) -> int:
    """Print the config that the words ask for, and stop; on the other channel what changes nothing in it."""
    import yaml

    from dlrun.config.unused_settings import find_unused_settings

    kept = [word for word in words if word not in ("--cfg", "--cfg=job", "job", "-m", "--multirun")]
    config = configure(kept, folders, load_plugin_packages(kept))
    print(yaml.safe_dump(config, sort_keys=False), end="")
    for text in find_unused_settings(config, kept, folders):
        print(f"dlrun: {text}", file=sys.stderr)
    return 0
