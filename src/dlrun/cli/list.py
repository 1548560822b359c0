"""`dlrun ls`: what each config group offers, and what an option's settings accept. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dlrun.config.groups import all_folders, all_groups, first_comment, option_file
from dlrun.core.errors import Refused
from dlrun.core.formatting import wrapped


def listing(words: Sequence[str], folders: Sequence[Path] = ()) -> str:
    """The text of `dlrun ls [group…]`: options with what they are for; without a group, how many each group has; of a
    group and one of its options, the settings of that one.

    folders: the user's conf folders, strongest first. Raises Refused for a group that is not there.
    """
    places = all_folders(folders)
    found = all_groups(places)
    if not words:
        return _counts(found)
    if len(words) == 2 and words[1] in found[group_named(words[0], found)]:
        from dlrun.cli.list_option import settings

        return settings(group_named(words[0], found), words[1], places)
    return "\n\n".join(_options(group_named(word, found), found, places) for word in words)


def group_named(word: str, found: dict[str, list[str]]) -> str:
    """The group that is meant by a singular or plural name."""
    for group in found:
        if word.lower() in (group, f"{group}s", f"{group}es"):
            return group
    import difflib

    near = difflib.get_close_matches(word, found, 1)
    hint = f": did you mean '{near[0]}'?" if near else "."
    raise Refused(f"no group '{word}'{hint} There are: {', '.join(found)}")


def _counts(found: dict[str, list[str]]) -> str:
    lines = [f"{group:<12}{len(choices):>4}   {_some(choices)}" for group, choices in found.items()]
    return "\n".join([*lines, "", "What they are for: dlrun ls tasks, dlrun ls models, …"])


def _some(choices: list[str]) -> str:
    text = ", ".join(choices)
    return text if len(text) <= 58 else text[:58].rpartition(",")[0] + ", …"


def _options(group: str, found: dict[str, list[str]], places: list[Path]) -> str:
    width = max(map(len, found[group])) + 2
    lines = []
    for option in found[group]:
        file = option_file(places, group, option)
        text = f"{section(file) if group == 'experiment' else ''}{first_comment(file)}" if file else ""
        head = f"  {option:<{width}}"
        lines += wrapped(head, text) if text else [head.rstrip()]
    return "\n".join([f"{group}=", *lines])


def section(file: Path) -> str:
    """'§3.5  ', the book's section that an experiment is of; '' where its file names none."""
    found = re.search(r"section: *['\"]?([\w. ]+)", file.read_text(encoding="utf-8"))
    return f"§{found[1]}  " if found else ""
