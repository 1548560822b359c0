"""Configs of many jobs: parts are put together once for each choice of them, plain values set as Hydra sets them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrun.commands.axes import parsed
from dlrun.commands.check import check, idle_faults
from dlrun.commands.configure import composed, configure, settled
from dlrun.core.errors import Refused
from dlrun.places import all_folders, all_groups


class Composer:
    """Words → config, as `configure` answers it."""

    def __init__(self, folders: list[Path], plugins: tuple[str, ...]) -> None:
        self.folders, self.plugins = folders, plugins
        self.groups = set(all_groups(all_folders(folders)))
        self.known: dict[tuple[str, ...], Any] = {}  # words that choose parts → the config before values are set

    def __call__(self, words: Sequence[str]) -> dict[str, Any]:
        """The config that these words ask for. Raises Refused, as `configure` says it."""
        try:
            return self._quickly(list(words))
        except Exception:  # whatever it was: the long way does it again and says what is wrong
            return configure(list(words), self.folders, self.plugins)

    def _quickly(self, words: list[str]) -> dict[str, Any]:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from omegaconf import OmegaConf

        if any("._target_=" in word or word.startswith("data=") for word in words):
            raise Refused("said by configure")
        overrides = parsed(words)
        choices = tuple(each.input_line for each in overrides if self._chooses(each))
        if choices not in self.known:
            config = configure(words, self.folders, self.plugins)
            self.known[choices] = composed(list(choices), self.folders)
            return config
        node = copy.deepcopy(self.known[choices])
        ConfigLoaderImpl._apply_overrides_to_config([each for each in overrides if not self._chooses(each)], node)
        found: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        config = {str(key): value for key, value in found.items()}
        check(config, self.plugins)
        if any(idle_faults(config, words)):
            raise Refused("said by configure")
        return settled(config)

    def _chooses(self, override: Any) -> bool:
        """Whether a word chooses a part, so that it decides which files are read."""
        return override.key_or_group in self.groups and not isinstance(override.value(), dict)
