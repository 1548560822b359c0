"""Files and rows fetched or parsed once: downloads, parsed files, datasets, fingerprints."""

from __future__ import annotations

import hashlib
import logging
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlrun.core import files
from dlrun.core.dataset import Dataset, Ragged, RawColumn, RawColumns
from dlrun.core.errors import UserError
from dlrun.core.files import atomic_write, user_cache
from dlrun.core.files import data_root as root

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two chunks


def make_fetch_function(name: str) -> Any:
    """pooch's downloader.

    Args:
        name: What the bar is called.

    Returns:
        A function of (url, path, None), which raises requests' errors.
    """
    import pooch

    # dlrun logs the download itself.
    pooch.get_logger().setLevel("WARNING")
    bar = ProgressBar(name) if sys.stderr.isatty() else False
    return pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=TIMEOUT)


def describe_failure(error: Exception) -> str:
    """Why a download failed, in a few words."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status:
        return f"answers {status}"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "gave a file with another sha256"
    name = type(error).__name__
    return {"ConnectionError": "no connection", "ChunkedEncodingError": "broke off"}.get(name, name)


class ProgressBar:
    """The progress bar that pooch drives: one line on the terminal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0
        self.done = 0

    def update(self, size: int) -> None:
        self.done += size
        progress = f"{self.done >> 20} MiB"
        if self.total:  # 0 where the server does not tell the size
            progress = f"{min(100, 100 * self.done // self.total):3d} %"
        sys.stderr.write(f"\r{self.name}: {progress}")
        sys.stderr.flush()

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        sys.stderr.write("\n")


log = logging.getLogger("dlrun")

OFFLINE_HINT = (
    "without a network, data.source=sample (or preset=smoke) runs on a small synthetic stand-in"
)


@dataclass(frozen=True)
class RemoteFile:
    """One published file.

    Attributes:
        task: Its folder under the data root.
        name: Its name there.
        sha256: Its checksum; '' where nobody publishes one, so that its reader has to verify it.
        urls: Where it is published, tried in order.
        alternate_paths: Other paths under the data root.
    """

    task: str
    name: str
    sha256: str
    urls: tuple[str, ...]
    alternate_paths: tuple[str, ...] = ()


def fetch(file: RemoteFile) -> Path:
    """The verified local path of an official file, which is downloaded if it is absent.

    Nothing is written, and no lock is taken, when the file is there already.

    Raises:
        UserError: Its checksum is wrong, it cannot be downloaded, or the data root cannot be
            written to.
    """
    path = _find_or_download(file)
    _verify_hash(path, file)
    return path


def read_verified(file: RemoteFile) -> bytes:
    """The content of an official file, whose checksum is that of these very bytes.

    Whoever checks a path and opens it again may read another file than was checked.

    Raises:
        UserError: No checksum is known, or as `fetch` does.
    """
    if not file.sha256:
        raise UserError(f"{file.name} is not read: a checksum of the official file is not known")
    path = _find_or_download(file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    _check_digest(path, file, hashlib.sha256(content).hexdigest())
    return content


def _find_or_download(file: RemoteFile) -> Path:
    path = _find_file(file)
    if path is None:
        _download(file)
        path = root() / file.task / file.name
    return path


def find_local_file(file: RemoteFile) -> Path | None:
    """The verified local path of an official file, without a download; None if it is absent.

    A file with a wrong checksum counts as absent, with a warning.
    """
    path = _find_file(file)
    try:
        if path is not None:
            _verify_hash(path, file)
    except UserError as error:
        log.warning("not used: %s", error)
        return None
    return path


def _find_file(file: RemoteFile) -> Path | None:
    names = (f"{file.task}/{file.name}", *file.alternate_paths)
    return next((root() / name for name in names if (root() / name).is_file()), None)


def _verify_hash(path: Path, file: RemoteFile) -> None:
    if not file.sha256:
        return
    try:
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    _check_digest(path, file, digest)


def _check_digest(path: Path, file: RemoteFile, digest: str) -> None:
    if digest != file.sha256:
        raise UserError(
            f"{path} is not the official {file.name}: its sha256 is {digest}, expected "
            f"{file.sha256}. Delete it to have it downloaded again, or put the official file in "
            f"its place; {OFFLINE_HINT}"
        )


def _download(file: RemoteFile) -> None:
    from filelock import FileLock

    path = root() / file.task / file.name
    try:
        # One run downloads; others that need the same file wait for it.
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f".{file.name}.lock"):
            if not path.is_file():  # another run may have downloaded it while this one waited
                _download_from_any(file, path)
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{file.name} is not there, and {path.parent} cannot be written to ({error}). "
            f"Set DLRUN_DATA to a folder that can be, or put {_describe_file(file)} into the "
            f"present one; {OFFLINE_HINT}"
        ) from error


