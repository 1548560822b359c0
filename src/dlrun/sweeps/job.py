"""The jobs of a sweep: what one is, when two are the same, how one ended, and who runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlrun.core import files
from dlrun.core.renamed_parts import to_original_names

# Where a job's files go, and how it was searched for, is not part of what it is.
IGNORED_KEYS = ("output", "sweep", "space")


def compute_identity(config: Mapping[str, Any]) -> str:
    """The identity of a job: a hash of its resolved config without where its files go.

    Args:
        config: The resolved config.

    Returns:
        16 hexadecimal digits, the same as earlier versions wrote for the same config.
    """
    content = {key: value for key, value in config.items() if key not in IGNORED_KEYS}
    protocol = content.get("protocol")
    # Sweeps of earlier versions have no protocol.seed, and null means the same.
    if isinstance(protocol, dict) and protocol.get("seed") is None:
        content["protocol"] = {key: value for key, value in protocol.items() if key != "seed"}
    return hashlib.sha256(files.to_canonical_json(to_original_names(content)).encode()).hexdigest()[
        :16
    ]


def find_added_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str] | None:
    """The settings that only the second config has.

    A version that did not know them behaved as their defaults say, so that such jobs stay valid.

    Args:
        old: The config as it was run.
        new: The config of the same overrides today.

    Returns:
        Dotted names; None where any other setting differs.
    """
    old_settings, new_settings = (_get_job_settings(config) for config in (old, new))
    # Changed or removed settings make it another job.
    if old_settings.items() - new_settings.items():
        return None
    return sorted(new_settings.keys() - old_settings.keys())


def _get_job_settings(config: Mapping[str, Any]) -> dict[str, str]:
    content = {key: value for key, value in config.items() if key not in IGNORED_KEYS}
    return dict(iter_settings(content))


def iter_settings(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and value, as JSON text, of every setting of a config."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from iter_settings(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, files.to_canonical_json(node)


@dataclass(frozen=True)
class SweepJob:
    """One job.

    Attributes:
        number: Counts from 0.
        all_overrides: Every override of the job.
        study_overrides: Those that the study chose.
        config: The resolved config; empty where `fault` says why there is none.
        folder: Its run folder.
        identity: See `compute_identity`.
        fault: Why it cannot even start; "" where it can.
    """

    number: int
    all_overrides: list[str]
    study_overrides: list[str]
    config: dict[str, Any]
    folder: Path
    identity: str
    fault: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, to be sent to another process."""
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SweepJob:
        """The job of plain values."""
        return cls(**{**values, "folder": Path(values["folder"])})


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        number: The job.
        status: 'done', 'failed', 'pruned', 'cut' by a signal, or 'lost': to be run again alone.
        error: Why it failed or was pruned.
        code: Exit code; 128 + the signal's number where it was cut.
        parameters: Learned numbers.
        seconds: Training time; of a job without a result the time since this start.
    """

    number: int
    status: str
    error: str = ""
    code: int = 0
    parameters: int = 0
    seconds: float = 0.0


# (epoch, metric → value, metric → direction) → whether to stop after this epoch.
EpochStopRule = Callable[[int, dict[str, float], dict[str, str]], bool]

# The same with the job's number in front.
JobStopRule = Callable[[int, int, dict[str, float], dict[str, str]], bool]


class Executor:
    """Runs the jobs that the scheduler hands out, some at a time.

    In this process (launch/sweep_job.py), in workers (sweeps/worker_pool.py), or by a launcher of
    Hydra (launch/hydra_launchers.py). Whoever writes another one implements the first three hooks.

    Attributes:
        stopped: The signal that stopped it, after which no job starts; 0 for none.
    """

    stopped: int = 0

    @property
    def num_free(self) -> int:
        """How many more jobs could start now; 0 where `wait` has to be called first."""
        raise NotImplementedError

    def submit(self, job: SweepJob, *companions: SweepJob) -> None:
        """Start a job, or take it in until `wait` is called; only where `num_free` is not 0.

        Args:
            job: The job.
            companions: Jobs that can be trained as one with it; an executor may run each alone.
        """
        raise NotImplementedError

    def wait(self) -> JobResult | None:
        """Wait until a job has ended in any way: an error of a job is its result.

        Returns:
            The result of one job, in no order; None where none is running.

        Raises:
            UserError: Where the sweep cannot go on.
        """
        raise NotImplementedError

    def session(self) -> AbstractContextManager[None]:
        """Inside, jobs can be submitted; at its end no process is left. By default nothing."""
        return nullcontext()
