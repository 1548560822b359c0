"""`dlrun task=… model=…`: one run from words to report."""

from __future__ import annotations

import sys
from pathlib import Path

from dlrun.config.compose import configure
from dlrun.config.overrides import list_folder_flags, split_config_folders
from dlrun.core.errors import UserError
from dlrun.launch.run_config import load_plugin_packages, make_run_folder, start_run


def train_command(words: list[str]) -> int:
    """Train what the overrides say; with -m, every job that they say.

    Args:
        words: The words of the command line.

    Returns:
        The exit code.
    """
    folders, overrides = split_config_folders(words)
    if "--cfg" in overrides or "--cfg=job" in overrides:
        return print_config(overrides, folders)
    if "-m" in overrides or "--multirun" in overrides:
        from dlrun.cli.sweep import sweep_command
        from dlrun.core.process_group import is_rank

        # Under torchrun, every rank would start its own workers.
        if is_rank():
            raise UserError(
                "a sweep starts its processes itself: say dlrun -m … engine.devices=2, not torchrun"
            )
        return sweep_command(
            [word for word in overrides if word not in ("-m", "--multirun")],
            folders,
            list_folder_flags(words),
        )
    # Before the config is composed: a part of a plugin must be importable to be checked.
    plugins = load_plugin_packages(overrides)
    config = configure(overrides, folders, plugins)
    return start_run(config, overrides, make_run_folder(config), plugins)


def print_config(words: list[str], folders: list[Path]) -> int:
    """Print the config and stop; overrides without effect are reported on stderr."""
    import yaml

    from dlrun.config.unused_settings import find_unused_settings

    overrides = [
        word for word in words if word not in ("--cfg", "--cfg=job", "job", "-m", "--multirun")
    ]
    config = configure(overrides, folders, load_plugin_packages(overrides))
    print(yaml.safe_dump(config, sort_keys=False), end="")
    # On stderr: stdout holds the config alone, to be piped into a file.
    for text in find_unused_settings(config, overrides, folders):
        print(f"dlrun: {text}", file=sys.stderr)
    return 0
