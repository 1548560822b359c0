"""One of several processes, started by dlrun (`main`, see local_ranks) or by torchrun.

The first process does what it would do alone, and tells the others what it is about to run. They
run the same in a folder of their own that is thrown away, so that all come to the same decisions,
and only the first one's folder is the run's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dlrun.core import files
from dlrun.core.errors import FileWriteError, UserError
from dlrun.launch.rank_state import (
    CODE_FILE,
    PEER_LOST_CODE,
    REFUSED_CODE,
    SharedRunRefused,
    find_process_group,
    receive_run,
)

if TYPE_CHECKING:
    from dlrun.core.environment import ProcessGroup

# Parts of torch's errors when another process is gone; it has no exception class for that.
DISCONNECT_MESSAGES = ("gloo", "NCCL", "closed by peer", "Connection reset")
PARENT_INTERVAL = 0.5  # seconds between two looks at the parent process


def run_distributed(words: list[str], run: Callable[[list[str]], int]) -> NoReturn:
    """Run a command in processes that torchrun started: the first carries it out, the others
    follow.

    Args:
        words: The words of the command line.
        run: Runs a command and returns its exit code.

    Raises:
        UserError: Where the first process refused the command.
    """
    from dlrun.training.distributed import process_group

    device = next(
        (word.partition("=")[2] for word in words if word.startswith("engine.device=")), "auto"
    )
    processes = process_group.join_group(device)
    if processes.rank:
        process_group.exit_process(follow_main_process(processes))
    try:
        code = run(words)
    except SharedRunRefused:
        raise
    except UserError:
        # The others still wait to be told what to run: let them go.
        processes.broadcast_object(REFUSED_CODE)
        raise
    processes.broadcast_object(code)
    process_group.exit_process(code)


def follow_main_process(processes: ProcessGroup) -> int:
    """Run what the first process runs, until it sends an exit code."""
    from dlrun.launch.run_config import execute_in_process

    while not isinstance(message := receive_run(processes), int):
        with tempfile.TemporaryDirectory(prefix="dlrun-") as folder:
            for name, content in message["files"].items():
                (Path(folder) / name).parent.mkdir(exist_ok=True)
                (Path(folder) / name).write_bytes(content)
            execute_in_process(
                message["config"],
                Path(folder),
                tuple(message["plugins"]),
                processes=find_process_group(message["config"]),
            )
    return message


def main() -> None:
    """Follow the instructions of the parent process; end with 0, unless this process failed."""
    instructions = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path[:] = instructions["path"]
    threading.Thread(target=watch_parent, args=(instructions["parent"],), daemon=True).start()
    message = ""
    try:
        # How the run ended is no failure of this process, which ends with 0.
        code = PEER_LOST_CODE if run_rank(instructions) == PEER_LOST_CODE else 0
    except UserError as error:
        code, message = REFUSED_CODE, str(error)
    except FileWriteError as error:
        code, message = 1, str(error)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        lost = isinstance(error, RuntimeError) and any(
            message in str(error) for message in DISCONNECT_MESSAGES
        )
        code, message = (PEER_LOST_CODE if lost else 1), f"{type(error).__name__}: {error}"
        # A lost peer is the parent's news; a traceback of each follower would bury it.
        if not lost:
            traceback.print_exc()
    if message:
        # Where and as torch's launcher reads it.
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(
            files.to_json({"message": message}), encoding="utf-8"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    # Without cleanup: leaving the process group would wait for peers that may be gone.
    os._exit(code)


def run_rank(instructions: dict[str, Any]) -> int:
    """Carry out the instructions as the first process, or follow it; return the exit code."""
    from dlrun.launch.run_config import execute_run
    from dlrun.training.distributed import process_group

    config = instructions["config"]
    processes = process_group.join_group(config["engine"]["device"])
    if processes.rank:
        return follow_main_process(processes)
    run_experiment = (
        None if instructions["report"] else lambda experiment, display: experiment.results(display)
    )
    code = execute_run(
        config, Path(instructions["folder"]), tuple(instructions["plugins"]), run_experiment
    )[0]
    # Before the others hear of it: from then on, one that ends early may end all.
    sys.stdout.flush()
    Path(sys.argv[1]).with_name(CODE_FILE).write_text(str(code), encoding="utf-8")
    return processes.broadcast_object(code)


def watch_parent(parent: int) -> None:
    """Stop, as if asked to, when the parent process is gone."""
    # Its orphans get another parent. No pipe tells so: torch's launcher gives them none.
    while os.getppid() == parent:
        time.sleep(PARENT_INTERVAL)
    os.kill(os.getpid(), signal.SIGTERM)
