"""Files in a folder or an archive; archives that are unsafe to unpack are rejected."""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import tarfile
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dlrun.core.errors import UserError
from dlrun.core.files import atomic_write, user_cache
from dlrun.data.images.decode import MAX_FILE_BYTES, ImageDecodeError, read_file_bytes

# A member that unpacks to more than this many times its size is taken for a decompression bomb.
# Small files are exempt: a few kilobytes of zeros compress as well as that, and do no harm.
MAX_COMPRESSION_RATIO = 100
MIN_CHECKED_BYTES = 10_000_000
# What zipfile and tarfile raise for damaged archives of every compression.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
)
_archive_lock = threading.Lock()


@dataclass(frozen=True)
class FileList:
    """Files by name, in a folder or in a zip archive.

    Attributes:
        root: The folder, or the path of the zip archive.
        names: File names relative to `root`, with '/' between folders.
    """

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def slice(self, first: int, last: int) -> FileList:
        """Return the files from index `first` up to, but not including, `last`."""
        return FileList(self.root, self.names[first:last])

    def take(self, rows: Iterable[int]) -> FileList:
        """Return the files of these indices, in this order."""
        return FileList(self.root, tuple(self.names[row] for row in rows))

    def fingerprint(self) -> str:
        """Return a digest of the files' names, sizes and modification times.

        It is equal as long as nobody has touched the files; their content is not read.
        """
        root = self.root.resolve()
        digest = hashlib.sha256(
            os.fsencode(f"{root}\0{_file_state(root) if root.is_file() else ''}\0")
        )
        for name in self.names:
            state = "" if root.is_file() else _file_state(root / name)
            digest.update(os.fsencode(f"{name}\0{state}\0"))
        return digest.hexdigest()


def _file_state(path: Path) -> str:
    try:
        info = path.stat()
    except OSError:
        return "none"
    return f"{info.st_size} {info.st_mtime_ns}"


def read_bytes(root: Path, name: str) -> bytes:
    """Read one file of a folder or a zip archive.

    Args:
        root: The folder, or the path of the zip archive.
        name: Name of the file, relative to `root`.

    Raises:
        ImageDecodeError: The file is missing, too large or damaged.
    """
    if root.is_dir():
        return read_file_bytes(root / name)
    try:
        # Threads share an archive: it counts who has it open, and closes itself at none.
        with _archive_lock:
            member = _open_archive(root, root.stat().st_mtime_ns, os.getpid()).open(name)
        try:
            return member.read()  # reading and unpacking need no lock
        finally:
            with _archive_lock:
                member.close()
    except (*ARCHIVE_ERRORS, OSError, KeyError, RuntimeError) as error:
        raise ImageDecodeError(f"damaged in {root.name}: {error}") from error


@lru_cache(maxsize=4)
def _open_archive(path: Path, modified: int, process: int) -> zipfile.ZipFile:
    """Return an archive that stays open, one for each process."""
    # The time is part of the cache key: a later run may find another file under this path. So is
    # the process: a handle inherited from the parent would share its
    # position in the file, and two processes would read each other's bytes.
    return zipfile.ZipFile(path)


def normalize_name(name: str) -> str:
    """Return a name as printable text, in one form for composed and decomposed accents (NFC)."""
    return unicodedata.normalize("NFC", decode_name(name))


def decode_name(name: str) -> str:
    """Return a name unchanged, except that bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or tar archive.

    A damaged or unreadable one counts as an archive, so that `list_members` reports the reason.
    """
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except (*ARCHIVE_ERRORS, OSError):
        return True


