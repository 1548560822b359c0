"""`dlrun ls`: the options of each config group, and what their settings accept; imports no
torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dlrun.config.groups import (
    find_option_file,
    get_conf_folders,
    list_all_groups,
    read_first_comment,
)
from dlrun.core.errors import UserError
from dlrun.core.formatting import wrap_text
from dlrun.core.renamed_parts import CURRENT_GROUPS


def format_listing(words: Sequence[str], folders: Sequence[Path] = ()) -> str:
    """Format the text of `dlrun ls [GROUP… | GROUP OPTION]`.

    Args:
        words: Nothing for all groups with their numbers of options; groups for their options; a
            group and one of its options for the settings of that one.
        folders: The user's config folders, strongest first.

    Raises:
        UserError: For an unknown group.
    """
    conf_folders = get_conf_folders(folders)
    groups = list_all_groups(conf_folders)
    if not words:
        return _format_counts(groups)
    if len(words) == 2 and words[1] in groups[find_group(words[0], groups)]:
        from dlrun.cli.list_option import format_option_settings

        return format_option_settings(find_group(words[0], groups), words[1], conf_folders)
    return "\n\n".join(
        _format_options(find_group(word, groups), groups, conf_folders) for word in words
    )


def find_group(word: str, groups: dict[str, list[str]]) -> str:
    """Return the group of a singular or plural name.

    Args:
        word: The name, as typed.
        groups: Group → its options.

    Raises:
        UserError: For an unknown group.
    """
    for name, group in [*zip(groups, groups, strict=True), *CURRENT_GROUPS.items()]:
        if word.lower() in (name, f"{name}s", f"{name}es"):
            return group
    # Only a typing error pays for this import.
    import difflib

    matches = difflib.get_close_matches(word, groups, 1)
    hint = f": did you mean '{matches[0]}'?" if matches else "."
    raise UserError(f"no group '{word}'{hint} There are: {', '.join(groups)}")


def _format_counts(groups: dict[str, list[str]]) -> str:
    lines = [
        f"{group:<12}{len(choices):>4}   {_format_choices(choices)}"
        for group, choices in groups.items()
    ]
    return "\n".join([*lines, "", "What they are for: dlrun ls tasks, dlrun ls models, …"])


def _format_choices(choices: list[str]) -> str:
    # 58 of 80 columns are left beside the name, the count and the ellipsis.
    text = ", ".join(choices)
    return text if len(text) <= 58 else text[:58].rpartition(",")[0] + ", …"


def _format_options(group: str, groups: dict[str, list[str]], conf_folders: list[Path]) -> str:
    width = max(map(len, groups[group])) + 2
    lines = []
    for option in groups[group]:
        file = find_option_file(conf_folders, group, option)
        text = read_first_comment(file) if file else ""
        if file and group == "experiment":
            text = get_section(file) + text
        head = f"  {option:<{width}}"
        lines += wrap_text(head, text) if text else [head.rstrip()]
    return "\n".join([f"{group}=", *lines])


def get_section(file: Path) -> str:
    """Return '§3.5  ', the section of the book that an experiment reproduces; "" for none."""
    match = re.search(r"section: *['\"]?([\w. ]+)", file.read_text(encoding="utf-8"))
    return f"§{match[1]}  " if match else ""
