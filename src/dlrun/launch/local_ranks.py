"""Starts the processes that share a run (`engine.devices=2`), passes signals on to them, and says which one died."""

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


EXIT_TIMEOUT = 10.0  # seconds in which the others may end by themselves once one has died
SAVE_TIMEOUT = 60.0  # the same, where all were asked to stop: the slowest of them may still be writing the checkpoint
PROGRAM = "from dlrun.launch.rank_worker import main; main()"
MIN_PROCESS_LIMIT = 4  # processes that may be started on any machine; else two a processor
POLL_INTERVAL = 0.02  # seconds between two looks at them


def get_num_processes(config: dict[str, Any]) -> int:
    """How many processes are to be started for this config; 1 where this one is enough, or is one of them."""
    devices = config["engine"].get("devices")
    if rank_state.distributed_state.joined or devices is None:
        return 1
    return len(devices) if isinstance(devices, list) else int(devices)


def check_can_prune(config: dict[str, Any], seen: bool) -> None:
    """Raise UserError where whoever prunes a sweep would not see the epochs of this job."""
    if seen and get_num_processes(config) > 1:
        raise UserError("sweep.prune looks at every epoch of a job, and cannot see into engine.devices="
                      f"{config['engine']['devices']}: say sweep.prune=null, or engine.devices=null")  # fmt: skip


def launch_processes(
    config: dict[str, Any], folder: Path, plugins: tuple[str, ...], report: bool = True
) -> tuple[int, list[Result]]:
    """Run a config in as many processes as it asks for; answers with the exit code and the results.

    report: whether they write one. Raises UserError where they were refused.
    """
    from dlrun.core.run_folder import RunFolder

    count = get_num_processes(config)
    devices = resolve_devices(config["engine"], count)
    with tempfile.TemporaryDirectory(prefix="dlrun-") as place:
        order = {"config": config, "folder": str(folder), "plugins": plugins, "report": report}
        order |= {"path": sys.path, "outcomes": place}
        (Path(place) / "order.json").write_text(json_text.to_message(order), encoding="utf-8")
        crew = RankProcesses(Path(place), count, devices)
        with forward_stop_signal(crew):
            crew.run()
        code = crew.get_exit_code()
        if code is None:
            report_process_failure(crew.describe_failure(), folder)
    return (
        (code, RunFolder(folder).read_results() if code in (0, 1) else [])
        if code is not None
        else (1, [])
    )


