"""Starts the processes that share a run (`engine.devices=2`), and reports which of them died."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import json_text
from dlrun.core.errors import UserError
from dlrun.launch import rank_state

if TYPE_CHECKING:
    from dlrun.core.types import Result


# Seconds in which the others may end by themselves once one has died.
EXIT_TIMEOUT = 10.0
# The same where all were asked to stop: the slowest may still be writing the checkpoint.
SAVE_TIMEOUT = 60.0
PROGRAM = "from dlrun.launch.rank_worker import main; main()"
# Processes that may be started on any machine; beyond it, two a processor.
MIN_PROCESS_LIMIT = 4
POLL_INTERVAL = 0.02  # seconds between two polls


def get_num_processes(config: dict[str, Any]) -> int:
    """Return how many processes have to be started for this config.

    Returns:
        1 where this process is enough, or is one of them.
    """
    devices = config["engine"].get("devices")
    if rank_state.distributed_state.joined or devices is None:
        return 1
    return len(devices) if isinstance(devices, list) else int(devices)


def check_can_prune(config: dict[str, Any], is_pruned: bool) -> None:
    """Refuse to prune a job whose epochs this process cannot see.

    Args:
        config: The config of the job.
        is_pruned: Whether the sweep prunes.

    Raises:
        UserError: Where the job runs in several processes of its own.
    """
    if is_pruned and get_num_processes(config) > 1:
        devices = config["engine"]["devices"]
        raise UserError(
            "sweep.prune looks at every epoch of a job, and cannot see into "
            f"engine.devices={devices}: say sweep.prune=null, or engine.devices=null"
        )


def launch_processes(
    config: dict[str, Any], folder: Path, plugins: tuple[str, ...], report: bool = True
) -> tuple[int, list[Result]]:
    """Run a config in as many processes as it asks for.

    Args:
        config: The config of the run.
        folder: The run folder.
        plugins: Packages that the config may instantiate.
        report: Whether the processes write a report.

    Returns:
        The exit code, and the results.

    Raises:
        UserError: Where the processes refused the config.
    """
    from dlrun.core.run_folder import RunFolder

    count = get_num_processes(config)
    devices = resolve_devices(config["engine"], count)
    with tempfile.TemporaryDirectory(prefix="dlrun-") as exchange:
        instructions = {
            "config": config,
            "folder": str(folder),
            "plugins": plugins,
            "report": report,
        }
        instructions |= {"path": sys.path, "outcomes": exchange}
        (Path(exchange) / "order.json").write_text(
            json_text.to_message(instructions), encoding="utf-8"
        )
        processes = RankProcesses(Path(exchange), count, devices)
        with forward_stop_signal(processes):
            processes.run()
        code = processes.get_exit_code()
        if code is None:
            report_process_failure(processes.describe_failure(), folder)
    if code is None:
        return 1, []
    return code, RunFolder(folder).read_results() if code in (0, 1) else []


@contextmanager
def forward_stop_signal(processes: RankProcesses) -> Iterator[None]:
    """Inside, pass Ctrl-C and SIGTERM on to all processes; none outlives the block."""

    def record_signal(number: int, frame: object) -> None:
        processes.asked.append(number)

    previous: dict[int, Any] = {}
    # Python lets only the main thread set signal handlers.
    if threading.current_thread() is threading.main_thread():
        for stop_signal in (signal.SIGINT, signal.SIGTERM):
            previous[stop_signal] = signal.signal(stop_signal, record_signal)
    try:
        yield
    finally:
        processes.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def report_process_failure(failure: str, folder: Path) -> None:
    """Report which process died of what, what is saved, and how to resume."""
    from dlrun.launch.console import RecordingConsole
    from dlrun.launch.run_log import log_to_folder

    with log_to_folder(folder, RecordingConsole()):
        logging.getLogger("dlrun").error(
            "%s, and the others were stopped. %s To go on without it: "
            "dlrun resume %s engine.devices=1",
            failure,
            describe_saved_state(folder),
            folder,
        )


def describe_saved_state(folder: Path) -> str:
    """Describe the newest checkpoint of a run, in a sentence."""
    from dlrun.core import checkpoint

    checkpoints = sorted(
        folder.glob("checkpoints/*/last.pt"), key=lambda path: path.stat().st_mtime
    )
    state = checkpoint.load_latest_or_none(checkpoints[-1]) if checkpoints else None
    if state is None:
        return "Nothing had been saved yet."
    position = f"epoch {state['epoch']}"
    if state["position"]:
        position += f" and {state['position']} batches"
    return f"Saved is {checkpoints[-1].parent.name} after {position}."


def resolve_devices(engine: dict[str, Any], count: int) -> str:
    """Return the devices of the processes, separated by commas.

    Args:
        engine: The node `engine` of the config.
        count: The number of processes.

    Returns:
        "" where each process finds its own device.

    Raises:
        UserError: For devices that do not exist, or more processes than the machine takes.
    """
    devices, device = engine["devices"], engine["device"]
    if isinstance(devices, list):
        check_devices_available(devices)
        return ",".join(devices)
    if count > (max_count := max(MIN_PROCESS_LIMIT, 2 * (os.cpu_count() or 1))):
        raise UserError(
            f"engine.devices={count}: this machine has {os.cpu_count()} processors, and at most "
            f"{max_count} processes are started on it"
        )
    if ":" in device:
        raise UserError(
            f"engine.devices={count} needs {count} devices and engine.device={device} is one: "
            f"name them all, engine.devices=[{device}, …]"
        )
    check_devices_available([device])
    return ""


def check_devices_available(devices: list[str]) -> None:
    """Check devices before any process has started.

    Raises:
        UserError: Where one of them does not exist.
    """
    named = [name for name in devices if name not in ("cpu", "auto")]
    # Importing torch takes a second, which cpu and auto need not wait for.
    if named:
        from dlrun.core import device as runtime

        for name in named:
            runtime.choose_device(name)


@dataclass
class RankProcesses:
    """The processes of one run.

    Attributes:
        folder: A folder for instructions, the store of the process group, outputs and outcomes.
        count: The number of processes.
        devices: Their devices, separated by commas; "" where each finds its own.
        running: Rank → process.
        ended: Rank → exit code, in the order of their ends.
        asked: Signals that are still to be passed on.
        passed: The last signal that was passed on; 0 for none.
        processes: Every process.
    """

    folder: Path
    count: int
    devices: str
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)  # signals to pass on
    passed: int = 0
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
                    timeout = SAVE_TIMEOUT if self.passed else EXIT_TIMEOUT
                    deadline = min(deadline, time.monotonic() + timeout) if code else deadline
            if time.monotonic() > deadline:
                self.terminate()
            time.sleep(POLL_INTERVAL)

    def _forward_signal(self) -> None:
        while self.asked:
            self.passed = self.asked.pop(0)
            for process in self.running.values():
                process.send_signal(self.passed)

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
            return 128 - code if self.passed else None
        # After a signal some save and end in order, some are killed, and some lose a peer
        # meanwhile.
        stopped = {0, 128 + self.passed, -self.passed, rank_state.PEER_LOST_CODE, -signal.SIGKILL}
        return 128 + self.passed if self.passed and codes <= stopped else None

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
