"""`dlrun ls`: the options of a config group, and what their settings accept; needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlrun.config.annotations import describe_annotation
from dlrun.config.compose import compose_hydra_config, get_hydra_errors
from dlrun.config.parts import (
    find_option_file,
    get_conf_folders,
    is_for_root,
    list_all_groups,
    read_first_comment,
)
from dlrun.config.signatures import get_configurable_arguments
from dlrun.config.validation import NUM_CONTEXT_ARGUMENTS, get_part_kind
from dlrun.core.errors import UserError
from dlrun.core.formatting import wrap_text
from dlrun.core.renamed_parts import CURRENT_GROUPS

WIDTH = 34  # characters of a value


def format_option_settings(group: str, option: str, conf_folders: list[Path]) -> str:
    """Format the settings of an option, a line each.

    Args:
        group: The group.
        option: One of its options.
        conf_folders: The config folders, strongest first.
    """
    file = find_option_file(conf_folders, group, option)
    assert file is not None
    config, chosen = _compose_option(group, option, conf_folders, file)
    comments = _read_comments(file)
    # Options of other groups go first: the settings below may be theirs.
    rows = [(f"{name}={value}", "", "") for name, value in chosen.items()]
    for key, value, accepts in _iter_rows(config, ""):
        comment = comments.get(key.rpartition(".")[2])
        rows.append((key, value, " ".join(filter(None, (accepts, comment)))))
    key_width = max((len(key) for key, _, _ in rows), default=0) + 2
    value_width = max((len(value) for _, value, _ in rows), default=0) + 2
    lines = []
    for key, value, text in rows:
        head = f"  {key:<{key_width}}{value:<{value_width}}"
        lines += wrap_text(head, text) if text else [head.rstrip()]
    return "\n".join(
        [f"{group}={option}  {read_first_comment(file)}".rstrip(), *(lines or ["  no settings"])]
    )


def _compose_option(
    group: str, option: str, conf_folders: list[Path], file: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an option brings to a config, and the options of other groups that it chooses."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(OmegaConf.load(file)) or {}
    defaults = values.pop("defaults", None) or ()
    chosen = {
        key.removeprefix("override /"): name
        for entry in defaults
        if isinstance(entry, dict)
        for key, name in entry.items()
        if key.startswith("override /")
    }
    # A file for the root sets keys of groups that only a whole config has.
    if is_for_root(file):
        return values, chosen
    # Without defaults the file is all that there is, and Hydra is not asked.
    if not defaults:
        return {group: values}, {}
    try:
        node = compose_hydra_config([], conf_folders[:-1], f"{group}/{option}")
    # Where the option alone makes no config, the plain content of its file is shown.
    except get_hydra_errors():
        return {group: values}, chosen
    composed: Any = OmegaConf.to_container(node)
    return composed, {}


def _iter_rows(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and what is accepted, for each value in a config."""
    target = node.get("_target_")
    signature = None
    if isinstance(target, str):
        num_context = NUM_CONTEXT_ARGUMENTS.get(prefix, 0)
        signature = get_configurable_arguments(target, get_part_kind(prefix), num_context)
    for name, value in node.items():
        if name == "_target_":
            continue
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, dict) and value:
            yield from _iter_rows(value, key)
            continue
        argument = signature.arguments.get(name) if signature else None
        annotation = argument.annotation if argument else None
        accepts = ""
        if argument and annotation:
            accepts = describe_annotation(annotation, argument.module)
        yield key, _format_value(value), accepts


def _format_value(value: Any) -> str:
    """Format a value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f"[{','.join(map(_format_value, value))}]" if isinstance(value, list) else str(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _read_comments(file: Path) -> dict[str, str]:
    """Read the comments beside the settings of a file: key → comment."""
    comments = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        key, _, text = line.partition("#")
        name = key.partition(":")[0].strip()
        if text.strip() and name:
            comments[name] = f"({text.strip()})"
    return comments


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
