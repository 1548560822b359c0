"""The jobs of a sweep: what one is, what makes it the same as another, and how it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlrun import as_json

APART = ("output", "sweep", "space")  # of a config: where it goes, and how it is looked for, is no part of what it is


def identity(config: Mapping[str, Any]) -> str:
    """What a job is known by: a hash of its whole resolved config but for where its files go."""
    content = {key: value for key, value in config.items() if key not in APART}
    protocol = content.get("protocol")
    if isinstance(protocol, dict) and protocol.get("seed") is None:  # which older sweeps do not say
        content["protocol"] = {key: value for key, value in protocol.items() if key != "seed"}
    return hashlib.sha256(as_json.canonical(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """One job. words: all of them; own: those that the study gave it. fault: why it cannot even begin."""

    number: int
    words: list[str]
    own: list[str]
    config: dict[str, Any]
    folder: Path
    identity: str
    fault: str = ""

    def plain(self) -> dict[str, Any]:
        """The job as plain values, to be sent to another process."""
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Job:
        """The job that `plain` told of."""
        return cls(**{**values, "folder": Path(values["folder"])})


@dataclass(frozen=True)
class Ended:
    """How a job ended: done, failed, pruned, or cut by a signal, whose number `code` then tells (128 + number).

    parameters: how many weights were learnt. seconds: of this start.
    """

    number: int
    status: str
    error: str = ""
    code: int = 0
    parameters: int = 0
    seconds: float = 0.0
