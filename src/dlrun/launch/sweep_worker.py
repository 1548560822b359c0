"""A worker: `python -m dlrun.launch.sweep_worker` runs jobs one after the other, with torch and the data read once.

Lines of JSON go both ways: jobs and answers come in through stdin, what happens goes out through what was stdout. All
that a job prints goes to console.txt in its own folder.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from dlrun.core import json_text
from dlrun.sweeps.job import JobResult, SweepJob


class ParentConnection:
    """The line to the parent: what it asks for, and what is said to it."""

    def __init__(self, to_parent: TextIO) -> None:
        self.to_parent = to_parent
        self.jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def receive_messages(self) -> None:
        """Sort what comes in. When the parent is gone the job of now is to be saved, and nothing more is to be done."""
        for text in sys.stdin:
            message = json.loads(text)
            if "answer" in message:
                self.answers.put(message["answer"])
            else:
                self.jobs.put(message)
        self.jobs.put(None)
        self.answers.put(False)
        os.kill(os.getpid(), signal.SIGTERM)

    def send(self, **message: Any) -> None:
        """Tell the parent."""
        self.to_parent.write(json_text.to_message(message) + "\n")
        self.to_parent.flush()

    def should_prune(self, epoch: int, values: dict[str, float], goals: dict[str, str]) -> bool:
        """Ask the parent whether to stop after this epoch."""
        self.send(event="epoch", epoch=epoch, values=values, goals=goals)
        return self.answers.get()


def main() -> None:
    """Say that all is loaded, then do what is asked for until nothing more comes."""
    line = ParentConnection(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ.setdefault("COLUMNS", "120")
    threading.Thread(target=line.receive_messages, daemon=True).start()
    import dlrun.experiment.runner  # noqa: F401  (torch with all around it, once)
    from dlrun.data.dataset_cache import open_cache

    open_cache()
    line.send(event="ready")
    while (message := line.jobs.get()) is not None:
        for ended in execute_message(line, message):
            sys.stdout.flush()
            sys.stderr.flush()
            line.send(event="ended", ended=asdict(ended))
        if ended.status == "cut":
            break
    os._exit(
        0
    )  # what else lives in this process, such as readers of pictures, need not be waited for


def execute_message(line: ParentConnection, message: dict[str, Any]) -> Iterator[JobResult]:
    """Carry out the jobs of one message, at least one."""
    from dlrun.launch.sweep_job import run_job, run_parallel_jobs

    plugins, jobs = (
        tuple(message["plugins"]),
        [SweepJob.from_dict(values) for values in message["jobs"]],
    )
    if plugins and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    redirect_output(jobs[0].folder)
    if len(jobs) > 1:
        yield from run_parallel_jobs(jobs, plugins)
    else:
        yield run_job(jobs[0], plugins, line.should_prune if message["asks"] else None)


def redirect_output(folder: Path) -> None:
    """From here on, what is printed goes to the console.txt of this folder."""
    folder.mkdir(exist_ok=True)
    file = os.open(folder / "console.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


if __name__ == "__main__":
    main()
