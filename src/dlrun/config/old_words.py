"""Words of earlier versions on the command line and in the user's own YAML, with a line of advice.

The table of them stands in core/renamed_parts.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlrun.config.parts import find_option_file, list_group_names
from dlrun.core.renamed_parts import (
    CURRENT_CHOICES,
    CURRENT_KEYS,
    Renamer,
    has_old_names,
    make_renamer,
    to_current_override,
)

_advice_given: set[str] = set()  # of this process: the jobs of a sweep read the same files


def to_current_overrides(
    words: Sequence[str], folders: Sequence[Path], quiet: bool = False, file: Path | None = None
) -> list[str]:
    """Overrides in today's words, with advice on stderr about each that has another one now.

    Args:
        words: As typed.
        folders: The user's conf folders, strongest first.
        quiet: Give no advice.
        file: Where they stand, if not on the command line.
    """
    renamer = make_user_renamer(folders)
    renamed = [to_current_override(word, renamer) for word in words]
    if renamer.replaced and any(word.startswith("plugins=") for word in words):
        # A model of the user's own may have a setting that is called as one of ours was.
        renamer = make_user_renamer(folders, tuple(_list_own_settings(words, folders)))
        renamed = [to_current_override(word, renamer) for word in words]
    return renamed if quiet else _advise(renamer, renamed, file)


def make_user_renamer(folders: Sequence[Path], own: Sequence[str] = ()) -> Renamer:
    """What replaces old names, besides options that the user's folders have under them.

    Args:
        folders: The user's conf folders.
        own: Further names that stay.
    """
    options = {
        choice
        for choice in CURRENT_CHOICES
        if find_option_file(folders, *choice.split("=")) is not None
    }
    return make_renamer({*options, *own})


def _list_own_settings(words: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """Old names that are settings of a part of the user's own, as these words choose it."""
    for group in {name.partition(".")[0] for name in (*CURRENT_KEYS, *CURRENT_CHOICES)}:
        target = _find_target(group, words, folders)
        if target and not target.startswith("dlrun."):
            names = (*CURRENT_KEYS, *CURRENT_CHOICES)
            yield from (name for name in names if name.startswith(f"{group}."))


def _find_target(group: str, words: Sequence[str], folders: Sequence[Path]) -> str:
    """The part that these words choose in a group, where a file of the user's has it; else ""."""
    chosen = dict(word.lstrip("+").partition("=")[::2] for word in words)
    if f"{group}._target_" in chosen:
        return chosen[f"{group}._target_"]
    # What a file chooses whose name is a word: the model of an experiment of the user's own.
    for chooser in ("task", "experiment", "preset") if group not in chosen else ():
        for entry in _read_user_file(chooser, chosen.get(chooser, ""), folders).get("defaults", ()):
            if isinstance(entry, dict) and f"override /{group}" in entry:
                chosen[group] = str(entry[f"override /{group}"])
    return str(_read_user_file(group, chosen.get(group, ""), folders).get("_target_", ""))


def _read_user_file(group: str, option: str, folders: Sequence[Path]) -> dict[str, Any]:
    """The content of an option's file; {} where there is none that can be read."""
    import yaml

    file = find_option_file(folders, group, option)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file else {}
    except yaml.YAMLError:  # reported by who composes it
        return {}
    return content if isinstance(content, dict) else {}


def _advise(renamer: Renamer, result: Any, file: Path | None = None) -> Any:
    """The result, after a line on stderr about each name that was replaced for it."""
    for old, name in renamer.replaced.items():
        give_advice(old, name, f"{file}: " if file else "")
    return result


def give_advice(old: str, name: str, where: str = "") -> None:
    """Say once that something has another name now.

    Args:
        old: As the user wrote it.
        name: Today's.
        where: The file that has it, as the line begins.
    """
    text = f"dlrun: {where}{old} is now called {name}; this run takes it so"
    # Ranks of one run read the same words: the first says it for all.
    if text not in _advice_given and os.environ.get("RANK", "0") == "0":
        _advice_given.add(text)
        print(text, file=sys.stderr)


