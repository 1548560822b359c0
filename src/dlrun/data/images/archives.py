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

from dlrun.core.errors import Refused
from dlrun.core.files import whole
from dlrun.core.paths import user_cache
from dlrun.data.images.decode import MOST_BYTES, Unreadable, content_of

RATIO = 100  # times as large as they are packed: more is taken for a bomb, from SMALL bytes on
SMALL = 10_000_000
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


@dataclass(frozen=True)
class Files:
    """Files by their names, which are relative to `place`: a folder, or a zip archive."""

    place: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def part(self, first: int, last: int) -> Files:
        """The files from number `first` up to, but not including, `last`."""
        return Files(self.place, self.names[first:last])

    def take(self, rows: Iterable[int]) -> Files:
        """The files of these numbers, in this order."""
        return Files(self.place, tuple(self.names[row] for row in rows))

    def stamp(self) -> str:
        """A digest of the files' names, sizes and times: equal while nobody has touched them."""
        place = self.place.resolve()
        digest = hashlib.sha256(os.fsencode(f"{place}\0{_times(place) if place.is_file() else ''}\0"))
        for name in self.names:
            about = "" if place.is_file() else _times(place / name)
            digest.update(os.fsencode(f"{name}\0{about}\0"))
        return digest.hexdigest()


def _times(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "none"
    return f"{found.st_size} {found.st_mtime_ns}"


def content(place: Path, name: str) -> bytes:
    """The bytes of one file of a folder or a zip archive. Raises Unreadable."""
    if place.is_dir():
        return content_of(place / name)
    try:
        return _opened(place, os.getpid()).read(name)
    except (*DAMAGE, OSError, KeyError, RuntimeError) as error:
        raise Unreadable(f"damaged in {place.name}: {error}") from error


@lru_cache(maxsize=4)
def _opened(place: Path, process: int) -> zipfile.ZipFile:
    """An archive that stays open; one for each process, for all of them read at a place of their own."""
    return zipfile.ZipFile(place)


def plain(name: str) -> str:
    """A name as text that can be written anywhere, the same for both ways to write an accent."""
    return unicodedata.normalize("NFC", printable(name))


def printable(name: str) -> str:
    """A name as it is, but for bytes that are no text."""
    return os.fsencode(name).decode("utf-8", "replace")


def packed(path: Path) -> bool:
    """Whether a file is an archive; a damaged one, or one that cannot be read, is: `members` says what is wrong."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except (*DAMAGE, OSError):
        return True


def members(path: Path) -> tuple[Path, list[str]]:
    """A zip archive and the names of the files in it; a tar archive is repacked as a zip in the user's cache first.

    Nothing is unpacked. Raises Refused when the file is no archive, is damaged, or is one that a careful person would
    not unpack.
    """
    try:
        if tarfile.is_tarfile(path):
            path = _repacked(path)
        with zipfile.ZipFile(path) as archive:
            found = [info for info in archive.infolist() if not info.is_dir()]
    except DAMAGE as error:
        raise Refused(f"{path} is no whole zip or tar archive: {error}") from error
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    for info in found:
        link = stat.S_ISLNK(info.external_attr >> 16)
        _check(path, info.filename, info.file_size, info.compress_size, link=link)
        if info.flag_bits & 1:
            raise Refused(f"{path}: '{info.filename}' is encrypted; unpack the archive, and give the folder")
    _check_sum(path, sum(info.file_size for info in found))
    return path, list(dict.fromkeys(info.filename for info in found))  # of two with one name, the last is read


def _check(path: Path, name: str, size: int, packed: int | None, *, link: bool) -> None:
    """Refuse an archive for one of its members."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0][1:2] == ":":
        raise Refused(f"{path}: '{name}' leads out of the archive; it is not read")
    if link:
        raise Refused(f"{path}: '{name}' is a link; links in archives are not followed, so it is not read")
    if size > MOST_BYTES or (packed is not None and size > SMALL and size > RATIO * max(1, packed)):
        times = f", packed in {packed:,}" if packed is not None else ""
        raise Refused(f"{path}: '{name}' would have {size:,} bytes{times}: a decompression bomb; it is not read")


def _check_sum(path: Path, size: int) -> None:
    packed = path.stat().st_size
    if size > 10 * SMALL and size > RATIO * packed:
        raise Refused(f"{path} has {packed:,} bytes and would unpack to {size:,}: a decompression bomb; it is not read")


def _repacked(path: Path) -> Path:
    """A tar archive as a zip, in which every file can be read by itself; made once, while the tar stays as it is."""
    from filelock import FileLock

    name = hashlib.sha256(os.fsencode(f"{path.resolve()}\0{_times(path)}")).hexdigest()[:32]
    kept = user_cache() / "pictures" / f"{name}.zip"
    if kept.is_file():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")), whole(kept) as fresh:
            _write(fresh, bodies(path))
    except (OSError, NotImplementedError) as error:
        where = f"could not be repacked into {kept.parent}"
        raise Refused(f"{path} {where} ({error}): unpack it yourself, and give the folder") from error
    return kept


def _write(path: Path, bodies: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in bodies:
            archive.writestr(name, body)


def bodies(path: Path) -> Iterator[tuple[str, bytes]]:
    """The names and bytes of the files in a tar archive, in their order. Raises Refused as `members` does.

    A damaged one raises one of DAMAGE.
    """
    total = 0
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if member.isdir():
                continue
            _check(path, member.name, member.size, None, link=not member.isfile())
            total += member.size
            _check_sum(path, total)
            body = archive.extractfile(member)
            assert body is not None
            yield member.name.removeprefix("./"), body.read()
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuse an archive of which tarfile has left something unread: it takes a damaged head for the end."""
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("damaged in the middle")
    while stream.read(1 << 20):  # the checksum of a compressed one stands at its very end
        pass
