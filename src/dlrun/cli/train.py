"""`dlrun task=… model=…`: one run from words to report."""

from __future__ import annotations

import sys
from pathlib import Path

from dlrun.config.compose import configure
from dlrun.config.overrides import user_folders
from dlrun.core.errors import Refused
from dlrun.launch.run_config import make_folder, named_plugins, start


def train(words: list[str]) -> int:
    """Train what the words say; with -m, everything that they say. Answers with the exit code."""
    folders, rest = user_folders(words)
    if "--cfg" in rest or "--cfg=job" in rest:
        return show(rest, folders)
    if "-m" in rest or "--multirun" in rest:
        from dlrun.cli.sweep import sweep
        from dlrun.launch import rank_state

        if rank_state.standing.joined:
            raise Refused("a sweep starts its processes itself: say dlrun -m … engine.devices=2, not torchrun")
        named = [word for word in words if word not in rest]  # --config-dir
        return sweep([word for word in rest if word not in ("-m", "--multirun")], folders, named)
    plugins = named_plugins(rest)
    config = configure(rest, folders, plugins)
    return start(config, rest, make_folder(config), plugins)


def show(words: list[str], folders: list[Path]) -> int:
    """Print the config that the words ask for, and stop; on the other channel what changes nothing in it."""
    import yaml

    from dlrun.config.unused_settings import notes

    kept = [word for word in words if word not in ("--cfg", "--cfg=job", "job", "-m", "--multirun")]
    config = configure(kept, folders, named_plugins(kept))
    print(yaml.safe_dump(config, sort_keys=False), end="")
    for text in notes(config, kept, folders):
        print(f"dlrun: {text}", file=sys.stderr)
    return 0
