"""The jobs of a sweep: what one is, what makes it the same as another, and how it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import json_text
from dlrun.core.renamed_parts import to_original_names

if TYPE_CHECKING:
    pass


IGNORED_KEYS = (
    "output",
    "sweep",
    "space",
)  # of a config: where it goes, and how it is looked for, is no part of what it is


def compute_identity(config: Mapping[str, Any]) -> str:
    """What a job is known by: a hash of its whole resolved config but for where its files go."""
    content = {key: value for key, value in config.items() if key not in IGNORED_KEYS}
    protocol = content.get("protocol")
    if isinstance(protocol, dict) and protocol.get("seed") is None:  # which older sweeps do not say
        content["protocol"] = {key: value for key, value in protocol.items() if key != "seed"}
    return hashlib.sha256(
        json_text.to_canonical_json(to_original_names(content)).encode()
    ).hexdigest()[:16]


def find_added_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str] | None:
    """The settings that only the second config has, by their dotted names; None where any other differs.

    An older dlrun did not know them, and did what they say where nothing else is asked for.
    """
    was, new = (
        dict(iter_settings({key: value for key, value in of.items() if key not in IGNORED_KEYS}))
        for of in (before, now)
    )
    return None if was.items() - new.items() else sorted(new.keys() - was.keys())


def iter_settings(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and value, as text, of every setting of a config."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from iter_settings(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, json_text.to_canonical_json(node)


@dataclass(frozen=True)
class SweepJob:
    """One job. words: all of them; own: those that the study gave it. fault: why it cannot even begin."""

    number: int
    all_overrides: list[str]
    study_overrides: list[str]
    config: dict[str, Any]
    folder: Path
    identity: str
    fault: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The job as plain values, to be sent to another process."""
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SweepJob:
        """The job that `plain` told of."""
        return cls(**{**values, "folder": Path(values["folder"])})


@dataclass(frozen=True)
class JobResult:
    """How a job ended: done, failed, pruned, or cut by a signal, whose number `code` then tells (128 + number).

    parameters: how many weights were learnt. seconds: of training; of a job that came to no result, of this start.
    """

    number: int
    status: str
    error: str = ""
    code: int = 0
    parameters: int = 0
    seconds: float = 0.0


EpochStopRule = Callable[
    [int, dict[str, float], dict[str, str]], bool
]  # epoch, its values, goals → whether to stop here

JobStopRule = Callable[
    [int, int, dict[str, float], dict[str, str]], bool
]  # job, epoch, values, goals → whether to stop
