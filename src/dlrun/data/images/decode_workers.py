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

from dlrun.core.errors import Refused
from dlrun.data.images.archives import Files, content
from dlrun.data.images.decode import Reading, Unreadable, read

FEW = 64  # pictures are decoded sooner than workers have begun
PIECE = 16  # pictures decoded at a time, by one worker
Piece = list[np.ndarray | str]  # a picture each, or why there is none


def decode(files: Files, reading: Reading) -> Piece:
    """The pictures in these files; what a worker does."""
    return [_one(files, name, reading) for name in files.names]


def _one(files: Files, name: str, reading: Reading) -> np.ndarray | str:
    try:
        return read(content(files.place, name), reading)
    except Unreadable as error:
        return str(error)


def decoded(files: Files, reading: Reading) -> Iterator[np.ndarray | str]:
    """The picture of each file, or why there is none; by workers that read ahead, where there are many files.

    Raises Refused when a worker is killed.
    """
    pieces = (files.part(first, first + PIECE) for first in range(0, len(files), PIECE))
    count = cores()
    if count == 1 or len(files) <= FEW:
        found: Iterator[Piece] = (decode(piece, reading) for piece in pieces)
    else:
        found = _ahead(shared(os.getpid()), ((decode, piece, reading) for piece in pieces), 4 * count)
    for piece in found:
        yield from piece


def cores() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _ahead(pool: Executor, tasks: Iterable[tuple[Any, ...]], depth: int) -> Iterator[Piece]:
    """The results of these calls in their order; `depth` of them are under way."""
    waiting: deque[Future[Piece]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(*task))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        shared.cache_clear()
        raise Refused("a process that decoded pictures was killed; is there enough memory?") from error
    finally:
        for future in waiting:
            future.cancel()


@lru_cache(maxsize=1)
def shared(process: int, context: Any = None) -> Executor:
    """The workers of this process, for all that it decodes; they end with it. context: how they are started."""
    return ProcessPoolExecutor(cores(), mp_context=context, initializer=_begin)


def dismiss() -> None:
    """Let the workers go; they come back when they are needed."""
    if shared.cache_info().currsize:
        shared(os.getpid()).shutdown(cancel_futures=True)
        shared.cache_clear()


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, and ends when its parent has ended, in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
