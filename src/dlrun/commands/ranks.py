"""One of several processes, started by us (`main`, see `launch`) or by torchrun (`together`).

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dlrun.core import json_text
from dlrun.core.errors import Refused, Unwritable

# What decisions are made of:
MIRRORED = ("*.json", "*.jsonl", "*.yaml", "preparation/*.json", "fields/*.json", "predictions/*.npz")
LOST = 75  # exit code of a process that could not go on without the others
SIGNS = ("gloo", "NCCL", "closed by peer", "Connection reset")  # in what torch says when another one is gone


@dataclass
class Standing:
    """joined: this is one of several processes. led: the others have been told to run something."""

    joined: bool = False
    led: bool = False


standing = Standing()


def join(kind: str = "auto") -> int:
    """Join the other processes; answers with this one's number. kind: engine.device."""
    from dlrun.training.distributed import process_group

    process_group.start(kind)
    standing.joined = True
    return process_group.here.rank


def started_by_us() -> bool:
    """Whether this is one of the processes of a job whose parent is at work on its folder for all of them."""
    return standing.joined and "DLRUN_STORE" in os.environ


def together(words: list[str], run: Callable[[list[str]], int]) -> NoReturn:
    """A command among several processes that others have started: the first carries it out, and the others follow.

    Raises Refused where the first one was asked for what cannot be.
    """
    from dlrun.training.distributed import process_group

    kind = next((word.partition("=")[2] for word in words if word.startswith("engine.device=")), "auto")
    if join(kind):
        process_group.leave(follow())
    try:
        code = run(words)
    except Refused:
        if not standing.led:
            process_group.agreed(2)
        raise
    process_group.agreed(code)
    process_group.leave(code)


def lead(config: dict[str, Any], folder: Path, plugins: tuple[str, ...]) -> None:
    """Tell the other processes, where there are some, what is about to be run."""
    if standing.joined:
        from dlrun.training.distributed import process_group

        standing.led = True
        found = {
            path.relative_to(folder).as_posix(): path.read_bytes() for kind in MIRRORED for path in folder.glob(kind)
        }
        process_group.agreed({"config": config, "plugins": plugins, "files": found})


def follow() -> int:
    """Run what the first process runs, until it lets us go."""
    from dlrun.commands.train import carried_out

    while not isinstance(order := told_next(), int):
        with tempfile.TemporaryDirectory(prefix="dlrun-") as place:
            for name, content in order["files"].items():
                (Path(place) / name).parent.mkdir(exist_ok=True)
                (Path(place) / name).write_bytes(content)
            carried_out(order["config"], Path(place), tuple(order["plugins"]), first=False)
    return order


def told_next() -> dict[str, Any] | int:
    """What the first process is about to run, or the exit code to end with: LOST where it has ended without a word."""
    from dlrun.training.distributed import process_group

    try:
        return process_group.agreed({})
    except RuntimeError:
        return LOST


def main() -> None:
    """Do what the parent has written down, and write down how it ended."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path[:] = order["path"]
    threading.Thread(target=until_parent_ends, daemon=True).start()
    outcome = Path(order["outcomes"]) / f"{os.environ['RANK']}.json"
    told: dict[str, Any] = {}
    try:
        code = of(order)
    except Refused as error:
        code, told = 2, {"refused": str(error)}
    except Unwritable as error:
        code, told = 1, {"error": str(error)}
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        lost = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
        code, told = (LOST if lost else 1), {"error": f"{type(error).__name__}: {error}"}
        if not lost:
            traceback.print_exc()
    outcome.write_text(json_text.text(told), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # whoever waits for us in vain is the parent's concern


def of(order: dict[str, Any]) -> int:
    """Carry out, or follow, what is ordered; answers with the exit code."""
    from dlrun.commands.train import go
    from dlrun.training.distributed import process_group

    config = order["config"]
    if join(config["engine"]["device"]):
        return follow()
    carry = None if order["report"] else lambda experiment, display: experiment.results(display)
    code = go(config, Path(order["folder"]), tuple(order["plugins"]), carry)[0]
    return process_group.agreed(code)


def until_parent_ends() -> None:
    """Stop, as if asked to, when the process that has started us is gone."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
