"""Processes beside a test. What they say, or their end, is what a test waits for: no slow machine makes it fail."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from dlrun.core.files import PACKAGE

LIMIT = 3600.0  # seconds: ends what hangs for good, and is never what a test is about
HERE = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
DLRUN = [sys.executable, "-c", "import sys; from dlrun.cli.main import entry; entry()"]


class Beside:
    """A process, and what it has said so far, errors too."""

    def __init__(self, command: list[Any], **about: Any) -> None:
        words = list(map(str, command))
        about = {"env": HERE, "text": True, "encoding": "utf-8"} | about
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **about
        )
        self.pid, self.said = self.process.pid, ""
        self.timer = threading.Timer(LIMIT, self.process.terminate)
        self.timer.daemon = True
        self.timer.start()

    def line(self) -> str:
        """The next line; '' once it has ended."""
        line = self.process.stdout.readline()
        self.said += line
        return line

    def until(self, text: str, times: int = 1) -> bool:
        """Wait for so many lines that have this text; whether they came before it ended."""
        while times and (line := self.line()):
            times -= text in line
        return not times

    def until_there(self, there: Callable[[], Any]) -> None:
        """Wait for what it leaves behind: looked for again and again as long as it has not ended."""
        while not there():
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            assert there(), self.rest()

    def rest(self) -> str:
        """All that it has said; waits until nobody can say more, which is when those that it started have ended too."""
        self.said += self.process.stdout.read()
        self.timer.cancel()
        return self.said

    def end(self) -> tuple[int, str]:
        """Its exit code and all that it has said, on one line."""
        said = self.rest()
        return self.process.wait(), " ".join(said.split())

    def kill(self) -> bool:
        """Kill it; whether it was still there."""
        there = self.process.poll() is None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.timer.cancel()
        return there

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def dlrun(*words: Any, **about: Any) -> Beside:
    """A dlrun of its own."""
    return Beside([*DLRUN, *words], **about)


def ended(pid: int) -> bool:
    """Wait until a process has ended, whoever has started it (Linux)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], LIMIT)[0])
    finally:
        os.close(handle)
