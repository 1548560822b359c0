"""The overrides of a sweep in Hydra's grammar, and named spaces: keys with their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from dlrun.config.old_words import to_current_overrides
from dlrun.config.overrides import parse_overrides
from dlrun.config.parts import find_option_file, get_conf_folders, list_all_groups
from dlrun.core.errors import UserError
from dlrun.sweeps.study import Axis, is_active

MAX_VALUES = 100_000  # of one key; range(0,1e12) must not fill the memory


class SweepOverrides:
    """The overrides of all jobs: those that stay, and the axes, in the order of the command line.

    Attributes:
        given: Key → its override as typed; the later one where a key is given twice.
        axes: The keys that vary.
        only: Fixed key → the choice that has it, and its values.
    """

    def __init__(self, words: Sequence[str], folders: Sequence[Path]) -> None:
        self.given: dict[str, str] = {}
        self.axes: list[Axis] = []
        self.only: dict[str, tuple[str, tuple[str, ...]]] = {}
        for override in parse_overrides(words):
            self.given[override.get_key_element()] = override.input_line
            # The later override wins, also where the earlier one was an axis.
            self.axes = [axis for axis in self.axes if axis.key != override.get_key_element()]
            if override.is_sweep_override():
                self.axes.append(make_axis(override, folders))
            elif has_multiple_values(override._value):
                raise UserError(
                    f"{override.input_line}: interval(…) and its like are whole values, "
                    "not parts of one; "
                    f"{override.get_key_element()}=[1],[2] tries several lists"
                )

    @property
    def fixed(self) -> list[str]:
        """The overrides that are the same in every job."""
        varying = {axis.key for axis in self.axes}
        return [word for key, word in self.given.items() if key not in varying]

    def get_job_overrides(self, study_overrides: Sequence[str]) -> list[str]:
        """All overrides of the job with these of the study, each in its place."""
        chosen = {word.partition("=")[0]: word for word in study_overrides}
        axes = {axis.key for axis in self.axes}
        words = {
            key: chosen.get(key, word)
            for key, word in self.given.items()
            if key in chosen or key not in axes
        }
        return [
            word
            for key, word in words.items()
            if key not in self.only or is_active(self.only[key], study_overrides)
        ]

    def restrict_axis(self, key: str, choice: str, values: tuple[str, ...]) -> None:
        """Let only some jobs set a key.

        Args:
            key: The key.
            choice: The key that decides.
            values: Its values with which `key` is set.
        """
        self.axes = [
            replace(axis, when=(choice, values)) if axis.key == key else axis for axis in self.axes
        ]
        if key not in [axis.key for axis in self.axes]:
            self.only[key] = (choice, values)


def has_multiple_values(value: Any) -> bool:
    """Whether a list or mapping holds a sweep inside."""
    from hydra.core.override_parser.types import Sweep

    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Sweep) or any(map(has_multiple_values, inner))


def make_axis(override: Any, folders: Sequence[Path]) -> Axis:
    """The axis of an override with a list, range(), choice(), glob() or interval().

    Args:
        override: As Hydra parsed it.
        folders: The user's conf folders, for glob().

    Raises:
        UserError: It has no value, or too many.
    """
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    if override.is_interval_sweep():
        return _make_interval(override)
    key, value = override.get_key_element(), override._value
    try:
        if isinstance(value, Glob):
            options = list_all_groups(get_conf_folders(folders))
            values = tuple(value.filter(options.get(override.key_or_group, [])))
        else:
            # One more than allowed, to see that there are more.
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


def _make_interval(override: Any) -> Axis:
    value = override._value
    is_integer = isinstance(value.start, int) and isinstance(value.end, int)
    log = "log" in value.tags
    # A logarithm needs numbers above 0.
    if value.start >= value.end or (log and value.start <= 0):
        bound = " above 0" if log else ""
        raise UserError(
            f"{override.input_line}: an interval goes from one number{bound} up to a larger one"
        )
    return Axis(override.get_key_element(), (), value.start, value.end, log, is_integer)


def expand_search_space(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The overrides of named search spaces; of a key that several have, the later one's.

    Args:
        names: Files in conf/space.
        folders: The user's conf folders.

    Raises:
        UserError: One is missing, or no mapping.
    """
    import yaml

    overrides: dict[str, str] = {}
    for name in names:
        file = find_option_file(get_conf_folders(folders), "space", name)
        if file is None:
            options = list_all_groups(get_conf_folders(folders)).get("space", [])
            raise UserError(f"no space '{name}'. There are: {', '.join(options) or 'none'}")
        try:
            node = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(node, dict):
            raise UserError(
                f"{file} must give keys with their values, "
                "such as optimizer.lr: tag(log,interval(1e-4,0.1))"
            )
        words = [f"{key}={format_values(value)}" for key, value in node.items()]
        for word in to_current_overrides(words, folders, file=file):
            overrides[word.partition("=")[0]] = word
    return list(overrides.values())


def format_values(value: Any) -> str:
    """A value of a space's file as an override's: a list as its values in turn."""
    return ",".join(map(format_value, value)) if isinstance(value, list) else format_value(value)


def format_value(value: Any) -> str:
    """One value as an override's text."""
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
