"""What `dlrun visualize` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class VisualizeRequest:
    """What the words ask for. label, target, input: '' where nothing was said."""

    kinds: tuple[str, ...]
    layers: tuple[str, ...]
    images: tuple[Path, ...]
    rows: tuple[int, ...]
    label: str
    target: str
    input: str
    steps: int
    rate: float
    size: int
    count: int
