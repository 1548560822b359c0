"""Overrides become a config of plain values; the only importer of Hydra's composition."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrun.config import custom_settings, groups, literal_overrides
from dlrun.config.compatibility import PER_TARGET_OVERRIDES
from dlrun.config.early_check import compose_without_hydra
from dlrun.config.groups import get_conf_folders, list_all_groups
from dlrun.config.overrides import find_override_errors, parse_overrides, select_checkable_overrides
from dlrun.config.root_validation import ADDED_LATER, PART_LISTS
from dlrun.config.validation import find_unused_text_errors, validate_config
from dlrun.core.errors import UserError, format_names

FILE_KEYS = ("image", "content", "style")  # words for single files
OPEN_MAPPINGS = {
    "loss_weights": "+loss_weights.{}=NUMBER",
    **PER_TARGET_OVERRIDES,
}  # mappings to which the names of targets may be added


def configure(
    words: list[str], folders: list[Path], plugins: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The config that these words ask for, as plain values, checked. Raises UserError with all that is wrong in them."""
    words = list(map(literal_overrides.quote_override, words))
    wrong = find_override_errors(words, folders)
    good, faults = select_checkable_overrides(words, wrong), list(wrong.values())
    if faults and not good:
        raise UserError("\n".join(faults))
    dropped: list[tuple[str, str]] = []  # words whose key is not there
    if early := compose_without_hydra(good, folders):
        custom_settings.remove_replaced_settings(early[0], good)
        literal_overrides.restore_literal_text(early[0], good)
        if not any(custom_settings.is_custom_setting(early[0], key) for key in early[1]):
            raise_config_errors(
                *early, [*faults, *find_unused_text_errors(early[0], good)], plugins
            )
    while True:
        try:
            config = compose_config(good, folders)
            break
        except InvalidOverride as bad:
            if bad.word not in good:
                raise UserError("\n".join([*faults, bad.text])) from bad
            good.remove(bad.word)
            dropped += [(bad.word, bad.key)] if bad.key else []
            faults += [] if bad.key else [bad.text]
    custom_settings.remove_replaced_settings(config, words)
    literal_overrides.restore_literal_text(config, good)
    if added := {
        word: f"++{word.lstrip('+')}"
        for word, key in dropped
        if custom_settings.is_custom_setting(config, key)
    }:
        return configure([added.get(word, word) for word in words], folders, plugins)
    raise_config_errors(
        config,
        [key for _, key in dropped],
        [*faults, *find_unused_text_errors(config, good)],
        plugins,
    )
    return finalize_config(config)


def finalize_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of one run: files named from the root on, and nothing of the sweep that it may be a job of."""
    make_paths_absolute(config["model"], ("weights", "members"))
    make_paths_absolute(config["objective"].get("judge") or {}, ("features",))
    for node in (config, config["data"]):
        make_paths_absolute(node, FILE_KEYS)
    return {key: value for key, value in config.items() if key != "sweep"}


def make_paths_absolute(node: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Name the files, or earlier runs, of these keys from the root on: they are read again from other folders, too."""
    whole = lambda name: (  # noqa: E731
        str(Path(name).absolute()) if isinstance(name, str) and Path(name).exists() else name
    )
    for key in keys:
        if key in node:
            node[key] = (
                [whole(name) for name in node[key]]
                if isinstance(node[key], list)
                else whole(node[key])
            )


def raise_config_errors(
    config: dict[str, Any], unknown: list[str], faults: list[str], plugins: tuple[str, ...]
) -> None:
    """Refuse a config for the faults found so far, the keys that it does not have, and what is wrong in itself."""
    faults = [
        *faults,
        *(f"the config has no '{part}'" for part in ADDED_LATER if part not in config),
    ]
    found = [
        *faults,
        *(
            unknown_key_message(
                key, [*list_dotted_keys(config), *custom_settings.list_custom_keys(config)]
            )
            for key in unknown
        ),
    ]
    try:
        validate_config(config, plugins)
    except UserError as error:
        found.append(str(error))
    if found:
        raise UserError("\n".join(found))


