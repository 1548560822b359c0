"""Parts of a model by the names of columns, which may be called anything: also `a.b` or `type`, which torch refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


def safe(name: str) -> str:
    """A name that torch takes for a part of a module: the name itself, if it does."""
    taken = hasattr(nn.ModuleDict, name) or hasattr(nn.ParameterDict, name) or name == "training"
    return f"of_{name.replace('.', '·')}" if taken or "." in name or not name else name


class Named(nn.ModuleDict):
    """Modules by name, for any names; in a checkpoint they go by those that torch takes."""

    steady = True

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({safe(name): module for name, module in modules.items()})
        self.names = tuple(modules)

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(safe(name))

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def keys(self) -> Any:
        return self.names

    def items(self) -> Any:
        return [(name, self[name]) for name in self.names]
