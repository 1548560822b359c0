"""Where config files are found, and which options each group has. Needs no torch."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from dlrun.core.errors import UserError, format_names
from dlrun.core.paths import PACKAGE
from dlrun.core.renamed_parts import CURRENT_GROUPS

HIDDEN_GROUPS = ("hydra",)


def get_builtin_conf() -> Path:
    """The built-in conf folder: in the package of a wheel, <repository>/conf in a checkout."""
    candidates = (PACKAGE / "conf", PACKAGE.parents[1] / "conf")
    for folder in candidates:
        if folder.is_dir():
            return folder
    searched = " and ".join(map(str, candidates))
    raise UserError(f"the conf folder is missing; looked for {searched}: reinstall dlrun")


def list_groups(conf: Path) -> dict[str, list[str]]:
    """Group → its options in one conf folder, without Hydra's own group and empty ones."""
    names = sorted(entry.name for entry in os.scandir(conf) if entry.is_dir())
    options = {
        name: list_group_options(conf, name)
        for name in names
        # Not .ipynb_checkpoints, __pycache__ and the like.
        if name not in HIDDEN_GROUPS and name[0] not in "._"
    }
    return {name: choices for name, choices in options.items() if choices}


def list_group_options(conf: Path, group: str) -> list[str]:
    """The options of a group in one conf folder.

    Returns:
        Sorted file names without .yaml; files in a subfolder as 'folder/name'.
    """
    top = conf / group
    options = []
    for folder, _, files in os.walk(top):
        prefix = os.path.relpath(folder, top).replace(os.sep, "/") + "/"
        prefix = "" if prefix == "./" else prefix
        options += [
            prefix + name[:-5] for name in files if name.endswith(".yaml") and name[0] not in "._"
        ]
    return sorted(options)


def get_conf_folders(folders: Iterable[Path] = ()) -> list[Path]:
    """The user's conf folders, strongest first, then the built-in one."""
    return [*folders, get_builtin_conf()]


def list_all_groups(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Group → options over several conf folders."""
    merged: dict[str, set[str]] = {}
    for folder in folders:
        for group, choices in list_groups(folder).items() if folder.is_dir() else ():
            # The user's own folder may be called as the group was in earlier versions.
            merged.setdefault(CURRENT_GROUPS.get(group, group), set()).update(choices)
    return {group: sorted(merged[group]) for group in sorted(merged)}


def list_group_names(group: str) -> list[str]:
    """The folders of a group: today's name, then those of earlier versions."""
    return [group, *(old for old, name in CURRENT_GROUPS.items() if name == group)]


def find_option_file(folders: Iterable[Path], group: str, option: str) -> Path | None:
    """The file of an option: the first folder that has it wins."""
    names = list_group_names(group)
    files = (folder / name / f"{option}.yaml" for folder in folders for name in names)
    return next((file for file in files if file.is_file()), None)


def load_builtin_option(group: str, option: str) -> dict[str, Any]:
    """The values in the file of an option that comes with dlrun, without what it inherits.

    Raises:
        UserError: There is no such option.
    """
    path = get_builtin_conf() / group / f"{option}.yaml"
    if not path.is_file():
        available = format_names(list_group_options(get_builtin_conf(), group), option)
        raise UserError(f"no {group} '{option}'. There are: {available}")
    # A copy, since callers change it and the cache keeps the original.
    return {key: value for key, value in copy.deepcopy(_parsed(path)).items() if key != "defaults"}


@cache
def _parsed(path: Path) -> dict[str, Any]:
    """Cached: a workflow reads the same built-in file hundreds of times."""
    import yaml

    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def read_first_comment(file: Path) -> str:
    """The first comment of a YAML file that is meant for people."""
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            text = line.strip()
            if text.startswith("#") and "@package" not in text and text.strip("# "):
                return text.lstrip("# ")
            if text and not text.startswith("#"):
                break
    return ""


def is_for_root(file: Path) -> bool:
    """Whether the values of an option's file belong to the root of the config."""
    with file.open(encoding="utf-8") as stream:
        return stream.readline().rstrip() == "# @package _global_"
