"""Images decoded once: a file of uint8 pixels in the user's cache, named by what it was made of."""

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

from dlrun.core import files as json_text
from dlrun.core.files import atomic_write, user_cache, write_text
from dlrun.data.images.archives import FileList, decode_name, read_bytes
from dlrun.data.images.decode import ImageDecodeError, Reading
from dlrun.data.images.decode_workers import iter_images

log = logging.getLogger("dlrun")

CACHE_VERSION = 1  # goes up when the same files become other pixels
MIN_FREE_BYTES = 1 << 28  # bytes of the disk that are left to others
MISSING_DIGEST = np.zeros(32, np.uint8)  # stands for the digest of a file that cannot be opened


@dataclass(frozen=True, eq=False)
class DecodeSummary:
    """What was learned when all images were decoded.

    Attributes:
        pixel_hashes: A digest of each image's pixels, uint8 (N, 16).
        errors: Index of a file → why it gives no image.
    """

    pixel_hashes: np.ndarray
    errors: dict[int, str]


@dataclass(frozen=True, eq=False)
class ImageStore:
    """The images of some files.

    Attributes:
        files: The image files.
        reading: How they are decoded.
        file_hashes: The sha256 of each file, uint8 (N, 32).
        summary: What was learned when they were decoded.
        pixels: All pixels, uint8 (N, C, H, W), mapped from the disk; None where each image is
            decoded on access.
    """

    files: FileList
    reading: Reading
    file_hashes: np.ndarray
    summary: DecodeSummary
    pixels: np.ndarray | None


def open_image_store(files: FileList, reading: Reading, *, keep: bool) -> ImageStore:
    """Open the images of these files, decoded now unless an earlier run has done so.

    Files that give no image are in `summary.errors`; their pixels are 0.

    Args:
        files: The image files.
        reading: How they are decoded.
        keep: Store the pixels on the disk. Where that is impossible a warning is logged, and the
            images are decoded on access.
    """
    hashes = compute_file_hashes(files)
    key = f"{CACHE_VERSION} {reading}".encode() + hashes.tobytes()
    path = user_cache() / "pictures" / hashlib.sha256(key).hexdigest()
    summary = _read_summary(path, len(files))
    pixels = _map_pixels(path, len(files), reading) if keep else None
    if summary is None or (keep and pixels is None):
        summary, pixels = _decode_once(path, files, reading, keep)
    return ImageStore(files, reading, hashes, summary, pixels)


def compute_file_hashes(files: FileList) -> np.ndarray:
    """Return the sha256 of each file's content, uint8 (N, 32).

    They are cached as long as no file's size or modification time changes.
    """
    path = user_cache() / "pictures" / "sums" / f"{files.fingerprint()}.npy"
    with suppress(OSError, ValueError, EOFError):
        hashes = np.load(path, allow_pickle=False)
        if hashes.shape == (len(files), 32) and hashes.dtype == np.uint8:
            return hashes
    hashes = np.stack([_compute_file_hash(files.root, name) for name in files.names])
    # Not stored while a file cannot be opened: it may be there next time, with the same name.
    if not (hashes == MISSING_DIGEST).all(1).any():
        with suppress(OSError), atomic_write(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, hashes)
    return hashes


def _compute_file_hash(root: Path, name: str) -> np.ndarray:
    try:
        return np.frombuffer(hashlib.sha256(read_bytes(root, name)).digest(), np.uint8)
    except ImageDecodeError:
        return MISSING_DIGEST


def _read_summary(path: Path, count: int) -> DecodeSummary | None:
    """Return the stored summary, None where there is none."""
    with suppress(OSError, ValueError, KeyError):
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        pixel_hashes = np.frombuffer(bytes.fromhex(content["marks"]), np.uint8).reshape(count, 16)
        return DecodeSummary(
            pixel_hashes, {int(row): reason for row, reason in content["faults"].items()}
        )
    return None


