"""Worker processes that stay: each loads torch once and runs job after job.

One that dies or hangs is replaced.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dlrun.config.settings import Sweep
from dlrun.core import files
from dlrun.core.errors import UserError
from dlrun.sweeps.job import Executor, JobResult, JobStopRule, SweepJob

# Seconds that a job has to save before it is killed: of one over its limit, which may hang, and
# of a whole sweep that stops, whose work is worth keeping.
SAVE_TIMEOUT = 5.0
STOP_TIMEOUT = 30.0
Events = queue.SimpleQueue[tuple["Worker", dict[str, Any]]]


class Worker:
    """One process and its jobs: one, or several that it trains as one.

    Attributes:
        process: It reads messages on stdin and writes them on stdout, one JSON text a line.
        log: Its stderr.
        ready: It has loaded torch.
        jobs: Those that have not ended.
        began: When they started, on the monotonic clock.
        kill_at: When it is killed, on that clock; 0: not yet decided.
        late: Why its time was up; "" while it was not.
    """

    def __init__(self, events: Events, extra: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                # -P: a file in the working folder must not hide a module.
                [sys.executable, "-P", "-m", "dlrun.launch.sweep_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env={**os.environ, **extra},
                # A group of its own: Ctrl-C reaches the sweep alone, which stops its workers,
                # and a kill ends what the worker has started, too.
                start_new_session=True,
            )
        self.log, self.ready = log, False
        self.jobs: list[SweepJob] = []
        self.began = self.kill_at = 0.0
        self.late = ""
        # Reading a pipe blocks, so each worker has a thread that does it.
        threading.Thread(target=self._read_messages, args=(events,), daemon=True).start()

    def _read_messages(self, events: Events) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                events.put((self, json.loads(line)))
        # Its stdout is closed, so the process has ended or is about to.
        events.put((self, {"event": "gone"}))

    def send_message(self, **message: Any) -> None:
        """Send a message; that a process is gone is noticed by its reader."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(files.to_message(message) + "\n")
            self.process.stdin.flush()

    def start_jobs(self, jobs: Sequence[SweepJob], plugins: tuple[str, ...], asks: bool) -> None:
        """Give it jobs.

        Args:
            jobs: One, or several that are trained as one.
            plugins: The user's packages.
            asks: Wait for an answer after each epoch: the job may be pruned.
        """
        self.jobs, self.began, self.late, self.kill_at = list(jobs), time.monotonic(), "", 0.0
        self.send_message(jobs=[job.to_dict() for job in jobs], plugins=list(plugins), asks=asks)

    def ask_to_stop(self, seconds: float) -> None:
        """Have it save and stop, and kill it after so many seconds."""
        self._send_signal(signal.SIGTERM, self.process.pid)
        self.kill_at = time.monotonic() + seconds

    def kill(self) -> None:
        """End it and its child processes at once."""
        self._send_signal(signal.SIGKILL, -self.process.pid)

    def _send_signal(self, number: int, target: int) -> None:
        """Signal a process, or with a negative number its group, as kill(2) does."""
        with suppress(ProcessLookupError, PermissionError):
            os.kill(target, number)

    def wait_for_exit(self) -> int:
        """Wait for its end and close its pipe; returns its exit code."""
        with suppress(OSError):  # closing flushes messages that it never read
            self.process.stdin.close()  # type: ignore[union-attr]
        return self.process.wait()

    def describe_exit(self) -> str:
        """How it died, in words."""
        code = self.wait_for_exit()
        name = signal.Signals(-code).name if code < 0 else ""
        if name:
            return f"its process was ended by {name}"
        return f"its process ended by itself with exit code {code}"


