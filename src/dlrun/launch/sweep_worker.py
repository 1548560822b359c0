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
from dlrun.sweeps.job import Ended, Job


class Line:
    """The line to the parent: what it asks for, and what is said to it."""

    def __init__(self, to_parent: TextIO) -> None:
        self.to_parent = to_parent
        self.jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def listen(self) -> None:
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

    def say(self, **message: Any) -> None:
        """Tell the parent."""
        self.to_parent.write(json_text.message(message) + "\n")
        self.to_parent.flush()

    def judge(self, epoch: int, values: dict[str, float], goals: dict[str, str]) -> bool:
        """Ask the parent whether to stop after this epoch."""
        self.say(event="epoch", epoch=epoch, values=values, goals=goals)
        return self.answers.get()


def main() -> None:
    """Say that all is loaded, then do what is asked for until nothing more comes."""
    line = Line(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ.setdefault("COLUMNS", "120")
    threading.Thread(target=line.listen, daemon=True).start()
    import dlrun.experiment.runner  # noqa: F401  (torch with all around it, once)
    from dlrun.data.dataset_cache import keep

    keep()
    line.say(event="ready")
    while (message := line.jobs.get()) is not None:
        for ended in done(line, message):
            sys.stdout.flush()
            sys.stderr.flush()
            line.say(event="ended", ended=asdict(ended))
        if ended.status == "cut":
            break
    os._exit(0)  # what else lives in this process, such as readers of pictures, need not be waited for


def done(line: Line, message: dict[str, Any]) -> Iterator[Ended]:
    """Carry out the jobs of one message, at least one."""
    from dlrun.launch.sweep_job import carried_out, carried_out_as_one

    plugins, jobs = tuple(message["plugins"]), [Job.of(values) for values in message["jobs"]]
    if plugins and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    aside(jobs[0].folder)
    if len(jobs) > 1:
        yield from carried_out_as_one(jobs, plugins)
    else:
        yield carried_out(jobs[0], plugins, line.judge if message["asks"] else None)


def aside(folder: Path) -> None:
    """From here on, what is printed goes to the console.txt of this folder."""
    folder.mkdir(exist_ok=True)
    file = os.open(folder / "console.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


if __name__ == "__main__":
    main()
