"""One of several processes, started by us (`main`, see `launch`) or by torchrun (`run_distributed`).

The first process does what it would do alone, and tells the others what it is about to run. They run the same in a
folder of their own that is thrown away, so that all come to the same decisions, and only the first one's is the run's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dlrun.core import json_text
from dlrun.core.errors import FileWriteError, UserError
from dlrun.launch.rank_state import (
    PEER_LOST_CODE,
    distributed_state,
    join_process_group,
    receive_run,
)

DISCONNECT_MESSAGES = (
    "gloo",
    "NCCL",
    "closed by peer",
    "Connection reset",
)  # in what torch says when another one is gone


def run_distributed(words: list[str], run: Callable[[list[str]], int]) -> NoReturn:
    """A command among several processes that others have started: the first carries it out, and the others follow.

    Raises UserError where the first one was asked for what cannot be.
    """
    from dlrun.training.distributed import process_group

    kind = next(
        (word.partition("=")[2] for word in words if word.startswith("engine.device=")), "auto"
    )
    if join_process_group(kind):
        process_group.exit_process(follow_main_process())
    try:
        code = run(words)
    except UserError:
        if not distributed_state.has_broadcast:
            process_group.broadcast_object(2)
        raise
    process_group.broadcast_object(code)
    process_group.exit_process(code)


def follow_main_process() -> int:
    """Run what the first process runs, until it lets us go."""
    from dlrun.launch.run_config import execute_in_process

    while not isinstance(order := receive_run(), int):
        with tempfile.TemporaryDirectory(prefix="dlrun-") as place:
            for name, content in order["files"].items():
                (Path(place) / name).parent.mkdir(exist_ok=True)
                (Path(place) / name).write_bytes(content)
            execute_in_process(order["config"], Path(place), tuple(order["plugins"]), first=False)
    return order


def main() -> None:
    """Do what the parent has written down, and write down how it ended."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path[:] = order["path"]
    threading.Thread(target=watch_parent, daemon=True).start()
    outcome = Path(order["outcomes"]) / f"{os.environ['RANK']}.json"
    told: dict[str, Any] = {}
    try:
        code = run_rank(order)
    except UserError as error:
        code, told = 2, {"refused": str(error)}
    except FileWriteError as error:
        code, told = 1, {"error": str(error)}
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        lost = isinstance(error, RuntimeError) and any(
            sign in str(error) for sign in DISCONNECT_MESSAGES
        )
        code, told = (PEER_LOST_CODE if lost else 1), {"error": f"{type(error).__name__}: {error}"}
        if not lost:
            traceback.print_exc()
    outcome.write_text(json_text.to_json(told), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # whoever waits for us in vain is the parent's concern


def run_rank(order: dict[str, Any]) -> int:
    """Carry out, or follow, what is ordered; answers with the exit code."""
    from dlrun.launch.run_config import execute_run
    from dlrun.training.distributed import process_group

    config = order["config"]
    if join_process_group(config["engine"]["device"]):
        return follow_main_process()
    carry = None if order["report"] else lambda experiment, display: experiment.results(display)
    code = execute_run(config, Path(order["folder"]), tuple(order["plugins"]), carry)[0]
    return process_group.broadcast_object(code)


def watch_parent() -> None:
    """Stop, as if asked to, when the process that has started us is gone."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
