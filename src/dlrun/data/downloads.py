"""Official files: found under the data root, fetched with a bar, verified by their checksum."""

from __future__ import annotations

import hashlib
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.core.errors import UserError
from dlrun.core.paths import data_root as root

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces


def make_fetch_function(name: str) -> Any:
    """What brings a file: a function of (url, path, None). Raises requests' errors."""
    import pooch

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
        share = (
            f"{min(100, 100 * self.done // self.total):3d} %"
            if self.total
            else f"{self.done >> 20} MiB"
        )
        sys.stderr.write(f"\r{self.name}: {share}")
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
    """One published file. urls: where it is published, tried in order. elsewhere: other places under the data root.

    sha256: '' where nobody publishes one; whoever reads the file then has to tell whether it is the right one.
    """

    task: str
    name: str
    sha256: str
    urls: tuple[str, ...]
    alternate_paths: tuple[str, ...] = ()


def fetch(file: RemoteFile) -> Path:
    """The checked local path of an official file.

    Nothing is written, and no lock is taken, when the file is there already. Raises UserError when its checksum is
    wrong, when it can neither be found nor downloaded, and when the cache cannot be written to.
    """
    found = _find_file(file)
    if found is None:
        _download(file)
        found = root() / file.task / file.name
    _verify_hash(found, file)
    return found


def find_local_file(file: RemoteFile) -> Path | None:
    """The checked local path of an official file, or None where it is not there; nothing is downloaded.

    A file with a wrong checksum counts as not there, and is warned of.
    """
    found = _find_file(file)
    try:
        if found is not None:
            _verify_hash(found, file)
    except UserError as error:
        log.warning("not used: %s", error)
        return None
    return found


def _find_file(file: RemoteFile) -> Path | None:
    places = (f"{file.task}/{file.name}", *file.alternate_paths)
    return next((root() / place for place in places if (root() / place).is_file()), None)


def _verify_hash(path: Path, file: RemoteFile) -> None:
    if not file.sha256:
        return
    try:
        with path.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if found != file.sha256:
        raise UserError(
            f"{path} is not the official {file.name}: its sha256 is {found}, expected {file.sha256}. "
            f"Delete it to have it downloaded again, or put the official file in its place; {OFFLINE_HINT}"
        )


def _download(file: RemoteFile) -> None:
    from filelock import FileLock

    path = root() / file.task / file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f".{file.name}.lock"):
            if not path.is_file():  # another run may have brought it while this one waited
                _download_from_any(file, path)
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{file.name} is not there, and {path.parent} cannot be written to ({error}). Set DLRUN_DATA to a folder "
            f"that can be, or put {_describe_file(file)} into the present one; {OFFLINE_HINT}"
        ) from error


def _download_from_any(file: RemoteFile, path: Path) -> None:
    from requests import RequestException

    failures = []
    for url in file.urls:
        try:
            return _download_url(url, file, path)
        except (RequestException, ValueError) as error:
            failures.append(f"{url} ({describe_failure(error)})")
    raise UserError(
        f"{file.name} is not there and could not be downloaded. Put {_describe_file(file)} at {path}. "
        f"Tried: {'; '.join(failures)}. Otherwise: {OFFLINE_HINT}"
    )


def _download_url(url: str, file: RemoteFile, path: Path) -> None:
    import pooch

    log.info("downloading %s to %s", url, path)
    # written to a temporary file beside it, which is moved when its checksum is right
    known = f"sha256:{file.sha256}" if file.sha256 else None
    pooch.retrieve(
        url, known, path.name, str(path.parent), downloader=make_fetch_function(file.name)
    )


def _describe_file(file: RemoteFile) -> str:
    return f"{file.name} (sha256 {file.sha256})" if file.sha256 else file.name
