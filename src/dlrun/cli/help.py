"""The text of `dlrun --help`: one screen, made from the file names of the config folders."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from dlrun.config.command_names import COMMANDS
from dlrun.config.groups import get_conf_folders, list_all_groups

COLUMNS, LINES = 80, 24
ARGUMENTS = {
    "workflow": "[key=value]…",
    "final": "RUN",
    "explain": "[key=value]…",
    "show": "[key=value]…",
    "lr": "[key=value]…",
    "resume": "RUN",
    "rerun": "RUN",
    "evaluate": "RUN",
    "predict": "RUN FILE… [to=…]",
    "generate": "RUN [kind=…]",
    "neighbors": "RUN WORD…",
    "compare": "RUN…",
    "report": "RUN…",
    "visualize": "RUN [kind=…]",
    "ledger": "[TASK]",
    "ls": "[GROUP [OPTION]]",
    "completion": "SHELL",
}
KEYS = ("engine.epochs=5", "optimizer=adam", "protocol=kfold", "seed=1", "preset=smoke")


def format_help(folders: Sequence[Path] = ()) -> str:
    """Format the help, in at most 24 lines of 80 columns.

    Args:
        folders: The user's config folders, strongest first.
    """
    groups = list_all_groups(get_conf_folders(folders))
    lines = ["dlrun: run a deep-learning experiment and keep all of it in one folder"]
    lines += ["dlrun [key=value]…              train; a sweep: dlrun -m task=imdb seed=1,2"]
    commands = [f"dlrun {name} {ARGUMENTS[name]}" for name in COMMANDS]
    lines += [f"{call:<32}{text}" for call, text in zip(commands, COMMANDS.values(), strict=True)]
    lines += ["help of one: dlrun COMMAND --help; of training and its flags: dlrun train --help"]
    lines += [
        *_format_names("task=", groups.get("task", []), 2),
        *_format_names("model=", groups.get("model", []), 1),
    ]
    lines += _format_names("keys", list(KEYS), 3, "  ")
    # One screen, whatever the user's own folders add.
    return "\n".join(lines[:LINES])


def _format_names(head: str, names: list[str], max_lines: int, separator: str = " ") -> list[str]:
    """Format names as a paragraph with a hanging indent; says where more are listed."""
    more = f"… (all: dlrun ls {head.strip('=')})"
    text = separator.join(names) or "none"
    wrapper = textwrap.TextWrapper(
        COLUMNS, initial_indent=f"{head:<8}", subsequent_indent=" " * 8, max_lines=max_lines
    )
    # A name that is cut could not be typed.
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    wrapper.placeholder = f" {more}"
    return wrapper.wrap(text)
