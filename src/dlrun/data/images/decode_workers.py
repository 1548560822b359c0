"""Decodes images in threads that read ahead, and yields them in the order of the files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from dlrun.data.images.archives import FileList, read_bytes
from dlrun.data.images.decode import ImageDecodeError, Reading, decode_image

# Enough to keep all threads busy while the slowest image is awaited, and few enough that decoded
# images do not pile up in memory.
READ_AHEAD = 16  # images for each thread


def _decode_file(files: FileList, name: str, reading: Reading) -> np.ndarray | str:
    try:
        return decode_image(read_bytes(files.root, name), reading)
    except ImageDecodeError as error:
        return str(error)


def iter_images(files: FileList, reading: Reading) -> Iterator[np.ndarray | str]:
    """Yield the image of each file, decoded in as many threads as there are processors.

    Pillow decodes and resizes without holding Python's lock, so that threads do what processes
    would, and neither have to be started nor to send pixels to each other.

    Args:
        files: The files to decode.
        reading: Size, channels and fit of the images.

    Yields:
        The pixels, uint8 (C, H, W), or the reason why a file gives none.
    """
    num_threads = min(available_cpus(), len(files))
    if num_threads <= 1:
        yield from (_decode_file(files, name, reading) for name in files.names)
        return
    pending: deque[Future[np.ndarray | str]] = deque()
    pool = ThreadPoolExecutor(num_threads, "dlrun-decoder")
    try:
        for name in files.names:
            pending.append(pool.submit(_decode_file, files, name, reading))
            if len(pending) >= READ_AHEAD * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also where the caller has broken an epoch off
        pool.shutdown(cancel_futures=True)


def available_cpus() -> int:
    """Return how many processors this process may use."""
    # In containers and under taskset fewer than os.cpu_count(); not all systems can tell.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
