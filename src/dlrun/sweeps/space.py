"""What the words of a sweep say in Hydra's grammar, and what a named space says: keys with their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from dlrun.config.groups import find_option_file, get_conf_folders, list_all_groups
from dlrun.config.overrides import parse_overrides
from dlrun.core.errors import UserError
from dlrun.sweeps.study import Axis, is_active

MAX_VALUES = 100_000  # values of a key


class SweepOverrides:
    """The words of all jobs: those that stay, and the axes along which they differ, in the order of the command."""

    def __init__(self, words: Sequence[str], folders: Sequence[Path]) -> None:
        self.given: dict[
            str, str
        ] = {}  # key → its word as it stands; of a key named twice the later word
        self.axes: list[Axis] = []
        self.only: dict[
            str, tuple[str, tuple[str, ...]]
        ] = {}  # fixed key → the choice that has it, and with which values
        for override in parse_overrides(words):
            self.given[override.get_key_element()] = override.input_line
            self.axes = [axis for axis in self.axes if axis.key != override.get_key_element()]
            if override.is_sweep_override():
                self.axes.append(make_axis(override, folders))
            elif has_multiple_values(override._value):
                raise UserError(f"{override.input_line}: interval(…) and its like are whole values, not parts of one; "
                              f"{override.get_key_element()}=[1],[2] tries several lists")  # fmt: skip

    @property
    def fixed(self) -> list[str]:
        """The words that are the same in every job."""
        own = {axis.key for axis in self.axes}
        return [word for key, word in self.given.items() if key not in own]

    def get_job_overrides(self, own: Sequence[str]) -> list[str]:
        """All words of the job that has these of its own, each in its place."""
        chosen = {word.partition("=")[0]: word for word in own}
        axes = {axis.key for axis in self.axes}
        words = {
            key: chosen.get(key, word)
            for key, word in self.given.items()
            if key in chosen or key not in axes
        }
        return [
            word
            for key, word in words.items()
            if key not in self.only or is_active(self.only[key], own)
        ]

    def restrict_axis(self, key: str, choice: str, values: tuple[str, ...]) -> None:
        """Have only the jobs in which a choice is one of these values set a key."""
        self.axes = [
            replace(axis, when=(choice, values)) if axis.key == key else axis for axis in self.axes
        ]
        if key not in [axis.key for axis in self.axes]:
            self.only[key] = (choice, values)


def has_multiple_values(value: Any) -> bool:
    """Whether something that stands for several values is inside a value."""
    from hydra.core.override_parser.types import Sweep

    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Sweep) or any(map(has_multiple_values, inner))


def make_axis(override: Any, folders: Sequence[Path]) -> Axis:
    """One key with its list, range(), choice(), glob() or interval(). Raises UserError where that holds no value."""
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    key, value = override.get_key_element(), override._value
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        log = "log" in value.tags
        if value.start >= value.end or (log and value.start <= 0):
            above = " above 0" if log else ""
            raise UserError(
                f"{override.input_line}: an interval goes from one number{above} up to a larger one"
            )
        return Axis(key, (), value.start, value.end, log, whole)
    try:
        if isinstance(value, Glob):
            values = tuple(
                value.filter(
                    list_all_groups(get_conf_folders(folders)).get(override.key_or_group, [])
                )
            )
        else:
            values = tuple(islice(override.sweep_string_iterator(), MAX_VALUES + 1))
    except (HydraException, ValueError) as error:
        raise UserError(f"cannot read '{override.input_line}': {error}") from error
    if len(values) > MAX_VALUES:
        raise UserError(
            f"{override.input_line}: more than {MAX_VALUES:,} values are none of one sweep"
        )
    if not values:
        raise UserError(f"{override.input_line}: there is no value to try")
    return Axis(key, values)


def expand_search_space(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The words that named search spaces stand for; of a key that several have, the later one's. Raises UserError."""
    import yaml

    found: dict[str, str] = {}
    for name in names:
        file = find_option_file(get_conf_folders(folders), "space", name)
        if file is None:
            there = list_all_groups(get_conf_folders(folders)).get("space", [])
            raise UserError(f"no space '{name}'. There are: {', '.join(there) or 'none'}")
        try:
            node = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(node, dict):
            raise UserError(
                f"{file} must give keys with their values, such as optimizer.lr: tag(log,interval(1e-4,0.1))"
            )
        for key, value in node.items():
            found[key] = f"{key}={format_values(value)}"
    return list(found.values())


def format_values(value: Any) -> str:
    """A value of a space's file as a word says it: a list as its values in turn, text as it stands."""
    return ",".join(map(format_value, value)) if isinstance(value, list) else format_value(value)


def format_value(value: Any) -> str:
    """One value."""
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
