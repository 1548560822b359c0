"""Starts the processes that share a run (`engine.devices=2`), and reports which of them died."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import json_text
from dlrun.core.errors import UserError
from dlrun.launch import rank_state
from dlrun.launch.rank_processes import RankProcesses

if TYPE_CHECKING:
    from dlrun.core.types import Result


# Processes that may be started on any machine; beyond it, two a processor.
MIN_PROCESS_LIMIT = 4


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
        processes.pending_signals.append(number)

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