def make_user_source(folders: Sequence[Path]) -> Any:
    """The class by which Hydra reads the user's conf folders, old words included.

    Args:
        folders: All of these folders; read anew with each file.
    """
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from omegaconf import OmegaConf

    class UserSource(FileConfigSource):
        @staticmethod
        def scheme() -> str:
            return "dlrunuser"

        def load_config(self, config_path: str) -> Any:
            path = next(filter(super().is_config, _list_paths(config_path)), config_path)
            result = super().load_config(path)
            file = Path(self.path) / self._normalize_file_name(path)
            if has_old_names(file.read_text(encoding="utf-8")):
                group = config_path.rpartition("/")[0].replace("/", ".")
                package = (result.header or {}).get("package") or group
                content = OmegaConf.to_container(result.config, resolve=False)
                renamed = to_current_file(content, group, package, folders, file)
                result.config = OmegaConf.create(renamed)
            return result

        def is_group(self, config_path: str) -> bool:
            return any(map(super().is_group, _list_paths(config_path)))

        def is_config(self, config_path: str) -> bool:
            return any(map(super().is_config, _list_paths(config_path)))

        def list(self, config_path: str, results_filter: Any) -> list[str]:
            paths = filter(super().is_group, _list_paths(config_path))
            listed = {
                name
                for path in paths
                for name in super(UserSource, self).list(path, results_filter)
            }
            return sorted(listed)

    return UserSource


def _list_paths(config_path: str) -> list[str]:
    """A path in a conf folder, and the same below what its group was called before."""
    group, slash, option = config_path.partition("/")
    return [f"{name}{slash}{option}" for name in list_group_names(group)]


def to_current_file(
    content: Any, group: str, package: str, folders: Sequence[Path], file: Path
) -> Any:
    """The content of one of the user's config files in today's words, with advice.

    Args:
        content: As it was read.
        group: The file's group.
        package: Of its header: where its settings belong.
        folders: The user's conf folders.
        file: Named in the advice.
    """
    if not isinstance(content, dict):
        return content
    renamer = make_user_renamer(folders)
    around = {"_group_": group, "_global_": ""}.get(package, package)
    settings = {key: value for key, value in content.items() if key != "defaults"}
    renamed = renamer.rename_tree(settings, around)
    if isinstance(content.get("defaults"), list):
        chosen = [_rename_default(entry, around, renamer) for entry in content["defaults"]]
        renamed = {"defaults": chosen, **renamed}
    return _advise(renamer, renamed, file)


def _rename_default(entry: Any, around: str, renamer: Renamer) -> Any:
    """An entry of a defaults list: NAME, [override] /GROUP@PACKAGE: NAME, or GROUP/NAME."""
    if isinstance(entry, dict) and len(entry) == 1:
        ((key, value),) = entry.items()
        flags, _, choice = str(key).rpartition(" ")
        group, at, package = choice.partition("@")
        slash = "/" * group.startswith("/")
        name = group.lstrip("/")
        if isinstance(value, list):
            value = [renamer.rename_choices(name, str(option)) for option in value]
        elif isinstance(value, str):
            value = renamer.rename_choices(name, value)
        new = f"{slash}{renamer.rename_group(name)}{at}{_rename_package(package, around, renamer)}"
        return {f"{flags} {new}".strip(): value}
    if isinstance(entry, str) and "/" in entry:
        start, _, name = entry.lstrip("/").partition("/")
        return f"{'/' * entry.startswith('/')}{renamer.rename_group(start)}/{name}"
    return entry


def _rename_package(package: str, around: str, renamer: Renamer) -> str:
    """A package as it stands in a file whose own package is `around`."""
    prefix = f"{around}." if around and not package.startswith("_global_") else ""
    return renamer.rename_path(prefix + package)[len(prefix) :]