class InvalidOverride(Exception):
    """A word that Hydra does not take: what it is, what is wrong, and the key where that does not exist."""

    def __init__(self, word: str, text: str, key: str = "") -> None:
        super().__init__(word, text, key)
        self.word, self.text, self.key = word, text, key


def compose_hydra_config(words: list[str], folders: list[Path]) -> Any:
    """The config that these words ask for as Hydra's own object, nothing in it resolved."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    _register_folders(folders)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(groups.get_builtin_conf()), version_base="1.3"):
        return hydra_compose("config", overrides=words)


def compose_config(words: list[str], folders: list[Path]) -> dict[str, Any]:
    """The config that these words ask for, resolved to plain values. Raises BadWord."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.to_container(
            compose_hydra_config(words, folders), resolve=True, throw_on_missing=True
        )
    except YAMLError as error:
        raise InvalidOverride(
            "", f"a config file is no YAML: {' '.join(str(error).split())}"
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise parse_hydra_error(error, words) from error
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _register_folders(folders: list[Path]) -> None:
    """Have Hydra look in the user's folders before ours."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class UserFolders(SearchPathPlugin):
        def manipulate_search_path(self, search_path: Any) -> None:
            for folder in reversed(current):
                search_path.prepend("dlrun-user", f"file://{folder}", "main")

    current[:] = folders
    if not registered:
        Plugins.instance().register(UserFolders)
        registered.append(UserFolders)


current: list[
    Path
] = []  # read by the plugin above, which Hydra instantiates anew for each composition
registered: list[type] = []


def parse_hydra_error(error: Exception, words: list[str]) -> InvalidOverride:
    """What Hydra's error means, and which word it is about."""
    text = str(error)
    first = text.strip().splitlines()[0]
    by_key = {word.partition("=")[0].lstrip("+~").partition("@")[0]: word for word in words}
    if match := re.search(
        r"Could not override '([^'@]+)|Could not delete from config. '([^']+)'|Key '([^']+)' is not in struct",
        text,
    ):
        key = next(filter(None, match.groups()))
        key = key if key in by_key else next((k for k in by_key if k.endswith(f".{key}")), key)
        return InvalidOverride(by_key.get(key, ""), f"no setting '{key}'", key)
    if match := re.search(
        r"Ambiguous value for argument '([^']+)'|Sweep parameters '(.+)' requires", text
    ):
        word = match[1] or match[2]
        return InvalidOverride(word, f"{word}: several values make a sweep: add -m")
    if match := re.search(r"Error merging override (\S+)", text):
        return InvalidOverride(
            match[1], f"{match[1]}: {str(error.__cause__ or error).strip().splitlines()[0]}"
        )
    if getattr(error, "options", None) is not None:
        return InvalidOverride(
            "", f"no config '{getattr(error, 'missing_cfg_file', '')}' in the conf folders"
        )
    wrong = getattr(error, "override", None)
    return InvalidOverride(
        wrong or "",
        f"cannot read '{wrong}': {literal_overrides.describe_quoting(wrong)}" if wrong else first,
    )


def parse_override_value(word: str) -> Any:
    """The value in a word, read as in training: 1e-3 is a number. Raises UserError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return (
            OverridesParser.create().parse_override(literal_overrides.quote_override(word)).value()
        )
    except HydraException as error:
        raise UserError(
            f"cannot read '{word}': {literal_overrides.describe_quoting(word)}"
        ) from error


def unknown_key_message(key: str, there: list[str]) -> str:
    """The message for a key that is not in the config, with the nearest that are."""
    if key in there:  # it is a mapping that was given a name which it does not have
        inside = [k.removeprefix(f"{key}.") for k in there if k.startswith(f"{key}.")]
        names = ", ".join(name for name in inside if "." not in name)
        add = f"to add one, {OPEN_MAPPINGS.get(key, f'+{key}.{{}}=…').format('NAME')}"
        if inside and not names:  # names with dots, such as those of layers
            return f"'{key}' has {format_names(inside)}: to add to them, '++{key}={{NAME: …}}'"
        return (
            f"'{key}' has {names}: to set one, {key}.NAME=…; {add}"
            if names
            else f"'{key}' is empty: {add}"
        )
    parent, _, name = key.rpartition(".")
    group, _, option = key.partition(".")
    if (
        group in PART_LISTS
        and (option := option.partition(".")[0])
        and f"{group}.{option}" not in there
    ):
        chosen = ", ".join(
            k.partition(".")[2] for k in there if k.count(".") == 1 and k.startswith(f"{group}.")
        )
        return (
            f"no setting '{key}': {group} has {chosen or 'nothing'}; to add one: +{group}={option}"
        )
    if parent in there and parent in OPEN_MAPPINGS:
        return f"'{parent}' has no '{name}' yet: to add one, {OPEN_MAPPINGS[parent].format(name)}"
    beside = [k for k in there if k.rpartition(".")[0] == parent] or [
        k for k in there if "." not in k
    ]
    near = [k for k in beside if difflib.get_close_matches(name, [k.rpartition(".")[2]])]
    close = (
        difflib.get_close_matches(key, near or there, 1, 0.6 if near else 0.8)
        or [k for k in there if k.endswith(f".{name}")][:1]
    )
    guess = f": did you mean '{close[0]}'?" if close else "."
    return f"no setting '{key}'{guess} There are: {format_names((k.rpartition('.')[2] for k in beside), name)}"


def list_dotted_keys(config: dict[str, Any], prefix: str = "") -> list[str]:
    """Every key of a config in dotted form."""
    found = []
    for key, value in config.items():
        if key == "_target_":
            continue
        found.append(prefix + key)
        if isinstance(value, dict):
            found += list_dotted_keys(value, f"{prefix}{key}.")
    return found


class ConfigComposer:
    """Words → config, as `configure` answers it."""

    def __init__(self, folders: list[Path], plugins: tuple[str, ...]) -> None:
        self.folders, self.plugins = folders, plugins
        self.groups = set(list_all_groups(get_conf_folders(folders)))
        self.known: dict[
            tuple[str, ...], Any
        ] = {}  # words that choose parts → the config before values are set

    def __call__(self, words: Sequence[str]) -> dict[str, Any]:
        """The config that these words ask for. Raises UserError, as `configure` says it."""
        try:
            return self._compose_from_cache(list(words))
        except Exception:  # whatever it was: the long way does it again and says what is wrong
            return configure(list(words), self.folders, self.plugins)

    def _compose_from_cache(self, words: list[str]) -> dict[str, Any]:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from omegaconf import OmegaConf

        if any("._target_=" in word or word.startswith("data=") for word in words):
            raise UserError("said by configure")
        overrides = parse_overrides(words)
        choices = tuple(each.input_line for each in overrides if self._selects_part(each))
        if choices not in self.known:
            config = configure(words, self.folders, self.plugins)
            self.known[choices] = compose_hydra_config(list(choices), self.folders)
            return config
        node = copy.deepcopy(self.known[choices])
        ConfigLoaderImpl._apply_overrides_to_config(
            [each for each in overrides if not self._selects_part(each)], node
        )
        found: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        config = {str(key): value for key, value in found.items()}
        validate_config(config, self.plugins)
        if any(find_unused_text_errors(config, words)):
            raise UserError("said by configure")
        return finalize_config(config)

    def _selects_part(self, override: Any) -> bool:
        """Whether a word chooses a part, so that it decides which files are read."""
        return override.key_or_group in self.groups and not isinstance(override.value(), dict)
