"""Worker processes that stay: each loads torch once and runs job after job; one that dies or hangs is replaced."""

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
from dlrun.core import json_text
from dlrun.core.errors import UserError
from dlrun.sweeps.job import JobResult, JobStopRule, SweepJob

SAVE_TIMEOUT = 5.0  # seconds for a job that has to stop until it is killed
STOP_TIMEOUT = 30.0  # the same, where the whole sweep stops
Events = queue.SimpleQueue[tuple["Worker", dict[str, Any]]]


class Worker:
    """One process, and the jobs that it is at: one, or several that it trains as one."""

    def __init__(self, events: Events, extra: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dlrun.launch.sweep_worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, encoding="utf-8", env={**os.environ, **extra}, start_new_session=True,
            )  # fmt: skip
        self.log, self.ready = log, False
        self.jobs: list[SweepJob] = []
        self.began = self.kill_at = 0.0
        self.late = ""
        threading.Thread(target=self._read_messages, args=(events,), daemon=True).start()

    def _read_messages(self, events: Events) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                events.put((self, json.loads(line)))
        events.put((self, {"event": "gone"}))

    def send_message(self, **message: Any) -> None:
        """Send something; a process that is gone does not hear it, which is noticed elsewhere."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(json_text.to_message(message) + "\n")
            self.process.stdin.flush()

    def start_jobs(self, jobs: Sequence[SweepJob], plugins: tuple[str, ...], asks: bool) -> None:
        """Give it jobs."""
        self.jobs, self.began, self.late, self.kill_at = list(jobs), time.monotonic(), "", 0.0
        self.send_message(jobs=[job.to_dict() for job in jobs], plugins=list(plugins), asks=asks)

    def ask_to_stop(self, seconds: float) -> None:
        """Have it save and stop; killed if it has not in so many seconds."""
        self._send_signal(signal.SIGTERM, self.process.pid)
        self.kill_at = time.monotonic() + seconds

    def kill(self) -> None:
        """End it and all that it has started, at once."""
        self._send_signal(getattr(signal, "SIGKILL", signal.SIGTERM), -self.process.pid)

    def _send_signal(self, number: int, whom: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(-whom, number) if whom < 0 and hasattr(os, "killpg") else os.kill(
                abs(whom), number
            )

    def wait_for_exit(self) -> int:
        """Wait until it has ended, and let go of what it was spoken to through; answers with its exit code."""
        with suppress(OSError):  # what was never read
            self.process.stdin.close()  # type: ignore[union-attr]
        return self.process.wait()

    def describe_exit(self) -> str:
        """How it died, in words."""
        code = self.wait_for_exit()
        name = signal.Signals(-code).name if code < 0 else ""
        return (
            f"its process was ended by {name}"
            if name
            else f"its process ended by itself with exit code {code}"
        )


class WorkerPool:
    """At most `jobs` workers, started when there is something for them to do."""

    def __init__(
        self, settings: Sweep, plugins: tuple[str, ...], folder: Path,
        judge: JobStopRule | None,
    ) -> None:  # fmt: skip
        self.settings, self.plugins, self.folder, self.judge = settings, plugins, folder, judge
        if settings.devices is not None and settings.jobs > (
            slots := len(settings.devices) * settings.share
        ):
            raise UserError(
                f"sweep.jobs={settings.jobs}: {len(settings.devices)} devices × sweep.share={settings.share} are room "
                f"for {slots} at a time"
            )
        self.events: Events = queue.SimpleQueue()
        self.workers: dict[int, Worker] = {}  # by slot
        self.over: list[JobResult] = []  # how jobs ended that nobody has asked about yet
        self.stopped = 0

    @property
    def num_free(self) -> int:
        """How many jobs could begin now."""
        busy = sum(bool(worker.jobs) for worker in self.workers.values())
        return 0 if self.stopped else self.settings.jobs - busy

    def submit(self, job: SweepJob, *others: SweepJob) -> None:
        """Give a job to a worker that has none, or to a new one, with others that can be trained as one with it."""
        free = next(
            (
                each
                for each in self.workers.values()
                if not each.jobs and each.process.poll() is None
            ),
            None,
        )
        if free is None:
            slot = next(slot for slot in range(self.settings.jobs) if slot not in self.workers)
            free = self.workers[slot] = Worker(
                self.events, self._worker_environment(slot), self.folder / f"worker-{slot + 1}.log"
            )
        free.start_jobs([job, *others], self.plugins, self.judge is not None)
        if self.stopped:  # meanwhile: `stop` did not know of this worker
            free.ask_to_stop(STOP_TIMEOUT)

    def _worker_environment(self, slot: int) -> dict[str, str]:
        """What a worker's environment has besides ours: its device, and its share of the cores."""
        threads = max(1, (os.cpu_count() or 1) // self.settings.jobs)
        cores = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
        if self.settings.devices is None:
            return cores
        return {**cores, "CUDA_VISIBLE_DEVICES": self.settings.devices[slot // self.settings.share]}

    def wait(self) -> JobResult | None:
        """Wait until a job has ended in one way or another; None when nothing is left to wait for."""
        while not self.over and any(worker.jobs for worker in self.workers.values()):
            try:
                worker, message = self.events.get(timeout=self._get_timeout())
            except queue.Empty:
                self._enforce_limit()
                continue
            self._handle_message(worker, message)
        return self.over.pop(0) if self.over else None

    def _handle_message(self, worker: Worker, message: dict[str, Any]) -> None:
        hear = {
            "ready": self._on_ready,
            "epoch": self._on_epoch,
            "ended": self._on_job_end,
            "gone": self._on_exit,
        }
        hear[message["event"]](worker, message)

    def _on_ready(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.ready, worker.began = (
            True,
            time.monotonic(),
        )  # the limit is the job's, not of loading torch

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
        """A job that stopped because it was told to, as its process does then: failed where its time was up."""
        self.workers = {slot: other for slot, other in self.workers.items() if other is not worker}
        return (
            JobResult(ended.number, "failed", worker.late, 1, ended.parameters, ended.seconds)
            if worker.late
            else ended
        )

    def _on_exit(self, worker: Worker, message: dict[str, Any]) -> None:
        """A process has ended: its job, if it had one, has failed, and its place is free.

        Where it had several, none of them is to blame for sure: they are lost, and each is to be run by itself.
        """
        how, (jobs, worker.jobs) = worker.describe_exit(), (worker.jobs, [])
        self.workers = {slot: other for slot, other in self.workers.items() if other is not worker}
        if jobs and not worker.ready and not worker.late and not self.stopped:
            raise UserError(f"a worker could not start: {how}; what it said is in {worker.log}")
        status = (
            "cut" if self.stopped and not worker.late else "lost" if len(jobs) > 1 else "failed"
        )
        code, seconds = (
            128 + self.stopped if status == "cut" else 1,
            time.monotonic() - worker.began,
        )
        self.over += [
            JobResult(job.number, status, worker.late or how, code, 0, seconds) for job in jobs
        ]

    def _get_timeout(self) -> float | None:
        """Seconds until somebody's time is up; None where nobody's can be."""
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
        """Ask whoever is over the limit to stop, and kill whoever was asked and has not."""
        now, limit = time.monotonic(), self.settings.limit
        for worker in [worker for worker in self.workers.values() if worker.jobs]:
            if worker.kill_at and now >= worker.kill_at:
                worker.kill()
            elif (
                limit is not None
                and worker.ready
                and not worker.kill_at
                and now - worker.began >= limit
            ):
                worker.late = f"it ran longer than sweep.limit={limit:g} seconds"
                worker.ask_to_stop(SAVE_TIMEOUT)

    def stop(self, number: int) -> None:
        """Have all jobs saved and stopped; a second time, have them killed."""
        for worker in self.workers.values():
            worker.kill() if self.stopped else worker.ask_to_stop(STOP_TIMEOUT)
        self.stopped = number

    @contextmanager
    def session(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM stop the jobs; at the end no process is left."""
        there = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if there else ()
        before = {
            number: signal.signal(number, lambda number, frame: self.stop(number))
            for number in numbers
        }
        try:
            yield
        finally:
            for worker in self.workers.values():
                worker.kill()
                worker.wait_for_exit()
            for number, handler in before.items():
                signal.signal(number, handler)