def list_members(path: Path) -> tuple[Path, list[str]]:
    """List the files of an archive without unpacking it; a tar archive is repacked as a zip first.

    Args:
        path: A zip or tar archive.

    Returns:
        The zip archive (for a tar archive: its copy in the user's cache) and the names in it.

    Raises:
        UserError: The file is no archive, is damaged, is encrypted, or is unsafe to unpack.
    """
    try:
        if tarfile.is_tarfile(path):
            path = _tar_to_zip(path)
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except ARCHIVE_ERRORS as error:
        raise UserError(f"{path} is no whole zip or tar archive: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for info in members:
        link = stat.S_ISLNK(info.external_attr >> 16)
        _check_member(path, info.filename, info.file_size, info.compress_size, link=link)
        if info.flag_bits & 1:
            raise UserError(
                f"{path}: '{info.filename}' is encrypted; unpack the archive, and give the folder"
            )
    _check_total_size(path, sum(info.file_size for info in members))
    # zipfile reads the last of two members of one name, so a name must be listed once only.
    return path, list(dict.fromkeys(info.filename for info in members))


def _check_member(
    path: Path, name: str, size: int, compressed_size: int | None, *, link: bool
) -> None:
    """Reject an archive because of one of its members."""
    # Backslashes and drive letters count as well: Windows takes them for paths.
    components = name.replace("\\", "/").split("/")
    if ".." in components or components[0] == "" or components[0][1:2] == ":":
        raise UserError(f"{path}: '{name}' leads out of the archive; it is not read")
    if link:
        raise UserError(
            f"{path}: '{name}' is a link; links in archives are not followed, so it is not read"
        )
    if size > MAX_FILE_BYTES or (
        compressed_size is not None
        and size > MIN_CHECKED_BYTES
        and size > MAX_COMPRESSION_RATIO * max(1, compressed_size)
    ):
        compressed = f", packed in {compressed_size:,}" if compressed_size is not None else ""
        raise UserError(
            f"{path}: '{name}' would have {size:,} bytes{compressed}: a decompression bomb; "
            "it is not read"
        )


def _check_total_size(path: Path, size: int) -> None:
    """Reject an archive whose members together are far larger than the archive."""
    compressed_size = path.stat().st_size
    if size > 10 * MIN_CHECKED_BYTES and size > MAX_COMPRESSION_RATIO * compressed_size:
        raise UserError(
            f"{path} has {compressed_size:,} bytes and would unpack to {size:,}: "
            "a decompression bomb; it is not read"
        )


def _tar_to_zip(path: Path) -> Path:
    """Repack a tar archive as a zip in the user's cache, once for each state of the tar."""
    from filelock import FileLock

    # A tar has no index: to read one file, all before it must be unpacked. A zip has one.
    name = hashlib.sha256(os.fsencode(f"{path.resolve()}\0{_file_state(path)}")).hexdigest()[:32]
    zip_path = user_cache() / "pictures" / f"{name}.zip"
    if zip_path.is_file():
        return zip_path
    try:
        zip_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(zip_path.with_suffix(".lock")), atomic_write(zip_path) as temporary:
            _write_zip(temporary, iter_tar_files(path))
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{path} could not be repacked into {zip_path.parent} ({error}): "
            "unpack it yourself, and give the folder"
        ) from error
    return zip_path


def _write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in files:
            archive.writestr(name, body)


def iter_tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file in a tar archive, in its order.

    Raises:
        UserError: The archive is unsafe to unpack, as in `list_members`.
        tarfile.TarError: The archive is damaged; also any other of `ARCHIVE_ERRORS`.
    """
    total = 0
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if member.isdir():
                continue
            _check_member(path, member.name, member.size, None, link=not member.isfile())
            total += member.size
            _check_total_size(path, total)
            body = archive.extractfile(member)
            assert body is not None
            yield member.name.removeprefix("./"), body.read()
        _check_tar_end(archive)


def _check_tar_end(archive: tarfile.TarFile) -> None:
    """Raise ReadError where data follow the end: tarfile takes a damaged header for the end."""
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("damaged in the middle")
    # A compressed archive has its checksum at the very end; it is verified when that is read.
    while stream.read(1 << 20):
        pass
