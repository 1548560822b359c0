"""`dlrun ls`: what each config group offers, and what an option's settings accept. Imports nothing heavy."""

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


def format_listing(words: Sequence[str], folders: Sequence[Path] = ()) -> str:
    """The text of `dlrun ls [group…]`: options with what they are for; without a group, how many each group has; of a
    group and one of its options, the settings of that one.

    folders: the user's conf folders, strongest first. Raises UserError for a group that is not there.
    """
    places = get_conf_folders(folders)
    found = list_all_groups(places)
    if not words:
        return _format_counts(found)
    if len(words) == 2 and words[1] in found[find_group(words[0], found)]:
        from dlrun.cli.list_option import format_option_settings

        return format_option_settings(find_group(words[0], found), words[1], places)
    return "\n\n".join(_format_options(find_group(word, found), found, places) for word in words)


def find_group(word: str, found: dict[str, list[str]]) -> str:
    """The group that is meant by a singular or plural name."""
    for group in found:
        if word.lower() in (group, f"{group}s", f"{group}es"):
            return group
    import difflib

    near = difflib.get_close_matches(word, found, 1)
    hint = f": did you mean '{near[0]}'?" if near else "."
    raise UserError(f"no group '{word}'{hint} There are: {', '.join(found)}")


def _format_counts(found: dict[str, list[str]]) -> str:
    lines = [
        f"{group:<12}{len(choices):>4}   {_format_choices(choices)}"
        for group, choices in found.items()
    ]
    return "\n".join([*lines, "", "What they are for: dlrun ls tasks, dlrun ls models, …"])


def _format_choices(choices: list[str]) -> str:
    text = ", ".join(choices)
    return text if len(text) <= 58 else text[:58].rpartition(",")[0] + ", …"


def _format_options(group: str, found: dict[str, list[str]], places: list[Path]) -> str:
    width = max(map(len, found[group])) + 2
    lines = []
    for option in found[group]:
        file = find_option_file(places, group, option)
        text = (
            f"{get_section(file) if group == 'experiment' else ''}{read_first_comment(file)}"
            if file
            else ""
        )
        head = f"  {option:<{width}}"
        lines += wrap_text(head, text) if text else [head.rstrip()]
    return "\n".join([f"{group}=", *lines])


def get_section(file: Path) -> str:
    """'§3.5  ', the book's section that an experiment is of; '' where its file names none."""
    found = re.search(r"section: *['\"]?([\w. ]+)", file.read_text(encoding="utf-8"))
    return f"§{found[1]}  " if found else ""
