"""Files in a folder or an archive, and what is refused of an archive: names that lead out of it, links, and bombs."""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dlrun.core.errors import UserError
from dlrun.core.files import atomic_write
from dlrun.core.paths import user_cache
from dlrun.data.images.decode import MAX_FILE_BYTES, ImageDecodeError, read_file_bytes

MAX_COMPRESSION_RATIO = (
    100  # times as large as they are packed: more is taken for a bomb, from SMALL bytes on
)
MIN_CHECKED_BYTES = 10_000_000
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
)


@dataclass(frozen=True)
class FileList:
    """Files by their names, which are relative to `place`: a folder, or a zip archive."""

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def slice(self, first: int, last: int) -> FileList:
        """The files from number `first` up to, but not including, `last`."""
        return FileList(self.root, self.names[first:last])

    def take(self, rows: Iterable[int]) -> FileList:
        """The files of these numbers, in this order."""
        return FileList(self.root, tuple(self.names[row] for row in rows))

    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and times: equal while nobody has touched them."""
        place = self.root.resolve()
        digest = hashlib.sha256(
            os.fsencode(f"{place}\0{_file_state(place) if place.is_file() else ''}\0")
        )
        for name in self.names:
            about = "" if place.is_file() else _file_state(place / name)
            digest.update(os.fsencode(f"{name}\0{about}\0"))
        return digest.hexdigest()


def _file_state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "none"
    return f"{found.st_size} {found.st_mtime_ns}"


def read_bytes(place: Path, name: str) -> bytes:
    """The bytes of one file of a folder or a zip archive. Raises Unreadable."""
    if place.is_dir():
        return read_file_bytes(place / name)
    try:
        return _open_archive(place, os.getpid()).read(name)
    except (*ARCHIVE_ERRORS, OSError, KeyError, RuntimeError) as error:
        raise ImageDecodeError(f"damaged in {place.name}: {error}") from error


@lru_cache(maxsize=4)
def _open_archive(place: Path, process: int) -> zipfile.ZipFile:
    """An archive that stays open; one for each process, for all of them read at a place of their own."""
    return zipfile.ZipFile(place)


def normalize_name(name: str) -> str:
    """A name as text that can be written anywhere, the same for both ways to write an accent."""
    return unicodedata.normalize("NFC", decode_name(name))


def decode_name(name: str) -> str:
    """A name as it is, but for bytes that are no text."""
    return os.fsencode(name).decode("utf-8", "replace")


def is_archive(path: Path) -> bool:
    """Whether a file is an archive; a damaged one, or one that cannot be read, is: `list_members` says what is wrong."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except (*ARCHIVE_ERRORS, OSError):
        return True


def list_members(path: Path) -> tuple[Path, list[str]]:
    """A zip archive and the names of the files in it; a tar archive is repacked as a zip in the user's cache first.

    Nothing is unpacked. Raises UserError when the file is no archive, is damaged, or is one that a careful person would
    not unpack.
    """
    try:
        if tarfile.is_tarfile(path):
            path = _tar_to_zip(path)
        with zipfile.ZipFile(path) as archive:
            found = [info for info in archive.infolist() if not info.is_dir()]
    except ARCHIVE_ERRORS as error:
        raise UserError(f"{path} is no whole zip or tar archive: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for info in found:
        link = stat.S_ISLNK(info.external_attr >> 16)
        _check_member(path, info.filename, info.file_size, info.compress_size, link=link)
        if info.flag_bits & 1:
            raise UserError(
                f"{path}: '{info.filename}' is encrypted; unpack the archive, and give the folder"
            )
    _check_total_size(path, sum(info.file_size for info in found))
    return path, list(
        dict.fromkeys(info.filename for info in found)
    )  # of two with one name, the last is read


def _check_member(path: Path, name: str, size: int, packed: int | None, *, link: bool) -> None:
    """Refuse an archive for one of its members."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0][1:2] == ":":
        raise UserError(f"{path}: '{name}' leads out of the archive; it is not read")
    if link:
        raise UserError(
            f"{path}: '{name}' is a link; links in archives are not followed, so it is not read"
        )
    if size > MAX_FILE_BYTES or (
        packed is not None
        and size > MIN_CHECKED_BYTES
        and size > MAX_COMPRESSION_RATIO * max(1, packed)
    ):
        times = f", packed in {packed:,}" if packed is not None else ""
        raise UserError(
            f"{path}: '{name}' would have {size:,} bytes{times}: a decompression bomb; it is not read"
        )


def _check_total_size(path: Path, size: int) -> None:
    packed = path.stat().st_size
    if size > 10 * MIN_CHECKED_BYTES and size > MAX_COMPRESSION_RATIO * packed:
        raise UserError(
            f"{path} has {packed:,} bytes and would unpack to {size:,}: a decompression bomb; it is not read"
        )


def _tar_to_zip(path: Path) -> Path:
    """A tar archive as a zip, in which every file can be read by itself; made once, while the tar stays as it is."""
    from filelock import FileLock

    name = hashlib.sha256(os.fsencode(f"{path.resolve()}\0{_file_state(path)}")).hexdigest()[:32]
    kept = user_cache() / "pictures" / f"{name}.zip"
    if kept.is_file():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")), atomic_write(kept) as fresh:
            _write_zip(fresh, iter_tar_files(path))
    except (OSError, NotImplementedError) as error:
        where = f"could not be repacked into {kept.parent}"
        raise UserError(
            f"{path} {where} ({error}): unpack it yourself, and give the folder"
        ) from error
    return kept


def _write_zip(path: Path, bodies: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in bodies:
            archive.writestr(name, body)


def iter_tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The names and bytes of the files in a tar archive, in their order. Raises UserError as `list_members` does.

    A damaged one raises one of DAMAGE.
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
    """Refuse an archive of which tarfile has left something unread: it takes a damaged head for the end."""
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("damaged in the middle")
    while stream.read(1 << 20):  # the checksum of a compressed one stands at its very end
        pass