def _download_from_any(file: RemoteFile, path: Path) -> None:
    from requests import RequestException

    failures = []
    for url in file.urls:
        try:
            return _download_url(url, file, path)
        # ValueError is pooch's word for a wrong checksum: try the next mirror.
        except (RequestException, ValueError) as error:
            failures.append(f"{url} ({describe_failure(error)})")
    raise UserError(
        f"{file.name} is not there and could not be downloaded. Put {_describe_file(file)} at "
        f"{path}. Tried: {'; '.join(failures)}. Otherwise: {OFFLINE_HINT}"
    )


def _download_url(url: str, file: RemoteFile, path: Path) -> None:
    import pooch

    log.info("downloading %s to %s", url, path)
    # pooch writes to a temporary file beside it, and moves that once its checksum is right.
    known_hash = f"sha256:{file.sha256}" if file.sha256 else None
    fetch_file = make_fetch_function(file.name)
    pooch.retrieve(url, known_hash, path.name, str(path.parent), downloader=fetch_file)


def _describe_file(file: RemoteFile) -> str:
    return f"{file.name} (sha256 {file.sha256})" if file.sha256 else file.name


FORMAT_VERSION = 1  # increased when the same file is parsed in another way


def load_or_parse(file: RemoteFile, member: str, parse: Callable[[], Ragged]) -> Ragged:
    """What a parser makes of a verified official file, from the cache if it is there.

    The copy is named by the file's checksum and carries its own (the archive's CRC): a damaged one
    is parsed anew. If the cache cannot be written to, nothing is stored.

    Args:
        file: The official file.
        member: What is parsed of it.
        parse: Parses it.
    """
    path = user_cache() / "parsed" / f"{file.name}-{file.sha256[:16]}-{member}-{FORMAT_VERSION}.npz"
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return Ragged(archive["values"], archive["offsets"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        rows = parse()
    with suppress(OSError), atomic_write(path) as fresh, fresh.open("wb") as target:
        np.savez(target, values=rows.values, offsets=rows.offsets)
    return rows


def fingerprint(rows: RawColumns) -> str:
    """The sha256 of column names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(rows):
        column = rows[name]
        # Columns on disk know the digest of their files: nothing is read again.
        if isinstance(column, RawColumn) and (known := column.digest):
            digest.update(f"{name} {known};".encode())
            continue
        arrays = column.arrays if isinstance(column, RawColumn) else (np.asarray(column),)
        for array in arrays:
            digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
            digest.update(_to_bytes(array))
    return digest.hexdigest()


def _to_bytes(array: np.ndarray) -> Any:
    # Objects have addresses for bytes, and numpy pads strings: join the texts.
    if array.dtype.kind in "OU":
        return "\0".join(map(str, array.ravel())).encode("utf-8", "surrogatepass")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


MAX_DATASETS = 2  # held at a time: they stay in memory
_held_datasets: dict[str, tuple[Dataset, str]] | None = None


def open_cache() -> None:
    """From here on hold what is read: the same data config is not read again."""
    global _held_datasets
    _held_datasets = {} if _held_datasets is None else _held_datasets


def close_cache() -> None:
    """Hold nothing any more."""
    global _held_datasets
    _held_datasets = None


def load_cached_dataset(
    node: Mapping[str, Any], load: Callable[[], Dataset]
) -> tuple[Dataset, str]:
    """The dataset of a data config, and its fingerprint.

    Args:
        node: The data config, which is the key, value for value.
        load: Reads the dataset.
    """
    if _held_datasets is None:
        dataset = load()
        return dataset, fingerprint(dataset.dev)
    key = files.to_canonical_json(node)
    entry = _held_datasets.pop(key, None)
    if entry is None:
        dataset = load()
        # A run that wrote to its rows would change those of the runs after it.
        for column in dataset.dev.values():
            if isinstance(column, np.ndarray):
                column.flags.writeable = False
        entry = dataset, fingerprint(dataset.dev)
    while len(_held_datasets) >= MAX_DATASETS:
        del _held_datasets[next(iter(_held_datasets))]
    _held_datasets[key] = entry  # the last one used is the last one to go
    return entry