class WorkerPool(Executor):
    """At most `sweep.jobs` workers, started when there is work for them.

    Attributes:
        settings: The sweep's.
        plugins: The user's packages.
        folder: The sweep's folder, for the workers' logs.
        judge: Decides after each epoch whether a job stops; None: workers do not ask.
        events: Messages of all workers.
        workers: By slot, which decides a worker's device.
        over: Results that `wait` has not returned yet.
        stopped: The signal that stopped the pool; 0 for none.
    """

    def __init__(
        self,
        settings: Sweep,
        plugins: tuple[str, ...],
        folder: Path,
        judge: JobStopRule | None,
    ) -> None:
        self.settings, self.plugins, self.folder, self.judge = settings, plugins, folder, judge
        if settings.devices is not None:
            slots = len(settings.devices) * settings.share
            if settings.jobs > slots:
                raise UserError(
                    f"sweep.jobs={settings.jobs}: {len(settings.devices)} devices × "
                    f"sweep.share={settings.share} are room for {slots} at a time"
                )
        self.events: Events = queue.SimpleQueue()
        self.workers: dict[int, Worker] = {}
        self.over: list[JobResult] = []
        self.stopped = 0

    @property
    def num_free(self) -> int:
        """How many jobs could start now."""
        busy = sum(bool(worker.jobs) for worker in self.workers.values())
        return 0 if self.stopped else self.settings.jobs - busy

    def submit(self, job: SweepJob, *companions: SweepJob) -> None:
        """Give a job to an idle worker, or to a new one."""
        worker = self._get_idle_worker()
        worker.start_jobs([job, *companions], self.plugins, self.judge is not None)
        if self.stopped:  # a signal came meanwhile, and `stop` did not know of this worker
            worker.ask_to_stop(STOP_TIMEOUT)

    def _get_idle_worker(self) -> Worker:
        for worker in self.workers.values():
            if not worker.jobs and worker.process.poll() is None:
                return worker
        slot = next(slot for slot in range(self.settings.jobs) if slot not in self.workers)
        self.workers[slot] = Worker(
            self.events, self._worker_environment(slot), self.folder / f"worker-{slot + 1}.log"
        )
        return self.workers[slot]

    def _worker_environment(self, slot: int) -> dict[str, str]:
        """Environment variables of a worker: its device, and its share of the cores."""
        # Workers that each use all cores slow each other down.
        threads = max(1, (os.cpu_count() or 1) // self.settings.jobs)
        cores = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
        if self.settings.devices is None:
            return cores
        return {**cores, "CUDA_VISIBLE_DEVICES": self.settings.devices[slot // self.settings.share]}

    def wait(self) -> JobResult | None:
        """Wait until a job has ended in any way.

        Returns:
            None where no job is running.
        """
        while not self.over and any(worker.jobs for worker in self.workers.values()):
            try:
                worker, message = self.events.get(timeout=self._get_timeout())
            except queue.Empty:
                self._enforce_limit()
                continue
            self._handle_message(worker, message)
        return self.over.pop(0) if self.over else None

    def _handle_message(self, worker: Worker, message: dict[str, Any]) -> None:
        handlers = {
            "ready": self._on_ready,
            "epoch": self._on_epoch,
            "ended": self._on_job_end,
            "gone": self._on_exit,
        }
        handlers[message["event"]](worker, message)

    def _on_ready(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.ready = True
        worker.began = time.monotonic()  # the limit is the job's, not of loading torch

    def _on_epoch(self, worker: Worker, message: dict[str, Any]) -> None:
        judge = self.judge
        stop = judge is not None and judge(
            worker.jobs[0].number, message["epoch"], message["values"], message["goals"]
        )
        worker.send_message(answer=stop)

    def _on_job_end(self, worker: Worker, message: dict[str, Any]) -> None:
        ended = JobResult(**message["ended"])
        worker.jobs = [job for job in worker.jobs if job.number != ended.number]
        self.over.append(self._resolve_timeout(worker, ended) if ended.status == "cut" else ended)

    def _resolve_timeout(self, worker: Worker, ended: JobResult) -> JobResult:
        """A job that stopped when asked: failed where its time was up. Its process ends with it."""
        self._forget(worker)
        if not worker.late:
            return ended
        return JobResult(ended.number, "failed", worker.late, 1, ended.parameters, ended.seconds)

    def _forget(self, worker: Worker) -> None:
        self.workers = {
            slot: member for slot, member in self.workers.items() if member is not worker
        }

    def _on_exit(self, worker: Worker, message: dict[str, Any]) -> None:
        """A process has ended: its jobs have failed, and its slot is free.

        Of several jobs the culprit is unknown: they are lost, and each is run again by itself.
        """
        reason = worker.describe_exit()
        jobs, worker.jobs = worker.jobs, []
        self._forget(worker)
        if jobs and not worker.ready and not worker.late and not self.stopped:
            raise UserError(f"a worker could not start: {reason}; what it said is in {worker.log}")
        if self.stopped and not worker.late:
            status, code = "cut", 128 + self.stopped
        else:
            status, code = ("lost" if len(jobs) > 1 else "failed"), 1
        seconds = time.monotonic() - worker.began
        self.over += [
            JobResult(job.number, status, worker.late or reason, code, 0, seconds) for job in jobs
        ]

    def _get_timeout(self) -> float:
        """Seconds until the next deadline of a worker; 1 where there is none."""
        busy = [worker for worker in self.workers.values() if worker.jobs]
        times = [worker.kill_at for worker in busy if worker.kill_at]
        if self.settings.limit is not None:
            times += [
                worker.began + self.settings.limit
                for worker in busy
                if worker.ready and not worker.kill_at
            ]
        return max(0.0, min(times) - time.monotonic()) + 0.01 if times else 1.0

    def _enforce_limit(self) -> None:
        """Ask workers over the time limit to stop, and kill those that were asked and did not."""
        time_now, limit = time.monotonic(), self.settings.limit
        for worker in [worker for worker in self.workers.values() if worker.jobs]:
            if worker.kill_at:
                if time_now >= worker.kill_at:
                    worker.kill()
            elif limit is not None and worker.ready and time_now - worker.began >= limit:
                worker.late = f"it ran longer than sweep.limit={limit:g} seconds"
                worker.ask_to_stop(SAVE_TIMEOUT)

    def stop(self, number: int) -> None:
        """Have all jobs save and stop; a second time, kill them."""
        for worker in self.workers.values():
            worker.kill() if self.stopped else worker.ask_to_stop(STOP_TIMEOUT)
        self.stopped = number

    @contextmanager
    def session(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM stop the jobs; at the end no process is left."""
        # Python sets signal handlers in the main thread alone.
        is_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if is_main_thread else ()
        previous_handlers = {
            number: signal.signal(number, lambda number, frame: self.stop(number))
            for number in numbers
        }
        try:
            yield
        finally:
            for worker in self.workers.values():
                worker.kill()
                worker.wait_for_exit()
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)
