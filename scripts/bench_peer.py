"""One peer of scripts/bench --peers, in a process of its own: it waits for a line, trains, and answers with a line.

    python scripts/bench_peer.py PEER FOLDER          (started by bench_peers.py, which wrote the folder)

What every peer has in common, so that it is said once: the process is bound to one core and asks for one thread of each
library; what is counted is the CPU time of the whole process, so threads that a library starts all the same are counted
too; numbers below 1e-38 are rounded to zero in every process that has torch, as XLA does by itself. Data, and a copy of
the hand-written network, are read before the clock starts. A first `fit` of one batch gives the start-up figure; then
epochs are fitted, ever more of them, until a call lasts half of the seconds that a round is to take. So compilation,
first epochs and page faults are over before the first round, and what a call of `fit` costs is spread over many epochs.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LR, RHO, EPS = 1e-3, 0.9, 1e-7  # of RMSprop, for all
Fit = Callable[
    [int, int | None], None
]  # (epochs, rows; None = all of them): trains in this process


@dataclass(frozen=True)
class Given:
    """What a peer is given. kind: of the target: number, category or binary."""

    workload: str
    kind: str
    batch_size: int
    folder: Path

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (N, …), float32 or int64 word numbers, and the target: (N, 1) float32, or (N,) int64 of classes."""
        return np.load(self.folder / "x.npy"), np.load(self.folder / "y.npy")

    def tensors(self) -> tuple[Any, Any]:
        """The same as tensors, over the same memory."""
        import torch

        x, y = self.arrays()
        return torch.from_numpy(x), torch.from_numpy(y)

    def network(self) -> Any:
        """A copy of the hand-written network, with its weights: the same in every process."""
        import torch

        return torch.load(self.folder / "network.pt", weights_only=False)

    def criterion(self) -> Any:
        """The loss over the network's raw answers, as a torch module."""
        from torch import nn

        losses = {
            "number": nn.MSELoss,
            "category": nn.CrossEntropyLoss,
            "binary": nn.BCEWithLogitsLoss,
        }
        return losses[self.kind]()

    def measure(self, raw: Any, target: Any) -> Any:
        """Mean absolute error, or accuracy, of a batch of raw answers, as a tensor."""
        if self.kind == "number":
            return (raw - target).abs().mean()
        right = raw.argmax(1) == target if self.kind == "category" else (raw > 0) == (target > 0.5)
        return right.float().mean()


def one_thread() -> None:
    """Bind this process to one core, and have libraries start no threads. Before any of them is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def calm() -> None:
    """One thread, and no denormal numbers, where torch is there."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)


class Rounds:
    """Times calls of one fit."""

    def __init__(self, fit: Fit, rows: int) -> None:
        self.fit, self.rows, self.epochs = fit, rows, 1

    def warm(self, seconds: float) -> dict[str, Any]:
        """Fit until a call lasts half of a round; answers with the epochs of a call.

        The first call compiles for the last, smaller batch and says nothing of how long an epoch takes.
        """
        self.fit(1, None)
        while (spent := self._spent()) < seconds / 2:
            self.epochs = max(
                self.epochs + 1, round(self.epochs * min(20.0, seconds / max(spent, 1e-3)))
            )
        self.epochs = max(1, round(self.epochs * seconds / spent))
        return {"epochs": self.epochs}

    def speed(self) -> dict[str, Any]:
        """Samples per second of CPU time, over one call, and the most memory up to now in MiB."""
        return {"speed": self.rows * self.epochs / self._spent(), "peak": peak()}

    def _spent(self) -> float:
        start = time.process_time()
        self.fit(self.epochs, None)
        return time.process_time() - start


def used() -> float:
    """CPU seconds of this process and of those that it has waited for, such as a compiler."""
    return sum(os.times()[:4])


def peak() -> float:
    """The most memory that this process has had, in MiB.

    Linux hands a parent's maximum on to what getrusage says of its child; VmHWM begins with the program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1024
    )


def started(peer: str, folder: Path) -> tuple[Rounds, dict[str, Any]]:
    """The peer, ready to be warmed, and what its start took: CPU seconds of the import and of all up to a first step.

    Reading data is not counted.
    """
    family, _, variant = peer.partition(":")
    module = importlib.import_module(f"bench_peer_{family}")
    calm()
    imported = used()
    given = Given(**json.loads((folder / "given.json").read_text()), folder=folder)
    prepared = module.read(given)
    reading = used() - imported
    fit, parameters = module.peer(given, prepared, variant)
    calm()
    fit(1, given.batch_size)
    first = used() - reading
    rows = len(np.load(folder / "y.npy", mmap_mode="r"))
    return Rounds(fit, rows), {"imported": imported, "first": first, "parameters": parameters}


def main() -> int:
    answers = os.fdopen(
        os.dup(1), "w"
    )  # what a library prints goes to stderr, not among the answers
    os.dup2(2, 1)
    one_thread()
    answer = lambda found: print(json.dumps(found), file=answers, flush=True)  # noqa: E731
    rounds, start = started(sys.argv[1], Path(sys.argv[2]))
    answer(start)
    for line in sys.stdin:
        word, *rest = line.split()
        answer(rounds.warm(float(rest[0])) if word == "warm" else rounds.speed())
    return 0


if __name__ == "__main__":
    sys.modules["bench_peer"] = sys.modules[
        "__main__"
    ]  # so that a peer that imports it finds this one
    raise SystemExit(main())
