"""Overrides become a config of plain values; the only importer of Hydra's composition."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.overrides import (
    find_override_errors,
    parse_overrides,
    quote_override,
    restore_literal_text,
    select_checkable_overrides,
)
from dlrun.config.parts import get_builtin_conf, get_conf_folders
from dlrun.config.settings import ADDED_LATER
from dlrun.config.validation import find_unused_text_errors, validate_config
from dlrun.core.errors import UserError

if TYPE_CHECKING:
    from dlrun.config.override_errors import InvalidOverride

FILE_KEYS = ("image", "content", "style")  # settings that name one file


def configure(
    words: Sequence[str], folders: list[Path], plugins: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The checked config of a command line, as plain values.

    Args:
        words: Overrides as typed.
        folders: The user's conf folders, strongest first.
        plugins: The user's packages.

    Raises:
        UserError: With all faults of the overrides at once.
    """
    return ConfigComposer(folders, plugins)(words)


def compose_config(words: Sequence[str], folders: list[Path]) -> dict[str, Any]:
    """The config of these overrides, resolved to plain values and not checked.

    Raises:
        InvalidOverride: Hydra refuses one of them.
    """
    config, refused = ConfigComposer(folders).compose(words)
    if refused:
        raise refused[0]
    return config


class ConfigComposer:
    """Composes configs; files are read once for each choice of parts.

    Attributes:
        folders: The user's conf folders.
        plugins: The user's packages.
        known: Overrides that choose parts → Hydra's config of them.
    """

    def __init__(self, folders: list[Path], plugins: tuple[str, ...] = ()) -> None:
        self.folders, self.plugins = folders, plugins
        self.known: dict[tuple[str, ...], Any] = {}

    def __call__(self, words: Sequence[str]) -> dict[str, Any]:
        """The checked config of these overrides, as `configure` returns it."""
        # Shells take quotes away, and Hydra's grammar needs some of them.
        words = list(map(quote_override, words))
        word_errors = find_override_errors(words, self.folders)
        valid_words = select_checkable_overrides(words, word_errors)
        faults = list(word_errors.values())
        if faults and not valid_words:
            raise UserError("\n".join(faults))
        config, refused = self.compose(valid_words)
        unknown = _take_refused(valid_words, refused, faults)
        _fit_to_custom_parts(config, words)
        restore_literal_text(config, valid_words)
        if added := _find_custom_settings(config, unknown):
            return self([added.get(word, word) for word in words])
        faults += find_unused_text_errors(config, valid_words)
        raise_config_errors(config, [key for _, key in unknown], faults, self.plugins)
        return finalize_config(config)

    def compose(self, words: Sequence[str]) -> tuple[dict[str, Any], list[InvalidOverride]]:
        """The config of the overrides that Hydra accepts, not checked, and those that it refuses.

        Each is applied by itself, so that all that are wrong are found at once. The config is empty
        where the last one refused is the fault of no single override.
        """
        from omegaconf import OmegaConf

        overrides, refused = _parse_valid_overrides(words)
        chosen = [override for override in overrides if self._selects_part(override)]
        parts_config = self._compose_parts([override.input_line for override in chosen], refused)
        if parts_config is None:
            return {}, refused
        values = [override for override in overrides if override not in chosen]
        node = _apply_values(parts_config, values, refused)
        try:
            config: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except get_hydra_errors() as error:
            refused.append(_parse_error(error, []))
            return {}, refused
        return {str(key): value for key, value in config.items()}, refused

    def _selects_part(self, override: Any) -> bool:
        """Whether an override chooses a part, so that files are read for it."""
        folders = get_conf_folders(self.folders)
        is_group = any((folder / override.key_or_group).is_dir() for folder in folders)
        return override.is_hydra_override() or (is_group and not isinstance(override.value(), dict))

    def _compose_parts(self, words: list[str], refused: list[InvalidOverride]) -> Any:
        """Hydra's config of the parts that these overrides choose.

        Returns:
            None where the last refusal, which is added to `refused`, is the fault of none of them.
        """
        # Hydra stops at the first fault: each is removed in turn, so that all are reported at once.
        while tuple(words) not in self.known:
            try:
                self.known[tuple(words)] = compose_hydra_config(words, self.folders)
            except get_hydra_errors() as error:
                refused.append(invalid := _parse_error(error, words))
                if invalid.word not in words:
                    return None
                words = [word for word in words if word != invalid.word]
        return self.known[tuple(words)]


def _parse_valid_overrides(words: Sequence[str]) -> tuple[list[Any], list[InvalidOverride]]:
    """The overrides that one run can have, as Hydra parses them, and those that it refuses."""
    overrides: list[Any] = []
    refused: list[InvalidOverride] = []
    for word in words:
        try:
            (override,) = parse_overrides([word])
            if override.is_sweep_override():
                raise UserError(f"{word}: several values make a sweep: add -m")
            overrides.append(override)
        except UserError as error:
            from dlrun.config.override_errors import InvalidOverride

            refused.append(InvalidOverride(word, str(error)))
    return overrides, refused


def _apply_values(parts_config: Any, overrides: list[Any], refused: list[InvalidOverride]) -> Any:
    """A copy of Hydra's config of parts with these values set; those that fail are refused."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    apply = ConfigLoaderImpl._apply_overrides_to_config
    node, accepted = copy.deepcopy(parts_config), []
    for override in overrides:
        try:
            apply([override], node)
            accepted.append(override)
        except get_hydra_errors() as error:
            refused.append(_parse_error(error, [override.input_line]))
            # An override that fails may have been applied by half.
            node = copy.deepcopy(parts_config)
            apply(accepted, node)
    return node


def get_hydra_errors() -> tuple[type[Exception], ...]:
    """What Hydra raises for faults of overrides and of files."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return HydraException, OmegaConfBaseException, ValueError, YAMLError, RecursionError


