"""A worker: `python -m dlrun.launch.sweep_worker` runs jobs with torch and the data read once.

Lines of JSON go both ways: jobs and answers come in through stdin, events go out through what was
stdout. All that a job prints goes to console.txt in its own folder.
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

from dlrun.core import files
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.sweeps.job import JobResult, SweepJob


class ParentConnection:
    """The connection to the parent process.

    Attributes:
        to_parent: The stream of events.
        jobs: Messages with jobs; None when the parent is gone.
        answers: Whether to prune, in the order of the questions.
    """

    def __init__(self, to_parent: TextIO) -> None:
        self.to_parent = to_parent
        self.jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def receive_messages(self) -> None:
        """Sort incoming messages; when the parent is gone, ask the current job to save and stop."""
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
        """Send an event to the parent."""
        self.to_parent.write(files.to_message(message) + "\n")
        self.to_parent.flush()

    def should_prune(self, epoch: int, values: dict[str, float], goals: dict[str, str]) -> bool:
        """Ask the parent whether to stop after this epoch.

        Args:
            epoch: The number of the epoch, over all fits of the job.
            values: 'split/metric' → value.
            goals: Metric → "min" or "max".
        """
        self.send(event="epoch", epoch=epoch, values=values, goals=goals)
        return self.answers.get()


def main() -> None:
    """Report that everything is loaded, then run jobs until no more come."""
    # The pipe moves to another descriptor: a stray print must not garble the events.
    parent = ParentConnection(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Without a terminal, rich would wrap tables at 80 columns.
    os.environ.setdefault("COLUMNS", "120")
    threading.Thread(target=parent.receive_messages, daemon=True).start()
    import dlrun.experiment.runner  # noqa: F401  (torch with all around it, once)
    from dlrun.data.cache import open_cache

    open_cache()
    parent.send(event="ready")
    while (message := parent.jobs.get()) is not None:
        for result in execute_message(parent, message):
            sys.stdout.flush()
            sys.stderr.flush()
            parent.send(event="ended", ended=asdict(result))
        if result.status == "cut":
            break
    # Without cleanup: processes that decode images need not be waited for.
    os._exit(0)


def execute_message(parent: ParentConnection, message: dict[str, Any]) -> Iterator[JobResult]:
    """Run the jobs of one message, at least one."""
    from dlrun.launch.sweep_job import run_job, run_parallel_jobs

    plugins = tuple(message["plugins"])
    jobs = [SweepJob.from_dict(values) for values in message["jobs"]]
    if plugins and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    redirect_output(jobs[0].folder)
    if len(jobs) > 1:
        yield from run_parallel_jobs(jobs, plugins)
    else:
        yield run_job(jobs[0], plugins, parent.should_prune if message["asks"] else None)


def redirect_output(folder: Path) -> None:
    """From here on, print to the console.txt of this folder."""
    folder.mkdir(exist_ok=True)
    path = RunFolder(folder).path(RunFile.CONSOLE)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        # Descriptors, not sys.stdout: libraries in C and child processes print, too.
        os.dup2(file, stream)
    os.close(file)


if __name__ == "__main__":
    main()