@contextmanager
def forward_stop_signal(crew: RankProcesses) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM go to all processes of the crew, which save and stop; and none outlives the block."""
    main = threading.current_thread() is threading.main_thread()
    ask = lambda number, frame: crew.asked.append(number)  # noqa: E731
    before = (
        {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        if main
        else {}
    )
    try:
        yield
    finally:
        crew.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def report_process_failure(death: str, folder: Path) -> None:
    """Say which process died of what, what is saved, and how to go on."""
    from dlrun.launch.console import RecordingConsole
    from dlrun.launch.run_log import log_to_folder

    with log_to_folder(folder, RecordingConsole()):
        logging.getLogger("dlrun").error(
            "%s, and the others were stopped. %s To go on without it: dlrun resume %s engine.devices=1",
            death, describe_saved_state(folder), folder,
        )  # fmt: skip


def describe_saved_state(folder: Path) -> str:
    """What there is of a run, in a sentence."""
    from dlrun.core import checkpoint

    there = sorted(folder.glob("checkpoints/*/last.pt"), key=lambda path: path.stat().st_mtime)
    state = checkpoint.load_latest_or_none(there[-1]) if there else None
    if state is None:
        return "Nothing had been saved yet."
    where = f"epoch {state['epoch']}" + (
        f" and {state['position']} batches" if state["position"] else ""
    )
    return f"Saved is {there[-1].parent.name} after {where}."


def resolve_devices(engine: dict[str, Any], count: int) -> str:
    """The devices of the processes, with commas; '' where each of them finds its own. Raises UserError."""
    devices, device = engine["devices"], engine["device"]
    if isinstance(devices, list):
        check_devices_available(devices)
        return ",".join(devices)
    if count > (most := max(MIN_PROCESS_LIMIT, 2 * (os.cpu_count() or 1))):
        raise UserError(f"engine.devices={count}: this machine has {os.cpu_count()} processors, and at most {most} "
                      "processes are started on it")  # fmt: skip
    if ":" in device:
        names = ", ".join([device, "…"])
        raise UserError(f"engine.devices={count} needs {count} devices and engine.device={device} is one: "
                      f"name them all, engine.devices=[{names}]")  # fmt: skip
    check_devices_available([device])
    return ""


def check_devices_available(devices: list[str]) -> None:
    """Raise UserError where one of these devices is none, before any process has started."""
    named = [name for name in devices if name not in ("cpu", "auto")]
    if named:  # only these are worth an import of torch here
        from dlrun.core import device as runtime

        for name in named:
            runtime.choose_device(name)


@dataclass
class RankProcesses:
    """The processes of one run. place: a folder for what they are told, and tell.

    running: number → process. ended: number → exit code, in the order of their ends. all: every process.
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
        """Start them all; the first one speaks for all, and what others print is kept for the case that they die."""
        for rank in range(self.count):
            words = [sys.executable, "-P", "-c", PROGRAM, str(self.folder / "order.json")]
            about: dict[str, Any] = {
                "env": self._get_rank_environment(rank),
                "stdin": subprocess.PIPE,
                "start_new_session": True,
            }
            with (self.folder / f"{rank}.txt").open("wb") as aside:
                about |= {"stdout": aside, "stderr": subprocess.STDOUT} if rank else {}
                self.processes.append(subprocess.Popen(words, **about))
            self.running[rank] = self.processes[-1]

    def _get_rank_environment(self, rank: int) -> dict[str, str]:
        number = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": self.count,
            "LOCAL_WORLD_SIZE": self.count,
        }
        there = [path for path in sys.path if path]
        about = {"DLRUN_STORE": str(self.folder / "store"), "PYTHONPATH": os.pathsep.join(there)}
        about |= {
            "TMPDIR": str(self.folder)
        }  # so that what a killed one leaves behind goes with the rest
        about |= {"DLRUN_DEVICES": self.devices} if self.devices else {}
        return os.environ | {name: str(value) for name, value in number.items()} | about

    def run(self) -> None:
        """Start them and wait until all have ended. Once one has died, those that do not end soon are stopped."""
        self.start()
        until = float("inf")
        while self.running:
            self._forward_signal()
            for rank, process in list(self.running.items()):
                if (code := process.poll()) is not None:
                    self.ended[rank] = code
                    del self.running[rank]
                    left = SAVE_TIMEOUT if self.passed else EXIT_TIMEOUT
                    until = min(until, time.monotonic() + left) if code else until
            if time.monotonic() > until:
                self.terminate()
            time.sleep(POLL_INTERVAL)

    def _forward_signal(self) -> None:
        while self.asked:
            self.passed = self.asked.pop(0)
            for process in self.running.values():
                process.send_signal(self.passed)

    def terminate(self) -> None:
        """Stop those that still run, at once."""
        for process in self.running.values():
            process.kill()

    def close(self) -> None:
        """Stop all that still run, and let go of what they were spoken to through."""
        self.terminate()
        for process in self.processes:
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def read_outcome(self, rank: int) -> dict[str, Any]:
        """What a process has written down about its end; nothing if it could not."""
        path = self.folder / f"{rank}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def get_exit_code(self) -> int | None:
        """The exit code that all have come to; None where one has died. Raises UserError where they were refused."""
        for rank in sorted(self.ended):
            if "refused" in self.read_outcome(rank):
                raise UserError(self.read_outcome(rank)["refused"])
        codes = set(self.ended.values())
        if len(codes) == 1 and not any("error" in self.read_outcome(rank) for rank in self.ended):
            (code,) = codes
            return code if code >= 0 else None if not self.passed else 128 - code
        stopped = {0, 128 + self.passed, -self.passed, rank_state.PEER_LOST_CODE, -signal.SIGKILL}
        return 128 + self.passed if self.passed and codes <= stopped else None

    def describe_failure(self) -> str:
        """Which process died first, and of what, in words."""
        order = list(self.ended)
        killed = [rank for rank in order if self.ended[rank] < 0]
        failed = [rank for rank in order if self.ended[rank] not in (0, rank_state.PEER_LOST_CODE)]
        rank = [*sorted(killed, key=lambda each: order.index(each)), *failed, *order][0]
        if self.ended[rank] < 0:
            return f"process {rank + 1} of {self.count} was killed ({signal.Signals(-self.ended[rank]).name})"
        return f"process {rank + 1} of {self.count} failed: {self.read_outcome(rank).get('error') or self._read_last_output(rank)}"

    def _read_last_output(self, rank: int) -> str:
        lines = (self.folder / f"{rank}.txt").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.ended[rank]}"
