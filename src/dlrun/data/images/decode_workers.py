"""Decodes pictures in worker processes and hands them out in the order in which they were asked for."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import parent_process
from typing import Any

import numpy as np

from dlrun.core.errors import UserError
from dlrun.data.images.archives import FileList, read_bytes
from dlrun.data.images.decode import ImageDecodeError, Reading, decode_image

MIN_PARALLEL_FILES = 64  # pictures are decoded sooner than workers have begun
CHUNK_FILES = 16  # pictures decoded at a time, by one worker
ImageChunk = list[np.ndarray | str]  # a picture each, or why there is none


def decode_files(files: FileList, reading: Reading) -> ImageChunk:
    """The pictures in these files; what a worker does."""
    return [_decode_file(files, name, reading) for name in files.names]


def _decode_file(files: FileList, name: str, reading: Reading) -> np.ndarray | str:
    try:
        return decode_image(read_bytes(files.root, name), reading)
    except ImageDecodeError as error:
        return str(error)


def iter_images(files: FileList, reading: Reading) -> Iterator[np.ndarray | str]:
    """The picture of each file, or why there is none; by workers that read ahead, where there are many files.

    Raises UserError when a worker is killed.
    """
    pieces = (
        files.slice(first, first + CHUNK_FILES) for first in range(0, len(files), CHUNK_FILES)
    )
    count = available_cpus()
    if count == 1 or len(files) <= MIN_PARALLEL_FILES:
        found: Iterator[ImageChunk] = (decode_files(piece, reading) for piece in pieces)
    else:
        found = _prefetch(
            worker_pool(os.getpid()),
            ((decode_files, piece, reading) for piece in pieces),
            4 * count,
        )
    for piece in found:
        yield from piece


def available_cpus() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _prefetch(pool: Executor, tasks: Iterable[tuple[Any, ...]], depth: int) -> Iterator[ImageChunk]:
    """The results of these calls in their order; `depth` of them are under way."""
    waiting: deque[Future[ImageChunk]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(*task))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        worker_pool.cache_clear()
        raise UserError(
            "a process that decoded pictures was killed; is there enough memory?"
        ) from error
    finally:
        for future in waiting:
            future.cancel()


@lru_cache(maxsize=1)
def worker_pool(process: int, context: Any = None) -> Executor:
    """The workers of this process, for all that it decodes; they end with it. context: how they are started."""
    return ProcessPoolExecutor(available_cpus(), mp_context=context, initializer=_init_worker)


def shutdown_workers() -> None:
    """Let the workers go; they come back when they are needed."""
    if worker_pool.cache_info().currsize:
        worker_pool(os.getpid()).shutdown(cancel_futures=True)
        worker_pool.cache_clear()


def _init_worker() -> None:
    """A worker leaves Ctrl-C to its parent, and ends when its parent has ended, in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
