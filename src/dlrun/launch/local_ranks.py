"""Starts the processes that share a run (`engine.devices=2`), and reports which of them died.

torch's own launcher starts them, gives each its environment and output file, and ends all of them
as soon as one fails: with another exit code than 0. How the run ended, if it came to an agreed end,
the first process writes into a file.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import files
from dlrun.core.environment import is_rank
from dlrun.core.errors import UserError
from dlrun.launch import rank_state
from dlrun.launch.rank_state import CODE_FILE

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import PContext
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from dlrun.core.types import Result

# Processes that may be started on any machine; beyond it, two a processor.
MIN_PROCESS_LIMIT = 4
PROGRAM = "from dlrun.launch.rank_worker import main; main()"
POLL_INTERVAL = 0.02  # seconds between two looks at the processes
# torch's launcher handles these, and leaves its handlers behind.
HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def get_num_processes(config: dict[str, Any]) -> int:
    """Return how many processes have to be started for this config.

    Returns:
        1 where this process is enough, or is one of them.
    """
    devices = config["engine"].get("devices")
    if is_rank() or devices is None:
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
            "path": sys.path,
            "parent": os.getpid(),
        }
        (Path(exchange) / "order.json").write_text(files.to_message(instructions), encoding="utf-8")
        failures, stop_signal = run_processes(Path(exchange), count, devices)
        code = get_exit_code(Path(exchange), failures, stop_signal)
        if code is None:
            report_process_failure(describe_failure(failures, count), folder)
    if code is None:
        return 1, []
    return code, RunFolder(folder).read_results() if code in (0, 1) else []


def run_processes(
    exchange: Path, count: int, devices: str
) -> tuple[dict[int, ProcessFailure], int]:
    """Start the processes and wait until all have ended.

    Args:
        exchange: A folder for instructions, the store of the process group, output and outcomes.
        count: The number of processes.
        devices: Their devices, separated by commas; "" where each finds its own.

    Returns:
        Rank → how it failed, in the order in which that was seen; and the last signal that was
        passed on, 0 for none.
    """
    from torch.distributed.elastic.multiprocessing import SignalException

    # What torch's launcher logs is said by our own line.
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        context = start_processes(exchange, count, devices)
        try:
            with forward_stop_signals(context) as signals:
                result = context.wait(period=POLL_INTERVAL)
        finally:
            # None of them outlives this function, whatever ended it.
            context.close(signal.SIGKILL)
    except SignalException as stop:
        # Before the first of them had read its instructions.
        return {}, int(stop.sigval)
    finally:
        logger.setLevel(level)
    return (result.failures if result else {}), (signals[-1] if signals else 0)


def start_processes(exchange: Path, count: int, devices: str) -> PContext:
    """Start the processes; the first one prints, and the others' output is kept for errors."""
    from torch.distributed.elastic import multiprocessing as launcher

    command = ("-P", "-c", PROGRAM, str(exchange / "order.json"))
    environment = {
        # The names that torchrun uses, so that the process group is joined in one way.
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "DLRUN_STORE": str(exchange / "store"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        # Temporary files of a killed process are removed with this folder.
        "TMPDIR": str(exchange),
        **({"DLRUN_DEVICES": devices} if devices else {}),
    }
    ranks = range(count)
    output = dict.fromkeys(ranks[1:], launcher.Std.ALL)
    handlers = {number: signal.getsignal(number) for number in HANDLED_SIGNALS}
    try:
        return launcher.start_processes(
            "dlrun",
            sys.executable,
            args=dict.fromkeys(ranks, command),
            envs={n: {**environment, "RANK": str(n), "LOCAL_RANK": str(n)} for n in ranks},
            logs_specs=launcher.DefaultLogsSpecs(str(exchange / "logs"), output),
        )
    finally:
        set_signal_handlers(handlers)


def set_signal_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    """Set signal handlers; Python lets only the main thread do so, and elsewhere nothing is set."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def forward_stop_signals(context: PContext) -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM are passed on to all processes, which save and end by themselves.

    Yields:
        The signals that were passed on so far.
    """
    signals: list[int] = []

    def forward(number: int, frame: object) -> None:
        signals.append(number)
        for pid in context.pids().values():
            # torch's launcher would kill what has not ended by a deadline, and with it whatever a
            # process has started; here each may take as long as its checkpoint does.
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    set_signal_handlers(dict.fromkeys(handlers, forward))
    try:
        yield signals
    finally:
        set_signal_handlers(handlers)


def get_exit_code(
    exchange: Path, failures: Mapping[int, ProcessFailure], stop_signal: int
) -> int | None:
    """Return the exit code of a run.

    Args:
        exchange: The folder in which the first process has written the code.
        failures: Rank → how it failed.
        stop_signal: The last signal that was passed on; 0 for none.

    Returns:
        The code; None where a process failed.

    Raises:
        UserError: Where the processes refused the config.
    """
    # Written where all came to an agreed end: what becomes of a process after that is no failure.
    if (code_file := exchange / CODE_FILE).exists():
        return int(code_file.read_text())
    if not failures:
        return 128 + stop_signal if stop_signal else 0
    for failure in failures.values():
        if failure.exitcode == rank_state.REFUSED_CODE and (message := get_message(failure)):
            raise UserError(message)
    # After a signal some save and end in order, some are killed or have not read their instructions
    # yet, and some lose a peer meanwhile. Only one that says of what has failed.
    expected = (rank_state.PEER_LOST_CODE, 128 + stop_signal)
    is_told = any(
        get_message(failure) for failure in failures.values() if failure.exitcode not in expected
    )
    return 128 + stop_signal if stop_signal and not is_told else None


def get_message(failure: ProcessFailure) -> str:
    """Return what a process wrote about its failure; "" where it could not."""
    # Without a message torch makes one up.
    told = failure.error_file_data["message"] == failure.message
    return failure.message if told else ""


def describe_failure(failures: Mapping[int, ProcessFailure], count: int) -> str:
    """Describe which process failed first, and of what."""
    # The others then fail for want of it, or are ended by torch's launcher with SIGTERM.
    caused = (rank_state.PEER_LOST_CODE, -signal.SIGTERM)
    own = {rank: item for rank, item in failures.items() if item.exitcode not in caused}
    killed = [rank for rank, failure in own.items() if failure.exitcode < 0]
    rank = next(iter([*killed, *own, *failures]))
    process, failure = f"process {rank + 1} of {count}", failures[rank]
    if failure.exitcode < 0:
        return f"{process} was killed ({failure.signal_name()})"
    return f"{process} failed: {get_message(failure) or f'exit code {failure.exitcode}'}"


def report_process_failure(failure: str, folder: Path) -> None:
    """Report which process died of what, what is saved, and how to resume."""
    from dlrun.launch.progress import RecordingConsole
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
    from dlrun.core.run_folder import RunFile, RunFolder

    checkpoints = sorted(
        RunFolder(folder).list_files(RunFile.CHECKPOINT, name="last"),
        key=lambda path: path.stat().st_mtime,
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
