"""Where configs, official files and caches are found, and what each group offers. Needs no torch."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from dlrun.core.errors import UserError, format_names
from dlrun.core.paths import PACKAGE

HIDDEN_GROUPS = ("hydra",)


def get_builtin_conf() -> Path:
    """The built-in conf folder: beside the package in a wheel, <repository>/conf in a checkout."""
    places = (PACKAGE / "conf", PACKAGE.parents[1] / "conf")
    for place in places:
        if place.is_dir():
            return place
    raise UserError(
        f"the conf folder is missing; looked for {' and '.join(map(str, places))}: reinstall dlrun"
    )


def list_groups(conf: Path) -> dict[str, list[str]]:
    """Group name → its options, for one conf folder; without Hydra's own group and without empty ones."""
    names = sorted(entry.name for entry in os.scandir(conf) if entry.is_dir())
    found = {
        name: list_group_options(conf, name)
        for name in names
        if name not in HIDDEN_GROUPS and name[0] not in "._"
    }
    return {name: choices for name, choices in found.items() if choices}


def list_group_options(conf: Path, group: str) -> list[str]:
    """The options of a group in one conf folder, sorted: file names without .yaml, folders inside as 'folder/name'."""
    top = conf / group
    found = []
    for folder, _, files in os.walk(top):
        prefix = os.path.relpath(folder, top).replace(os.sep, "/") + "/"
        prefix = "" if prefix == "./" else prefix
        found += [
            prefix + name[:-5] for name in files if name.endswith(".yaml") and name[0] not in "._"
        ]
    return sorted(found)


def get_conf_folders(folders: Iterable[Path] = ()) -> list[Path]:
    """The user's conf folders, strongest first, then the built-in one."""
    return [*folders, get_builtin_conf()]


def list_all_groups(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Group name → options over several conf folders."""
    merged: dict[str, set[str]] = {}
    for folder in folders:
        for group, choices in list_groups(folder).items() if folder.is_dir() else ():
            merged.setdefault(group, set()).update(choices)
    return {group: sorted(merged[group]) for group in sorted(merged)}


def find_option_file(folders: Iterable[Path], group: str, option: str) -> Path | None:
    """The file of an option: the first folder that has it wins."""
    files = (folder / group / f"{option}.yaml" for folder in folders)
    return next((file for file in files if file.is_file()), None)


def load_builtin_option(group: str, option: str) -> dict[str, Any]:
    """The values of a part that comes with dlrun: its own file, without what it inherits. Raises UserError."""
    path = get_builtin_conf() / group / f"{option}.yaml"
    if not path.is_file():
        raise UserError(
            f"no {group} '{option}'. There are: {format_names(list_group_options(get_builtin_conf(), group), option)}"
        )
    return {key: value for key, value in copy.deepcopy(_parsed(path)).items() if key != "defaults"}


@cache
def _parsed(path: Path) -> dict[str, Any]:
    """A file that comes with dlrun; a workflow asks for the same few hundreds of times."""
    import yaml

    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def read_first_comment(file: Path) -> str:
    """The first comment line of a YAML file that says something to people."""
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            text = line.strip()
            if text.startswith("#") and "@package" not in text and text.strip("# "):
                return text.lstrip("# ")
            if text and not text.startswith("#"):
                break
    return ""
