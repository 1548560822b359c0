"""dlrun, the hand-written loop and the other frameworks that are importable here, on the same tensors, round by round.

    scripts/bench --peers [workload …] [--rounds 5] [--seconds 2] [--write]

It installs nothing. Each peer trains in a process of its own (Keras takes its back end once a process), all of them are
up while a workload is measured, and they are told to run one after the other: a round visits each once, and a peer's
ratio of a round is its samples per second of CPU time over the hand-written loop's. Medians over the rounds, with the
least and the most. What each is given, and why, stands in its file: bench_peer.py for what all have in common, and
bench_peer_{own,lightning,keras,skorch,fastai}.py. Same network and sizes, same optimizer (RMSprop, lr 1e-3, decay .9,
eps 1e-7), loss, measure and batch size, shuffled rows, nothing validated. IMDB dense: dlrun has the bag of words that
it would have; everyone else, the loop too, the dense matrix of 10,000 columns (200 MB) that the book makes of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from bench_peer_table import COMMON, PEERS, SMALL, Found, absent, table, write

HERE = Path(__file__).resolve().parent
PATIENCE = 900.0  # seconds that one answer may take


class Lost(Exception):
    """A peer's process has ended or has not answered. Its text says how."""


class Process:
    """A peer that waits for its orders."""

    def __init__(self, peer: str, folder: Path) -> None:
        self.log = folder / f"{peer.replace(':', '-')}.log"
        command = [sys.executable, str(HERE / "bench_peer.py"), peer, str(folder)]
        with self.log.open("w") as log:
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def answer(self, order: str = "") -> dict[str, Any]:
        """What it says to an order; without one, what it says once it has started. Raises Lost."""
        assert self.child.stdin is not None and self.child.stdout is not None
        timer = Timer(PATIENCE, self.child.kill)
        timer.start()
        try:
            if order:
                print(order, file=self.child.stdin, flush=True)
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            last = self.log.read_text().strip().splitlines()[-1:] or ["no word"]
            raise Lost(f"ended with {self.child.wait()}: {last[0]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        self.child.kill()
        self.child.wait()


def compare_peers(names: Sequence[str], rounds: int, seconds: float) -> list[Found]:
    """Measure all peers that can be imported on these workloads, or on all where none is named; print what is found."""
    found: list[Found] = []
    for name in names or COMMON:
        with tempfile.TemporaryDirectory() as folder:
            prepare(name, Path(folder))
            measured = compare(name, Path(folder), rounds, seconds)
        print("\n".join(table(measured)), flush=True)
        found += measured
    for peer in absent():
        print(f"{PEERS[peer][0]}: not installed")
    return found


def present(workload: str) -> list[str]:
    """The peers that can run here; only steps of small dense networks are compiled."""
    missing = absent()
    return [
        peer
        for peer in PEERS
        if peer not in missing and (workload in SMALL or "compile=step" not in peer)
    ]


def prepare(name: str, folder: Path) -> None:
    """Write what every peer is given: arrays, dlrun's columns of the same values, and the hand-written network."""
    import numpy as np
    import torch
    from bench_peer_own import bench

    from dlrun.data.loading.table import Table

    torch.manual_seed(0)
    work = bench().WORKLOADS[name][0]()
    columns = work.columns()
    whole = next(Table(columns).batches(len(columns["y"])))
    np.save(
        folder / "x.npy",
        whole["x"].to_dense().long().numpy() if name == "imdb_lstm" else whole["x"].to_dense(),
    )
    np.save(folder / "y.npy", whole["y"])
    torch.save(columns, folder / "columns.pt")
    torch.save(work.by_hand(), folder / "network.pt")
    given = {"workload": name, "kind": work.spec.targets["y"].kind, "batch_size": work.batch_size}
    (folder / "given.json").write_text(json.dumps(given))


def compare(name: str, folder: Path, rounds: int, seconds: float) -> list[Found]:
    """All peers on one workload: each started and warmed, then round by round."""
    found = {peer: Found(peer, name) for peer in present(name)}
    with ExitStack() as stack:
        running: dict[str, Process] = {}
        for peer, one in found.items():
            with noted(one):
                process = stack.enter_context(started(peer, folder))
                vars(one).update(process.answer())
                process.answer(f"warm {seconds}")
                running[peer] = process
        for _ in range(rounds):
            speeds = {
                peer: one_round(process, found[peer])
                for peer, process in running.items()
                if not found[peer].fault
            }
            for peer, speed in speeds.items():
                if speed and speeds.get("own:loop"):
                    found[peer].speeds.append(speed)
                    found[peer].ratios.append(speed / speeds["own:loop"])
    return list(found.values())


@contextmanager
def started(peer: str, folder: Path) -> Iterator[Process]:
    process = Process(peer, folder)
    try:
        yield process
    finally:
        process.end()


@contextmanager
def noted(one: Found) -> Iterator[None]:
    """Inside, a peer that is lost is no reason to stop: it is written down."""
    try:
        yield
    except Lost as error:
        one.fault = str(error)


def one_round(process: Process, one: Found) -> float:
    """Samples per second of one call; 0 where the peer is lost."""
    with noted(one):
        answer = process.answer("run")
        one.peak = answer["peak"]
        return float(answer["speed"])
    return 0.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", choices=[[], *COMMON], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = compare_peers(args.workloads, args.rounds, args.seconds)
    if args.write:
        write(found, args.rounds, args.seconds)
    return int(any(one.fault for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
