"""The processes that share a run: started, waited for, stopped, and asked for their end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrun.core.errors import UserError
from dlrun.launch import rank_state

# Seconds in which the others may end by themselves once one has died.
EXIT_TIMEOUT = 10.0
# The same where all were asked to stop: the slowest may still be writing the checkpoint.
SAVE_TIMEOUT = 60.0
PROGRAM = "from dlrun.launch.rank_worker import main; main()"
POLL_INTERVAL = 0.02  # seconds between two polls


@dataclass
class RankProcesses:
    """The processes of one run.

    Attributes:
        folder: A folder for instructions, the store of the process group, outputs and outcomes.
        count: The number of processes.
        devices: Their devices, separated by commas; "" where each finds its own.
        running: Rank → process.
        ended: Rank → exit code, in the order of their ends.
        pending_signals: Signals that are still to be passed on.
        last_signal: The last signal that was passed on; 0 for none.
        processes: Every process.
    """

    folder: Path
    count: int
    devices: str
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)
    pending_signals: list[int] = field(default_factory=list)  # signals to pass on
    last_signal: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start all processes; the first one prints, and the others' output is kept for errors."""
        for rank in range(self.count):
            command = [sys.executable, "-P", "-c", PROGRAM, str(self.folder / "order.json")]
            # A session of its own keeps the terminal's Ctrl-C away: the signal is passed on once.
            # The pipe tells a process when its parent is gone, see rank_worker.watch_parent.
            options: dict[str, Any] = {
                "env": self._get_rank_environment(rank),
                "stdin": subprocess.PIPE,
                "start_new_session": True,
            }
            with (self.folder / f"{rank}.txt").open("wb") as output:
                options |= {"stdout": output, "stderr": subprocess.STDOUT} if rank else {}
                self.processes.append(subprocess.Popen(command, **options))
            self.running[rank] = self.processes[-1]

    def _get_rank_environment(self, rank: int) -> dict[str, str]:
        # The names that torchrun uses, so that the process group is joined in one way.
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.count),
            "LOCAL_WORLD_SIZE": str(self.count),
            "DLRUN_STORE": str(self.folder / "store"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # Temporary files of a killed process are removed with this folder.
            "TMPDIR": str(self.folder),
        }
        if self.devices:
            variables["DLRUN_DEVICES"] = self.devices
        return os.environ | variables

    def run(self) -> None:
        """Start the processes and wait until all have ended.

        Once one has died, those that do not end within the timeout are stopped.
        """
        self.start()
        deadline = float("inf")
        while self.running:
            self._forward_signal()
            for rank, process in list(self.running.items()):
                if (code := process.poll()) is not None:
                    self.ended[rank] = code
                    del self.running[rank]
                    timeout = SAVE_TIMEOUT if self.last_signal else EXIT_TIMEOUT
                    deadline = min(deadline, time.monotonic() + timeout) if code else deadline
            if time.monotonic() > deadline:
                self.terminate()
            time.sleep(POLL_INTERVAL)

    def _forward_signal(self) -> None:
        while self.pending_signals:
            self.last_signal = self.pending_signals.pop(0)
            for process in self.running.values():
                process.send_signal(self.last_signal)

    def terminate(self) -> None:
        """Kill those that still run."""
        for process in self.running.values():
            process.kill()

    def close(self) -> None:
        """Stop all that still run, and close the pipes to them."""
        self.terminate()
        for process in self.processes:
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def read_outcome(self, rank: int) -> dict[str, Any]:
        """Return what a process wrote about its end; nothing if it could not."""
        path = self.folder / f"{rank}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def get_exit_code(self) -> int | None:
        """Return the exit code that all processes agree on.

        Returns:
            The code; None where a process died.

        Raises:
            UserError: Where the processes refused the config.
        """
        for rank in sorted(self.ended):
            if "refused" in self.read_outcome(rank):
                raise UserError(self.read_outcome(rank)["refused"])
        codes = set(self.ended.values())
        if len(codes) == 1 and not any("error" in self.read_outcome(rank) for rank in self.ended):
            (code,) = codes
            if code >= 0:
                return code
            # All were killed by one signal: it was ours to pass on, or they died of it.
            return 128 - code if self.last_signal else None
        # After a signal some save and end in order, some are killed, and some lose a peer
        # meanwhile.
        stopped = {
            0,
            128 + self.last_signal,
            -self.last_signal,
            rank_state.PEER_LOST_CODE,
            -signal.SIGKILL,
        }
        return 128 + self.last_signal if self.last_signal and codes <= stopped else None

    def describe_failure(self) -> str:
        """Describe which process died first, and of what."""
        order = list(self.ended)
        # A killed process comes first: the others then fail for want of it.
        killed = [rank for rank in order if self.ended[rank] < 0]
        failed = [rank for rank in order if self.ended[rank] not in (0, rank_state.PEER_LOST_CODE)]
        rank = [*sorted(killed, key=lambda number: order.index(number)), *failed, *order][0]
        process = f"process {rank + 1} of {self.count}"
        if self.ended[rank] < 0:
            return f"{process} was killed ({signal.Signals(-self.ended[rank]).name})"
        error = self.read_outcome(rank).get("error") or self._read_last_output(rank)
        return f"{process} failed: {error}"

    def _read_last_output(self, rank: int) -> str:
        lines = (self.folder / f"{rank}.txt").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.ended[rank]}"