def _map_pixels(path: Path, count: int, reading: Reading) -> np.ndarray | None:
    """Map the stored pixels without reading them; None where they are absent or misshapen."""
    # Mapped copy-on-write ("c"): torch wants writable arrays, and the file must not change.
    with suppress(OSError, ValueError, EOFError):
        pixels = np.load(path.with_suffix(".npy"), mmap_mode="c", allow_pickle=False)
        if pixels.shape == (count, reading.channels, *reading.size) and pixels.dtype == np.uint8:
            return pixels
    return None


def _decode_once(
    path: Path, files: FileList, reading: Reading, keep: bool
) -> tuple[DecodeSummary, np.ndarray | None]:
    """Decode all images under a lock: of two runs that start together, one waits for the other."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep:
            height, width = reading.size
            _check_disk_space(path.parent, len(files) * reading.channels * height * width)
        with FileLock(path.with_suffix(".lock")):
            # Another run may have written them while this one waited for the lock.
            summary = _read_summary(path, len(files))
            pixels = _map_pixels(path, len(files), reading)
            if summary is None or (keep and pixels is None):
                summary = _write_cache(path, files, reading, keep)
                pixels = _map_pixels(path, len(files), reading)
            return summary, pixels if keep else None
    except (OSError, NotImplementedError) as error:
        if keep:
            log.warning(
                "decoded images cannot be kept in %s (%s): they are decoded as they go",
                path.parent,
                error,
            )
        return _decode_all(files, reading, None), None


def _check_disk_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + MIN_FREE_BYTES > free:
        raise OSError(f"it takes {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} are free")


def _write_cache(path: Path, files: FileList, reading: Reading, keep: bool) -> DecodeSummary:
    """Write the pixels, where they are to be kept, then the summary; each atomically."""
    if keep:
        log.info(
            "decoding %s images, once: later starts read them from %s",
            f"{len(files):,}",
            path.parent,
        )
        with atomic_write(path.with_suffix(".npy")) as temporary, temporary.open("wb") as handle:
            shape = (len(files), reading.channels, *reading.size)
            header: Any = {"descr": "|u1", "fortran_order": False, "shape": shape}
            # The header first, then pixels as they come: the array need not fit in memory.
            np.lib.format.write_array_header_1_0(handle, header)
            summary = _decode_all(files, reading, handle)
    else:
        log.info("decoding %s images, once, to see that it can be done", f"{len(files):,}")
        summary = _decode_all(files, reading, None)
    write_text(
        path.with_suffix(".json"),
        json_text.to_json(
            {"marks": summary.pixel_hashes.tobytes().hex(), "faults": summary.errors}
        ),
    )
    return summary


def _decode_all(files: FileList, reading: Reading, handle: Any) -> DecodeSummary:
    """Decode all images, and write their pixels to `handle` unless it is None."""
    blank = np.zeros((reading.channels, *reading.size), np.uint8)
    errors: dict[int, str] = {}
    pixel_hashes = np.empty((len(files), 16), np.uint8)
    for row, image in enumerate(iter_images(files, reading)):
        if isinstance(image, str):
            errors[row] = image
        pixels = blank if isinstance(image, str) else image
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
        pixel_hashes[row] = np.frombuffer(digest, np.uint8)
        if handle is not None:
            handle.write(pixels.tobytes())
    return DecodeSummary(pixel_hashes, errors)


def iter_image_batches(store: ImageStore, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield the images of these rows, decoded on access.

    Args:
        store: The store that the rows count in.
        rows: Indices of the images.
        size: Images in a batch; the last one may be smaller.

    Yields:
        Batches of pixels, uint8 (B, C, H, W).

    Raises:
        UserError: An image can no longer be read.
    """
    pending: list[np.ndarray] = []
    files = store.files.take(rows.tolist())
    for index, image in enumerate(iter_images(files, store.reading)):
        if isinstance(image, str):
            name = decode_name(files.names[index])
            raise ImageDecodeError(
                f"{store.files.root}: '{name}' could be read at the start; now: {image}"
            )
        pending.append(image)
        if len(pending) == size:
            yield np.stack(pending)
            pending = []
    if pending:
        yield np.stack(pending)