def _parse_error(error: Exception, words: list[str]) -> InvalidOverride:
    # Most command lines are right, and then its many messages are not needed.
    from dlrun.config.override_errors import parse_hydra_error

    return parse_hydra_error(error, words)


def _take_refused(
    words: list[str], refused: list[InvalidOverride], faults: list[str]
) -> list[tuple[str, str]]:
    """Take the refused overrides from `words` and add what is wrong with them to `faults`.

    Returns:
        (override, key) of those whose key does not exist: the whole config says what is near it.
    """
    unknown: list[tuple[str, str]] = []
    for invalid in refused:
        if invalid.word not in words:  # of no single override: nothing else can be judged
            raise UserError("\n".join([*faults, invalid.text])) from invalid
        words.remove(invalid.word)
        if invalid.key:
            unknown.append((invalid.word, invalid.key))
        else:
            faults.append(invalid.text)
    return unknown


def _fit_to_custom_parts(config: dict[str, Any], words: list[str]) -> None:
    """Remove what a part of the user's own has replaced: only these words can have chosen one."""
    if any("_target_=" in word or word.lstrip("+").startswith("data=") for word in words):
        from dlrun.config.custom_settings import remove_replaced_settings

        remove_replaced_settings(config, words)


def _find_custom_settings(config: dict[str, Any], unknown: list[tuple[str, str]]) -> dict[str, str]:
    """Overrides of settings that only the signature of the user's own part has → with ++."""
    if not unknown:
        return {}
    from dlrun.config.custom_settings import is_custom_setting

    # Such a setting need not stand in a YAML file: Hydra takes it with ++.
    return {
        word: f"++{word.lstrip('+')}" for word, key in unknown if is_custom_setting(config, key)
    }


def finalize_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of one run: absolute paths, and nothing of a sweep."""
    make_paths_absolute(config["model"], ("weights", "members"))
    make_paths_absolute(config["objective"].get("judge") or {}, ("features",))
    for node in (config, config["data"]):
        make_paths_absolute(node, FILE_KEYS)
    # A run does not depend on the sweep that it is a job of.
    return {key: value for key, value in config.items() if key != "sweep"}


def make_paths_absolute(node: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Make the paths of files and earlier runs absolute: they are read again from other folders.

    Args:
        node: Changed in place.
        keys: Settings that hold a path, or a list of paths. What does not exist stays as it is.
    """
    for key in keys:
        if key in node:
            value = node[key]
            node[key] = (
                [_make_absolute(name) for name in value]
                if isinstance(value, list)
                else _make_absolute(value)
            )


def _make_absolute(name: Any) -> Any:
    if isinstance(name, str) and Path(name).exists():
        return str(Path(name).absolute())
    return name


def raise_config_errors(
    config: dict[str, Any], unknown: list[str], faults: list[str], plugins: tuple[str, ...]
) -> None:
    """Refuse a config that has faults.

    Args:
        config: The config.
        unknown: Keys that it does not have.
        faults: Those found so far.
        plugins: The user's packages.

    Raises:
        UserError: With all of them, and those of the config itself.
    """
    messages = [
        *faults,
        *(f"the config has no '{group}'" for group in ADDED_LATER if group not in config),
    ]
    if unknown:
        from dlrun.config.custom_settings import list_custom_keys
        from dlrun.config.override_errors import list_dotted_keys, unknown_key_message

        keys = [*list_dotted_keys(config), *list_custom_keys(config)]
        messages += [unknown_key_message(key, keys) for key in unknown]
    try:
        validate_config(config, plugins)
    except UserError as error:
        messages.append(str(error))
    if messages:
        raise UserError("\n".join(messages))


def compose_hydra_config(words: Sequence[str], folders: list[Path], name: str = "config") -> Any:
    """The config of these overrides as Hydra's own object, not resolved.

    Args:
        words: Overrides.
        folders: The user's conf folders, strongest first.
        name: The file that it begins with: config, or GROUP/OPTION for what one option brings.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    _register_folders(folders)
    # Hydra keeps one composition a process, and refuses a second one.
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(get_builtin_conf()), version_base="1.3"):
        return hydra_compose(name, overrides=list(words))


def _register_folders(folders: list[Path]) -> None:
    """Have Hydra search the user's folders before ours."""
    current[:] = folders
    if registered or not folders:
        return
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    from dlrun.config.old_words import make_user_source

    class UserFolders(SearchPathPlugin):
        def manipulate_search_path(self, search_path: Any) -> None:
            for folder in reversed(current):
                search_path.prepend("dlrun-user", f"{source.scheme()}://{folder}", "main")

    source = make_user_source(current)
    Plugins.instance().register(source)
    Plugins.instance().register(UserFolders)
    registered.append(UserFolders)


# Read by the plugin above: Hydra makes a new instance of it for each composition.
current: list[Path] = []
registered: list[type] = []


def parse_override_value(word: str) -> Any:
    """The value of an override, read as in training: 1e-3 is a number.

    Raises:
        UserError: Hydra's grammar does not take it.
    """
    return parse_overrides([word])[0].value()
