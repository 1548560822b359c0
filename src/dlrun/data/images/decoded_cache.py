"""Pictures decoded once: a file of uint8 pixels in the user's cache, named by the content that it was made of."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.core import json_text
from dlrun.core.files import atomic_write, write_text
from dlrun.core.paths import user_cache
from dlrun.data.images.archives import FileList, decode_name, read_bytes
from dlrun.data.images.decode import ImageDecodeError, Reading
from dlrun.data.images.decode_workers import iter_images, shutdown_workers

log = logging.getLogger("dlrun")

CACHE_VERSION = 1  # goes up when the same files become other pixels
MIN_FREE_BYTES = 1 << 28  # bytes of the disk that are left to others
MISSING_DIGEST = np.zeros(32, np.uint8)  # stands for the digest of a file that cannot be opened


@dataclass(frozen=True, eq=False)
class DecodeSummary:
    """What was seen when all pictures were decoded. marks: a digest of each one's pixels (N, 16), uint8.

    faults: number of a file → why it gives no picture.
    """

    pixel_hashes: np.ndarray
    errors: dict[int, str]


@dataclass(frozen=True, eq=False)
class ImageStore:
    """The pictures of some files. sums: the sha256 of each file (N, 32), uint8.

    values: all pixels (N, C, H, W), mapped from the disk; None where each picture is decoded when it is asked for.
    """

    files: FileList
    reading: Reading
    file_hashes: np.ndarray
    summary: DecodeSummary
    pixels: np.ndarray | None


def open_image_store(files: FileList, reading: Reading, *, keep: bool) -> ImageStore:
    """The pictures of these files, decoded now unless an earlier start, or another run, has done so.

    keep: the pixels on the disk; where that is not possible it is said, and the pictures are decoded as they go.
    Files that give no picture are in `look.faults`; their pixels are 0.
    """
    sums = compute_file_hashes(files)
    path = (
        user_cache()
        / "pictures"
        / hashlib.sha256(f"{CACHE_VERSION} {reading}".encode() + sums.tobytes()).hexdigest()
    )
    look, values = (
        _read_summary(path, len(files)),
        _map_pixels(path, len(files), reading) if keep else None,
    )
    if look is None or (keep and values is None):
        look, values = _decode_once(path, files, reading, keep)
    return ImageStore(files, reading, sums, look, values)


def compute_file_hashes(files: FileList) -> np.ndarray:
    """The sha256 of each file's content (N, 32), uint8; remembered while no file's size or time changes."""
    path = user_cache() / "pictures" / "sums" / f"{files.fingerprint()}.npy"
    with suppress(OSError, ValueError, EOFError):
        found = np.load(path, allow_pickle=False)
        if found.shape == (len(files), 32) and found.dtype == np.uint8:
            return found
    found = np.stack([_compute_file_hash(files.root, name) for name in files.names])
    if (
        not (found == MISSING_DIGEST).all(1).any()
    ):  # a file that cannot be opened now may be there next time
        with suppress(OSError), atomic_write(path) as fresh, fresh.open("wb") as handle:
            np.save(handle, found)
    return found


def _compute_file_hash(place: Path, name: str) -> np.ndarray:
    try:
        return np.frombuffer(hashlib.sha256(read_bytes(place, name)).digest(), np.uint8)
    except ImageDecodeError:
        return MISSING_DIGEST


def _read_summary(path: Path, count: int) -> DecodeSummary | None:
    """The look that was kept; None where there is none."""
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        marks = np.frombuffer(bytes.fromhex(kept["marks"]), np.uint8).reshape(count, 16)
        return DecodeSummary(marks, {int(row): reason for row, reason in kept["faults"].items()})
    return None


def _map_pixels(path: Path, count: int, reading: Reading) -> np.ndarray | None:
    """The pixels that were kept, mapped and not read; None where there are none, or not as many as there should be."""
    with suppress(OSError, ValueError, EOFError):
        values = np.load(path.with_suffix(".npy"), mmap_mode="c", allow_pickle=False)
        if values.shape == (count, reading.channels, *reading.size) and values.dtype == np.uint8:
            return values
    return None


def _decode_once(
    path: Path, files: FileList, reading: Reading, keep: bool
) -> tuple[DecodeSummary, np.ndarray | None]:
    """Decode all pictures once, under a lock: of two runs that begin together, one waits for the other."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep:
            _check_disk_space(
                path.parent, len(files) * reading.channels * reading.size[0] * reading.size[1]
            )
        with FileLock(path.with_suffix(".lock")):
            look, values = _read_summary(path, len(files)), _map_pixels(path, len(files), reading)
            if look is None or (keep and values is None):
                look = _write_cache(path, files, reading, keep)
                values = _map_pixels(path, len(files), reading)
            return look, values if keep else None
    except (OSError, NotImplementedError) as error:
        if keep:
            log.warning(
                "decoded pictures cannot be kept in %s (%s): they are decoded as they go",
                path.parent,
                error,
            )
        return _decode_all(files, reading, None), None


def _check_disk_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + MIN_FREE_BYTES > free:
        raise OSError(f"it takes {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} are free")


def _write_cache(path: Path, files: FileList, reading: Reading, keep: bool) -> DecodeSummary:
    """Write the pixels, where they are to be kept, then the look; each whole or not at all."""
    if keep:
        log.info(
            "decoding %s pictures, once: later starts read them from %s",
            f"{len(files):,}",
            path.parent,
        )
        with atomic_write(path.with_suffix(".npy")) as fresh, fresh.open("wb") as handle:
            shape = (len(files), reading.channels, *reading.size)
            head: Any = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(handle, head)
            look = _decode_all(files, reading, handle)
        shutdown_workers()
    else:
        log.info("decoding %s pictures, once, to see that it can be done", f"{len(files):,}")
        look = _decode_all(files, reading, None)
    write_text(
        path.with_suffix(".json"),
        json_text.to_json({"marks": look.pixel_hashes.tobytes().hex(), "faults": look.errors}),
    )
    return look


def _decode_all(files: FileList, reading: Reading, handle: Any) -> DecodeSummary:
    """Decode all pictures, and write their pixels to `handle` where there is one."""
    blank, faults = np.zeros((reading.channels, *reading.size), np.uint8), {}
    marks = np.empty((len(files), 16), np.uint8)
    for row, found in enumerate(iter_images(files, reading)):
        if isinstance(found, str):
            faults[row] = found
        pixels = blank if isinstance(found, str) else found
        marks[row] = np.frombuffer(
            hashlib.blake2b(pixels.tobytes(), digest_size=16).digest(), np.uint8
        )
        if handle is not None:
            handle.write(pixels.tobytes())
    return DecodeSummary(marks, faults)


def iter_image_batches(store: ImageStore, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The pictures of these rows as uint8 (B, C, H, W), decoded as they are asked for, `size` at a time.

    Raises UserError when a picture can no longer be read.
    """
    waiting: list[np.ndarray] = []
    files = store.files.take(rows.tolist())
    for place, found in enumerate(iter_images(files, store.reading)):
        if isinstance(found, str):
            name = decode_name(files.names[place])
            raise ImageDecodeError(
                f"{store.files.root}: '{name}' could be read at the start; now: {found}"
            )
        waiting.append(found)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)
