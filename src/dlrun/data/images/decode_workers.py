"""Decodes images in worker processes and yields them in the order of the files."""

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

MIN_PARALLEL_FILES = 64  # so few images are decoded sooner than workers have started
CHUNK_FILES = 16  # images that a worker decodes at a time
ImageChunk = list[np.ndarray | str]  # for each file its pixels, or why it gives none


def decode_files(files: FileList, reading: Reading) -> ImageChunk:
    """Decode these files; this is what a worker does.

    Returns:
        For each file its pixels, uint8 (C, H, W), or the reason why it gives none.
    """
    return [_decode_file(files, name, reading) for name in files.names]


def _decode_file(files: FileList, name: str, reading: Reading) -> np.ndarray | str:
    try:
        return decode_image(read_bytes(files.root, name), reading)
    except ImageDecodeError as error:
        return str(error)


def iter_images(files: FileList, reading: Reading) -> Iterator[np.ndarray | str]:
    """Yield the image of each file, decoded by workers that read ahead where there are many files.

    Args:
        files: The files to decode.
        reading: Size, channels and fit of the images.

    Yields:
        The pixels, uint8 (C, H, W), or the reason why a file gives none.

    Raises:
        UserError: A worker was killed.
    """
    starts = range(0, len(files), CHUNK_FILES)
    groups = (files.slice(start, start + CHUNK_FILES) for start in starts)
    num_workers = available_cpus()
    if num_workers == 1 or len(files) <= MIN_PARALLEL_FILES:
        chunks: Iterator[ImageChunk] = (decode_files(group, reading) for group in groups)
    else:
        tasks = ((decode_files, group, reading) for group in groups)
        # Four chunks a worker: enough to keep all busy while the slowest chunk is awaited, and
        # few enough that decoded images do not pile up in memory.
        chunks = _prefetch(worker_pool(os.getpid()), tasks, 4 * num_workers)
    for chunk in chunks:
        yield from chunk


def available_cpus() -> int:
    """Return how many processors this process may use."""
    # In containers and under taskset fewer than os.cpu_count(); not all systems can tell.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _prefetch(pool: Executor, tasks: Iterable[tuple[Any, ...]], depth: int) -> Iterator[ImageChunk]:
    """Yield the results of these calls in their order, with `depth` of them under way."""
    pending: deque[Future[ImageChunk]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(*task))
            if len(pending) >= depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        worker_pool.cache_clear()
        raise UserError(
            "a process that decoded images was killed; is there enough memory?"
        ) from error
    finally:
        for future in pending:
            future.cancel()


@lru_cache(maxsize=1)
def worker_pool(process: int, context: Any = None) -> Executor:
    """Return the worker pool of this process, which ends with it.

    Args:
        process: Process id; a forked child must not use the pool of its parent.
        context: The multiprocessing context that starts the workers, None for the default.
    """
    return ProcessPoolExecutor(available_cpus(), mp_context=context, initializer=_init_worker)


def shutdown_workers() -> None:
    """Stop the workers; they are started again when they are needed."""
    if worker_pool.cache_info().currsize:
        worker_pool(os.getpid()).shutdown(cancel_futures=True)
        worker_pool.cache_clear()


def _init_worker() -> None:
    """Leave Ctrl-C to the parent process, and exit when it has ended, in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
